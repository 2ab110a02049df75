/**
 * Watches whether a Redis that is not ours keeps what `journal.durability` promises (queue/redis-durability.ts): at each connection,
 * because behind a failover another server answers, and every minute, because settings change without a restart.
 *
 * Never fatal, and no reason to refuse work: a managed Redis may do it its own way, and does not tell. It is told in the log when it
 * changes, in /readyz and in `redis_durability_ok`.
 */
import type { Config } from '../config/schema.ts';
import type { Logger } from '../observability/log.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import type { RedisClient } from '../queue/redis.ts';
import { findDurabilityShortfall } from '../queue/redis-durability.ts';

const lookAgainMs = 60_000;
const name = 'redis durability';

export interface DurabilityWatch {
  /** undefined: not asked yet, or the server does not tell. */
  readonly ok: boolean | undefined;
  /** Nothing of the private Redis, which is started as it must be. */
  health(): readonly HealthItem[];
  /** Asks now; it is done by itself. It never fails. */
  look(): Promise<void>;
  close(): void;
}

export interface DurabilityWatchOptions {
  readonly config: Config;
  readonly log: Pick<Logger, 'info' | 'warn' | 'error'>;
  readonly command: RedisClient;
}

const ofPrivateRedis: DurabilityWatch = { ok: true, health: () => [], look: async () => undefined, close: () => undefined };

/** Begins to watch. */
export const watchDurability = ({ config, log, command }: DurabilityWatchOptions): DurabilityWatch => {
  if (config.redis.mode === 'embedded') return ofPrivateRedis;
  const { durability } = config.journal;
  const replicated = config.redis.mode !== 'url';
  /** What is to be set; or why it is not known. */
  let found: readonly string[] | Error | undefined;
  let said = '';
  /** Says a state once, until it changes. */
  const say = (state: string, line: () => void): void => {
    if (said !== state) line();
    said = state;
  };
  const look = async (): Promise<void> => {
    try {
      const missing = await findDurabilityShortfall(command, durability, { replicated });
      found = missing;
      if (missing.length > 0)
        say(missing.join(), () =>
          log.error({ durability, set: missing }, 'redis: keeps less than journal.durability promises; set what is named'),
        );
      else say('', () => log.info({ durability }, 'redis: keeps what journal.durability promises'));
    } catch (error) {
      // While it is away the answer before holds: what is not there keeps nothing else.
      if (command.status !== 'ready') return;
      found = error as Error;
      say('not told', () =>
        log.warn({ durability, err: error }, 'redis: does not tell whether it keeps what journal.durability promises (CONFIG GET)'),
      );
    }
  };
  const again = (): void => void look();
  // A Cluster stays connected over the failover of one master: a new one shows as a new node.
  for (const event of ['ready', '+node']) command.on(event, again);
  const timer = setInterval(again, lookAgainMs);
  timer.unref();
  again();
  return {
    get ok() {
      return found === undefined || found instanceof Error ? undefined : found.length === 0;
    },
    health() {
      if (found === undefined) return [{ name, ok: true, detail: 'not asked yet' }];
      if (found instanceof Error) {
        const detail = `not known: Redis does not tell (${found.message}); ask its operator for what journal.durability needs`;
        return [{ name, ok: true, detail }];
      }
      if (found.length === 0) return [{ name, ok: true, detail: `keeps what journal.durability: ${durability} promises` }];
      // An alarm, and no reason to refuse work.
      const lack = `KEEPS TOO LITTLE for journal.durability: ${durability}, granted answers can be lost`;
      return [{ name, ok: true, detail: `${lack}: set ${found.join(', ')} (docs/operations.md)` }];
    },
    look,
    close() {
      clearInterval(timer);
      for (const event of ['ready', '+node']) command.off(event, again);
    },
  };
};
