/** Where entries are in the journal, by their time, and how much they take. */
import type { ClickHouseClient } from '@clickhouse/client';
import { jsonRows } from './clickhouse.ts';

const ask = async (client: ClickHouseClient, query: string, parameters: Readonly<Record<string, number>>): Promise<number> =>
  (await jsonRows<{ value: number }>(client, { what: 'look for entries by their time', query, parameters }))[0]?.value ?? 0;

// The engine takes max(sequence + 1) for max(sequence) + 1, which of nothing is 1.
const behindLast = 'if(count() = 0, 0., toFloat64(max(sequence) + 1))';

/**
 * The number of the first entry that has this time or a later one (`at`), or the one behind the last that has an earlier one (`after`).
 * Clocks differ by a little, so entries are in the order of their time only nearly: what lies between `at` one time and `after` another
 * holds all entries of that time, and perhaps a few others.
 * @throws JOURNAL_STORE_UNAVAILABLE
 */
export const firstEntryFrom = async (client: ClickHouseClient, unixMicros: number, which: 'at' | 'after'): Promise<number> => {
  if (which === 'after') {
    const query = `SELECT ${behindLast} AS value FROM journal_events WHERE unixMicros < {unixMicros:UInt64}`;
    return ask(client, query, { unixMicros });
  }
  const query = `SELECT toFloat64(if(count() = 0, (SELECT ${behindLast} FROM journal_events), toFloat64(min(sequence)))) AS value
    FROM journal_events WHERE unixMicros >= {unixMicros:UInt64}`;
  return ask(client, query, { unixMicros });
};

/** Octets of the entries from one to before another. @throws JOURNAL_STORE_UNAVAILABLE */
export const entriesOctets = (client: ClickHouseClient, range: { readonly from: number; readonly to: number }): Promise<number> =>
  ask(
    client,
    `SELECT toFloat64(sum(length(octets))) AS value FROM journal_events
      WHERE sequence >= {from:UInt64} AND sequence < {to:UInt64}`,
    { from: range.from, to: range.to },
  );
