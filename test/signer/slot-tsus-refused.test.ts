/** A new key that the token refuses, or has no room for, keeps no good TSU from stamping and no compromised one at it. */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { pino } from 'pino';
import pkcs11 from 'pkcs11js';
import { keyScheme } from '../../pki/algorithms.ts';
import { readTsus, type TsuRecord, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { embeddedModule, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { SlotTsus } from '../../signer/slot-tsus.ts';
import { findKey, type TokenKey } from '../../signer/token-keys.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import type { FaultyToken } from '../support/faulty-module/faulty-token.ts';
import { type LifecycleWorld, openLifecycleWorld } from '../support/lifecycle-world.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { configOf, temporaryFolder } from '../support/token-home.ts';

const day = 86_400_000;
const start = new Date();
const [first, second] = ['tsu-ec-p256-1', 'tsu-ec-p256-2'] as const;

describe('the TSUs of a slot, and a key that the token does not sign with', { skip: withoutFaultyModule || redisServerMissing() }, () => {
  const folder = temporaryFolder();
  const control = temporaryFolder();
  const alarms: string[] = [];
  const log = pino({ level: 'warn' }, { write: (line: string) => void alarms.push((JSON.parse(line) as { msg: string }).msg) });
  let server: TestRedis;
  let redis: Redis;
  let world: LifecycleWorld;
  let faulty: FaultyModule;
  let token: FaultyToken;
  /** As the register has them when nothing is wrong. */
  let records: readonly TsuRecord[];
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    faulty = new FaultyModule(embeddedModule(configOf(folder.path)), control.path);
    Object.assign(process.env, faulty.environment);
    token = faulty.token('sigillo-timestamp');
    const hsm = { mode: 'embedded', module: faulty.modulePath };
    world = await openLifecycleWorld(configOf(folder.path, { hsm, redis: { mode: 'url', url: `unix://${server.socket}` } }), redis, start);
    await world.work();
    world.now = new Date(start.getTime() + 83 * day);
    await world.work();
    records = (await readTsus(redis)).tsus;
    assert.deepEqual(
      records.map(({ keyLabel }) => keyLabel),
      [first, second],
    );
  });
  after(async () => {
    await server.close();
    faulty.reset();
    world.close();
    faulty.close();
    folder.remove();
    control.remove();
  });
  beforeEach(async () => {
    faulty.reset();
    alarms.splice(0);
    for (const record of records) await write(record);
  });

  const write = async (record: TsuRecord): Promise<void> => {
    await redis.hset(tsuRegisterKeys.tsus, record.id, JSON.stringify(record));
    await redis.incr(tsuRegisterKeys.version);
  };
  const compromise = async (label: string): Promise<void> => {
    const record = records.find(({ keyLabel }) => keyLabel === label) as TsuRecord;
    await write({ ...record, compromised: { at: new Date().toISOString(), reason: 'test' } });
  };
  /** A signer that begins now; `lookAt` gives what it has handed over meanwhile. */
  const signer = () => {
    const { config, module, hsm } = world;
    const slotTsus = new SlotTsus({ config, redis, module, slot: slotForPurpose(hsm, 'timestamp'), log });
    const taken: string[][] = [];
    const lookAt = async (ms: number): Promise<string[][]> => {
      taken.splice(0);
      await slotTsus.look(start.getTime() + ms, (tsus) => void taken.push(tsus.map(({ keyLabel }) => keyLabel)));
      return [...taken];
    };
    return { lookAt, taken };
  };
  /** C_Sign is refused to the second key: the newest proves itself first. */
  const refuseSecond = (code: number) => token.fail('C_Sign', code, { times: 1 });

  test('it is passed over, told once, and looked at again later, though the register stays as it is', async () => {
    for (const code of [pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_ARGUMENTS_BAD]) {
      alarms.splice(0);
      const { lookAt } = signer();
      refuseSecond(code);
      assert.deepEqual((await lookAt(0)).at(-1), [first]);
      faulty.reset();
      const still = token.fail('C_Sign', code);
      assert.deepEqual(await lookAt(250), []);
      assert.equal(still.calls, 0, 'not at every look');
      assert.deepEqual(await lookAt(10_000), [], 'nothing is new');
      assert.equal(still.calls, 1);
      still.clear();
      assert.deepEqual(await lookAt(10_250), []);
      assert.deepEqual(await lookAt(20_000), [[second, first]]);
      assert.deepEqual(await lookAt(40_000), []);
      assert.deepEqual(alarms, ['tsu: not used in this slot']);
      faulty.reset();
    }
  });

  test('one that is taken over at a second look only is handed over again when the first time failed', async () => {
    const { config, module, hsm } = world;
    const slotTsus = new SlotTsus({ config, redis, module, slot: slotForPurpose(hsm, 'timestamp'), log });
    refuseSecond(pkcs11.CKR_FUNCTION_REJECTED);
    await slotTsus.look(start.getTime(), () => undefined);
    const away = slotTsus.look(start.getTime() + 10_000, () => Promise.reject(new Error('Redis is away')));
    await assert.rejects(away, /Redis is away/);
    let found: readonly { readonly keyLabel: string }[] = [];
    await slotTsus.look(start.getTime() + 10_250, (tsus) => {
      found = tsus;
    });
    assert.deepEqual(
      found.map(({ keyLabel }) => keyLabel),
      [second, first],
    );
  });

  test('a TSU that is compromised meanwhile stamps no more, whatever the token says of the new one', async () => {
    const failures = [
      [pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, 'HSM_REQUEST'],
      [pkcs11.CKR_ARGUMENTS_BAD, 'HSM_REQUEST'],
      [pkcs11.CKR_DEVICE_ERROR, 'HSM_DEVICE'],
    ] as const;
    for (const [code, told] of failures) {
      for (const record of records) await write(record);
      const { lookAt, taken } = signer();
      refuseSecond(pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED);
      assert.deepEqual((await lookAt(0)).at(-1), [first]);
      faulty.reset();
      await compromise(first);
      token.fail('C_Sign', code);
      await assert.rejects(lookAt(250), { code: told }, 'there is no other: the slot has failed');
      assert.deepEqual(taken, [[]]);
      faulty.reset();
    }
  });

  test('a slot whose only TSU is refused has failed', async () => {
    await compromise(first);
    for (const code of [pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_ARGUMENTS_BAD]) {
      const { lookAt } = signer();
      const refused = token.fail('C_Sign', code);
      await assert.rejects(lookAt(84 * day), { code: 'HSM_REQUEST' });
      refused.clear();
    }
  });

  test('a token that is full has the new key prove itself all the same, and needs no session for it', async () => {
    const { lookAt } = signer();
    token.limitSessions(token.counters.sessions);
    assert.deepEqual((await lookAt(0)).at(-1), [second, first]);
    assert.deepEqual(alarms, []);
  });

  test('a token that is full and has lost the session that is held anyway: the new key waits until there is room', async () => {
    const { lookAt } = signer();
    refuseSecond(pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED);
    assert.deepEqual((await lookAt(0)).at(-1), [first]);
    faulty.reset();
    const full = token.fail('C_OpenSession', pkcs11.CKR_SESSION_COUNT);
    const lost = token.fail('C_FindObjectsInit', pkcs11.CKR_SESSION_HANDLE_INVALID);
    assert.deepEqual(await lookAt(10_000), []);
    assert.ok(full.struck > 0 && lost.struck > 0);
    full.clear();
    lost.clear();
    assert.deepEqual(await lookAt(20_000), [[second, first]]);
  });

  test('a session that is lost elsewhere is the failure of the slot that it was', async () => {
    const { lookAt } = signer();
    token.fail('C_FindObjectsInit', pkcs11.CKR_SESSION_HANDLE_INVALID);
    await assert.rejects(lookAt(0), { code: 'HSM_DEVICE' });
  });

  test('without any TSU that may stamp, a token that is full has failed', async () => {
    const { lookAt } = signer();
    token.fail('C_OpenSession', pkcs11.CKR_SESSION_COUNT);
    token.fail('C_FindObjectsInit', pkcs11.CKR_SESSION_HANDLE_INVALID);
    await assert.rejects(lookAt(0), { code: 'HSM_DEVICE', message: /CKR_SESSION_COUNT/ });
  });

  test('a signer that stops meanwhile asks the token nothing any more', async () => {
    const { config, module, hsm } = world;
    const slotTsus = new SlotTsus({ config, redis, module, slot: slotForPurpose(hsm, 'timestamp'), log });
    const stopping = new AbortController();
    const asked = token.fail('C_GetTokenInfo', pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED);
    const look = slotTsus.look(start.getTime(), () => undefined, stopping.signal);
    stopping.abort();
    assert.equal(await look, false);
    assert.equal(asked.calls, 0);
  });

  test('a key that has another label in this token is the key all the same, and is handed over with that label', async () => {
    const { module, label: slot } = world;
    const session = module.openSession(slot, { readWrite: true });
    const { privateHandle } = findKey(session, second, keyScheme('ec-p256')) as TokenKey;
    const rename = (to: string) =>
      session.lib.C_SetAttributeValue(session.handle, privateHandle, [{ type: pkcs11.CKA_LABEL, value: Buffer.from(to) }]);
    rename('cloned');
    assert.deepEqual((await signer().lookAt(0)).at(-1), ['cloned', first]);
    // The third look for objects is that by the public half, when the label has brought neither half.
    token.fail('C_FindObjectsInit', pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, { every: 3, times: 1 });
    assert.deepEqual((await signer().lookAt(0)).at(-1), [first], 'a token that does not look for that has no copy');
    assert.deepEqual(alarms, []);
    faulty.reset();
    rename(second);
    session.close();
  });
});
