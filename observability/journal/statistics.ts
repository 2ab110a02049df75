/**
 * Counts the entries of the journal by kind, outcome and time, and what they tell of: an entry may stand for many occurrences. It counts
 * rows by their columns, which prove nothing, and what expired is not among them.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { jsonRows, type QueryParameters } from './clickhouse.ts';
import { type EventOutcome, eventCatalogue, eventOutcomes } from './events.ts';
import { countedKinds, occurrencesSql } from './occurrences.ts';

export const statisticsUnits = ['hour', 'day', 'month'] as const;
/** Length of an interval, in UTC. */
export type StatisticsUnit = (typeof statisticsUnits)[number];

/** More say nothing to anybody, and would take the memory of who asks. */
const intervalsMax = 20_000;
/** About as many intervals as a picture shows. */
const intervalsWanted = 120;

export interface StatisticsQuery {
  /** Microseconds since 1970: not before, and before. @defaultValue all that is there */
  readonly fromMicros?: number | undefined;
  readonly toMicros?: number | undefined;
  /** @defaultValue the shortest that makes no more intervals than a picture shows */
  readonly by?: StatisticsUnit | undefined;
}

/** For each outcome one count for each interval. */
export type OutcomeCounts = Readonly<Record<EventOutcome, readonly number[]>>;

interface Counted {
  readonly total: number;
  readonly counts: OutcomeCounts;
}

/** Entries of a kind. */
export interface KindStatistics extends Counted {
  /** As the rows say it. */
  readonly kind: string;
  /** What they tell of: never less than they are. */
  readonly occurrences: Counted;
}

export interface Statistics {
  readonly by: StatisticsUnit;
  /** Begins of the intervals, without gap, in milliseconds since 1970. */
  readonly intervals: readonly number[];
  /** Entries. */
  readonly total: number;
  readonly occurrences: number;
  /** In the order of their names. */
  readonly kinds: readonly KindStatistics[];
}

/** More intervals than anybody can want: a longer unit or a shorter range is needed. */
export interface TooManyIntervals {
  readonly kind: 'tooMany';
  readonly count: number;
}

const microsPerMilli = 1_000;
const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

/** Intervals are numbered: hours and days since 1970, months since year 0. */
const unitMath: Readonly<Record<StatisticsUnit, { sql: string; numberOf(millis: number): number; beginOf(number: number): number }>> = {
  hour: {
    sql: 'intDiv(unixMicros, 3600000000)',
    numberOf: (millis) => Math.floor(millis / hourMs),
    beginOf: (number) => number * hourMs,
  },
  day: {
    sql: 'intDiv(unixMicros, 86400000000)',
    numberOf: (millis) => Math.floor(millis / dayMs),
    beginOf: (number) => number * dayMs,
  },
  month: {
    sql: "toRelativeMonthNum(fromUnixTimestamp64Micro(toInt64(unixMicros), 'UTC'))",
    numberOf: (millis) => new Date(millis).getUTCFullYear() * 12 + new Date(millis).getUTCMonth() + 1,
    beginOf: (number) => Date.UTC(Math.floor((number - 1) / 12), (number - 1) % 12),
  },
};

const rangeOf = ({ fromMicros, toMicros }: StatisticsQuery): { where: string; parameters: QueryParameters } => {
  const conditions = [
    ...(fromMicros === undefined ? [] : ['unixMicros >= {fromMicros:UInt64}']),
    ...(toMicros === undefined ? [] : ['unixMicros < {toMicros:UInt64}']),
  ];
  const parameters = { ...(fromMicros === undefined ? {} : { fromMicros }), ...(toMicros === undefined ? {} : { toMicros }) };
  return { where: conditions.join(' AND ') || '1', parameters };
};

/** The first and the last instant that there is, in milliseconds; undefined when there is nothing. */
const spanOf = async (client: ClickHouseClient, query: StatisticsQuery): Promise<[number, number] | undefined> => {
  const { where, parameters } = rangeOf(query);
  const [row] = await jsonRows<{ first: number; last: number; entries: number }>(client, {
    what: 'ask for the first and the last entry',
    query: `SELECT toFloat64(min(unixMicros)) AS first, toFloat64(max(unixMicros)) AS last, toFloat64(count()) AS entries
      FROM journal_events WHERE ${where}`,
    parameters,
  });
  return row === undefined || row.entries === 0 ? undefined : [row.first / microsPerMilli, row.last / microsPerMilli];
};

const countIn = ([first, last]: readonly [number, number], by: StatisticsUnit): number =>
  unitMath[by].numberOf(last) - unitMath[by].numberOf(first) + 1;

const unitFor = (span: readonly [number, number]): StatisticsUnit =>
  statisticsUnits.find((unit) => countIn(span, unit) <= intervalsWanted) ?? 'month';

interface CountRow {
  readonly kind: string;
  readonly outcome: string;
  readonly number: number;
  readonly entries: number;
}

interface Sum {
  total: number;
  readonly counts: Record<EventOutcome, number[]>;
}

/** Sums by kind and interval. @param base what to add to, for kinds that are in it */
const collect = (
  rows: readonly CountRow[],
  first: number,
  intervals: number,
  base: ReadonlyMap<string, Sum> = new Map(),
): Map<string, Sum> => {
  const kinds = new Map<string, Sum>();
  const zeros = (): number[] => Array.from({ length: intervals }, () => 0);
  for (const { kind, outcome, number, entries } of rows) {
    const known = kinds.get(kind) ??
      structuredClone(base.get(kind)) ?? { total: 0, counts: { success: zeros(), refused: zeros(), failure: zeros() } };
    kinds.set(kind, known);
    // A row that says something else was changed; it is counted all the same.
    const counts = known.counts[eventOutcomes.find((one) => one === outcome) ?? 'failure'];
    const i = number - first;
    if (i >= 0 && i < intervals) counts[i] = (counts[i] as number) + entries;
    known.total += entries;
  }
  return kinds;
};

const quoted = (texts: readonly string[]): string => [...new Set(texts)].map((text) => `'${text}'`).join(', ');
/** The rows that may stand for more than themselves; partitions are by class of retention, so others are not opened. */
const mayCount = `retention IN (${quoted(countedKinds.map((kind) => eventCatalogue[kind].retention))}) AND kind IN (${quoted(countedKinds)})`;

/**
 * Counts entries, by intervals in UTC from the first that has an entry to the last.
 * @throws JOURNAL_STORE_UNAVAILABLE
 */
export const countEntries = async (client: ClickHouseClient, query: StatisticsQuery): Promise<Statistics | TooManyIntervals> => {
  const span = await spanOf(client, query);
  if (span === undefined) return { by: query.by ?? 'day', intervals: [], total: 0, occurrences: 0, kinds: [] };
  const by = query.by ?? unitFor(span);
  const count = countIn(span, by);
  if (count > intervalsMax) return { kind: 'tooMany', count };
  const { sql, numberOf, beginOf } = unitMath[by];
  const { where, parameters } = rangeOf(query);
  const rowsOf = (what: string, entries: string, condition: string): Promise<CountRow[]> =>
    jsonRows<CountRow>(client, {
      what,
      query: `SELECT kind, outcome, toFloat64(${sql}) AS number, toFloat64(${entries}) AS entries
        FROM journal_events WHERE ${condition} GROUP BY kind, outcome, number`,
      parameters,
    });
  const first = numberOf(span[0]);
  const entries = collect(await rowsOf('count entries', 'count()', where), first, count);
  // What they stand for beyond themselves: whatever comes between the two questions, that is never less than nothing.
  const beyond = await rowsOf('count occurrences', `sum(toFloat64(${occurrencesSql} - 1))`, `${mayCount} AND ${where}`);
  const occurrences = collect(beyond, first, count, entries);
  const kinds = [...entries]
    .map(([kind, known]): KindStatistics => ({ kind, ...known, occurrences: occurrences.get(kind) ?? known }))
    .toSorted((a, b) => (a.kind < b.kind ? -1 : 1));
  return {
    by,
    intervals: Array.from({ length: count }, (_, i) => beginOf(first + i)),
    total: kinds.reduce((sum, { total }) => sum + total, 0),
    occurrences: kinds.reduce((sum, one) => sum + one.occurrences.total, 0),
    kinds,
  };
};

/** Counts of all outcomes together, by interval. */
export const sumOutcomes = (counts: OutcomeCounts): number[] =>
  counts.success.map((value, i) => value + (counts.refused[i] ?? 0) + (counts.failure[i] ?? 0));

/** Makes of so many intervals groups of the same length, so that there are at most `groupsMax`; the last may be shorter. */
export const groupIntervals = (statistics: Statistics, groupsMax: number): { readonly statistics: Statistics; readonly length: number } => {
  const { intervals, kinds } = statistics;
  const length = Math.max(1, Math.ceil(intervals.length / groupsMax));
  if (length === 1) return { statistics, length };
  const group = (values: readonly number[]): number[] =>
    Array.from({ length: Math.ceil(values.length / length) }, (_, i) =>
      values.slice(i * length, (i + 1) * length).reduce((sum, value) => sum + value, 0),
    );
  const groupAll = <T extends Counted>(one: T): T => ({
    ...one,
    counts: { success: group(one.counts.success), refused: group(one.counts.refused), failure: group(one.counts.failure) },
  });
  const grouped = kinds.map((one) => ({ ...groupAll(one), occurrences: groupAll(one.occurrences) }));
  return { statistics: { ...statistics, intervals: intervals.filter((_, i) => i % length === 0), kinds: grouped }, length };
};
