/**
 * Finds entries of the class `timestamp` among thousands of millions: keeps `journal_lookup` (schema/003-lookup.sql), and makes of a
 * question the condition that narrows a SELECT from journal_events to entries that may be meant.
 *
 * The table is made from the entries, a segment at a time and behind them, by the engine itself; a segment is in it as a whole or not
 * at all, and twice is the same as once. What it does not cover yet is searched without it, so it is never needed, only missed. It
 * proves nothing, as the columns of the entries do not: who changes it can hide an entry from a search, not from a verification.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { asking, jsonRows, type QueryParameters } from './clickhouse.ts';

/**
 * Three rows an entry at most make a block of the engine, which stores it as a whole. Four times as many take a core for 0.1 s, which
 * stamps would wait for.
 */
const segmentEntries = 16_384;
/** A client is looked up by so many entries at once: one with few among many others is found, and one with all of them takes few rows. */
const entriesPerPlace = 4_096;
const retention = "retention = 'timestamp'";

const keyOf = (sql: string): string => `toUInt32(bitAnd(cityHash64(${sql}), 4294967295))`;
/** Of a hash already: its last four octets. */
const imprintKey = (sql: string): string => `toUInt32(bitAnd(${sql}, 4294967295))`;

const number = async (client: ClickHouseClient, what: string, query: string): Promise<number> =>
  Number((await jsonRows<{ n: string | number }>(client, { what, query }))[0]?.n ?? 0);

const throughQuery = "SELECT max(place) AS n FROM journal_lookup WHERE field = 'through'";

/** Entries that the table covers are those before this number. @throws JOURNAL_STORE_UNAVAILABLE */
export const lookedThrough = (client: ClickHouseClient): Promise<number> =>
  number(client, 'read how far the table of stamps goes', throughQuery);

/** What is looked for, each as SQL of the value that the column has: parameters, not anybody's text. */
export interface StampKeys {
  readonly subject?: string;
  /** Of type UInt64, as the column `imprintTail`. */
  readonly imprintTails?: readonly string[];
  readonly client?: string;
}

/**
 * More places than these narrow nothing: who has so many is found soon by reading from the end, and a question of 1,000 imprints leads
 * to as many entries and a few.
 */
const placesMax = 2_000;

interface Key {
  readonly field: 'subject' | 'imprint' | 'client';
  /** What the places are compared with. */
  readonly column: string;
  readonly keys: readonly string[];
}

/**
 * Conditions that leave out entries of the class `timestamp` which cannot be meant; to be used beside those that the columns must
 * meet, and for that class only: of others the table knows nothing.
 * @param parameters that the SQL of the keys names
 * @throws JOURNAL_STORE_UNAVAILABLE
 */
export const lookupConditions = async (
  client: ClickHouseClient,
  { subject, imprintTails, client: asker }: StampKeys,
  parameters: QueryParameters,
): Promise<string[]> => {
  const keys: Key[] = [
    ...(subject === undefined ? [] : [{ field: 'subject', column: 'sequence', keys: [keyOf(subject)] } as const]),
    ...(imprintTails === undefined ? [] : [{ field: 'imprint', column: 'sequence', keys: imprintTails.map(imprintKey) } as const]),
    ...(asker === undefined ? [] : [{ field: 'client', column: `intDiv(sequence, ${entriesPerPlace})`, keys: [keyOf(asker)] } as const]),
  ];
  if (keys.length === 0) return [];
  // How far the table goes and where it leads to are of one moment: a segment that comes between would seem to hold nothing.
  const places = keys.map(({ field }) => `groupArrayIf(${placesMax + 1})(place, field = '${field}') AS ${field}`);
  const wanted = keys.map(({ field, keys: of }) => `(field = '${field}' AND key IN (${of.join(', ')}))`);
  const [row] = await jsonRows<Record<string, string | readonly string[]>>(client, {
    what: 'look into the table of stamps',
    query: `SELECT maxIf(place, field = 'through') AS through, ${places.join(', ')} FROM journal_lookup
      WHERE field = 'through' OR ${wanted.join(' OR ')}`,
    parameters,
  });
  const through = Number(row?.['through'] ?? 0);
  if (through === 0) return [];
  return keys.flatMap(({ field, column }) => {
    const found = (row?.[field] ?? []) as readonly string[];
    if (found.length > placesMax) return [];
    return [found.length === 0 ? `sequence >= ${through}` : `(sequence >= ${through} OR ${column} IN (${found.map(Number).join(', ')}))`];
  });
};

const segmentQuery = (from: number, to: number): string => {
  const entries = `FROM journal_events WHERE ${retention} AND sequence >= ${from} AND sequence < ${to}`;
  return `INSERT INTO journal_lookup (field, key, place)
    SELECT 'subject', ${keyOf('subject')}, sequence ${entries}
    UNION ALL SELECT 'imprint', ${imprintKey('imprintTail')}, sequence ${entries} AND imprintTail != 0
    UNION ALL SELECT 'client', ${keyOf('actor')}, intDiv(sequence, ${entriesPerPlace}) AS among ${entries} GROUP BY actor, among
    UNION ALL SELECT 'through', toUInt32(0), toUInt64(${to})`;
};

/** One thread, and one block: the table gets all of a segment at once. */
const segmentSettings = {
  max_threads: 1,
  max_insert_threads: '1',
  max_insert_block_size: '1048576',
  min_insert_block_size_rows: '1048576',
  min_insert_block_size_bytes: '1073741824',
};

export interface StampLookupOptions {
  readonly client: ClickHouseClient;
  /** For tests. @defaultValue 16384 */
  readonly segmentEntries?: number;
}

/** Keeps the table; one process at a time needs to, and two do no harm. */
export class StampLookup {
  readonly #client: ClickHouseClient;
  readonly #segment: number;
  #through: number | undefined;

  constructor(options: StampLookupOptions) {
    this.#client = options.client;
    this.#segment = options.segmentEntries ?? segmentEntries;
  }

  /**
   * Takes in the next segment, if all of it is stored.
   * @param stored number of entries that the store has, from the first on without gap
   * @returns false when there was none
   * @throws JOURNAL_STORE_UNAVAILABLE; the same segment is taken in by the next call
   */
  async extend(stored: number): Promise<boolean> {
    this.#through ??= await lookedThrough(this.#client);
    const to = this.#through + this.#segment;
    if (to > stored) return false;
    const query = segmentQuery(this.#through, to);
    // Asked again after a failure, whose outcome is unknown.
    this.#through = undefined;
    await asking('add to the table of stamps', () => this.#client.command({ query, clickhouse_settings: segmentSettings }));
    this.#through = to;
    return true;
  }

  /**
   * Begins anew when entries are missing in the table, as when the engine has moved a broken part aside. Reads a column of all entries.
   * What expired is left out by the first entry that is there; a segment that is there twice, until the engine merges it, hides no part.
   * @returns how many were missing
   * @throws JOURNAL_STORE_UNAVAILABLE
   */
  async mend(): Promise<number> {
    const through = await lookedThrough(this.#client);
    if (through === 0) return 0;
    const what = 'count the entries of the table of stamps';
    const there = await number(this.#client, what, `SELECT count() AS n FROM journal_events WHERE ${retention} AND sequence < ${through}`);
    const first = await number(this.#client, what, `SELECT min(sequence) AS n FROM journal_events WHERE ${retention}`);
    const known = await number(this.#client, what, `SELECT count() AS n FROM journal_lookup WHERE field = 'subject' AND place >= ${first}`);
    const missing = there - known;
    if (missing <= 0) return 0;
    await asking('empty the table of stamps', () => this.#client.command({ query: 'TRUNCATE TABLE journal_lookup' }));
    this.#through = 0;
    return missing;
  }
}
