/**
 * Whether what expired may be gone: for each partition an event says which entries went, and what stays of them must be exactly that.
 * So nobody can hide an entry by calling it expired, although its hash fits the chain.
 */
import { createHash, type Hash } from 'node:crypto';
import { octetRows } from './clickhouse.ts';
import { hashOctets } from './event-encoding.ts';
import { type JournalEvent, type RetentionClass, retentionClasses } from './events.ts';
import type { JournalReader } from './reader.ts';

export type ExpiryEvent = JournalEvent & { readonly kind: 'journal.expired' };

/** Rows of one question; 5 MB. */
const pageRows = 100_000;
const stubOctets = 8 + hashOctets;
const partitionPattern = /^([a-z]+)-(\d{4})(0[1-9]|1[0-2])$/;

/** What stays of a partition, as it is read in the order of its sequence numbers. */
export class ExpiredPlaces {
  #digest: Hash = createHash('sha256');
  readonly #stub = Buffer.allocUnsafe(stubOctets);
  first = -1;
  last = -1;
  count = 0;
  lastHash: Buffer = Buffer.alloc(0);

  add(sequence: number, hash: Buffer): void {
    if (this.count === 0) this.first = sequence;
    this.last = sequence;
    this.lastHash = hash;
    this.count += 1;
    this.#stub.writeBigUInt64BE(BigInt(sequence));
    hash.copy(this.#stub, 8);
    this.#digest.update(this.#stub);
  }

  /** SHA-256 of the sequence number, in eight octets, and the hash of each. */
  digest(): Buffer {
    return this.#digest.copy().digest();
  }
}

/** Reads all that is stored of a partition, in the order of the sequence numbers. @throws JOURNAL_STORE_UNAVAILABLE */
export const eachExpiredPlace = async (
  { client }: JournalReader,
  partition: string,
  take: (sequence: number, hash: Buffer) => void,
): Promise<void> => {
  for (let last = -1; ; ) {
    const question = {
      what: 'read what stays of expired entries',
      query: `SELECT toString(sequence), hash FROM journal_expired FINAL
        WHERE partition = {partition:String} AND sequence > {last:Int64} ORDER BY sequence LIMIT ${pageRows}`,
      parameters: { partition, last },
    };
    const rows = (await octetRows(client, question, 2)) as [Buffer, Buffer][];
    for (const [sequence, hash] of rows) {
      last = Number(sequence.toString());
      take(last, hash);
    }
    if (rows.length < pageRows) return;
  }
};

/** All that is stored of a partition. @throws JOURNAL_STORE_UNAVAILABLE */
export const expiredPlaces = async (reader: JournalReader, partition: string): Promise<ExpiredPlaces> => {
  const places = new ExpiredPlaces();
  await eachExpiredPlace(reader, partition, (sequence, hash) => places.add(sequence, hash));
  return places;
};

export interface ExpiryRules {
  /** How long entries are kept, in months by class; unset: not compared. */
  readonly retentionMonths?: Readonly<Record<RetentionClass, number>> | undefined;
  /** Unset: not compared. */
  readonly now?: Date | undefined;
}

/** What is wrong with the expiry of a partition. */
export interface ExpiryFault {
  readonly fault: 'expiry-altered' | 'expiry-early';
  readonly why: string;
}

const altered = (why: string): ExpiryFault => ({ fault: 'expiry-altered', why });

/** When the retention of a partition ends, in milliseconds; undefined when it is not named like one. */
export const retentionEnd = (partition: string, months: Readonly<Record<RetentionClass, number>>): number | undefined => {
  const [, name, year, month] = partitionPattern.exec(partition) ?? [];
  const retention = retentionClasses.find((one) => one === name);
  // The month after the partition's own begins when its last entry can be that old.
  return retention === undefined ? undefined : Date.UTC(Number(year), Number(month) + months[retention]);
};

const judgeTime = (event: ExpiryEvent, partition: string, { retentionMonths, now }: ExpiryRules): ExpiryFault | undefined => {
  const at = event.unixMicros / 1_000;
  const early = (why: string): ExpiryFault => ({ fault: 'expiry-early', why: `partition ${partition}, entry ${event.sequence}: ${why}` });
  if (now !== undefined && at > now.getTime()) return early('it is dated in the future');
  const end = retentionMonths === undefined ? undefined : retentionEnd(partition, retentionMonths);
  if (end !== undefined && at < end) {
    return early(`it expired on ${new Date(at).toISOString()}, before ${new Date(end).toISOString()}`);
  }
  return undefined;
};

/** Holds what stays of a partition against the event that says what went. */
export const judgeExpiry = (partition: string, places: ExpiredPlaces, event: ExpiryEvent, rules: ExpiryRules): ExpiryFault | undefined => {
  const { detail, sequence, subject } = event;
  const [, retention] = partitionPattern.exec(partition) ?? [];
  if (subject !== partition || detail.retention !== retention) return altered(`entry ${sequence} is not about partition ${partition}`);
  if (places.count !== detail.entries) {
    return altered(`of partition ${partition} ${places.count} entries are said to be expired; entry ${sequence} says ${detail.entries}`);
  }
  const same =
    places.first === detail.first &&
    places.last === detail.last &&
    places.lastHash.equals(detail.lastHash) &&
    places.digest().equals(detail.hashesSha256);
  if (!same) return altered(`what stays of partition ${partition} is not what entry ${sequence} says`);
  return judgeTime(event, partition, rules);
};
