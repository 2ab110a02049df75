import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { durabilitySettings, durabilityShortfall, findDurabilityShortfall } from '../../queue/redis-durability.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';

test('what a server must set, for each promise', () => {
  const always = durabilitySettings.fsync;
  const everysec = durabilitySettings.everysec;
  assert.deepEqual(durabilityShortfall('fsync', always), []);
  assert.deepEqual(durabilityShortfall('everysec', everysec), []);
  assert.deepEqual(durabilityShortfall('everysec', always), [], 'more is enough');
  assert.deepEqual(durabilityShortfall('fsync', everysec), ['appendfsync always', 'no-appendfsync-on-rewrite no']);
  assert.deepEqual(durabilityShortfall('fsync', { ...always, 'no-appendfsync-on-rewrite': 'yes' }), ['no-appendfsync-on-rewrite no']);
  assert.deepEqual(durabilityShortfall('everysec', { ...everysec, appendfsync: 'no' }), ['appendfsync everysec']);
  assert.deepEqual(durabilityShortfall('everysec', { appendonly: 'no', appendfsync: 'everysec' }), ['appendonly yes']);
  assert.equal(durabilityShortfall('fsync', {}).length, 3);
});

describe('asked of a server', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  before(async () => {
    server = await startTestRedis({ appendOnly: true });
  });
  after(() => server.close());

  test('by CONFIG GET', async () => {
    const redis = server.connect();
    assert.deepEqual(await findDurabilityShortfall(redis, 'fsync'), []);
    await redis.config('SET', 'appendfsync', 'no');
    assert.deepEqual(await findDurabilityShortfall(redis, 'fsync'), ['appendfsync always']);
    assert.deepEqual(await findDurabilityShortfall(redis, 'everysec'), ['appendfsync everysec']);
  });

  test('one that does not tell', async () => {
    const redis = server.connect();
    await redis.acl('SETUSER', 'managed', 'on', 'nopass', '~*', '+@all', '-config');
    await redis.call('AUTH', 'managed', 'x');
    await assert.rejects(findDurabilityShortfall(redis, 'fsync'), /NOPERM/);
  });
});

test('where another server takes over, also what bounds the loss', () => {
  const always = durabilitySettings.fsync;
  const replicated = { replicated: true };
  const bounded = { ...always, 'min-replicas-to-write': '1', 'min-replicas-max-lag': '10' };
  assert.deepEqual(durabilityShortfall('fsync', bounded, replicated), []);
  assert.deepEqual(durabilityShortfall('fsync', { ...bounded, 'min-replicas-to-write': '2' }, replicated), [], 'more is enough');
  assert.deepEqual(durabilityShortfall('fsync', { ...bounded, 'min-replicas-to-write': '0' }, replicated), ['min-replicas-to-write 1']);
  // 0 switches the other one off as well.
  assert.deepEqual(durabilityShortfall('fsync', { ...bounded, 'min-replicas-max-lag': '0' }, replicated), ['min-replicas-max-lag 10']);
  assert.deepEqual(durabilityShortfall('fsync', always, replicated), ['min-replicas-to-write 1', 'min-replicas-max-lag 10']);
  assert.deepEqual(durabilityShortfall('everysec', always, replicated), [], 'a second is not promised over a failover');
});
