/** Keys change under full load, and no client notices: on two slots, each with keys of its own, every two seconds. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { assertVerify, spreadOver, stampReader } from '../support/judged-stamps.ts';
import { describeLife, type KeyLife, type ListedTsu, readKeyLives, supersedingLife, takenOver } from '../support/key-lives.ts';
import { opensslMissing, RelyingParty } from '../support/openssl-ts.ts';
import { OperatorTokens } from '../support/operator-tokens.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { ServiceFolder, until } from '../support/service.ts';
import { describeLoad, type KeptAnswer, startLoad } from '../support/stamp-load.ts';
import { softhsmPath, withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing() || (await opensslMissing());
const long = process.env['TEST_LONG'] !== undefined;
const dayMs = 86_400_000;
/**
 * Of all that are kept, so many are shown to OpenSSL, which judges one in a process: with its start 10 to 20 ms each, in the long run five to ten
 * minutes of two cores.
 */
const judgedMax = long ? 40_000 : 200;
/**
 * A signer that has a key before its activation stamps with it from that instant on. One that was told late stamps with the last one until it
 * has taken the next one over, and finishes the batch that it is at.
 */
const batchMsMax = 500;
/**
 * A look of a signer (every 250 ms, signer/tsu-follower.ts), the proof of the key and the publication of its chain take less than the time
 * from one change to the next, also on a busy machine: a signer that takes longer falls behind.
 */
const takeMsUsual = 2_000;

/** All that is told of a key that the calendar has made. */
const wholeLife = ['key.generated', 'certificate.issued', 'key.scheduled', 'key.activated', 'key.retired', 'key.destroyed'];

/** Each is of the key that was in force in its slot at its genTime. @returns the serial numbers of the certificates whose keys have stamped */
const assertInForce = (kept: readonly KeptAnswer[], lives: readonly KeyLife[], taken: ReadonlyMap<string, number>): ReadonlySet<string> => {
  const sinceMs = ({ keyLabel }: KeyLife): number => (taken.get(keyLabel) ?? Number.POSITIVE_INFINITY) + batchMsMax;
  const bySerial = new Map(lives.map((life) => [life.certificate.serialNumber, life]));
  const read = stampReader();
  const used = new Set<string>();
  for (const answer of kept) {
    const { genTime, certificate } = read(answer);
    const { serialNumber } = certificate;
    const at = genTime.getTime();
    const life = bySerial.get(serialNumber);
    assert.ok(life !== undefined, `the journal knows ${serialNumber}`);
    const told = (): string => `${genTime.toISOString()} by ${describeLife(life)}`;
    assert.ok(at >= life.usage.fromMs && at <= life.usage.untilMs, `${told()}: within its private key usage period`);
    assert.ok(at >= life.activateAtMs, `${told()}: not before its activation`);
    const better = supersedingLife(lives, life, at, sinceMs);
    if (better !== undefined) assert.fail(`${told()}, which ${describeLife(better)} has followed`);
    used.add(serialNumber);
  }
  return used;
};

/**
 * Each kind once and in order. A key of the first start is registered instead of scheduled, and its signer tells that it is active, before
 * or after; one that was over by then is registered as retired.
 */
const assertWhole = (life: KeyLife): void => {
  const { kinds, registeredAs } = life;
  const end = registeredAs === 'retired' ? ['key.destroyed'] : ['key.retired', 'key.destroyed'];
  const firstLife = ['key.generated', 'certificate.issued', 'key.activated', 'key.registered', ...end];
  const told = registeredAs === undefined ? kinds : [...kinds.slice(0, 2), ...kinds.slice(2, 4).toSorted(), ...kinds.slice(4)];
  assert.deepEqual(told, registeredAs === undefined ? wholeLife : firstLife, describeLife(life));
};

describe('rotation', { skip }, () => {
  const folder = new ServiceFolder();
  after(folder.remove);

  test(`every two seconds for ${long ? 60 : 15} seconds on two slots: nothing is refused, every token is of a key in its window`, async (context) => {
    const tokens = new OperatorTokens(join(folder.path, 'hsm'));
    for (const label of ['slot one', 'slot two', 'authority']) await tokens.addToken(label);
    const slot = (label: string, ...purposes: string[]) => ({ label, purposes, pinFile: tokens.pinFile });
    const settings = {
      hsm: {
        mode: 'module',
        module: softhsmPath,
        environment: tokens.environment,
        slots: [slot('slot one', 'timestamp'), slot('slot two', 'timestamp'), slot('authority', 'authority', 'journal')],
      },
      // A key is used for six seconds, and followed after two: the four that are left are for a lifecycle that is late.
      log: { format: 'json' },
      tsu: { usageMsMax: 6_000, leadDays: 1_500 / dayMs, switchDays: 4_000 / dayMs, graceDays: 2_000 / dayMs, tickMs: 200 },
    };
    const service = await folder.start({ settings });
    const listed = async (): Promise<ListedTsu[]> => {
      const { code, stdout, stderr } = await folder.command(service, 'tsu', 'list', '--json');
      assert.equal(code, 0, stderr);
      return JSON.parse(stdout) as ListedTsu[];
    };
    const certificates = async (): Promise<Map<string, X509Certificate>> => {
      const pem = await fetch(`${service.origin}/repository/tsa-chain.pem`).then((response) => response.text());
      const all = (pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []).map((one) => new X509Certificate(one));
      return new Map(all.filter((one) => !one.ca).map((one) => [one.serialNumber, one]));
    };
    // Those of the start are used for six seconds too, of which a slow machine takes some until the calendar is looked at.
    await until(
      () => `keys that follow${service.lastOutput}`,
      async () => (await certificates()).size >= 3,
      60_000,
    );
    const load = await startLoad({ port: service.port, connections: 32, keep: true, certReq: true });
    context.after(load.abort);
    const wanted = (await certificates()).size + 2 * (long ? 28 : 6);
    try {
      await until(
        () => `${wanted} keys${service.lastOutput}`,
        async () => (await certificates()).size >= wanted,
        long ? 180_000 : 60_000,
      );
    } finally {
      context.diagnostic(`keys: ${(await certificates()).size}`);
    }
    const result = await load.stop();
    context.diagnostic(describeLoad(result));
    assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result) + service.lastOutput);

    // Every key that can have stamped comes to its end, so that all of its life is told.
    const ids = (await listed()).map(({ id }) => id);
    await until(
      () => `${ids.length} keys are destroyed${service.lastOutput}`,
      async () => (await listed()).every(({ id, state }) => state === 'destroyed' || !ids.includes(id)),
      120_000,
    );
    const published = await certificates();
    const party = new RelyingParty(folder.path);
    await party.fetchFrom(service.origin);
    assert.equal(await service.stop(), 0, service.lastOutput);

    const lives = await readKeyLives(folder.home);
    const taken = takenOver(service.output);
    const used = assertInForce(result.kept, [...lives.values()], taken);
    for (const serialNumber of used) assert.ok(published.has(serialNumber), 'every key is published, and stays so');
    assert.ok(used.size >= (long ? 40 : 8), `${used.size} keys have stamped`);

    const whole = ids.map((id) => lives.get(id)).filter((life) => life !== undefined);
    assert.equal(whole.length, ids.length, 'the journal knows every key of the register');
    for (const life of whole) assertWhole(life);
    const delays = whole
      .map(({ keyLabel, settledAtMs }) => (taken.get(keyLabel) ?? Number.NaN) - settledAtMs)
      .filter(Number.isFinite)
      .toSorted((a, b) => a - b);
    const late = whole.filter(({ keyLabel, activateAtMs }) => (taken.get(keyLabel) ?? 0) + batchMsMax > activateAtMs);
    const median = delays[Math.floor(delays.length / 2)] ?? Number.NaN;
    context.diagnostic(
      `${used.size} keys have stamped; of ${whole.length}, ${late.length} were taken over late; ` +
        `by a signer after ${median.toFixed(0)} ms, ${delays.at(-1)?.toFixed(0)} ms at most`,
    );
    assert.ok(delays.length >= wanted / 2, `${delays.length} of ${whole.length} keys were taken over while a signer ran`);
    assert.ok(median <= takeMsUsual, `a signer takes over what is settled after ${median.toFixed(0)} ms`);

    const judged = spreadOver(result.kept, judgedMax);
    context.diagnostic(`OpenSSL judges ${judged.length} of ${result.kept.length}`);
    await assertVerify(party, judged, { withChain: false });
  });
});
