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
/** Pages asked for at once: with two, one comes while the other is worked on, also when the store takes as long as the work. */
const pagesAhead = 2;

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
   * @param to sequence number behind the last
   * @throws JOURNAL_STORE_UNAVAILABLE
   */
  async *read(from: number, to: number): AsyncGenerator<StoredPlace> {
    for await (const places of this.pages(from, to)) yield* places;
  }

  /** The same, as many at a time as one answer holds: the next pages are asked for while one is worked on. */
  async *pages(from: number, to: number): AsyncGenerator<StoredPlace[]> {
    const ahead: Promise<StoredPlace[]>[] = [];
    for (let start = from; start < to || ahead.length > 0; ) {
      for (; start < to && ahead.length < pagesAhead; start += pageRows) {
        const page = this.#page(start, Math.min(to, start + pageRows));
        // Whoever stops reading leaves it alone.
        page.catch(() => undefined);
        ahead.push(page);
      }
      yield await (ahead.shift() as Promise<StoredPlace[]>);
    }
  }

  async #page(from: number, to: number): Promise<StoredPlace[]> {
    const range = `WHERE sequence >= ${from} AND sequence < ${to}`;
    // Entries first: what expires in between then shows twice, as entry and as what stays of it; the other way round it were missing.
    const entries = await octetRows(
      this.client,
      { what: 'read entries', query: `SELECT toString(sequence), octets FROM journal_events ${range} ORDER BY sequence` },
      2,
    );
    const expired = await octetRows(
      this.client,
      {
        what: 'read what stays of expired entries',
        query: `SELECT toString(sequence), hash, toString(partition) FROM journal_expired FINAL ${range} ORDER BY sequence`,
      },
      3,
    );
    return expired.length === 0
      ? entries.map(([, octets]): StoredPlace => ({ kind: 'entry', octets: octets as Buffer }))
      : [...mergePlaces(entries, expired)];
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
