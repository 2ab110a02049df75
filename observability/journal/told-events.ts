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
}

type EventOf<K extends EventKind> = Extract<JournalEvent, { kind: K }>;

/** What an entry tells again; undefined when it tells nothing that could have been before it. */
export const retoldEntry = (teller: JournalEvent): ToldEntry | undefined => {
  if (teller.kind !== 'journal.retold') return undefined;
  const octets = Buffer.from(teller.detail.entry);
  try {
    const event = decodeEvent(octets);
    return event.sequence < teller.sequence && event.subject === teller.subject ? { event, octets } : undefined;
  } catch (error) {
    if (error instanceof SigilloError && error.code === 'JOURNAL_MALFORMED') return undefined;
    throw error;
  }
};

/**
 * All events of a kind of class `certificate`, those that are told again too, each once, in the order in which they were told first.
 * @param subject only those
 * @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED
 */
export const toldEvents = async <K extends EventKind>(
  client: ClickHouseClient,
  kind: K,
  subject?: string,
): Promise<ToldEvent<EventOf<K>>[]> => {
  const question = {
    what: `read events of kind ${kind}`,
    // The partition key and the index by kind leave few rows to look at.
    query: `SELECT octets FROM journal_events WHERE retention = 'certificate' AND kind IN ('${kind}', 'journal.retold')
      ${subject === undefined ? '' : 'AND subject = {subject:String}'} ORDER BY sequence`,
    ...(subject === undefined ? {} : { parameters: { subject } }),
  };
  const told = new Map<string, ToldEntry<EventOf<K>> & { readonly tellers: JournalEvent[] }>();
  for (const [octets] of await octetRows(client, question, 1)) {
    const teller = decodeEvent(octets as Buffer);
    const entry = teller.kind === kind ? { event: teller, octets: octets as Buffer } : retoldEntry(teller);
    if (entry === undefined || entry.event.kind !== kind) continue;
    const key = entry.octets.toString('latin1');
    const known = told.get(key);
    if (known === undefined) told.set(key, { ...(entry as ToldEntry<EventOf<K>>), tellers: [teller] });
    else known.tellers.push(teller);
  }
  return [...told.values()].toSorted((a, b) => a.event.sequence - b.event.sequence);
};

/** The last that says what went with a partition. @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED */
export const lastExpiry = async (client: ClickHouseClient, partition: string): Promise<ToldEvent<EventOf<'journal.expired'>> | undefined> =>
  (await toldEvents(client, 'journal.expired', partition)).at(-1);

/** All chains of TSUs that were published, each as DER certificates one behind the other. @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED */
export const publishedChains = async (client: ClickHouseClient): Promise<Uint8Array[]> => {
  const chains = new Map<string, Uint8Array>();
  for (const { event } of await toldEvents(client, 'tsu.published')) {
    // A Redis that comes back empty has every chain published again.
    const chain = Buffer.from(event.detail.chain);
    chains.set(chain.toString('base64'), chain);
  }
  return [...chains.values()];
};
