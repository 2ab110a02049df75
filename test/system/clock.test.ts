/**
 * The clock of the running service against real NTP servers (chrony on the loopback), which are made to lie, to fall silent and to come
 * back; and a signer whose clock is set. OpenSSL asks for the stamps and judges them.
 *
 * Gateway, journal and signer run one by one, because the clock of the signer alone is shifted: redis-server does not start under
 * libfaketime (its allocator asks for the time before the library is ready).
 */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { chronyMissing, FakeTime, TestChrony } from '../support/chrony.ts';
import { opensslMissing, postQuery, RelyingParty } from '../support/openssl-ts.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing() || (await opensslMissing()) || (await chronyMissing());
/** What is found within the round trips of a busy machine; a coarser one must be stated when the clock is further off. */
const accuracyMicros = 200_000;

describe('a service whose clock time servers watch', { skip }, () => {
  const folder = new ServiceFolder();
  const servers: TestChrony[] = [];
  const hostTime = new FakeTime();
  let settings: Record<string, unknown>;
  let redis: TestRedis | undefined;
  let gateway: Service;
  let journal: Service;
  /** The one whose clock is shifted. */
  let service: Service;
  let party: RelyingParty;
  let stamps = 0;

  before(async () => {
    assert.equal(await (await folder.start()).stop(), 0, 'makes the home');
    [redis] = await Promise.all([
      startTestRedis({ appendOnly: true }),
      ...[1, 2, 3, 4].map(async () => servers.push(await TestChrony.start())),
    ]);
    settings = {
      redis: { mode: 'url', url: `unix://${redis.socket}` },
      journal: { block: { ageMs: 100 } },
      timestamp: { accuracyMicros },
      time: {
        servers: servers.map(({ port }) => ({ host: '127.0.0.1', port })),
        pollMs: 300,
        timeoutMs: 250,
        holdoverMs: 2_000,
        settleMs: 500,
      },
    };
    [service, gateway, journal] = await Promise.all([
      folder.start({ command: 'signer', settings, environment: hostTime.environment }),
      folder.start({ command: 'gateway', settings }),
      folder.start({ command: 'journal run', settings }),
    ]);
    const path = join(folder.path, 'party');
    mkdirSync(path);
    party = new RelyingParty(path);
    await party.fetchFrom(gateway.origin);
    party.write('note', 'a note');
  });
  after(async () => {
    await folder.remove();
    await redis?.close();
    await TestChrony.closeAll();
    hostTime.remove();
  });
  beforeEach(async () => {
    hostTime.shift(0);
    for (const server of servers) {
      server.lie(0);
      server.speak();
    }
    await until(
      () => `the clock is trusted again${service.lastOutput}`,
      async () => (await outcome()) === 'granted' && (await service.readiness())?.status === 200,
    );
  });

  interface Stamp {
    readonly name: string;
    /** What OpenSSL reads of the response. */
    readonly text: string;
  }
  const stamp = async (): Promise<Stamp> => {
    stamps += 1;
    const name = `stamp-${stamps}`;
    await party.openssl('ts', '-query', '-data', 'note', '-sha256', '-cert', '-out', `${name}.tsq`);
    const { status, body } = await postQuery(gateway.origin, readFileSync(join(party.folder, `${name}.tsq`)));
    assert.equal(status, 200, service.lastOutput);
    party.write(`${name}.tsr`, body);
    return { name, text: await party.text(`${name}.tsr`) };
  };
  const outcomeOf = ({ text }: Stamp): string =>
    text.includes('Status: Granted.') ? 'granted' : (/Failure info: (.*)/.exec(text)?.[1] ?? text);
  const outcome = async (): Promise<string> => outcomeOf(await stamp());
  const refusal = "TSA's time source is not available";
  const untilOutcome = (wanted: string): Promise<true> =>
    until(
      () => `${wanted}${service.lastOutput}`,
      async () => ((await outcome()).includes(wanted) ? true : undefined),
    ) as Promise<true>;
  const clockItem = async () => (await service.readiness())?.dependencies.find(({ name }) => name === 'clock');
  const untilClock = (pattern: RegExp) =>
    until(
      () => `${pattern}${service.lastOutput}`,
      async () => {
        const item = await clockItem();
        return item !== undefined && pattern.test(item.detail) ? item : undefined;
      },
    );
  const sample = async (name: string): Promise<number> => {
    const text = await service.metrics();
    const line = text.split('\n').find((one) => one.startsWith(`${name} `)) ?? assert.fail(`there is no ${name}\n${text}`);
    return Number(line.slice(name.length));
  };
  const label = (index: number): string => `{server="127.0.0.1:${servers[index]?.port}"}`;

  const accuracyMillis = ({ text }: Stamp): number => {
    const found = /Accuracy: (unspecified|0x([0-9A-F]+)) seconds, (unspecified|0x([0-9A-F]+)) millis/.exec(text) ?? assert.fail(text);
    return Number.parseInt(found[2] ?? '0', 16) * 1_000 + Number.parseInt(found[4] ?? '0', 16);
  };

  test('a quorum agrees: granted, with the configured accuracy', async () => {
    await untilClock(/^4 of 4 time servers agreed/);
    const one = await stamp();
    const verdict = await party.verify(`${one.name}.tsr`, ['-queryfile', `${one.name}.tsq`], { withChain: false });
    assert.match(verdict.stdout, /Verification: OK/, verdict.stderr);
    assert.equal(accuracyMillis(one), accuracyMicros / 1_000);
    assert.equal(await sample('time_state{state="trusted"}'), 1);
    assert.ok(Math.abs(await sample('time_offset_seconds')) < 0.2);
    assert.ok((await sample('time_error_seconds')) <= 0.2);
    assert.ok((await sample('time_rounds_total{outcome="good"}')) > 0);
    for (const index of servers.keys()) assert.equal(await sample(`ntp_server_up${label(index)}`), 1);
  });

  test('one liar is outvoted', async () => {
    servers[1]?.lie(2_000);
    const item = await untilClock(/^3 of 4 time servers agreed.*: falseticker$/);
    assert.ok(item.ok);
    assert.equal(await sample(`ntp_server_up${label(1)}`), 0);
    assert.equal(await outcome(), 'granted');
  });

  test('a lie of all of them stops it, and the truth starts it again', async () => {
    for (const server of servers) server.lie(-2_000);
    await untilOutcome(refusal);
    const item = await untilClock(/^stamping stopped \(offset\): the system clock is too far from UTC; 4 of 4.*offset -\d+\.\d+ ms/);
    assert.equal(item.ok, false);
    assert.equal((await service.readiness())?.status, 503);
    for (const server of servers) server.lie(0);
    await untilOutcome('granted');
  });

  test('liars that do not agree are no quorum: it stops when the last one is too old', async () => {
    for (const [index, server] of servers.entries()) server.lie((index + 1) * 3_000);
    await untilOutcome(refusal);
    await untilClock(/^stamping stopped \(noQuorum\)/);
  });

  test('silence: granted while the last quorum holds, then not; and again after good rounds', async () => {
    for (const server of servers) server.silence();
    const lacking = await untilClock(/^without a quorum now/);
    assert.ok(lacking.ok);
    await untilOutcome(refusal);
    const item = await untilClock(/^stamping stopped \(noQuorum\).*: silent/);
    assert.equal(item.ok, false);
    for (const server of servers) server.speak();
    await untilOutcome('granted');
  });

  for (const stepMs of [2_000, -2_000]) {
    test(`the clock of the host is set by ${stepMs} ms: not one stamp with that time, until it is right again`, async () => {
      hostTime.shift(stepMs);
      const first = await stamp();
      assert.match(outcomeOf(first), new RegExp(refusal), 'the first one after the step');
      await untilClock(/^stamping stopped \(offset\)/);
      assert.match(await outcome(), new RegExp(refusal));
      hostTime.shift(0);
      await untilOutcome('granted');
    });
  }

  test('a second signer, whose clock is right, goes on meanwhile', async () => {
    const second = await folder.start({ command: 'signer', settings });
    try {
      hostTime.shift(2_000);
      const seen = new Set<string>();
      await until(
        () => `both answer: ${[...seen]}${second.lastOutput}`,
        async () => {
          const one = await stamp();
          seen.add(outcomeOf(one));
          const genTime = /Time stamp: (.*)/.exec(one.text)?.[1];
          if (genTime !== undefined) assert.ok(Math.abs(new Date(genTime).getTime() - Date.now()) < 1_500, genTime);
          return seen.size === 2;
        },
      );
      assert.deepEqual(
        [...seen].filter((one) => one !== 'granted' && !one.includes(refusal)),
        [],
      );
    } finally {
      hostTime.shift(0);
      assert.equal(await second.stop(), 0, second.lastOutput);
    }
  });

  test('a host that is a little off states a coarser accuracy', async () => {
    hostTime.shift(-300);
    const one = await stamp();
    assert.equal(outcomeOf(one), 'granted');
    assert.equal(accuracyMillis(one), 500);
    const verdict = await party.verify(`${one.name}.tsr`, ['-queryfile', `${one.name}.tsq`], { withChain: false });
    assert.match(verdict.stdout, /Verification: OK/, verdict.stderr);
    hostTime.shift(0);
    assert.equal(accuracyMillis(await stamp()), 200, 'and the finer one again, with the very next stamp');
  });

  test('the register of time validation has all of it', async () => {
    const search = async (): Promise<Record<string, unknown>[]> => {
      const { stdout } = await folder.command(journal, 'journal', 'search', '--kind', 'time.*', '--json', '--limit', '1000');
      return stdout
        .split('\n')
        .filter((line) => line.startsWith('{'))
        .map((line) => JSON.parse(line));
    };
    const reasons = (entries: readonly Record<string, unknown>[]) =>
      new Set(entries.map(({ detail }) => (detail as { reason?: string }).reason));
    const entries = await until('all of it is in the journal', async () => {
      const found = await search();
      const seen = reasons(found);
      return ['falseticker', 'offset', 'quorumLost', 'step'].every((reason) => seen.has(reason)) ? found : undefined;
    });
    const states = entries.filter(({ kind }) => kind === 'time.state').map(({ detail }) => detail as { from: string; to: string });
    for (const to of ['starting', 'trusted', 'offset', 'noQuorum', 'stepped'])
      assert.ok(
        states.some((one) => one.to === to),
        to,
      );
    assert.ok(entries.some(({ clock }) => clock === 'trusted') && entries.some(({ clock }) => clock === 'unverified'));
  });

  test('other processes of the host say what its signers found of the clock', async () => {
    const clocksOf = async (kind: string): Promise<Set<unknown>> => {
      const { stdout } = await folder.command(journal, 'journal', 'search', '--kind', kind, '--json', '--limit', '1000');
      const lines = stdout.split('\n').filter((line) => line.startsWith('{'));
      return new Set(lines.map((line) => JSON.parse(line).clock));
    };
    // Of the journal process, and of the commands that read it above.
    for (const kind of ['journal.checkpoint', 'journal.read'])
      await until(`${kind} under a clock that is trusted`, async () => (await clocksOf(kind)).has('trusted'));
  });
});
