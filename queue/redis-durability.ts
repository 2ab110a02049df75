/**
 * Whether a Redis that is not ours keeps what `journal.durability` promises: what was answered is on its disk, or there within a
 * second. The embedded one is started accordingly (bin/embedded-redis.ts).
 */
import { Cluster } from 'ioredis';
import type { Config } from '../config/schema.ts';
import type { RedisClient } from './redis.ts';

type Durability = Config['journal']['durability'];

/** Settings of the append-only file for each promise; with a rewrite that suspends fsync, `always` would not be always. */
export const durabilitySettings = {
  fsync: { appendonly: 'yes', appendfsync: 'always', 'no-appendfsync-on-rewrite': 'no' },
  everysec: { appendonly: 'yes', appendfsync: 'everysec', 'no-appendfsync-on-rewrite': 'yes' },
} as const satisfies Record<Durability, Readonly<Record<string, string>>>;

/**
 * What a server must set to keep the promise: `appendfsync always`, for example. Empty when it does enough.
 * @param settings as CONFIG GET tells them
 */
export const durabilityShortfall = (durability: Durability, settings: Readonly<Record<string, string | undefined>>): string[] => {
  const asked = durabilitySettings[durability];
  const missing: string[] = [];
  if (settings['appendonly'] !== 'yes') missing.push('appendonly yes');
  // More than was asked for is enough.
  if (settings['appendfsync'] !== 'always' && settings['appendfsync'] !== asked.appendfsync)
    missing.push(`appendfsync ${asked.appendfsync}`);
  if (durability === 'fsync' && settings['no-appendfsync-on-rewrite'] !== 'no') missing.push('no-appendfsync-on-rewrite no');
  return missing;
};

const settingsOf = async (node: Pick<RedisClient, 'config'>): Promise<Record<string, string>> => {
  const settings: Record<string, string> = {};
  for (const name of Object.keys(durabilitySettings.fsync)) {
    const [, value] = (await node.config('GET', name)) as [string, string];
    settings[name] = value;
  }
  return settings;
};

/**
 * Asks every master of this Redis.
 * @returns what is to be set; empty when all is well
 * @throws when a server does not tell, as managed ones often do not
 */
export const findDurabilityShortfall = async (redis: RedisClient, durability: Durability): Promise<string[]> => {
  const nodes = redis instanceof Cluster ? redis.nodes('master') : [redis];
  const missing = await Promise.all(nodes.map(async (node) => durabilityShortfall(durability, await settingsOf(node))));
  return [...new Set(missing.flat())];
};
