/**
 * Checkpoints, and what is needed to verify their timestamps, as the journal keeps them: events. Rows are found by their columns,
 * which prove nothing; what is given back is read from the entry itself, and is to be verified (checkpoint.ts) before it is believed.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import { octetRows } from './clickhouse.ts';
import { decodeEvent } from './event-encoding.ts';
import type { EventKind, JournalEvent } from './events.ts';

/** A checkpoint as an event tells it. */
export interface StoredCheckpoint {
  /** Of the event; at least `size`. */
  readonly sequence: number;
  /** When the event was made. */
  readonly unixMicros: number;
  /** Entries that the checkpoint covers, by the subject of the event. */
  readonly size: number;
  /** The signed note. */
  readonly note: string;
  /** TimeStampToken over the SHA-256 of the note, without certificates. */
  readonly token: Uint8Array | undefined;
}

const sizePattern = /^(0|[1-9]\d{0,15})$/;

/** @throws JOURNAL_MALFORMED when the event is no checkpoint of anything before it */
export const checkpointOf = ({ kind, sequence, unixMicros, subject, detail }: JournalEvent): StoredCheckpoint => {
  if (kind !== 'journal.checkpoint' || !sizePattern.test(subject) || Number(subject) > sequence) {
    throw new SigilloError('JOURNAL_MALFORMED', `Entry ${sequence} is no checkpoint of entries before it.`);
  }
  return { sequence, unixMicros, size: Number(subject), note: detail.note, token: detail.token };
};

// The partition key and the index by kind leave few rows to look at.
const eventsOf = (kind: EventKind): string => `FROM journal_events WHERE retention = 'certificate' AND kind = '${kind}'`;
// A subject that is no number must not make the question fail.
const size = 'toUInt64OrZero(subject)';

const ask = async (client: ClickHouseClient, condition: string): Promise<StoredCheckpoint[]> => {
  const question = { what: 'read checkpoints', query: `SELECT octets ${eventsOf('journal.checkpoint')} ${condition}` };
  const rows = await octetRows(client, question, 1);
  return rows.map(([octets]) => checkpointOf(decodeEvent(octets as Buffer)));
};

/** The newest. @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED */
export const latestCheckpoint = async (client: ClickHouseClient): Promise<StoredCheckpoint | undefined> =>
  (await ask(client, 'ORDER BY sequence DESC LIMIT 1'))[0];

/** The largest that covers so many entries or fewer. @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED */
export const checkpointAtMost = async (client: ClickHouseClient, entries: number): Promise<StoredCheckpoint | undefined> =>
  (await ask(client, `AND ${size} <= ${entries} ORDER BY sequence DESC LIMIT 1`))[0];

/** The first that covers so many entries. @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED */
export const checkpointAtLeast = async (client: ClickHouseClient, entries: number): Promise<StoredCheckpoint | undefined> =>
  // Its event stands behind what it covers, so what is before need not be looked at.
  (await ask(client, `AND ${size} >= ${entries} AND sequence >= ${entries} ORDER BY sequence LIMIT 1`))[0];

/**
 * Checkpoints in the order of their events.
 * @param options `before`: only events before that sequence number, the newest first
 * @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED
 */
export const listCheckpoints = async (
  client: ClickHouseClient,
  options: { readonly limit: number; readonly before?: number },
): Promise<StoredCheckpoint[]> => {
  const { limit, before } = options;
  const condition = before === undefined ? '' : `AND sequence < ${before}`;
  return (await ask(client, `${condition} ORDER BY sequence DESC LIMIT ${limit}`)).toReversed();
};

/** Chains of TSUs, by what the store has. */
export interface PublishedChains {
  /** Each as DER certificates one behind the other. */
  readonly chains: readonly Uint8Array[];
  /** Sequence numbers of rows that should hold one, and are no entries: a journal that has such a row is not valid. */
  readonly unreadable: readonly number[];
}

/** What is in the octets of an entry; undefined when they are none. */
const readable = (octets: Buffer): JournalEvent | undefined => {
  try {
    return decodeEvent(octets);
  } catch (error) {
    if (error instanceof SigilloError && error.code === 'JOURNAL_MALFORMED') return undefined;
    throw error;
  }
};

/** All chains of TSUs that were published. One row that cannot be read does not hide the others. @throws JOURNAL_STORE_UNAVAILABLE */
export const publishedChains = async (client: ClickHouseClient): Promise<PublishedChains> => {
  const question = {
    what: 'read the certificates of TSUs',
    query: `SELECT toString(sequence), octets ${eventsOf('tsu.published')} ORDER BY sequence`,
  };
  const chains = new Map<string, Uint8Array>();
  const unreadable: number[] = [];
  for (const [sequence, octets] of (await octetRows(client, question, 2)) as [Buffer, Buffer][]) {
    const event = readable(octets);
    if (event === undefined) unreadable.push(Number(sequence.toString()));
    // Every start of a signer publishes its chain again.
    if (event?.kind === 'tsu.published') chains.set(Buffer.from(event.detail.chain).toString('base64'), Buffer.from(event.detail.chain));
  }
  return { chains: [...chains.values()], unreadable };
};

/** A row of the store, and what it holds; nothing of it is checked. */
export interface EntryRow {
  readonly sequence: number;
  readonly octets: Buffer;
}

/** The last event that says what went with a partition. @throws JOURNAL_STORE_UNAVAILABLE */
export const lastExpiry = async (client: ClickHouseClient, partition: string): Promise<EntryRow | undefined> => {
  const query = `SELECT toString(sequence), octets ${eventsOf('journal.expired')} AND subject = {partition:String} ORDER BY sequence DESC LIMIT 1`;
  const rows = (await octetRows(client, { what: 'read what expired', query, parameters: { partition } }, 2)) as [Buffer, Buffer][];
  return rows.map(([sequence, octets]) => ({ sequence: Number(sequence.toString()), octets }))[0];
};
