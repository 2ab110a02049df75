/**
 * The clock of a host is set back and forward by hours while its keys rotate: a real signer and a real lifecycle process, under
 * libfaketime, with SoftHSM and Redis. No token is of a key outside its window, nothing happens twice, and no key goes that should live.
 *
 * Gateway and Redis keep their time: deadlines of requests are no business of the clock that is stepped.
 */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { readTimeStampResp, readTimeStampToken } from '../../pki/tsp-read.ts';
import { privateKeyUsagePeriod } from '../../pki/tsu-usage.ts';
import { readTsus, type TsuRecord, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { openHsm } from '../../signer/hsm-modules.ts';
import { resolveHsm, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { keyState } from '../../signer/token-keys.ts';
import { chronyMissing, FakeTime } from '../support/chrony.ts';
import { waitingEvents } from '../support/clients.ts';
import { opensslMissing, postQuery, RelyingParty } from '../support/openssl-ts.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { configOf, withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing() || (await opensslMissing()) || (await chronyMissing());
const hour = 3_600_000;
const day = 24 * hour;
const deadlineMs = 60_000;
/** A clock that was set back costs the calendar some seconds until it is looked at again. */
const steps = (few: readonly number[], many: readonly number[]): readonly number[] => (process.env['TEST_LONG'] === undefined ? few : many);
const [first, second] = ['tsu-ec-p256-1', 'tsu-ec-p256-2'] as const;

describe('a clock that is set while keys rotate', { skip }, () => {
  const folder = new ServiceFolder();
  const hostTime = new FakeTime();
  let server: TestRedis;
  let redis: Redis;
  let party: RelyingParty;
  let gateway: Service;
  let signer: Service;
  let lifecycle: Service;
  let shiftMs = 0;
  let stamps = 0;

  before(async () => {
    assert.equal(await (await folder.start()).stop(), 0, 'makes the home');
    server = await startTestRedis({ appendOnly: true });
    redis = server.connect();
    const settings = {
      redis: { mode: 'url', url: `unix://${server.socket}` },
      tsu: { tickMs: 200 },
      time: { settleMs: 300 },
    };
    const { environment } = hostTime;
    [signer, gateway, lifecycle] = await Promise.all([
      folder.start({ command: 'signer', settings, environment }),
      folder.start({ command: 'gateway', settings }),
      folder.start({ command: 'lifecycle', settings, environment }),
    ]);
    const path = join(folder.path, 'party');
    mkdirSync(path);
    party = new RelyingParty(path);
    party.write('note', 'a note');
  });
  after(async () => {
    await folder.remove();
    await server?.close();
    hostTime.remove();
  });

  const said = (): string => `${signer.lastOutput}${lifecycle.lastOutput}`;
  const hostNow = (): number => Date.now() + shiftMs;
  const record = async (keyLabel: string): Promise<TsuRecord> => {
    const { tsus } = await readTsus(redis);
    return tsus.find((one) => one.keyLabel === keyLabel) ?? assert.fail(`there is no ${keyLabel}${said()}`);
  };
  const states = async (): Promise<string[]> => (await readTsus(redis)).tsus.map(({ keyLabel, state }) => `${keyLabel} ${state}`);
  const untilState = (keyLabel: string, state: TsuRecord['state']): Promise<unknown> =>
    until(
      () => `${keyLabel} is ${state}${said()}`,
      async () => (await readTsus(redis)).tsus.some((one) => one.keyLabel === keyLabel && one.state === state),
      deadlineMs,
    );
  /** What the calendar is to do at this time is done. */
  const untilLooked = async (): Promise<void> => {
    const looks = async (): Promise<number[]> => Object.values(await redis.hgetall(tsuRegisterKeys.tokens)).map((at) => Date.parse(at));
    const isOfNow = async (): Promise<number | undefined> => (await looks()).find((at) => Math.abs(at - hostNow()) < hour / 2);
    const one = await until(() => `the calendar is looked at${said()}`, isOfNow, deadlineMs);
    // The look that was noted may not be over: the next one begins behind it.
    await until(
      () => `and once more${said()}`,
      async () => ((await isOfNow()) ?? one) > one,
      deadlineMs,
    );
  };

  /** One stamp, judged by OpenSSL and held against the window of its key; refused only as long as the clock has just been set. */
  const stampedBy = async (): Promise<string> => {
    stamps += 1;
    const query = `stamp-${stamps}.tsq`;
    await party.openssl('ts', '-query', '-data', 'note', '-sha256', '-cert', '-out', query);
    const octets = readFileSync(join(party.folder, query));
    const response = await until(
      () => `granted${said()}`,
      async () => {
        const { status, body } = await postQuery(gateway.origin, octets);
        assert.equal(status, 200, said());
        const read = readTimeStampResp(body);
        if (read.timeStampToken !== undefined) return body;
        assert.match(await party.text(party.write('refused.tsr', body)), /time source is not available/);
        return undefined;
      },
      deadlineMs,
    );
    const { tstInfo, signedData } = readTimeStampToken(readTimeStampResp(response).timeStampToken as Uint8Array);
    const at = tstInfo.genTime.getTime();
    assert.ok(Math.abs(at - hostNow()) < 60_000, `${tstInfo.genTime.toISOString()} at ${new Date(hostNow()).toISOString()}`);
    const certificate = signedData.certificates.map((der) => new X509Certificate(der)).find((one) => !one.ca) as X509Certificate;
    const window = privateKeyUsagePeriod(certificate.raw) ?? {};
    assert.ok(window.notBefore !== undefined && window.notAfter !== undefined);
    assert.ok(at >= window.notBefore.getTime() && at <= window.notAfter.getTime(), `${tstInfo.genTime.toISOString()} is outside`);
    await party.fetchFrom(gateway.origin);
    const file = party.write(`stamp-${stamps}.tsr`, response);
    const atTime = ['-attime', String(Math.floor(at / 1_000))];
    const verdict = await party.verify(file, ['-queryfile', query, ...atTime], { withChain: false });
    assert.match(verdict.stdout, /Verification: OK/, verdict.stderr);
    const known = (await readTsus(redis)).tsus.find(({ chain }) => chain?.[0] === certificate.raw.toString('base64'));
    return known?.keyLabel ?? assert.fail('a key that the register does not know');
  };

  const setClock = async (to: number): Promise<void> => {
    shiftMs = Math.round(to - Date.now());
    hostTime.shift(shiftMs);
    await untilLooked();
  };
  const events = async (): Promise<string[]> =>
    (await waitingEvents(redis, tsuRegisterKeys.journal)).map(({ kind, subject }) => `${kind} ${subject}`);
  const count = async (event: string): Promise<number> => (await events()).filter((one) => one === event).length;
  const inToken = (label: string): string => {
    const hsm = resolveHsm(configOf(folder.home));
    const module = openHsm(hsm);
    try {
      const slot = slotForPurpose(hsm, 'timestamp');
      module.login(slot);
      return keyState(module.openSession(slot.label, { readWrite: false }), label);
    } finally {
      module.close();
    }
  };

  test('hours before the next key is due, and back and forward again: it is made once', async () => {
    await untilState(first, 'active');
    assert.equal(await stampedBy(), first);
    const due = Date.parse((await record(first)).usableUntil as string) - 8 * day;
    await setClock(due - 2 * hour);
    assert.deepEqual(await states(), [`${first} active`]);
    await setClock(due + hour);
    await untilState(second, 'certified');
    for (const hours of steps([-5, 2], [-5, 4, -10, 2])) {
      await setClock(due + hours * hour);
      assert.deepEqual(await states(), [`${first} active`, `${second} certified`], `${hours} hours`);
    }
    assert.equal(await stampedBy(), first);
    assert.equal(await count(`key.generated ${second}`), 1);
  });

  test('around the switch: each key stamps in its own time, and is activated once', async () => {
    const begins = Date.parse((await record(second)).activateAt as string);
    await setClock(begins - hour / 2);
    assert.equal(await stampedBy(), first);
    await setClock(begins + 2 * hour);
    await untilState(second, 'active');
    assert.equal(await stampedBy(), second);
    for (const hours of steps([-4, 6], [-4, 6, -12, 3])) {
      await setClock(begins + hours * hour);
      assert.equal(await stampedBy(), hours < 0 ? first : second, `${hours} hours`);
    }
    assert.deepEqual(await states(), [`${first} active`, `${second} active`]);
    assert.equal(await count(`key.activated ${second}`), 1);
    assert.equal(Date.parse((await record(second)).activateAt as string), begins);
  });

  test('around the end of the old one: retired once, and there while its grace lasts', async () => {
    const ends = Date.parse((await record(second)).activateAt as string) + day;
    await setClock(ends - hour);
    assert.deepEqual(await states(), [`${first} active`, `${second} active`]);
    await setClock(ends + 2 * hour);
    await untilState(first, 'retired');
    const { destroyAfter } = await record(first);
    for (const hours of steps([-6], [-6, 5, -3])) {
      await setClock(ends + hours * hour);
      assert.equal(await stampedBy(), second, `${hours} hours`);
    }
    assert.deepEqual(await states(), [`${first} retired`, `${second} active`]);
    assert.equal((await record(first)).destroyAfter, destroyAfter);
    assert.equal(await count(`key.retired ${first}`), 1);
    assert.equal(inToken(first), 'whole');
  });

  test('around the end of its grace: destroyed once, and no other key with it', async () => {
    const over = Date.parse((await record(first)).destroyAfter as string);
    for (const hours of steps([-2], [-1, -9, -2])) {
      await setClock(over + hours * hour);
      assert.deepEqual(await states(), [`${first} retired`, `${second} active`], `${hours} hours`);
    }
    assert.equal(inToken(first), 'whole');
    await setClock(over + hour);
    await untilState(first, 'destroyed');
    for (const hours of steps([-8], [-8, 3])) {
      await setClock(over + hours * hour);
      assert.equal(await stampedBy(), second, `${hours} hours`);
    }
    assert.deepEqual(await states(), [`${first} destroyed`, `${second} active`]);
    assert.deepEqual([inToken(first), inToken(second)], ['absent', 'whole']);
    assert.equal(await count(`key.destroyed ${first}`), 1);
    assert.equal((await events()).filter((one) => one.startsWith('key.generated')).length, 1, 'and none was made in haste');
  });
});
