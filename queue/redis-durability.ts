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

export interface DurabilityOptions {
  /** Another server takes over when this one fails (Sentinel, Cluster). @defaultValue false */
  readonly replicated?: boolean;
}

/**
 * Replication is asynchronous: a server that loses its replicas goes on alone, and all that it takes is lost when one of them takes
 * over. With these it stops instead, a lag later. What is between the two is what a failover can lose (docs/journal.md).
 */
const replicationShortfall = (settings: Readonly<Record<string, string | undefined>>): string[] => {
  const missing: string[] = [];
  if (!(Number(settings['min-replicas-to-write']) >= 1)) missing.push('min-replicas-to-write 1');
  // 0 switches the other one off.
  if (!(Number(settings['min-replicas-max-lag']) >= 1)) missing.push('min-replicas-max-lag 10');
  return missing;
};

const settingNames = [...Object.keys(durabilitySettings.fsync), 'min-replicas-to-write', 'min-replicas-max-lag'];

/**
 * What a server must set to keep the promise: `appendfsync always`, for example. Empty when it does enough.
 * @param settings as CONFIG GET tells them
 */
export const durabilityShortfall = (
  durability: Durability,
  settings: Readonly<Record<string, string | undefined>>,
  { replicated = false }: DurabilityOptions = {},
): string[] => {
  const asked = durabilitySettings[durability];
  const missing: string[] = [];
  if (settings['appendonly'] !== 'yes') missing.push('appendonly yes');
  // More than was asked for is enough.
  if (settings['appendfsync'] !== 'always' && settings['appendfsync'] !== asked.appendfsync)
    missing.push(`appendfsync ${asked.appendfsync}`);
  if (durability === 'fsync' && settings['no-appendfsync-on-rewrite'] !== 'no') missing.push('no-appendfsync-on-rewrite no');
  if (durability === 'fsync' && replicated) missing.push(...replicationShortfall(settings));
  return missing;
};

const settingsOf = async (node: Pick<RedisClient, 'config'>): Promise<Record<string, string>> => {
  const settings: Record<string, string> = {};
  for (const name of settingNames) {
    // A server that is no Redis by name, and does not know a setting, has nothing to say of it.
    const [, value] = (await node.config('GET', name)) as [string, string] | [];
    if (value !== undefined) settings[name] = value;
  }
  return settings;
};

/**
 * Asks every master of this Redis.
 * @returns what is to be set; empty when all is well
 * @throws when a server does not tell, as managed ones often do not
 */
export const findDurabilityShortfall = async (
  redis: RedisClient,
  durability: Durability,
  options: DurabilityOptions = {},
): Promise<string[]> => {
  const nodes = redis instanceof Cluster ? redis.nodes('master') : [redis];
  const missing = await Promise.all(nodes.map(async (node) => durabilityShortfall(durability, await settingsOf(node), options)));
  return [...new Set(missing.flat())];
};
