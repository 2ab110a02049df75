/**
 * The store of the journal in ClickHouse: embedded (chdb, one data folder for each process) or a server, the same schema and code.
 *
 * An insert that fails has an unknown outcome: the caller sends the same block again, and it is stored once. The store neither
 * sequences nor judges: what it gives back is to be followed (chain.ts).
 */
import { type ClickHouseClient, createClient } from '@clickhouse/client';
import { createChdbConnection } from 'chdb/connection';
import { SigilloError } from '../../config/errors.ts';
import { type ChainHead, emptyChain, type SealedEvent } from './chain.ts';
import { decodeEvent, hashEvent } from './event-encoding.ts';
import { eventCatalogue, type JournalEvent } from './events.ts';
import { migrate } from './migrations.ts';

const columns = [
  'sequence',
  'unixMicros',
  'clock',
  'node',
  'role',
  'actor',
  'kind',
  'subject',
  'outcome',
  'retention',
  'imprintTail',
  'octetsBase64',
] as const;
type Row = Readonly<Record<(typeof columns)[number], string | number>>;

const tailOctets = 8;
/** Rows of one answer when reading; about 5 MB of stamps. */
const pageRows = 5_000;

/** What `imprintTail` holds for a messageImprint: the last eight octets of the hash, as a decimal number. */
export const imprintTail = (messageImprint: Uint8Array): string =>
  messageImprint.length < tailOctets
    ? '0'
    : Buffer.from(messageImprint)
        .readBigUInt64BE(messageImprint.length - tailOctets)
        .toString();

const tailOf = (event: JournalEvent): string =>
  event.kind === 'timestamp.issued' || event.kind === 'timestamp.refused' ? imprintTail(event.detail.messageImprint) : '0';

const rowOf = ({ event, octets }: SealedEvent): Row => ({
  sequence: event.sequence,
  unixMicros: event.unixMicros,
  clock: event.clock,
  node: event.node,
  role: event.role,
  actor: event.actor,
  kind: event.kind,
  subject: event.subject,
  outcome: event.outcome,
  retention: eventCatalogue[event.kind].retention,
  imprintTail: tailOf(event),
  octetsBase64: octets.toString('base64'),
});

/** The same block has the same token, whoever sends it; another block behind the same entry has another. */
const tokenOf = (block: readonly SealedEvent[]): string => {
  const last = block.at(-1) as SealedEvent;
  return `${block[0]?.event.sequence}-${last.event.sequence}-${last.hash.toString('hex')}`;
};

/** A client with the engine in this process; another folder in the same process is refused by the engine. */
export const embeddedClient = (folder: string): ClickHouseClient => {
  // Client and chdb each bring their own declarations of the same interface, which have a private member and so never match.
  const connection: unknown = createChdbConnection({ path: folder });
  return createClient({ connection } as Parameters<typeof createClient>[0]);
};

export class JournalStore {
  readonly #client: ClickHouseClient;

  private constructor(client: ClickHouseClient) {
    this.#client = client;
  }

  /** Opens the store and brings its schema up to date; the client is closed with it. @throws JOURNAL_SCHEMA, JOURNAL_STORE_UNAVAILABLE */
  static async open(client: ClickHouseClient): Promise<JournalStore> {
    const store = new JournalStore(client);
    await store.#asking('apply the schema', () => migrate(client));
    return store;
  }

  /**
   * Stores a block; the same block again changes nothing.
   * @param block entries in their order, without gap; a few thousand at most
   * @throws JOURNAL_STORE_UNAVAILABLE with an unknown outcome: send it again
   */
  async insert(block: readonly SealedEvent[]): Promise<void> {
    await this.#asking('store a block', () =>
      this.#client.insert({
        table: 'journal_events',
        values: block.map(rowOf),
        columns: [...columns],
        format: 'JSONEachRow',
        clickhouse_settings: { insert_deduplicate: 1, insert_deduplication_token: tokenOf(block) },
      }),
    );
  }

  /** Where the stored chain ends. @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED */
  async head(): Promise<ChainHead> {
    const [last] = await this.#octets('ORDER BY sequence DESC LIMIT 1');
    return last === undefined ? emptyChain : { size: decodeEvent(last).sequence + 1, hash: hashEvent(last) };
  }

  /** Entries as they are stored, in the order of their numbers. @param to sequence number behind the last */
  async *read(from: number, to: number): AsyncGenerator<Buffer> {
    for (let start = from; start < to; start += pageRows) {
      const end = Math.min(to, start + pageRows);
      yield* await this.#octets(`WHERE sequence >= ${start} AND sequence < ${end} ORDER BY sequence`);
    }
  }

  async close(): Promise<void> {
    await this.#client.close();
  }

  async #octets(clauses: string): Promise<Buffer[]> {
    const rows = await this.#asking('read entries', async () => {
      const result = await this.#client.query({
        query: `SELECT base64Encode(octets) AS text FROM journal_events ${clauses}`,
        format: 'JSONEachRow',
      });
      return result.json<{ text: string }>();
    });
    return rows.map(({ text }) => Buffer.from(text, 'base64'));
  }

  async #asking<T>(what: string, ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (cause) {
      if (cause instanceof SigilloError) throw cause;
      throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', `It could not ${what}: ${(cause as Error).message}`, { cause });
    }
  }
}
