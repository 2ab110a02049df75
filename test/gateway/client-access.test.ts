import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { type ClientAccess, createClientAccess } from '../../gateway/client-access.ts';
import { clientRegisterKeys } from '../../queue/client-register.ts';
import { addClient, basic, removeClient, setClientRole, setClientState } from '../support/clients.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';

const reasonOf = (access: ClientAccess, header: string | undefined): string => {
  const result = access.authenticate(header);
  return result.kind === 'client' ? `client ${result.name}` : result.reason;
};
const until = async (condition: () => boolean, timeoutMs = 5_000): Promise<number> => {
  const start = performance.now();
  while (!condition()) {
    assert.ok(performance.now() - start < timeoutMs, 'condition not met in time');
    await delay(5);
  }
  return performance.now() - start;
};

describe('access of clients', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let redis: Redis;
  let access: ClientAccess;
  let lines: string[];
  const log = { warn: (line: string) => void lines.push(line), info: (line: string) => void lines.push(line) };
  before(async () => {
    server = await startTestRedis({ appendOnly: true });
    redis = server.connect({ enableOfflineQueue: false, lazyConnect: true });
    await redis.connect();
  });
  after(() => server.close());
  beforeEach(async () => {
    lines = [];
    await redis.flushall();
  });
  afterEach(() => access.close());

  test('Basic and bearer of an enabled client', async () => {
    const { secret } = await addClient(redis, 'bank.one');
    access = createClientAccess({ redis, log });
    await access.ready();
    for (const header of [
      basic('bank.one', secret),
      `Bearer bank.one.${secret}`,
      `bearer  bank.one.${secret}`,
      basic('bank.one', secret).replace('Basic', 'BASIC'),
    ]) {
      assert.equal(reasonOf(access, header), 'client bank.one', header);
    }
  });

  test('every refusal has its reason', async () => {
    const { secret } = await addClient(redis, 'a');
    const other = await addClient(redis, 'b');
    await setClientState(redis, 'b', 'disabled');
    access = createClientAccess({ redis, log });
    await access.ready();
    const cases: [string | undefined, string][] = [
      [undefined, 'missing'],
      ['', 'malformed'],
      ['Basic', 'malformed'],
      ['Basic !!!', 'malformed'],
      ['Digest abc', 'malformed'],
      [basic('', secret), 'malformed'],
      [basic('a', ''), 'malformed'],
      [basic('.a', secret), 'malformed'],
      [basic('anonymous', secret), 'malformed'],
      [`Bearer ${secret}`, 'malformed'],
      [`Bearer a.${secret} `, 'malformed'],
      [`Bearer a.${'x'.repeat(600)}`, 'malformed'],
      [basic('nobody', secret), 'unknown'],
      [basic('__proto__', secret), 'unknown'],
      [basic('a', `${secret}x`), 'wrong'],
      [basic('a', other.secret), 'wrong'],
      [`Bearer a.${other.secret}`, 'wrong'],
      [basic('b', other.secret), 'disabled'],
      // Who does not know the secret does not learn the state.
      [basic('b', secret), 'wrong'],
    ];
    for (const [header, reason] of cases) assert.equal(reasonOf(access, header), reason, String(header));
  });

  test('the hash of the empty or of no secret never opens an unknown name', async () => {
    access = createClientAccess({ redis, log });
    await access.ready();
    assert.equal(reasonOf(access, basic('nobody', '\0'.repeat(32))), 'unknown');
  });

  test('a disabled, an enabled and a removed client are known within a second', async () => {
    const { secret } = await addClient(redis, 'a');
    access = createClientAccess({ redis, log });
    await access.ready();
    const header = basic('a', secret);
    assert.equal(reasonOf(access, header), 'client a');
    await setClientState(redis, 'a', 'disabled');
    assert.ok((await until(() => reasonOf(access, header) === 'disabled')) < 1_000);
    await setClientState(redis, 'a', 'enabled');
    assert.ok((await until(() => reasonOf(access, header) === 'client a')) < 1_000);
    await removeClient(redis, 'a');
    assert.ok((await until(() => reasonOf(access, header) === 'unknown')) < 1_000);
  });

  test('the role of a client, changed within a second', async () => {
    const { secret } = await addClient(redis, 'a');
    access = createClientAccess({ redis, log });
    await access.ready();
    const header = basic('a', secret);
    assert.deepEqual(access.authenticate(header), { kind: 'client', name: 'a', role: 'client' });
    await setClientRole(redis, 'a', 'auditor');
    const role = (): string => {
      const found = access.authenticate(header);
      return found.kind === 'client' ? found.role : found.kind;
    };
    assert.ok((await until(() => role() === 'auditor')) < 1_000);
  });

  test('a refusal names who was claimed, when that is a name', async () => {
    const { secret } = await addClient(redis, 'a');
    access = createClientAccess({ redis, log });
    await access.ready();
    for (const [header, name] of [
      [undefined, ''],
      ['Basic !!!', ''],
      [basic('not a name', secret), ''],
      [basic('nobody', secret), 'nobody'],
      [basic('a', 'guess'), 'a'],
    ] as const) {
      const found = access.authenticate(header);
      assert.equal(found.kind === 'refused' ? found.name : found.kind, name, header);
    }
  });

  test('while Redis is away the last known register stays in force', async () => {
    const { secret } = await addClient(redis, 'a');
    access = createClientAccess({ redis, pollMs: 20, log });
    await access.ready();
    assert.deepEqual(access.health(), { state: 'current', clients: 1 });
    await server.stop('SIGKILL');
    await until(() => access.health().state === 'stale');
    assert.equal(reasonOf(access, basic('a', secret)), 'client a');
    assert.equal(reasonOf(access, basic('a', 'guess')), 'wrong');
    assert.equal(reasonOf(access, basic('b', secret)), 'unknown');
    assert.equal(lines.filter((line) => line.includes('last known')).length, 1, 'an outage is told once');
    await server.start();
    await until(() => access.health().state === 'current');
    await setClientState(redis, 'a', 'disabled');
    await until(() => reasonOf(access, basic('a', secret)) === 'disabled');
  });

  test('a version that is counted anew after a loss does not pass for the known one', async () => {
    const { secret } = await addClient(redis, 'a');
    access = createClientAccess({ redis, pollMs: 20, log });
    await access.ready();
    const version = await redis.get(clientRegisterKeys.version);
    redis.disconnect();
    const other = server.connect();
    await other.flushall();
    await other.set(clientRegisterKeys.version, version as string);
    await redis.connect();
    await until(() => reasonOf(access, basic('a', secret)) === 'unknown');
  });

  test('before the first reading nobody gets in', async () => {
    const { secret } = await addClient(redis, 'a');
    await server.stop();
    access = createClientAccess({ redis, pollMs: 20, log });
    await until(() => access.health().detail !== undefined);
    assert.equal(access.health().state, 'loading');
    assert.equal(reasonOf(access, basic('a', secret)), 'unknown');
    await server.start();
    await access.ready();
    assert.equal(reasonOf(access, basic('a', secret)), 'client a');
  });

  test('a record that cannot be read keeps the last known register', async () => {
    const { secret } = await addClient(redis, 'a');
    access = createClientAccess({ redis, pollMs: 20, log });
    await access.ready();
    await redis.hset(clientRegisterKeys.clients, 'broken', 'x');
    await redis.incr(clientRegisterKeys.version);
    await until(() => access.health().state === 'stale');
    assert.match(access.health().detail ?? '', /broken/);
    assert.equal(reasonOf(access, basic('a', secret)), 'client a');
  });
});
