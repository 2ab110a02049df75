/**
 * Expiry: what was kept for its time goes, a whole partition at once (class of retention and month), and no other way.
 *
 * The hashes of the entries stay (journal_expired), so that chain and tree still hold; an event says what went, with the hash of the
 * last and a digest of what stays. The order is: hashes, event, and only when that is durable the entries; a crash in between is
 * finished by the next run, without a second event.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import type { Config } from '../../config/schema.ts';
import { lastExpiry } from './checkpoint-events.ts';
import { asking, jsonRows, octetRows } from './clickhouse.ts';
import { decodeEvent, hashEvent } from './event-encoding.ts';
import { type EventDraft, type RetentionClass, retentionClasses } from './events.ts';
import { JournalReader } from './reader.ts';
import { draftOf, type TellClock } from './recorder.ts';
import { expiredPlaces, retentionEnd } from './verify-expiry.ts';

export interface RetentionOptions {
  readonly client: ClickHouseClient;
  readonly months: Config['journal']['retentionMonths'];
  readonly now: () => Date;
  /** Puts an event into the journal; resolves when it is durable. */
  readonly append: (draft: EventDraft) => Promise<unknown>;
  /** Runs work while nothing comes into the store. */
  readonly exclusively: (work: () => Promise<void>) => Promise<void>;
  /** What is known about the clock of this host. @defaultValue nothing */
  readonly clock?: TellClock;
  readonly signal?: AbortSignal;
}

/** A partition of journal_events. */
interface Partition {
  readonly retention: RetentionClass;
  /** Year and month, such as 202611. */
  readonly month: number;
  readonly first: number;
  readonly last: number;
  readonly entries: number;
}

const pageRows = 10_000;

/** Name of a partition in events and in journal_expired. */
const nameOf = ({ retention, month }: Pick<Partition, 'retention' | 'month'>): string => `${retention}-${month}`;

const listPartitions = async (client: ClickHouseClient): Promise<Partition[]> => {
  const rows = await jsonRows<{ retention: string; month: number; first: number; last: number; entries: number }>(client, {
    what: 'list the partitions',
    query: `SELECT toString(retention) AS retention, toYYYYMM(fromUnixTimestamp64Micro(toInt64(unixMicros), 'UTC')) AS month,
      toFloat64(min(sequence)) AS first, toFloat64(max(sequence)) AS last, toFloat64(count()) AS entries
      FROM journal_events GROUP BY retention, month ORDER BY month, retention`,
  });
  return rows.flatMap(({ retention, ...rest }) => {
    const known = retentionClasses.find((one) => one === retention);
    return known === undefined ? [] : [{ retention: known, ...rest }];
  });
};

const whereOf = ({ retention, month }: Partition): string =>
  `retention = '${retention}' AND toYYYYMM(fromUnixTimestamp64Micro(toInt64(unixMicros), 'UTC')) = ${month}`;

/** Keeps the hash of each entry. */
const keepHashes = async (client: ClickHouseClient, partition: Partition, signal: AbortSignal | undefined): Promise<void> => {
  for (let from = partition.first; from <= partition.last && signal?.aborted !== true; ) {
    const rows = await octetRows(
      client,
      {
        what: 'read what expires',
        query: `SELECT toString(sequence), octets FROM journal_events WHERE ${whereOf(partition)} AND sequence >= ${from} ORDER BY sequence LIMIT ${pageRows}`,
      },
      2,
    );
    if (rows.length === 0) return;
    const kept = (rows as [Buffer, Buffer][]).map(([text, octets]) => {
      const sequence = Number(text.toString());
      from = sequence + 1;
      return { sequence, partition: nameOf(partition), hashBase64: hashEvent(octets).toString('base64') };
    });
    await asking('keep the hashes of what expires', () =>
      client.insert({
        table: 'journal_expired',
        values: kept,
        columns: ['sequence', 'partition', 'hashBase64'],
        format: 'JSONEachRow',
      }),
    );
  }
};

/** Entries of a partition whose hashes are not kept. */
const untold = async (client: ClickHouseClient, partition: Partition): Promise<number> => {
  const rows = await jsonRows<{ n: string | number }>(client, {
    what: 'look for entries that came late',
    query: `SELECT count() AS n FROM journal_events WHERE ${whereOf(partition)}
      AND sequence NOT IN (SELECT sequence FROM journal_expired WHERE partition = '${nameOf(partition)}')`,
  });
  return Number(rows[0]?.n ?? 0);
};

const stayOf = async (client: ClickHouseClient, name: string) => {
  const places = await expiredPlaces(new JournalReader(client), name);
  const { first, last, count, lastHash } = places;
  return { first, last, count, lastHash, digest: places.digest() };
};

/** Whether the last event of this partition already tells of all that stays of it. */
const isTold = async (client: ClickHouseClient, name: string, hashesSha256: Uint8Array): Promise<boolean> => {
  const last = await lastExpiry(client, name);
  if (last === undefined) return false;
  const event = decodeEvent(last.octets);
  return event.kind === 'journal.expired' && Buffer.compare(event.detail.hashesSha256, hashesSha256) === 0;
};

/**
 * Lets go what is over its time. The newest entry stays in any case: it says where the journal ends.
 * @returns names of the partitions that went
 * @throws JOURNAL_STORE_UNAVAILABLE; it is finished by the next run
 */
export const expirePartitions = async ({
  client,
  months,
  now,
  append,
  exclusively,
  clock,
  signal,
}: RetentionOptions): Promise<string[]> => {
  const partitions = await listPartitions(client);
  const newest = Math.max(...partitions.map(({ last }) => last));
  const gone: string[] = [];
  const isOver = (): boolean => signal?.aborted === true;
  for (const partition of partitions) {
    const { retention, month, last } = partition;
    const name = nameOf(partition);
    const end = retentionEnd(name, months);
    if (isOver()) return gone;
    if (last === newest || end === undefined || now().getTime() < end) continue;
    await keepHashes(client, partition, signal);
    if (isOver()) return gone;
    // Of all that stays, also of what went before: an event that came too late for its partition expires behind it.
    const { first, last: behind, count, lastHash, digest } = await stayOf(client, name);
    if (!(await isTold(client, name, digest))) {
      const detail = { retention, first, last: behind, entries: count, lastHash, hashesSha256: digest };
      await append(draftOf({ kind: 'journal.expired', subject: name, outcome: 'success', detail }, 'journal', clock));
    }
    await exclusively(async () => {
      // An event of that month that came since: the next run takes it too.
      if ((await untold(client, partition)) > 0) return;
      await asking('drop a partition', () =>
        client.command({ query: `ALTER TABLE journal_events DROP PARTITION ('${retention}', ${month})` }),
      );
      gone.push(name);
    });
  }
  return gone;
};
