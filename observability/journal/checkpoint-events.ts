/**
 * Checkpoints as the journal keeps them: events. Rows are found by their columns,
 * which prove nothing; what is given back is read from the entry itself, and is to be verified (checkpoint.ts) before it is believed.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import { octetRows } from './clickhouse.ts';
import { decodeEvent } from './event-encoding.ts';
import type { JournalEvent } from './events.ts';

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
const checkpointEvents = "FROM journal_events WHERE retention = 'certificate' AND kind = 'journal.checkpoint'";
// A subject that is no number must not make the question fail.
const size = 'toUInt64OrZero(subject)';

const ask = async (client: ClickHouseClient, condition: string): Promise<StoredCheckpoint[]> => {
  const question = { what: 'read checkpoints', query: `SELECT octets ${checkpointEvents} ${condition}` };
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
