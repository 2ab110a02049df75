/**
 * Connections to Redis, whatever kind the configuration names: the private one, a server by URL, Sentinel or Cluster.
 *
 * Nothing is queued while the connection is away: a command fails at once, and its caller refuses the work (FACTS: an
 * offline queue turns an outage into a flood). Every option whose default has changed between releases is given here.
 */
import { readFileSync } from 'node:fs';
import { Cluster, Redis } from 'ioredis';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import { readSecretFile } from '../config/secrets.ts';

/** A connection of either kind; keys of one command must share a hash tag. */
export type RedisClient = Redis | Cluster;

/** `blocking` connections wait in XREAD; nothing else may run on them. `jobs` ones belong to BullMQ, which copies them. */
export type ConnectionRole = 'command' | 'blocking' | 'jobs';

/** Longest BLOCK of a read; a read without a reply for `blockMs` and a grace is given up, so that a dead link is noticed. */
export const blockMs = 1_000;
const commandTimeoutMs = 5_000;
const connectTimeoutMs = 5_000;

type Login = { username?: string | undefined; passwordFile?: string | undefined; tls?: TlsFiles | undefined };
type TlsFiles = { caFile?: string | undefined; certificateFile?: string | undefined; keyFile?: string | undefined };

const tlsOptions = (files: TlsFiles) => ({
  ...(files.caFile === undefined ? {} : { ca: readFileSync(files.caFile) }),
  ...(files.certificateFile === undefined ? {} : { cert: readFileSync(files.certificateFile) }),
  ...(files.keyFile === undefined ? {} : { key: readFileSync(files.keyFile) }),
});

const backOff = (attempt: number): number => Math.min(50 * attempt, 500);

const commonOptions = (name: string, role: ConnectionRole) => ({
  protocol: 2 as const,
  connectionName: `sigillo-${name}`,
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
  enableReadyCheck: true,
  connectTimeout: connectTimeoutMs,
  // Short and flat: a restarted Redis must be found again well within the 5 s that a recovery may take.
  retryStrategy: backOff,
  // A replica that was a master until a failover answers READONLY: connect anew, to the right one.
  reconnectOnError: (error: Error) => error.message.startsWith('READONLY'),
  // BullMQ's workers wait in BZPOPMIN on a copy of the connection, and insist on this; what is lost with a connection they do again.
  ...(role === 'jobs' ? { maxRetriesPerRequest: null } : {}),
  ...(role !== 'command' ? { blockingTimeout: 2 * blockMs, blockingTimeoutGrace: blockMs } : { commandTimeout: commandTimeoutMs }),
});

const loginOptions = (login: Login) => ({
  ...(login.username === undefined ? {} : { username: login.username }),
  ...(login.passwordFile === undefined ? {} : { password: readSecretFile(login.passwordFile) }),
  ...(login.tls === undefined ? {} : { tls: tlsOptions(login.tls) }),
});

/**
 * Opens a connection that re-establishes itself for ever; it may not be ready yet when this returns.
 * The caller must listen to its `error` events and close it with `disconnect()`.
 * @throws CONFIG_UNREADABLE when a password or TLS file cannot be read
 */
export const connectRedis = (config: Config, name: string, role: ConnectionRole): RedisClient => {
  const common = commonOptions(name, role);
  const { redis } = config;
  switch (redis.mode) {
    case 'embedded':
      return new Redis({ ...common, path: homePaths(config.home).redisSocket });
    case 'url': {
      if (redis.url.startsWith('unix://')) return new Redis({ ...common, ...loginOptions(redis), path: redis.url.slice('unix://'.length) });
      const tls = redis.url.startsWith('rediss://') ? { tls: {} } : {};
      return new Redis(redis.url, { ...common, ...tls, ...loginOptions(redis) });
    }
    case 'sentinel':
      return new Redis({
        ...common,
        ...loginOptions(redis),
        name: redis.name,
        sentinels: redis.sentinels,
        ...(redis.sentinelPasswordFile === undefined ? {} : { sentinelPassword: readSecretFile(redis.sentinelPasswordFile) }),
        sentinelRetryStrategy: backOff,
      });
    case 'cluster': {
      const { retryStrategy: _unused, ...node } = common;
      return new Cluster(redis.nodes, {
        redisOptions: { ...node, ...loginOptions(redis) },
        enableOfflineQueue: false,
        clusterRetryStrategy: backOff,
        scaleReads: 'master',
      });
    }
  }
};

/** Resolves when the connection takes commands. @throws the last connection error after `timeoutMs` */
export const whenReady = (client: RedisClient, timeoutMs: number): Promise<void> =>
  new Promise((resolve, reject) => {
    if (client.status === 'ready') {
      resolve();
      return;
    }
    let last: Error = new Error(`no connection within ${timeoutMs} ms`);
    const finish = (error?: Error): void => {
      clearTimeout(timer);
      client.off('ready', onReady);
      client.off('error', onError);
      if (error === undefined) resolve();
      else reject(error);
    };
    const onReady = (): void => finish();
    const onError = (error: Error): void => {
      last = error;
    };
    const timer = setTimeout(() => finish(last), timeoutMs);
    client.on('ready', onReady);
    client.on('error', onError);
  });

/** Shorter than the second that an asker of /readyz waits: a Redis that hangs must be named, not its askers. */
const healthMs = 500;

/** Whether Redis answers now: a connection that is open tells nothing of a server that stands still. */
export const redisHealth = async (
  client: RedisClient,
): Promise<{ readonly name: 'redis'; readonly ok: boolean; readonly detail: string }> => {
  if (client.status !== 'ready') return { name: 'redis', ok: false, detail: client.status };
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(`no answer within ${healthMs} ms`), healthMs);
  });
  const answer = await Promise.race([client.ping().catch((error: Error) => error.message), late]);
  clearTimeout(timer);
  return { name: 'redis', ok: answer === 'PONG', detail: answer === 'PONG' ? 'answers' : answer };
};
