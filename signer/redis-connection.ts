/** A connection to Redis that a process needs to begin. */
import { SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import { logConnection } from '../observability/connection-log.ts';
import type { Logger } from '../observability/log.ts';
import { type ConnectionRole, connectRedis, type RedisClient, whenReady } from '../queue/redis.ts';

/** How long a start waits for Redis before it fails, and the supervisor tries again. */
const patienceMs = 10_000;

/** @param name of the connection, for Redis and the log @throws REDIS_UNAVAILABLE */
export const connect = async (config: Config, name: string, role: ConnectionRole, log: Logger): Promise<RedisClient> => {
  const client = connectRedis(config, name, role);
  logConnection(client, name, log);
  await whenReady(client, patienceMs).catch((cause: Error) => {
    client.disconnect();
    throw new SigilloError('REDIS_UNAVAILABLE', cause.message, { cause });
  });
  return client;
};
