/**
 * The private Redis of a home folder: reachable only through a unix socket in a folder of mode 0700, append-only file on,
 * never evicting. It is always a child of the supervisor; one that outlived an earlier supervisor is shut down first.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import type { HomePaths } from '../config/home.ts';
import { makePrivateFolder } from '../config/private-folder.ts';
import type { Config } from '../config/schema.ts';
import { durabilitySettings } from '../queue/redis-durability.ts';

export type EmbeddedRedisConfig = Extract<Config['redis'], { mode: 'embedded' }>;

export interface EmbeddedRedisOptions {
  readonly redis: EmbeddedRedisConfig;
  /** What `journal.durability` promises. */
  readonly durability: Config['journal']['durability'];
}

const pollMs = 10;
const pingDeadlineMs = 1_000;
/** Reading the append-only file takes about 2 s per GB; the largest home has a few. */
export const redisReadyMsMax = 600_000;

const redisArguments = ({ redis, durability }: EmbeddedRedisOptions, paths: HomePaths): string[] => {
  const options: Record<string, string> = {
    port: '0',
    unixsocket: paths.redisSocket,
    unixsocketperm: '700',
    dir: paths.redisFolder,
    daemonize: 'no',
    logfile: join(paths.redisFolder, 'redis.log'),
    loglevel: 'notice',
    ...durabilitySettings[durability],
    // Snapshots would fork the process for nothing: the append-only file is the copy.
    save: '',
    'auto-aof-rewrite-min-size': '512mb',
    maxmemory: `${redis.maxMemoryMb}mb`,
    // What was accepted must not vanish: a full Redis refuses writes instead.
    'maxmemory-policy': 'noeviction',
  };
  return Object.entries(options).flatMap(([name, value]) => [`--${name}`, value]);
};

/** Starts the server process; it is not ready yet. */
export const spawnRedis = (options: EmbeddedRedisOptions, paths: HomePaths): ChildProcess => {
  makePrivateFolder(paths.redisFolder);
  makePrivateFolder(dirname(paths.redisSocket));
  // A process group of its own: Ctrl-C in the terminal must reach Redis last, through the supervisor.
  return spawn(options.redis.serverPath, redisArguments(options, paths), { detached: true, stdio: ['ignore', 'inherit', 'inherit'] });
};

/** Runs one conversation on a connection of its own; nothing is retried or queued behind our back. */
const withConnection = async <T>(socket: string, talk: (redis: Redis) => Promise<T>): Promise<T> => {
  const redis = new Redis({
    path: socket,
    lazyConnect: true,
    connectTimeout: pingDeadlineMs,
    commandTimeout: pingDeadlineMs,
    retryStrategy: () => null,
    maxRetriesPerRequest: 0,
    enableReadyCheck: false,
  });
  redis.on('error', () => undefined); // the rejection of the call below tells the same
  try {
    await redis.connect();
    return await talk(redis);
  } finally {
    redis.disconnect();
  }
};

/** Resolves when the server answers PING, which it does only after loading. @throws when it cannot, or not within a second */
export const pingRedis = (socket: string): Promise<void> =>
  withConnection(socket, async (redis) => {
    await redis.ping();
  });

/** Resolves when the server behind the socket serves; gives up only when `gone` fires. */
export const untilRedisReady = async (socket: string, gone: AbortSignal): Promise<void> => {
  for (;;) {
    try {
      return await pingRedis(socket);
    } catch {
      // Not listening yet, or still loading: the bound on the whole wait is the supervisor's.
      await delay(pollMs, undefined, { signal: gone });
    }
  }
};

/**
 * Asks a server that still listens on the socket to flush and end.
 *
 * @returns its PID, to wait for; undefined when there is none that answers
 */
export const shutDownLeftoverRedis = async (socket: string): Promise<number | undefined> => {
  try {
    return await withConnection(socket, async (redis) => {
      const pid = Number(/process_id:(\d+)/.exec(await redis.info('server'))?.[1]);
      await redis.shutdown().catch(() => undefined); // its answer is the end of the connection
      return Number.isInteger(pid) ? pid : undefined;
    });
  } catch {
    return undefined; // nobody listens there, which is what we want
  }
};
