/** Which TSUs a signer takes: whoever can write to Redis cannot bring one to use, and nothing that is broken keeps the others away. */
import assert from 'node:assert/strict';
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { pino } from 'pino';
import { homePaths } from '../../config/home.ts';
import { tsuChangeTeller } from '../../observability/journal/tsu-events.ts';
import { ceremonyText, readCeremonies } from '../../queue/ceremonies.ts';
import { changeTsu, readTsus, type TsuRecord, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import type { Approvals } from '../../signer/approvals.ts';
import { approvalDigest, createApprovals } from '../../signer/dual-control.ts';
import { slotForPurpose } from '../../signer/pkcs11-module.ts';
import { SlotTsus } from '../../signer/slot-tsus.ts';
import type { Tsu } from '../../signer/stamp-task.ts';
import { type LifecycleWorld, openLifecycleWorld } from '../support/lifecycle-world.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { configOf, temporaryFolder, withoutSofthsm } from '../support/token-home.ts';

const day = 86_400_000;
const start = new Date();
const [first, second] = ['tsu-ec-p256-1', 'tsu-ec-p256-2'] as const;

describe('the TSUs of a slot, under dual control', { skip: withoutSofthsm || redisServerMissing() }, () => {
  const folder = temporaryFolder();
  const file = (name: string): string => join(folder.path, name);
  const home = file('home');
  const { pkiFolder } = homePaths(home);
  const keys = new Map<string, KeyObject>();
  const alarms: string[] = [];
  const log = pino({ level: 'warn' }, { write: (line: string) => void alarms.push((JSON.parse(line) as { msg: string }).msg) });
  let server: TestRedis;
  let redis: Redis;
  let world: LifecycleWorld;
  let approvals: Approvals;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    const operators = ['anna', 'bruno', 'carla'].map((name) => {
      const { publicKey, privateKey } = generateKeyPairSync('ed25519');
      keys.set(name, privateKey);
      writeFileSync(file(`${name}.pub`), publicKey.export({ format: 'pem', type: 'spki' }));
      return { name, publicKeyFile: file(`${name}.pub`) };
    });
    const url = `unix://${server.socket}`;
    const config = configOf(home, { redis: { mode: 'url', url }, dualControl: { approvals: 2, operators } });
    world = await openLifecycleWorld(config, redis, start);
    approvals = createApprovals({ config, redis, log, now: () => world.now });
    await world.work({ approvals });
  });
  after(async () => {
    await server.close();
    world.close();
    folder.remove();
  });

  /** What a signer that starts now takes. */
  const take = async (): Promise<Tsu[]> => {
    const { config, module, hsm } = world;
    const slotTsus = new SlotTsus({ config, redis, module, slot: slotForPurpose(hsm, 'timestamp'), log });
    let found: readonly Tsu[] = [];
    await slotTsus.look(start.getTime(), (tsus) => {
      found = tsus;
    });
    return found.toSorted((a, b) => a.keyLabel.localeCompare(b.keyLabel));
  };
  const taken = async (): Promise<string[]> => (await take()).map(({ keyLabel }) => keyLabel);
  const recordOf = async (label: string): Promise<TsuRecord> =>
    (await readTsus(redis)).tsus.find(({ keyLabel }) => keyLabel === label) as TsuRecord;
  const write = async (record: TsuRecord): Promise<void> => {
    await redis.hset(tsuRegisterKeys.tsus, record.id, JSON.stringify(record));
    await redis.incr(tsuRegisterKeys.version);
  };
  const approve = async (action: string, names: readonly string[]): Promise<void> => {
    const ceremony = (await readCeremonies(redis)).find((one) => one.action === action && one.executedAt === undefined);
    assert.ok(ceremony, `a ceremony: ${action}`);
    const signed = names.map((operator) => {
      const key = keys.get(operator) as KeyObject;
      const signature = sign(approvalDigest(key), Buffer.from(ceremonyText(ceremony)), key).toString('base64');
      return { operator, at: new Date().toISOString(), signature };
    });
    await redis.hset(tsuRegisterKeys.ceremonies, ceremony.id, JSON.stringify({ ...ceremony, approvals: signed }));
  };

  test('the TSU of the set-up needs no ceremony', async () => {
    assert.deepEqual(await taken(), [first]);
  });

  test('one that waits for its activation is not taken, whatever happens to the register', async () => {
    world.now = new Date(start.getTime() + 83 * day);
    await world.work({ approvals });
    await approve('generate', ['anna', 'bruno']);
    await world.work({ approvals });
    const waiting = await recordOf(second);
    assert.equal(waiting.state, 'certified');
    assert.ok(!existsSync(join(pkiFolder, `${second}.pem`)), 'the chain is not kept before its use is settled');
    assert.deepEqual(await taken(), [first]);
    await redis.hdel(tsuRegisterKeys.tsus, waiting.id);
    await redis.incr(tsuRegisterKeys.version);
    assert.deepEqual(await taken(), [first]);
    await write(waiting);
  });

  test('who writes into its record when it is used gets nothing, also not by way of the lifecycle', async () => {
    const waiting = await recordOf(second);
    const usableUntil = new Date(start.getTime() + 150 * day).toISOString();
    await approve('activate', ['anna']);
    await write({ ...waiting, activateAt: start.toISOString(), usableUntil });
    assert.deepEqual(await taken(), [first]);
    await world.work({ approvals });
    assert.equal((await recordOf(second)).state, 'certified', 'it is not activated either');
    assert.ok(!existsSync(join(pkiFolder, `${second}.pem`)));
    assert.deepEqual(await taken(), [first]);
    await write({ ...waiting, state: 'active', activateAt: start.toISOString(), usableUntil });
    assert.deepEqual(await taken(), [first]);
    await redis.flushall();
    assert.deepEqual(await taken(), [first]);
    assert.ok(alarms.some((text) => text.includes('operators have not agreed')));
    await write(waiting);
  });

  test('when operators have agreed it is taken, no longer than certificate and rules say, and also when Redis comes back empty', async () => {
    await world.work({ approvals });
    await approve('activate', ['anna', 'carla']);
    await world.work({ approvals });
    const record = await recordOf(second);
    assert.ok(record.activateAt);
    assert.deepEqual(await taken(), [first, second]);
    await write({ ...record, usableUntil: new Date(start.getTime() + 2_000 * day).toISOString() });
    for (const { activeFromMs, usableUntilMs } of await take()) assert.ok(usableUntilMs - activeFromMs <= 92 * day);
    await write(record);
    await redis.flushall();
    assert.deepEqual(await taken(), [first, second]);
  });

  test('a file that is broken keeps no other TSU away', async () => {
    const broken = join(pkiFolder, 'tsu-ec-p256-77.pem');
    writeFileSync(broken, '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
    assert.deepEqual(await taken(), [first, second]);
    await world.work({ approvals });
    assert.equal((await readTsus(redis)).tsus.length, 2);
    assert.ok(alarms.some((text) => text.includes('cannot be read')));
    rmSync(broken);
  });

  test('a record of the register that cannot be read keeps no other TSU away, nor the end of one; its file does not stand in for it', async () => {
    const [one, two] = [await recordOf(first), await recordOf(second)];
    await redis.hset(tsuRegisterKeys.tsus, two.id, JSON.stringify({ ...two, version: 2 }));
    await redis.incr(tsuRegisterKeys.version);
    assert.deepEqual(await taken(), [first]);
    assert.ok(alarms.includes('tsu: a record of the register that cannot be read is passed over'));
    await assert.rejects(readTsus(redis), { code: 'INTERNAL' });
    await redis.hset(
      tsuRegisterKeys.tsus,
      one.id,
      JSON.stringify({ ...one, compromised: { at: new Date().toISOString(), reason: 'test' } }),
    );
    await redis.incr(tsuRegisterKeys.version);
    assert.deepEqual(await taken(), []);
    await write(one);
    await write(two);
    assert.deepEqual(await taken(), [first, second]);
  });

  test('one that is compromised does not come back with an empty Redis, nor with a register that was put back', async () => {
    const good = await recordOf(second);
    const compromised = { at: new Date().toISOString(), reason: 'test' };
    const tell = tsuChangeTeller({ role: 'operator', actor: 'test' });
    await changeTsu(redis, good.id, (record) => [{ kind: 'compromised', reason: 'test', record: { ...record, compromised } }], tell);
    assert.deepEqual(await taken(), [first]);
    await world.work({ approvals });
    await redis.flushall();
    assert.deepEqual(await taken(), [first]);
    await write(good);
    assert.deepEqual(await taken(), [first]);
    await world.work({ approvals });
    await redis.flushall();
    assert.deepEqual(await taken(), [first]);
    // Its record is not the one of a release that we know: its chain alone brings it back no more.
    writeFileSync(join(pkiFolder, `${second}.json`), '{ "version": 2 }\n');
    assert.deepEqual(await taken(), [first]);
  });
});
