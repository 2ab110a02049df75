/**
 * Searches the entries of the journal. Rows are found by their columns, which prove nothing; what is given back is read from the entry
 * itself, and must match there too. So a changed column can hide an entry from a search, and cannot make it say something else.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import { octetRows, type QueryParameters } from './clickhouse.ts';
import { decodeEvent, hashEvent } from './event-encoding.ts';
import {
  type EventKind,
  type EventOutcome,
  type EventRole,
  eventCatalogue,
  type JournalEvent,
  type RetentionClass,
  retentionClasses,
} from './events.ts';
import { instantText } from './instants.ts';
import { lookupConditions } from './stamp-lookup.ts';

/** What to look for; an entry must match all that is given. */
export interface EntrySearch {
  readonly kinds?: readonly EventKind[] | undefined;
  readonly actor?: string | undefined;
  /** In what capacity the actor acted. */
  readonly roles?: readonly EventRole[] | undefined;
  readonly subject?: string | undefined;
  /** What the subject begins with. */
  readonly subjectStart?: string | undefined;
  readonly outcome?: EventOutcome | undefined;
  readonly node?: string | undefined;
  /** Microseconds since 1970: not before, and before. */
  readonly fromMicros?: number | undefined;
  readonly toMicros?: number | undefined;
  /** Only entries before that sequence number. */
  readonly before?: number | undefined;
  /** @defaultValue newest, by sequence number */
  readonly first?: 'newest' | 'oldest' | undefined;
  /** Most entries to give back. */
  readonly limit: number;
}

export type FoundEntry =
  | { readonly kind: 'entry'; readonly event: JournalEvent; readonly octets: Buffer }
  /** It was changed, or a newer release wrote it. `sequence` is what its row says. */
  | { readonly kind: 'unreadable'; readonly sequence: number; readonly why: string };

/** Rows of one answer: about 1 MB. */
const pageRows = 1_000;

const allKinds = Object.keys(eventCatalogue) as EventKind[];

/** The kinds of that name, or, with a star at its end, those whose name begins so: `time.*` is the register of time. */
export const kindsMatching = (pattern: string): EventKind[] =>
  pattern.endsWith('*') ? allKinds.filter((kind) => kind.startsWith(pattern.slice(0, -1))) : allKinds.filter((kind) => kind === pattern);

interface Filter {
  readonly conditions: readonly string[];
  readonly parameters: QueryParameters;
}

/**
 * Values go as parameters. Text goes in hexadecimal: on the way through the socket of the journal process it is written as a parameter
 * twice, and a quotation mark would come out with a backslash.
 */
class FilterBuilder implements Filter {
  readonly conditions: string[] = [];
  readonly parameters: Record<string, string | number> = {};

  text(name: string, value: string | undefined, condition: (parameter: string) => string): void {
    if (value === undefined) return;
    this.parameters[name] = Buffer.from(value).toString('hex');
    this.conditions.push(condition(`unhex({${name}:String})`));
  }

  number(name: string, value: number | undefined, condition: (parameter: string) => string): void {
    if (value === undefined) return;
    this.parameters[name] = value;
    this.conditions.push(condition(`{${name}:UInt64}`));
  }

  /** @param values of a closed set, not of anybody's input */
  oneOf(column: string, values: readonly string[] | undefined): void {
    if (values === undefined) return;
    for (const [i, value] of values.entries()) this.parameters[`${column}${i}`] = value;
    this.conditions.push(values.length === 0 ? '0' : `${column} IN (${values.map((_, i) => `{${column}${i}:String}`).join(', ')})`);
  }
}

const filterOf = ({ kinds, actor, roles, subject, subjectStart, outcome, node, fromMicros, toMicros }: EntrySearch): Filter => {
  const filter = new FilterBuilder();
  filter.oneOf('kind', kinds);
  filter.oneOf('role', roles);
  filter.oneOf('outcome', outcome === undefined ? undefined : [outcome]);
  filter.text('actor', actor, (value) => `actor = ${value}`);
  filter.text('subject', subject, (value) => `subject = ${value}`);
  filter.text('subjectStart', subjectStart, (value) => `startsWith(subject, ${value})`);
  filter.text('node', node, (value) => `node = ${value}`);
  filter.number('fromMicros', fromMicros, (value) => `unixMicros >= ${value}`);
  filter.number('toMicros', toMicros, (value) => `unixMicros < ${value}`);
  return filter;
};

const withinClasses = (classes: Iterable<RetentionClass>): string => `retention IN (${[...classes].map((name) => `'${name}'`).join(', ')})`;

/**
 * Where to look, as alternatives of conditions: partitions are by class of retention, and those that cannot hold these kinds are not
 * opened. Stamps and the register of time, which are most of a journal, have a table to be found by; where it helps, they are asked for
 * by themselves, because the engine cannot leave out anything by a condition that holds for some partitions only.
 */
const placesOf = async (
  client: ClickHouseClient,
  { kinds, actor, subject }: EntrySearch,
  parameters: QueryParameters,
): Promise<string[][]> => {
  const classes = new Set(kinds === undefined ? retentionClasses : kinds.map((kind) => eventCatalogue[kind].retention));
  if (classes.size === 0) return [['0']];
  const keys = {
    ...(subject === undefined ? {} : { subject: 'unhex({subject:String})' }),
    ...(actor === undefined ? {} : { client: 'unhex({actor:String})' }),
  };
  const narrowed = classes.has('timestamp') ? await lookupConditions(client, keys, parameters) : [];
  if (narrowed.length === 0) return kinds === undefined ? [[]] : [[withinClasses(classes)]];
  classes.delete('timestamp');
  return [[withinClasses(['timestamp']), ...narrowed], ...(classes.size === 0 ? [] : [[withinClasses(classes)]])];
};

/** Whether the entry itself is what was looked for. */
const matches = (event: JournalEvent, search: EntrySearch): boolean => {
  const { kinds, actor, roles, subject, subjectStart, outcome, node, fromMicros, toMicros } = search;
  return (
    (kinds?.includes(event.kind) ?? true) &&
    (roles?.includes(event.role) ?? true) &&
    (actor === undefined || event.actor === actor) &&
    (subject === undefined || event.subject === subject) &&
    (subjectStart === undefined || event.subject.startsWith(subjectStart)) &&
    (outcome === undefined || event.outcome === outcome) &&
    (node === undefined || event.node === node) &&
    (fromMicros === undefined || event.unixMicros >= fromMicros) &&
    (toMicros === undefined || event.unixMicros < toMicros)
  );
};

const readRow = (sequence: number, octets: Buffer): FoundEntry => {
  try {
    return { kind: 'entry', event: decodeEvent(octets), octets };
  } catch (error) {
    if (!(error instanceof SigilloError)) throw error;
    return { kind: 'unreadable', sequence, why: error.message };
  }
};

/**
 * Entries that match, page by page; entries that cannot be read come with them, so that one of them does not hide all others.
 * @throws JOURNAL_STORE_UNAVAILABLE
 */
export async function* searchEntries(client: ClickHouseClient, search: EntrySearch): AsyncGenerator<FoundEntry> {
  const { limit, first = 'newest' } = search;
  const { conditions, parameters } = filterOf(search);
  const places = await placesOf(client, search, parameters);
  let before = search.before;
  let from: number | undefined;
  for (let left = limit; left > 0; ) {
    const asked = Math.min(left, pageRows);
    const place = new FilterBuilder();
    place.number('before', before, (value) => `sequence < ${value}`);
    place.number('from', from, (value) => `sequence >= ${value}`);
    const order = `ORDER BY sequence ${first === 'newest' ? 'DESC' : 'ASC'} LIMIT ${asked}`;
    const selects = places.map((one) => {
      const where = [...one, ...conditions, ...place.conditions].join(' AND ') || '1';
      return `SELECT sequence, octets FROM journal_events WHERE ${where} ${order}`;
    });
    const rows = (await octetRows(
      client,
      {
        what: 'search the journal',
        query: `SELECT toString(sequence), octets FROM (${selects.join(' UNION ALL ')}) ${order}`,
        parameters: { ...parameters, ...place.parameters },
      },
      2,
    )) as [Buffer, Buffer][];
    for (const [text, octets] of rows) {
      const sequence = Number(text.toString('latin1'));
      if (first === 'newest') before = sequence;
      else from = sequence + 1;
      const found = readRow(sequence, octets);
      if (found.kind === 'entry' && !matches(found.event, search)) continue;
      yield found;
      left -= 1;
    }
    if (rows.length < asked) return;
  }
}

/** An entry as JSON: times in ISO 8601, hashes in hexadecimal, all other octets in base64. */
export const entryJson = (found: FoundEntry): Record<string, unknown> => {
  if (found.kind === 'unreadable') return { sequence: found.sequence, unreadable: found.why };
  const { event, octets } = found;
  const { sequence, unixMicros, clock, node, role, actor, kind, subject, outcome, detail, previous } = event;
  const fields = Object.entries(detail as Readonly<Record<string, unknown>>).map(([name, value]) => [
    name,
    value instanceof Uint8Array ? Buffer.from(value).toString('base64') : value,
  ]);
  return {
    sequence,
    time: instantText(unixMicros),
    clock,
    node,
    role,
    actor,
    kind,
    subject,
    outcome,
    retention: eventCatalogue[kind].retention,
    detail: Object.fromEntries(fields),
    previous: Buffer.from(previous).toString('hex'),
    hash: hashEvent(octets).toString('hex'),
  };
};
