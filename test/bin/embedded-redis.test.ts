import assert from 'node:assert/strict';
import { once } from 'node:events';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { Redis } from 'ioredis';
import { shutDownLeftoverRedis, spawnRedis, untilRedisReady } from '../../bin/embedded-redis.ts';
import { homePaths } from '../../config/home.ts';
import { findDurabilityShortfall } from '../../queue/redis-durability.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { temporaryFolder } from '../support/token-home.ts';

describe('the embedded Redis', { skip: redisServerMissing() }, () => {
  const folder = temporaryFolder();
  after(folder.remove);

  for (const [durability, appendfsync] of [
    ['fsync', 'always'],
    ['everysec', 'everysec'],
  ] as const) {
    test(`journal.durability ${durability} is appendfsync ${appendfsync}`, async () => {
      const paths = homePaths(join(folder.path, durability));
      const server = spawnRedis({ redis: { mode: 'embedded', serverPath: 'redis-server', maxMemoryMb: 64 }, durability }, paths);
      const ended = once(server, 'exit');
      const redis = new Redis({ path: paths.redisSocket, lazyConnect: true });
      try {
        await untilRedisReady(paths.redisSocket, AbortSignal.timeout(10_000));
        await redis.connect();
        assert.deepEqual(await redis.config('GET', 'appendfsync'), ['appendfsync', appendfsync]);
        assert.deepEqual(await findDurabilityShortfall(redis, durability), []);
      } finally {
        redis.disconnect();
        await shutDownLeftoverRedis(paths.redisSocket);
        server.kill('SIGKILL');
        await ended;
      }
    });
  }
});
