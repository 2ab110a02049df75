/** Says what happens to a Redis connection, once: a server that is away for an hour is one line, not ten thousand. */
import type { RedisClient } from '../queue/redis.ts';
import type { Logger } from './log.ts';

/** Logs the first of equal errors in a row, and that the connection is back. */
export const logConnection = (client: RedisClient, name: string, log: Logger): void => {
  let last = '';
  client.on('error', (error: Error) => {
    if (error.message !== last) log.warn({ connection: name, reason: error.message }, 'redis: connection error');
    last = error.message;
  });
  client.on('ready', () => {
    if (last !== '') log.info({ connection: name }, 'redis: connected again');
    last = '';
  });
};
