import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createClientAccess } from '../../gateway/client-access.ts';
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
    assert.match(listed.stdout, /^bank-1 +enabled +\d{4}-\d\d-\d\d +42$/m);
    assert.ok(!listed.stdout.includes(basic.split(':')[1] as string));
    assert.equal((await run('disable', 'bank-1')).code, 0);
    const json = JSON.parse((await run('list', '--json')).stdout) as object[];
    assert.deepEqual(
      json.map((client) => ({ ...client, createdAt: '' })),
      [{ name: 'bank-1', state: 'disabled', createdAt: '', stamps: 42 }],
    );
    assert.equal((await run('enable', 'bank-1')).code, 0);

    const again = await run('add', 'bank-1');
    assert.equal(again.code, 1);
    assert.match(again.stderr, /CLIENT_EXISTS/);
    assert.equal((await run('remove', 'bank-1')).code, 0);
    assert.match((await run('remove', 'bank-1')).stderr, /CLIENT_UNKNOWN/);
    assert.match((await run('add', 'not a name')).stderr, /CLIENT_NAME_INVALID/);
    assert.deepEqual(JSON.parse((await run('list', '--json')).stdout), []);
  });

  test('without Redis it says so', async () => {
    const result = await runSigillo(['client', 'list'], { SIGILLO__REDIS: '{mode: url, url: unix:///nonexistent/redis.sock}' });
    assert.equal(result.code, 1);
    assert.match(result.stderr, /REDIS_UNAVAILABLE/);
  });
});
