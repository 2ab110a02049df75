import assert from 'node:assert/strict';
import { userInfo } from 'node:os';
import { after, before, describe, test } from 'node:test';
import { createClientAccess } from '../../gateway/client-access.ts';
import { clientRegisterKeys } from '../../queue/client-register.ts';
import { waitingEvents } from '../support/clients.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { type CommandResult, runSigillo } from '../support/run-sigillo.ts';

describe('sigillo client', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  before(async () => {
    server = await startTestRedis();
  });
  after(() => server.close());
  const run = (...parameters: string[]): Promise<CommandResult> =>
    runSigillo(['client', ...parameters], { SIGILLO__REDIS: JSON.stringify({ mode: 'url', url: `unix://${server.socket}` }) });

  test('add, list, disable, enable, remove', async () => {
    const added = await run('add', 'bank-1');
    assert.equal(added.code, 0, added.stderr);
    const basic = /HTTP Basic {2}(\S+)/.exec(added.stdout)?.[1] as string;
    const bearer = /Bearer key {2}(\S+)/.exec(added.stdout)?.[1] as string;
    const redis = server.connect();
    const access = createClientAccess({ redis, log: { info: () => undefined, warn: () => undefined } });
    await access.ready();
    assert.equal(access.authenticate(`Bearer ${bearer}`).kind, 'client');
    assert.equal(access.authenticate(`Basic ${Buffer.from(basic).toString('base64')}`).kind, 'client');
    access.close();

    await redis.hset('lane:{timestamp}:stamps', 'bank-1', 42);
    const listed = await run('list');
    assert.match(listed.stdout, /^bank-1 +client +enabled +\d{4}-\d\d-\d\d +42$/m);
    assert.ok(!listed.stdout.includes(basic.split(':')[1] as string));
    assert.equal((await run('disable', 'bank-1')).code, 0);
    const json = JSON.parse((await run('list', '--json')).stdout) as object[];
    assert.deepEqual(
      json.map((client) => ({ ...client, createdAt: '' })),
      [{ name: 'bank-1', role: 'client', state: 'disabled', createdAt: '', stamps: 42 }],
    );
    assert.equal((await run('enable', 'bank-1')).code, 0);

    const renewed = await run('secret', 'bank-1');
    const newBearer = /Bearer key {2}(\S+)/.exec(renewed.stdout)?.[1] as string;
    const later = createClientAccess({ redis, log: { info: () => undefined, warn: () => undefined } });
    await later.ready();
    assert.equal(later.authenticate(`Bearer ${bearer}`).kind, 'refused');
    assert.equal(later.authenticate(`Bearer ${newBearer}`).kind, 'client');
    later.close();
    assert.match((await run('secret', 'nobody')).stderr, /CLIENT_UNKNOWN/);

    const again = await run('add', 'bank-1');
    assert.equal(again.code, 1);
    assert.match(again.stderr, /CLIENT_EXISTS/);
    assert.equal((await run('remove', 'bank-1')).code, 0);
    assert.match((await run('remove', 'bank-1')).stderr, /CLIENT_UNKNOWN/);
    const successor = await run('add', 'bank-1');
    assert.deepEqual([successor.code, successor.stdout], [1, '']);
    assert.match(successor.stderr, /CLIENT_NAME_RETIRED.*bank-1/s);
    assert.match((await run('add', 'not a name')).stderr, /CLIENT_NAME_INVALID/);
    assert.deepEqual(JSON.parse((await run('list', '--json')).stdout), []);
  });

  test('an auditor, and a role that changes', async () => {
    const added = await run('add', 'ms-rossi', '--role', 'auditor', '--json');
    const { bearer, role } = JSON.parse(added.stdout) as { bearer: string; role: string };
    assert.equal(role, 'auditor');
    const access = createClientAccess({ redis: server.connect(), log: { info: () => undefined, warn: () => undefined } });
    await access.ready();
    assert.deepEqual(access.authenticate(`Bearer ${bearer}`), { kind: 'client', name: 'ms-rossi', role: 'auditor' });
    access.close();
    assert.match((await run('list')).stdout, /^ms-rossi +auditor +enabled/m);
    assert.equal((await run('role', 'ms-rossi', 'client')).code, 0);
    assert.match((await run('list')).stdout, /^ms-rossi +client +enabled/m);
    for (const wrong of [
      ['role', 'ms-rossi', 'boss'],
      ['add', 'x', '--role', 'boss'],
    ]) {
      const result = await run(...wrong);
      assert.deepEqual([result.code, result.stdout], [64, '']);
      assert.match(result.stderr, /client, auditor/);
    }
    assert.match((await run('role', 'nobody', 'auditor')).stderr, /CLIENT_UNKNOWN/);
    assert.equal((await run('remove', 'ms-rossi')).code, 0);
  });

  test('every change is an event by the user of this machine', async () => {
    const redis = server.connect();
    await redis.del(clientRegisterKeys.journal);
    await run('add', 'bank-2');
    await run('role', 'bank-2', 'auditor');
    await run('disable', 'bank-2');
    await run('remove', 'bank-2');
    await run('remove', 'bank-2');
    const events = await waitingEvents(redis, clientRegisterKeys.journal);
    assert.deepEqual(
      events.map(({ kind, subject, role, actor }) => [kind, subject, role, actor]),
      ['client.added', 'permission.changed', 'client.disabled', 'client.removed'].map((kind) => [
        kind,
        'bank-2',
        'operator',
        userInfo().username,
      ]),
    );
  });

  test('without Redis it says so', async () => {
    const result = await runSigillo(['client', 'list'], { SIGILLO__REDIS: '{mode: url, url: unix:///nonexistent/redis.sock}' });
    assert.equal(result.code, 1);
    assert.match(result.stderr, /REDIS_UNAVAILABLE/);
  });
});
