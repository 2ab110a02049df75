/** The event of a reading of the journal. Redis has it before anything of the reading is shown; when Redis does not take it, nothing is. */
import { SigilloError } from '../config/errors.ts';
import type { EventOutcome } from '../observability/journal/events.ts';
import type { JournalRecorder } from '../observability/journal/recorder.ts';
import type { Caller } from './access-guard.ts';

export interface Reading {
  /** What was read: `entries`, or `timestamp`. */
  readonly subject: string;
  readonly outcome: EventOutcome;
  /** What was asked for. */
  readonly query: string;
  /** How many entries are given out. */
  readonly entries: number;
}

/** Records who reads what. @throws REDIS_UNAVAILABLE: then it must not be shown */
export const recordReading = async (
  recorder: Pick<JournalRecorder, 'recordNow'>,
  { name, role }: Caller,
  { subject, outcome, query, entries }: Reading,
): Promise<void> => {
  try {
    await recorder.recordNow({ kind: 'journal.read', subject, outcome, detail: { query, entries }, by: { role, actor: name } });
  } catch (cause) {
    throw new SigilloError('REDIS_UNAVAILABLE', undefined, { cause });
  }
};
