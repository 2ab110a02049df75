/** A private redis-server for tests: on a unix socket in a folder of its own, without persistence unless asked for. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Redis, type RedisOptions } from 'ioredis';

/** The mapping of replies would change the types of every command. */
type Options = Omit<RedisOptions, 'replyMapping'>;

export interface TestRedis {
  readonly socket: string;
  /** A connection that fails fast while the server is away; closed by `close`. */
  connect(options?: Options): Redis;
  /** Ends the server; its data stay for `start` when it was made with `appendOnly`. */
  stop(signal?: NodeJS.Signals): Promise<void>;
  /** Starts the server again and waits until it answers. */
  start(): Promise<void>;
  /** Closes connections, ends the server and removes its folder. */
  close(): Promise<void>;
}

export interface TestRedisOptions {
  /** Keep an append-only file, written at every command. */
  readonly appendOnly?: boolean;
  /** More settings, as on the command line of redis-server. */
  readonly settings?: readonly string[];
}

const startTimeoutMs = 10_000;

/** Why a test that needs redis-server must be skipped, or false. Give it to node:test's `skip`, so that it is said aloud. */
export const redisServerMissing = (): string | false =>
  spawnSync('redis-server', ['--version']).status === 0 ? false : 'redis-server is not installed: apt-get install redis-server';

const waitForPing = async (socket: string, child: ChildProcess): Promise<void> => {
  const deadline = performance.now() + startTimeoutMs;
  const probe = new Redis({ path: socket, lazyConnect: true, retryStrategy: () => 20, maxRetriesPerRequest: 0 });
  probe.on('error', () => undefined); // refused until the server listens
  try {
    for (;;) {
      if (child.exitCode !== null) throw new Error(`redis-server ended with ${child.exitCode}`);
      // `LOADING` and a refused connection look alike here: not yet.
      if ((await probe.ping().catch(() => 'not yet')) === 'PONG') return;
      if (performance.now() > deadline) throw new Error(`redis-server did not answer within ${startTimeoutMs} ms`);
      await delay(20);
    }
  } finally {
    probe.disconnect();
  }
};

/** Starts a private Redis and resolves when it answers PING. */
export const startTestRedis = async ({ appendOnly = false, settings = [] }: TestRedisOptions = {}): Promise<TestRedis> => {
  const folder = mkdtempSync(join(tmpdir(), 'sigillo-redis-'));
  const socket = join(folder, 'redis.sock');
  const connections: Redis[] = [];
  const persistence = appendOnly ? ['--appendonly', 'yes', '--appendfsync', 'always'] : ['--appendonly', 'no'];
  const parameters = ['--port', '0', '--unixsocket', socket, '--dir', folder, '--save', '', ...persistence, ...settings];
  let child: ChildProcess | undefined;

  const start = async (): Promise<void> => {
    child = spawn('redis-server', parameters, { stdio: 'ignore' });
    await waitForPing(socket, child);
  };
  const stop = async (signal: NodeJS.Signals = 'SIGTERM'): Promise<void> => {
    const running = child;
    child = undefined;
    if (running === undefined || running.exitCode !== null || running.signalCode !== null) return;
    const ended = once(running, 'exit');
    running.kill(signal);
    await ended;
  };
  try {
    await start();
  } catch (error) {
    await stop('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
  return {
    socket,
    connect: (options = {}) => {
      const merged: Options = { path: socket, enableOfflineQueue: true, maxRetriesPerRequest: 0, retryStrategy: () => 20, ...options };
      const redis = new Redis(merged);
      redis.on('error', () => undefined); // tests look at the commands that fail
      connections.push(redis);
      return redis;
    },
    stop,
    start,
    close: async () => {
      for (const connection of connections) connection.disconnect();
      await stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
};
