/**
 * Events that are needed longer than they are kept: what went with a partition, and the chains of TSUs. Before such an entry goes it is
 * told again, whole (`journal.retold`, retelling.ts); here it is found wherever its octets are now.
 *
 * The store is believed in nothing: what somebody needs proven must lead to a signed root at the number that the entry had first. Its
 * hash stays there for ever, so an entry that is told again cannot be another than it was.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import { octetRows } from './clickhouse.ts';
import { decodeEvent } from './event-encoding.ts';
import type { EventKind, JournalEvent } from './events.ts';

/** An entry as it was told first. */
export interface ToldEntry<E extends JournalEvent = JournalEvent> {
  readonly event: E;
  readonly octets: Buffer;
}

/** An entry, and those that tell it now. */
export interface ToldEvent<E extends JournalEvent = JournalEvent> extends ToldEntry<E> {
  /** Itself while it is there, and the entries that tell it again. */
  readonly tellers: readonly JournalEvent[];
  /** It stands where it says that it stands. */
  readonly isInPlace: boolean;
}

type EventOf<K extends EventKind> = Extract<JournalEvent, { kind: K }>;

/** What was asked for, and the rows that should hold some of it, and are no entries: a journal that has such a row is not valid. */
export interface ToldEvents<E extends JournalEvent = JournalEvent> {
  readonly told: readonly ToldEvent<E>[];
  /** Their sequence numbers, in order. */
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

/** What an entry tells again; undefined when it tells nothing that could have been before it. */
export const retoldEntry = (teller: JournalEvent): ToldEntry | undefined => {
  if (teller.kind !== 'journal.retold') return undefined;
  const octets = Buffer.from(teller.detail.entry);
  const event = readable(octets);
  return event !== undefined && event.sequence < teller.sequence && event.subject === teller.subject ? { event, octets } : undefined;
};

/**
 * All events of a kind of class `certificate`, those that are told again too, each once, in the order in which they were told first. One
 * row that cannot be read does not hide the others.
 * @param subject only those
 * @throws JOURNAL_STORE_UNAVAILABLE
 */
export const toldEvents = async <K extends EventKind>(
  client: ClickHouseClient,
  kind: K,
  subject?: string,
): Promise<ToldEvents<EventOf<K>>> => {
  const question = {
    what: `read events of kind ${kind}`,
    // The partition key and the index by kind leave few rows to look at.
    query: `SELECT toString(sequence), octets FROM journal_events WHERE retention = 'certificate' AND kind IN ('${kind}', 'journal.retold')
      ${subject === undefined ? '' : 'AND subject = {subject:String}'} ORDER BY sequence`,
    ...(subject === undefined ? {} : { parameters: { subject } }),
  };
  const told = new Map<string, ToldEntry<EventOf<K>> & { readonly tellers: JournalEvent[]; isInPlace: boolean }>();
  const unreadable: number[] = [];
  for (const [sequence, octets] of (await octetRows(client, question, 2)) as [Buffer, Buffer][]) {
    const teller = readable(octets);
    if (teller === undefined) unreadable.push(Number(sequence.toString()));
    const entry = teller?.kind === kind ? { event: teller, octets } : teller && retoldEntry(teller);
    if (teller === undefined || entry === undefined || entry.event.kind !== kind) continue;
    const key = entry.octets.toString('latin1');
    const known = told.get(key) ?? { ...(entry as ToldEntry<EventOf<K>>), tellers: [], isInPlace: false };
    known.tellers.push(teller);
    known.isInPlace ||= teller.kind === kind && Number(sequence.toString()) === teller.sequence;
    told.set(key, known);
  }
  return { told: [...told.values()].toSorted((a, b) => a.event.sequence - b.event.sequence), unreadable };
};

/** The same for who lets entries go by it: one row that cannot be read holds that up. @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED */
export const readableEvents = async <K extends EventKind>(
  client: ClickHouseClient,
  kind: K,
  subject?: string,
): Promise<readonly ToldEvent<EventOf<K>>[]> => {
  const { told, unreadable } = await toldEvents(client, kind, subject);
  if (unreadable.length > 0) throw new SigilloError('JOURNAL_MALFORMED', `the octets of entry ${unreadable[0]} are no entry`);
  return told;
};

export interface LastExpiry {
  /** The last that says what went with the partition. */
  readonly told: ToldEvent<EventOf<'journal.expired'>> | undefined;
  /** The first row that should say it, and is no entry. */
  readonly unreadable: number | undefined;
}

/** What says what went with a partition. @throws JOURNAL_STORE_UNAVAILABLE */
export const lastExpiry = async (client: ClickHouseClient, partition: string): Promise<LastExpiry> => {
  const { told, unreadable } = await toldEvents(client, 'journal.expired', partition);
  return { told: told.at(-1), unreadable: unreadable[0] };
};

/** Chains of TSUs, by what the store has. */
export interface PublishedChains {
  /** Each as DER certificates one behind the other. */
  readonly chains: readonly Uint8Array[];
  readonly unreadable: readonly number[];
}

/** All chains of TSUs that were published. @throws JOURNAL_STORE_UNAVAILABLE */
export const publishedChains = async (client: ClickHouseClient): Promise<PublishedChains> => {
  const { told, unreadable } = await toldEvents(client, 'tsu.published');
  const chains = new Map<string, Uint8Array>();
  for (const { event } of told) {
    // A Redis that comes back empty has every chain published again.
    const chain = Buffer.from(event.detail.chain);
    chains.set(chain.toString('base64'), chain);
  }
  return { chains: [...chains.values()], unreadable };
};
