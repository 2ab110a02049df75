/** Reads the journal in ClickHouse, by whichever client (clickhouse.ts). What it gives back is to be followed (chain.ts) before it is believed. */
import type { ClickHouseClient } from '@clickhouse/client';
import { octetRows } from './clickhouse.ts';

/** What stands at one place of the chain. */
export type StoredPlace =
  | { readonly kind: 'entry'; readonly octets: Buffer }
  /** The time of its retention is over; its hash is what stays. */
  | { readonly kind: 'expired'; readonly sequence: number; readonly hash: Buffer; readonly partition: string };

/** Rows of one answer; about 10 MB of stamps. */
const pageRows = 10_000;

interface Page {
  readonly entries: Buffer[][];
  readonly expired: Buffer[][];
}

export class JournalReader {
  readonly client: ClickHouseClient;

  constructor(client: ClickHouseClient) {
    this.client = client;
  }

  /** Number of places, counted to behind the last entry that is there. @throws JOURNAL_STORE_UNAVAILABLE */
  async size(): Promise<number> {
    const question = {
      what: 'read the last entry',
      query: 'SELECT toString(sequence + 1) FROM journal_events ORDER BY sequence DESC LIMIT 1',
    };
    return Number((await octetRows(this.client, question, 1))[0]?.[0]?.toString() ?? 0);
  }

  /**
   * Places in the order of their numbers, as they are stored: one that is missing is missing here, one that is there twice comes twice.
   * The next page is asked for while the last is worked on.
   * @param to sequence number behind the last
   * @throws JOURNAL_STORE_UNAVAILABLE
   */
  async *read(from: number, to: number): AsyncGenerator<StoredPlace> {
    let ahead = from < to ? this.#page(from, Math.min(to, from + pageRows)) : undefined;
    for (let start = from; ahead !== undefined; start += pageRows) {
      const { entries, expired } = await ahead;
      const next = start + pageRows;
      ahead = next < to ? this.#page(next, Math.min(to, next + pageRows)) : undefined;
      // Whoever stops reading leaves it alone.
      ahead?.catch(() => undefined);
      yield* mergePlaces(entries, expired);
    }
  }

  async #page(from: number, to: number): Promise<Page> {
    const range = `WHERE sequence >= ${from} AND sequence < ${to}`;
    const [entries, expired] = await Promise.all([
      octetRows(
        this.client,
        { what: 'read entries', query: `SELECT toString(sequence), octets FROM journal_events ${range} ORDER BY sequence` },
        2,
      ),
      octetRows(
        this.client,
        {
          what: 'read what stays of expired entries',
          query: `SELECT toString(sequence), hash, toString(partition) FROM journal_expired FINAL ${range} ORDER BY sequence`,
        },
        3,
      ),
    ]);
    return { entries, expired };
  }
}

const numberOf = (row: readonly Buffer[] | undefined): number =>
  row === undefined ? Number.POSITIVE_INFINITY : Number(row[0]?.toString('latin1'));

/** Brings both together by their numbers. */
function* mergePlaces(entries: readonly Buffer[][], expired: readonly Buffer[][]): Generator<StoredPlace> {
  let e = 0;
  let x = 0;
  while (e < entries.length || x < expired.length) {
    const [entry, gone] = [entries[e], expired[x]];
    if (numberOf(entry) <= numberOf(gone)) {
      yield { kind: 'entry', octets: entry?.[1] as Buffer };
      e += 1;
    } else {
      const [, hash, partition] = gone as [Buffer, Buffer, Buffer];
      yield { kind: 'expired', sequence: numberOf(gone), hash, partition: partition.toString() };
      x += 1;
    }
  }
}
