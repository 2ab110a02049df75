import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import {
  clientRegisterKeys,
  clientsMax,
  hashSecret,
  isClientName,
  listClients,
  readClientsVersion,
  readStampCounts,
} from '../../queue/client-register.ts';
import { laneKeys } from '../../queue/keys.ts';
import { addClient, removeClient, renewClientSecret, setClientRole, setClientState, waitingEvents } from '../support/clients.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';

describe('register of clients', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let redis: Redis;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
  });
  after(() => server.close());
  beforeEach(() => redis.flushall());

  test('stores a hash of the secret and nothing else of it', async () => {
    const { secret } = await addClient(redis, 'bank-1');
    assert.match(secret, /^[A-Za-z0-9_-]{43}$/);
    const stored = (await redis.hget(clientRegisterKeys.clients, 'bank-1')) ?? '';
    assert.ok(!stored.includes(secret));
    assert.deepEqual(await listClients(redis), [
      {
        version: 1,
        name: 'bank-1',
        secretHash: hashSecret(secret).toString('base64url'),
        state: 'enabled',
        role: 'client',
        createdAt: '2026-11-22T10:00:00.000Z',
      },
    ]);
  });

  test('every change has a new version, a refused one has not', async () => {
    const versions = [await readClientsVersion(redis)];
    const note = async () => versions.push(await readClientsVersion(redis));
    await addClient(redis, 'a');
    await note();
    await setClientState(redis, 'a', 'disabled');
    await note();
    await setClientState(redis, 'a', 'enabled');
    await note();
    await assert.rejects(addClient(redis, 'a'), { code: 'CLIENT_EXISTS' });
    await note();
    await removeClient(redis, 'a');
    await note();
    await assert.rejects(removeClient(redis, 'a'), { code: 'CLIENT_UNKNOWN' });
    await assert.rejects(setClientState(redis, 'a', 'enabled'), { code: 'CLIENT_UNKNOWN' });
    assert.deepEqual(versions, ['0', '1', '2', '3', '3', '4']);
    assert.deepEqual(await listClients(redis), []);
  });

  test('of many that add the same name at once, one wins', async () => {
    const results = await Promise.allSettled(Array.from({ length: 20 }, () => addClient(redis, 'same')));
    const won = results.filter((result) => result.status === 'fulfilled');
    assert.equal(won.length, 1);
    const [record] = await listClients(redis);
    assert.equal(record?.secretHash, hashSecret(won[0]!.value.secret).toString('base64url'));
  });

  test('concurrent changes of one client are all applied', async () => {
    await addClient(redis, 'a');
    await Promise.all([
      setClientState(redis, 'a', 'disabled'),
      setClientState(redis, 'a', 'disabled'),
      setClientState(redis, 'a', 'disabled'),
    ]);
    assert.equal((await listClients(redis))[0]?.state, 'disabled');
    // One did it; for the others there was nothing left to do, and nothing to tell.
    assert.equal(await readClientsVersion(redis), '2');
    assert.equal(await redis.xlen(clientRegisterKeys.journal), 2);
  });

  test('roles: given at the start, changed later', async () => {
    await addClient(redis, 'a');
    await addClient(redis, 'b', 'auditor');
    const roles = async () => (await listClients(redis)).map(({ role }) => role);
    assert.deepEqual(await roles(), ['client', 'auditor']);
    await setClientRole(redis, 'a', 'auditor');
    await setClientRole(redis, 'b', 'client');
    assert.deepEqual(await roles(), ['auditor', 'client']);
    await assert.rejects(setClientRole(redis, 'c', 'auditor'), { code: 'CLIENT_UNKNOWN' });
  });

  test('a record of before there were roles is a client, and keeps its role from the next change', async () => {
    await addClient(redis, 'old');
    const { role: _none, ...record } = JSON.parse((await redis.hget(clientRegisterKeys.clients, 'old')) as string) as { role: string };
    await redis.hset(clientRegisterKeys.clients, 'old', JSON.stringify(record));
    assert.equal((await listClients(redis))[0]?.role, 'client');
    await setClientState(redis, 'old', 'disabled');
    assert.match((await redis.hget(clientRegisterKeys.clients, 'old')) as string, /"role":"client"/);
  });

  test('every change is an event of its operator, in the same command', async () => {
    await addClient(redis, 'a');
    await setClientState(redis, 'a', 'disabled');
    await setClientState(redis, 'a', 'enabled');
    await setClientState(redis, 'a', 'enabled');
    await setClientRole(redis, 'a', 'auditor');
    await setClientRole(redis, 'a', 'auditor');
    await removeClient(redis, 'a');
    await addClient(redis, 'b', 'auditor');
    const events = await waitingEvents(redis, clientRegisterKeys.journal);
    assert.deepEqual(
      events.map(({ kind, subject, detail }) => [kind, subject, detail]),
      [
        ['client.added', 'a', { name: 'a' }],
        ['client.disabled', 'a', { name: 'a' }],
        ['client.enabled', 'a', { name: 'a' }],
        ['permission.changed', 'a', { from: 'client', to: 'auditor' }],
        ['client.removed', 'a', { name: 'a' }],
        ['client.added', 'b', { name: 'b' }],
        ['permission.changed', 'b', { from: 'none', to: 'auditor' }],
      ],
    );
    for (const event of events) {
      assert.deepEqual([event.role, event.actor, event.outcome], ['operator', 'tester', 'success']);
      assert.ok(Math.abs(event.unixMicros / 1_000 - Date.now()) < 60_000);
    }
    assert.equal(String(await redis.xlen(clientRegisterKeys.journal)), await readClientsVersion(redis));
  });

  test('a change that is refused tells nothing', async () => {
    await addClient(redis, 'a');
    await assert.rejects(addClient(redis, 'a'), { code: 'CLIENT_EXISTS' });
    await assert.rejects(removeClient(redis, 'b'), { code: 'CLIENT_UNKNOWN' });
    assert.equal(await redis.xlen(clientRegisterKeys.journal), 1);
  });

  test('the name of a client that was removed is given to nobody: its stamps are not read by another', async () => {
    await addClient(redis, 'a');
    await addClient(redis, 'b');
    await removeClient(redis, 'a');
    const version = await readClientsVersion(redis);
    await assert.rejects(addClient(redis, 'a'), { code: 'CLIENT_NAME_RETIRED' });
    await assert.rejects(addClient(redis, 'a', 'auditor'), { code: 'CLIENT_NAME_RETIRED' });
    assert.equal(await readClientsVersion(redis), version);
    assert.equal(await redis.xlen(clientRegisterKeys.journal), 3, 'what is refused tells nothing');
    assert.deepEqual(
      (await listClients(redis)).map(({ name }) => name),
      ['b'],
    );
    await setClientState(redis, 'b', 'disabled');
    await setClientState(redis, 'b', 'enabled');
    await addClient(redis, 'A');
  });

  test('a new secret for the same name: nothing else changes, and it is told', async () => {
    const { secret: old } = await addClient(redis, 'a', 'auditor');
    await setClientState(redis, 'a', 'disabled');
    const [before] = await listClients(redis);
    const { secret } = await renewClientSecret(redis, 'a');
    assert.notEqual(secret, old);
    assert.deepEqual(await listClients(redis), [{ ...before, secretHash: hashSecret(secret).toString('base64url') }]);
    const events = await waitingEvents(redis, clientRegisterKeys.journal);
    assert.deepEqual([events.at(-1)?.kind, events.at(-1)?.subject, events.at(-1)?.actor], ['client.secretRenewed', 'a', 'tester']);
    assert.equal(await readClientsVersion(redis), '3');
    await assert.rejects(renewClientSecret(redis, 'b'), { code: 'CLIENT_UNKNOWN' });
  });

  test('nor is a name that was removed before names were kept, which its count of stamps tells, given to anybody', async () => {
    await redis.hset(laneKeys('timestamp').stamps, 'old', 3, 'present', 2);
    await assert.rejects(addClient(redis, 'old'), { code: 'CLIENT_NAME_RETIRED' });
    await redis.hdel(laneKeys('timestamp').stamps, 'present');
    await addClient(redis, 'present');
    await redis.hset(laneKeys('timestamp').stamps, 'present', 2);
    await assert.rejects(addClient(redis, 'present'), { code: 'CLIENT_EXISTS' });
  });

  test('of many that remove a client and add one of its name at once, none gets the name', async () => {
    await addClient(redis, 'a');
    const results = await Promise.allSettled([removeClient(redis, 'a'), ...Array.from({ length: 20 }, () => addClient(redis, 'a'))]);
    assert.deepEqual(
      results.map(({ status }) => status),
      ['fulfilled', ...Array.from({ length: 20 }, () => 'rejected')],
    );
    assert.deepEqual(await listClients(redis), []);
  });

  test('the register is bounded, and a name in it can still be changed', async () => {
    const pipeline = redis.pipeline();
    for (let i = 0; i < clientsMax - 1; i += 1) pipeline.hset(clientRegisterKeys.clients, `filler-${i}`, '{}');
    await pipeline.exec();
    await addClient(redis, 'last');
    await assert.rejects(addClient(redis, 'one-more'), { code: 'CLIENT_LIMIT' });
    await setClientState(redis, 'last', 'disabled');
    await removeClient(redis, 'last');
    await addClient(redis, 'one-more');
  });

  test('names', async () => {
    for (const name of ['a', 'A.b_c-9', 'x'.repeat(64), '-', '__proto__', 'constructor']) assert.ok(isClientName(name), name);
    for (const name of ['', '.', '.a', 'a b', 'a:b', 'a/b', 'ä', 'x'.repeat(65), 'anonymous', 'a\n']) assert.ok(!isClientName(name), name);
    await assert.rejects(addClient(redis, '.hidden'), { code: 'CLIENT_NAME_INVALID' });
    await addClient(redis, '__proto__');
    assert.deepEqual(
      (await listClients(redis)).map(({ name }) => name),
      ['__proto__'],
    );
  });

  test('a record that cannot be read is a fault that names the client', async () => {
    await redis.hset(clientRegisterKeys.clients, 'broken', '{"version":2}');
    await assert.rejects(listClients(redis), { code: 'INTERNAL', message: /broken/ });
  });

  test('counts of stamps', async () => {
    await redis.hset(laneKeys('timestamp').stamps, 'a', 3, 'anonymous', 4);
    assert.deepEqual([...(await readStampCounts(redis))].sort(), [
      ['a', 3],
      ['anonymous', 4],
    ]);
  });
});
