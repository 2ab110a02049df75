/**
 * How long the oldest event waits for the journal: the age of the first entry of the streams, on Redis's clock.
 *
 * It grows while nothing is sealed, when what a writer tells of its blocks falls silent; so every gateway tells it too, all the same:
 * look at it with `max`. An entry that is sealed is gone from its stream. While Redis is away there is no value.
 */
import { Gauge, type Registry } from 'prom-client';
import type { RedisClient } from '../../queue/redis.ts';
import { journalSources } from './sources.ts';

/** A scrape does not wait longer for Redis. */
const patienceMs = 500;

/** Age of the oldest entry in any of these streams, in seconds; 0 when they are empty. @throws what Redis says */
export const oldestWaitingSeconds = async (
  redis: RedisClient,
  streams: readonly string[] = journalSources.map(({ key }) => key),
): Promise<number> => {
  const firsts = await Promise.all(
    streams.map(async (key) => (await redis.xrangeBuffer(key, '-', '+', 'COUNT', 1)) as [Buffer, unknown][]),
  );
  // Asked behind them: an entry that came in between must not seem to be of the future.
  const [seconds, micros] = (await redis.time()) as unknown as [string | number, string | number];
  const nowMs = Number(seconds) * 1_000 + Number(micros) / 1_000;
  const ages = firsts.flatMap(([first]) => (first === undefined ? [] : [nowMs - Number.parseInt(first[0].toString('latin1'), 10)]));
  return Math.max(0, ...ages) / 1_000;
};

/** Adds the gauge. @param read what `oldestWaitingSeconds` says now */
export const registerWaitingAge = (registry: Registry, read: () => Promise<number>): void => {
  new Gauge({
    registers: [registry],
    aggregator: 'max',
    name: 'journal_oldest_waiting_seconds',
    help: 'Age of the oldest event that waits in Redis and is not sealed yet.',
    async collect() {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<undefined>((resolve) => {
        timer = setTimeout(resolve, patienceMs, undefined);
      });
      const age = await Promise.race([read().catch(() => undefined), late]); // Redis is away, which its own item of /readyz says
      clearTimeout(timer);
      if (age === undefined) this.remove();
      else this.set(age);
    },
  });
};
