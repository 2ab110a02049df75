/**
 * Expiry: what was kept for its time goes, a whole partition at once (class of retention and month), and no other way.
 *
 * The hashes of the entries stay (journal_expired), so that chain and tree still hold; an event says what went, with the hash of the
 * last and a digest of what stays. The order is: hashes, event, and only when that is durable the entries; a crash in between is
 * finished by the next run, without a second event.
 */
import { createHash } from 'node:crypto';
import type { ClickHouseClient } from '@clickhouse/client';
import type { Config } from '../../config/schema.ts';
import { asking, jsonRows, octetRows } from './clickhouse.ts';
import { hashEvent } from './event-encoding.ts';
import { type EventDraft, type RetentionClass, retentionClasses } from './events.ts';
import { draftOf } from './recorder.ts';

export interface RetentionOptions {
  readonly client: ClickHouseClient;
  readonly months: Config['journal']['retentionMonths'];
  readonly now: () => Date;
  /** Puts an event into the journal; resolves when it is durable. */
  readonly append: (draft: EventDraft) => Promise<unknown>;
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

/** The first instant at which a partition may go: its month is over, and so is the time of its class. */
export const expiryOf = (month: number, months: number): Date => new Date(Date.UTC(Math.floor(month / 100), (month % 100) + months, 1));

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

/** Keeps the hash of each entry. @returns the hash of the last, and the digest of all */
const keepHashes = async (client: ClickHouseClient, partition: Partition): Promise<{ lastHash: Buffer; hashesSha256: Buffer }> => {
  const digest = createHash('sha256');
  const eight = Buffer.alloc(8);
  let lastHash: Buffer = Buffer.alloc(0);
  for (let from = partition.first; from <= partition.last; ) {
    const rows = await octetRows(
      client,
      {
        what: 'read what expires',
        query: `SELECT toString(sequence), octets FROM journal_events WHERE ${whereOf(partition)} AND sequence >= ${from} ORDER BY sequence LIMIT ${pageRows}`,
      },
      2,
    );
    if (rows.length === 0) break;
    const kept = (rows as [Buffer, Buffer][]).map(([text, octets]) => {
      const sequence = Number(text.toString());
      lastHash = hashEvent(octets);
      eight.writeBigUInt64BE(BigInt(sequence));
      digest.update(eight).update(lastHash);
      from = sequence + 1;
      return { sequence, partition: nameOf(partition), hashBase64: lastHash.toString('base64') };
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
  return { lastHash, hashesSha256: digest.digest() };
};

const isTold = async (client: ClickHouseClient, name: string): Promise<boolean> => {
  const rows = await jsonRows<{ n: string | number }>(client, {
    what: 'look for the event of an expiry',
    query: `SELECT count() AS n FROM journal_events WHERE retention = 'certificate' AND kind = 'journal.expired' AND subject = {name:String}`,
    parameters: { name },
  });
  return Number(rows[0]?.n ?? 0) > 0;
};

/**
 * Lets go what is over its time. The newest entry stays in any case: it says where the journal ends.
 * @returns names of the partitions that went
 * @throws JOURNAL_STORE_UNAVAILABLE; it is finished by the next run
 */
export const expirePartitions = async ({ client, months, now, append }: RetentionOptions): Promise<string[]> => {
  const partitions = await listPartitions(client);
  const newest = Math.max(...partitions.map(({ last }) => last));
  const gone: string[] = [];
  for (const partition of partitions) {
    const { retention, month, first, last, entries } = partition;
    if (last === newest || now() < expiryOf(month, months[retention])) continue;
    const name = nameOf(partition);
    if (!(await isTold(client, name))) {
      const { lastHash, hashesSha256 } = await keepHashes(client, partition);
      const detail = { retention, first, last, entries, lastHash, hashesSha256 };
      await append(draftOf({ kind: 'journal.expired', subject: name, outcome: 'success', detail }, 'journal'));
    }
    await asking('drop a partition', () =>
      client.command({ query: `ALTER TABLE journal_events DROP PARTITION ('${retention}', ${month})` }),
    );
    gone.push(name);
  }
  return gone;
};
