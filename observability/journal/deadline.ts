/** Waiting for ClickHouse, but not for ever. */
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../../config/errors.ts';

/**
 * Waits for the work so long. What it does later is nobody's: its outcome has to be found out anew.
 * @param giveUp called at the deadline, to end the work
 * @throws JOURNAL_STORE_UNAVAILABLE at the deadline, or what the work throws
 */
export const within = async <T>(ms: number, work: Promise<T>, giveUp: () => void = () => undefined): Promise<T> => {
  const timer = new AbortController();
  const late = delay(ms, undefined, { signal: timer.signal }).then(() => {
    giveUp();
    throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', `It took longer than ${ms} ms.`);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    timer.abort();
    late.catch(() => undefined); // its end by the abort
    work.catch(() => undefined); // what comes after the deadline
  }
};
