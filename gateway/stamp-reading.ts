/**
 * Who may read which stamp of the archive: a client its own, an auditor all, and where stamps are made for anybody
 * (`timestamp.access: anonymous`) anybody those that nobody owns. Whoever may not read a stamp is not told that it exists.
 *
 * Every reading is an event of the journal, also one that found nothing. Redis has it before the answer is given: when Redis does not
 * take it, nothing is shown.
 */
import type { Context } from 'hono';
import { z } from 'zod';
import { type ErrorCode, SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import type { ArchivedStamp } from '../observability/journal/archive.ts';
import type { JournalRecorder } from '../observability/journal/recorder.ts';
import { anonymousClient } from '../queue/client-register.ts';
import { type AccessGuard, type Caller, refusalHeaders } from './access-guard.ts';
import { retryAfter } from './http-refusals.ts';
import { jsonError, remoteAddress } from './http-request.ts';
import type { JournalBacklog } from './journal-backlog.ts';
import type { JournalSource, OpenJournal, Readers } from './journal-source.ts';
import { recordReading } from './reading-record.ts';

/** Octets of an INTEGER as RFC 3161 has them at most (2.4.2: 160 bits), two digits each. */
export const serialSchema = z
  .string()
  .regex(/^([0-9a-fA-F]{2}){1,20}$/, 'must be 1 to 20 octets in hexadecimal')
  .transform((text) => text.toLowerCase());

export interface StampReading {
  /**
   * Looks for a stamp for whoever asks, and hands it on with the journal it is in.
   * @returns what `answer` makes of it, or the refusal
   */
  answer(
    context: Context,
    serial: string,
    answer: (stamp: ArchivedStamp, journal: OpenJournal) => Response | Promise<Response>,
  ): Promise<Response>;
}

export interface StampReadingParts {
  readonly access: Config['timestamp']['access'];
  readonly guard: AccessGuard;
  readonly source: JournalSource;
  readonly backlog: Pick<JournalBacklog, 'areEventsFull'>;
  readonly recorder: Pick<JournalRecorder, 'recordNow'>;
}

const nobody: Caller = { kind: 'client', name: anonymousClient, role: 'client' };

/** A refusal for what the journal could not do. */
export const journalError = (context: Context, code: ErrorCode): Response => jsonError(context, code, undefined, retryAfter);

/** Runs a reading of the journal; its store being away or busy is an answer, everything else a defect. */
export const readJournal = async (
  context: Context,
  source: JournalSource,
  readers: Readers,
  action: (journal: OpenJournal) => Promise<Response>,
): Promise<Response> => {
  try {
    const done = await source.read(readers, action);
    return done === undefined ? journalError(context, 'OVERLOADED') : done.value;
  } catch (error) {
    if (error instanceof SigilloError && error.entry.httpStatus === 503) return journalError(context, error.code);
    throw error;
  }
};

export const createStampReading = ({ access, guard, source, backlog, recorder }: StampReadingParts): StampReading => {
  const mayRead = ({ name, role }: Caller, { client }: ArchivedStamp): boolean =>
    role === 'auditor' || client === name || (client === anonymousClient && access === 'anonymous');

  return {
    async answer(context, serial, answer) {
      const authorization = context.req.header('authorization');
      const isAnonymous = authorization === undefined && access === 'anonymous';
      const caller = isAnonymous ? nobody : await guard.require('any', authorization, remoteAddress(context));
      if (caller.kind === 'refused') return jsonError(context, caller.code, undefined, refusalHeaders(caller));
      // What cannot be recorded is not read.
      if (backlog.areEventsFull) return journalError(context, 'JOURNAL_BACKLOG');
      return readJournal(context, source, isAnonymous ? 'anybody' : 'known', async (journal) => {
        const stamp = await journal.archive.bySerial(serial);
        const granted = stamp !== undefined && mayRead(caller, stamp);
        const outcome = stamp === undefined || granted ? 'success' : 'refused';
        await recordReading(recorder, caller, { subject: 'timestamp', outcome, query: `serial=${serial}`, entries: granted ? 1 : 0 });
        return granted ? answer(stamp, journal) : jsonError(context, 'NOT_FOUND');
      });
    },
  };
};
