/** The Redis of the configuration, as a command uses it: there at once, or not at all. */
import { existsSync } from 'node:fs';
import { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import type { Config } from '../../config/schema.ts';
import { nodeName, type TellClock } from '../../observability/journal/recorder.ts';
import { HostClock } from '../../queue/host-clock.ts';
import { connectRedis, type RedisClient, whenReady } from '../../queue/redis.ts';
import { operatorName } from './operator.ts';

const connectTimeoutMs = 3_000;

/** A connection that takes commands; the caller disconnects it. @throws REDIS_UNAVAILABLE */
export const commandRedis = async (config: Config): Promise<RedisClient> => {
  const hint = config.redis.mode === 'embedded' ? 'The private Redis runs while the service runs: start it first.' : undefined;
  if (config.redis.mode === 'embedded' && !existsSync(homePaths(config.home).redisSocket))
    throw new SigilloError('REDIS_UNAVAILABLE', hint);
  const redis = connectRedis(config, 'cli', 'command');
  redis.on('error', () => undefined); // whenReady and each command report it
  try {
    await whenReady(redis, connectTimeoutMs);
    return redis;
  } catch (cause) {
    redis.disconnect();
    throw new SigilloError('REDIS_UNAVAILABLE', hint, { cause });
  }
};

/** Who runs a command, and what the signers of this host say of the clock that dates what they do. */
export interface CommandOperator {
  readonly role: 'operator';
  readonly actor: string;
  readonly clock: TellClock;
}

/** The operator of a command, for its events. */
export const commandOperator = async (redis: RedisClient): Promise<CommandOperator> => {
  const clock = new HostClock({ redis, node: nodeName() });
  await clock.look();
  return { role: 'operator', actor: operatorName(), clock: clock.state };
};
