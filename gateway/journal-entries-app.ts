/**
 * GET /journal/entries: the entries of the journal for those who may read them. An auditor reads all; a client reads what it did
 * itself, and nothing else.
 *
 * A reading is an event of the journal, also one that found nothing. Redis has it before the answer is given: when Redis does not take
 * it, nothing is shown.
 */
import { type Context, Hono } from 'hono';
import { z } from 'zod';
import { SigilloError } from '../config/errors.ts';
import { type EventOutcome, type EventRole, eventOutcomes } from '../observability/journal/events.ts';
import { instantForms, readInstant } from '../observability/journal/instants.ts';
import type { JournalRecorder } from '../observability/journal/recorder.ts';
import { type EntrySearch, entryJson, type FoundEntry, kindsMatching } from '../observability/journal/search.ts';
import { type AccessGuard, type Caller, refusalHeaders } from './access-guard.ts';
import type { EntrySearching } from './entry-search.ts';
import { describeIssue, jsonError, remoteAddress } from './http-request.ts';
import type { JournalBacklog } from './journal-backlog.ts';
import { recordReading } from './reading-record.ts';
import { journalError } from './stamp-reading.ts';

const text = z.string().min(1).max(256);
const instant = z
  .string()
  .max(40)
  .transform((value, context) => {
    const micros = readInstant(value);
    if (micros !== undefined) return micros;
    context.addIssue({ code: 'custom', message: `must be ${instantForms}` });
    return z.NEVER;
  });
const number = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d{1,15}$/, 'must be a number')
    .transform(Number)
    .refine((value) => value >= min && value <= max, `must be from ${min} to ${max}`);

/** About 1 MB of JSON. */
const limitMax = 1_000;
const limitDefault = 100;

const querySchema = z.strictObject({
  /** A kind, or with a star at its end those that begin so. */
  kind: text
    .transform(kindsMatching)
    .refine((kinds) => kinds.length > 0, 'must be a kind of event')
    .optional(),
  actor: text.optional(),
  subject: text.optional(),
  outcome: z.enum(eventOutcomes).optional(),
  node: text.optional(),
  from: instant.optional(),
  to: instant.optional(),
  limit: number(1, limitMax).default(limitDefault),
  before: number(0, 999_999_999_999_999).optional(),
});
type Query = z.output<typeof querySchema>;

export interface JournalEntriesParts {
  readonly guard: AccessGuard;
  readonly searching: EntrySearching;
  readonly backlog: Pick<JournalBacklog, 'areEventsFull'>;
  readonly recorder: Pick<JournalRecorder, 'recordNow'>;
}

/** What one caller may read, another may not. */
const headers = { 'Cache-Control': 'no-store', Vary: 'Authorization' };
/** A client may have the name of an operator or a program: what those did is not its own. */
const clientRoles: readonly EventRole[] = ['client', 'auditor'];

const searchOf = ({ kind, actor, subject, outcome, node, from, to, limit, before }: Query, { name, role }: Caller): EntrySearch => ({
  kinds: kind,
  ...(role === 'auditor' ? { actor } : { actor: name, roles: clientRoles }),
  ...(subject?.endsWith('*') ? { subjectStart: subject.slice(0, -1) } : { subject }),
  outcome,
  node,
  fromMicros: from,
  toMicros: to,
  before,
  limit,
});

/** A row that cannot be read tells nothing of whose it is: it is for auditors. */
const mayRead = (found: FoundEntry, { role }: Caller): boolean => role === 'auditor' || found.kind === 'entry';

const answer = (context: Context, found: readonly FoundEntry[], caller: Caller, limit: number): Response => {
  const last = found.at(-1);
  const next = last === undefined || found.length < limit ? null : last.kind === 'entry' ? last.event.sequence : last.sequence;
  return context.json({ entries: found.filter((one) => mayRead(one, caller)).map(entryJson), next }, 200, headers);
};

export const createJournalEntriesApp = ({ guard, searching, backlog, recorder }: JournalEntriesParts): Hono => {
  const record = async (context: Context, caller: Caller, entries: number, outcome: EventOutcome): Promise<void> => {
    const query = new URLSearchParams(context.req.query()).toString();
    await recordReading(recorder, caller, { subject: 'entries', outcome, query, entries });
  };

  const read = async (context: Context, caller: Caller, query: Query): Promise<Response> => {
    if (caller.role !== 'auditor' && query.actor !== undefined && query.actor !== caller.name) {
      await record(context, caller, 0, 'refused');
      return jsonError(context, 'FORBIDDEN', 'A client reads what it did itself.');
    }
    const found = await searching.find(searchOf(query, caller));
    if (found === undefined) return journalError(context, 'OVERLOADED');
    await record(context, caller, found.filter((one) => mayRead(one, caller)).length, 'success');
    return answer(context, found, caller, query.limit);
  };

  const app = new Hono();
  app.get('/journal/entries', async function journalEntries(context) {
    const caller = await guard.require('any', context.req.header('authorization'), remoteAddress(context));
    if (caller.kind === 'refused') return jsonError(context, caller.code, undefined, refusalHeaders(caller));
    const asked = querySchema.safeParse(context.req.query());
    if (!asked.success) return jsonError(context, 'REQUEST_INVALID', describeIssue(asked.error));
    // What cannot be recorded is not read.
    if (backlog.areEventsFull) return journalError(context, 'JOURNAL_BACKLOG');
    try {
      return await read(context, caller, asked.data);
    } catch (error) {
      if (error instanceof SigilloError && error.entry.httpStatus === 503) return journalError(context, error.code);
      throw error;
    }
  });
  app.all('/journal/entries', (context) => jsonError(context, 'METHOD_NOT_ALLOWED', undefined, { Allow: 'GET, HEAD' }));
  return app;
};
