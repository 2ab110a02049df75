/** Tells the log of requests that were answered systemFailure. */
import type { Logger } from '../observability/log.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import type { StampedBatch } from './stamp-task.ts';

const sayAgainMs = 10_000;

/** @returns a function that takes every batch, and says a failure once, then only now and then: hundreds a second say no more than one */
export const createFailureLog = (log: Pick<Logger, 'error'>): ((batch: StampedBatch) => void) => {
  let said: string | undefined;
  let saidAtMs = 0;
  return ({ failure }) => {
    if (failure === undefined) return;
    const now = monotonicMs();
    if (failure.code === said && now - saidAtMs < sayAgainMs) return;
    said = failure.code;
    saidAtMs = now;
    log.error(failure, 'stamps fail in the signer; their clients get systemFailure');
  };
};
