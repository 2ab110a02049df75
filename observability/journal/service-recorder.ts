/** The recorder of a process that keeps running: its troubles are told, but not each time that it tries; what it gives up is told at its end. */
import type { RedisClient } from '../../queue/redis.ts';
import type { Logger } from '../log.ts';
import { JournalRecorder, type TellClock } from './recorder.ts';

const sayAgainMs = 10_000;

/** @param actor name of the program @param clock what is known about the clock of this host; unset: nothing */
export const createServiceRecorder = (
  redis: RedisClient,
  actor: string,
  log: Pick<Logger, 'warn' | 'error'>,
  clock?: TellClock,
): JournalRecorder => {
  let saidAtMs = Number.NEGATIVE_INFINITY;
  return new JournalRecorder({
    redis,
    actor,
    ...(clock && { clock }),
    onFailed(error) {
      if (performance.now() - saidAtMs < sayAgainMs) return;
      saidAtMs = performance.now();
      log.warn({ err: error }, 'journal: events wait for Redis');
    },
    onLost: (events) => log.error({ actor, events }, 'journal: events of this process were lost, they are in no entry'),
  });
};
