/** A Redis that keeps what it has, and a connection to it as processes of the product have one. */
import { after, before } from 'node:test';
import type { Redis } from 'ioredis';
import { startTestRedis, type TestRedis } from './redis-server.ts';
import { until } from './until.ts';

export interface ConnectedRedis {
  readonly server: TestRedis;
  readonly redis: Redis;
}

/** For the tests of a suite. */
export const connectedRedis = (): ConnectedRedis => {
  let server: TestRedis;
  let redis: Redis;
  before(async () => {
    server = await startTestRedis({ appendOnly: true });
    redis = server.connect({ enableOfflineQueue: false });
    await until('Redis is there', () => redis.status === 'ready');
  });
  after(() => server.close());
  return {
    get server() {
      return server;
    },
    get redis() {
      return redis;
    },
  };
};
