/**
 * Expiry: what was kept for its time goes, a whole partition at once (class of retention and month), and no other way.
 *
 * The hashes of the entries stay (journal_expired), so that chain and tree still hold; an event says what went, with the hash of the
 * last and a digest of what stays. What the partition itself told and others need is told again (retelling.ts). The order is: hashes,
 * events, and only when those are durable the entries; a crash in between is finished by the next run, without a second event.
 *
 * What is said to have gone is only what was read here, or what an event said before: who can write to the store cannot have the
 * journal say that other entries expired, by putting their hashes beside those of a partition that goes.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import type { Config } from '../../config/schema.ts';
import { asking, jsonRows, octetRows } from './clickhouse.ts';
import { hashEvent } from './event-encoding.ts';
import type { EventDraft } from './events.ts';
import { inPartition, listPartitions, type Partition, partitionName } from './partitions.ts';
import { JournalReader } from './reader.ts';
import { draftOf, type TellClock } from './recorder.ts';
import { retellings } from './retelling.ts';
import { readableEvents } from './told-events.ts';
import { ExpiredPlaces, eachExpiredPlace, retentionEnd } from './verify-expiry.ts';

export interface RetentionOptions {
  readonly client: ClickHouseClient;
  readonly months: Config['journal']['retentionMonths'];
  readonly now: () => Date;
  /** Puts an event into the journal; resolves when it is durable. */
  readonly append: (draft: EventDraft) => Promise<unknown>;
  /** Runs work while nothing comes into the store, which has all of the journal then. */
  readonly exclusively: (work: () => Promise<void>) => Promise<void>;
  /** What is known about the clock of this host. @defaultValue nothing */
  readonly clock?: TellClock;
  readonly signal?: AbortSignal;
}

const pageRows = 10_000;

/** The partition that holds the newest entry; undefined: there is none. */
const newestPartition = async (client: ClickHouseClient): Promise<string | undefined> => {
  const rows = await jsonRows<{ retention: string; month: number }>(client, {
    what: 'read the last entry',
    query: `SELECT toString(retention) AS retention, toYYYYMM(fromUnixTimestamp64Micro(toInt64(unixMicros), 'UTC')) AS month
      FROM journal_events ORDER BY sequence DESC LIMIT 1`,
  });
  return rows[0] === undefined ? undefined : partitionName(rows[0]);
};

/** What was read of a partition: its entries, and how many rows they were. */
interface KeptEntries {
  readonly places: ExpiredPlaces;
  readonly rows: number;
}

/** Keeps the hash of each entry; not of all when the signal comes. */
const keepHashes = async (client: ClickHouseClient, partition: Partition, signal: AbortSignal | undefined): Promise<KeptEntries> => {
  const places = new ExpiredPlaces();
  let read = 0;
  while (signal?.aborted !== true) {
    const rows = (await octetRows(
      client,
      {
        what: 'read what expires',
        query: `SELECT toString(sequence), octets FROM journal_events
          WHERE ${inPartition(partition)} AND sequence > ${places.last} ORDER BY sequence LIMIT ${pageRows}`,
      },
      2,
    )) as [Buffer, Buffer][];
    if (rows.length === 0) break;
    read += rows.length;
    const kept = rows.map(([text, octets]) => {
      const sequence = Number(text.toString());
      const hash = hashEvent(octets);
      places.add(sequence, hash);
      return { sequence, partition: partitionName(partition), hashBase64: hash.toString('base64') };
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
  return { places, rows: read };
};

/** All that stays of a partition, and whether an event says so already. */
interface Stay {
  readonly places: ExpiredPlaces;
  readonly isTold: boolean;
}

/**
 * Reads what stays: what was kept now, and before it what went earlier, when an event came too late for its partition.
 * @throws JOURNAL_STORE_DAMAGED when anything else is there: to tell of it would make it good
 */
const readStay = async (client: ClickHouseClient, name: string, kept: ExpiredPlaces): Promise<Stay> => {
  const [places, before, since] = [new ExpiredPlaces(), new ExpiredPlaces(), new ExpiredPlaces()];
  await eachExpiredPlace(new JournalReader(client), name, (sequence, hash) => {
    places.add(sequence, hash);
    // Numbers rise: what went earlier has lower ones than what was still there.
    (sequence < kept.first ? before : since).add(sequence, hash);
  });
  const told = await readableEvents(client, 'journal.expired', name);
  const tells = (digest: Buffer): boolean => told.some(({ event }) => digest.equals(event.detail.hashesSha256));
  const isKnown = before.count === 0 || tells(before.digest());
  if (!isKnown || !since.digest().equals(kept.digest())) {
    throw new SigilloError('JOURNAL_STORE_DAMAGED', `What stays of partition ${name} is not what went: it is not let go.`);
  }
  const last = told.at(-1);
  return { places, isTold: last !== undefined && places.digest().equals(last.event.detail.hashesSha256) };
};

/** Whether the partition still is what was read; asked while nothing comes into it, so by what is known without reading it. */
const isUnchanged = async (client: ClickHouseClient, partition: Partition, { places, rows }: KeptEntries): Promise<boolean> => {
  const name = partitionName(partition);
  const now = (await listPartitions(client)).find((one) => partitionName(one) === name);
  if (now?.entries !== rows) return false;
  const [late] = await jsonRows<{ n: string | number }>(client, {
    what: 'look for entries that came late',
    query: `SELECT count() AS n FROM journal_events WHERE ${inPartition(partition)} AND sequence > ${places.last}`,
  });
  return Number(late?.n) === 0;
};

/** Lets one partition go. @returns whether it went: with an event of that month that came meanwhile, the next run takes it too */
const expirePartition = async (options: RetentionOptions, partition: Partition, staying: readonly Partition[]): Promise<boolean> => {
  const { client, append, exclusively, clock, signal } = options;
  const { retention, month } = partition;
  const name = partitionName(partition);
  const kept = await keepHashes(client, partition, signal);
  if (signal?.aborted === true) return false;
  const { places, isTold } = await readStay(client, name, kept.places);
  if (!isTold) {
    const { first, last, count: entries, lastHash } = places;
    const detail = { retention, first, last, entries, lastHash, hashesSha256: places.digest() };
    await append(draftOf({ kind: 'journal.expired', subject: name, outcome: 'success', detail }, 'journal', clock));
  }
  for (const draft of await retellings(client, partition, staying, clock)) await append(draft);
  let isGone = false;
  await exclusively(async () => {
    if (!(await isUnchanged(client, partition, kept))) return;
    await asking('drop a partition', () =>
      client.command({ query: `ALTER TABLE journal_events DROP PARTITION ('${retention}', ${month})` }),
    );
    isGone = true;
  });
  return isGone;
};

/**
 * Lets go what is over its time. The newest entry stays in any case: it says where the journal ends.
 * @returns names of the partitions that went
 * @throws JOURNAL_STORE_UNAVAILABLE; it is finished by the next run. JOURNAL_STORE_DAMAGED when that has let go all others
 */
export const expirePartitions = async (options: RetentionOptions): Promise<string[]> => {
  const { client, months, now, signal } = options;
  const newest = await newestPartition(client);
  let staying = await listPartitions(client);
  const gone: string[] = [];
  let damage: SigilloError | undefined;
  for (const partition of staying) {
    if (signal?.aborted === true) return gone;
    const name = partitionName(partition);
    const end = retentionEnd(name, months);
    if (name === newest || end === undefined || now().getTime() < end) continue;
    const rest = staying.filter((one) => one !== partition);
    try {
      if (!(await expirePartition(options, partition, rest))) continue;
      gone.push(name);
      staying = rest;
    } catch (error) {
      if (!(error instanceof SigilloError) || error.code !== 'JOURNAL_STORE_DAMAGED') throw error;
      damage ??= error;
    }
  }
  if (damage !== undefined) throw damage;
  return gone;
};
