/**
 * The store of the journal in ClickHouse, as its one writer uses it: blocks go in, the end of the chain comes out.
 *
 * Guarantees: what is stored is always the beginning of the chain, without gap. A block is cut into runs that lie in one partition
 * each and go in one after the other, and ClickHouse takes a run as a whole or not at all. An insert that fails has an unknown
 * outcome: the caller asks with `fence` whether it can still come, and sends the same block again; it is stored once. Of different
 * blocks behind one entry one is stored: what another writer has sent cannot come any more once this one has its fence (fence.ts).
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { type ChainHead, emptyChain, type SealedEvent } from './chain.ts';
import { asking, type Insertion, insertRows, jsonRows, octetRows } from './clickhouse.ts';
import { decodeEvent, hashEvent } from './event-encoding.ts';
import { eventCatalogue, type JournalEvent } from './events.ts';
import { Fence, insertsUnderWay, quorum } from './fence.ts';
import { type Engine, migrate } from './migrations.ts';
import type { Origin } from './origin.ts';
import { RowBinaryWriter } from './row-binary.ts';

/** An entry on its way into the store. */
export interface StoredEvent extends SealedEvent {
  readonly origin: Origin;
}

/** Columns of a row on its way in, in their order, and their types there. */
const columns = {
  sequence: 'UInt64',
  unixMicros: 'UInt64',
  clock: 'String',
  node: 'String',
  role: 'String',
  actor: 'String',
  kind: 'String',
  subject: 'String',
  outcome: 'String',
  retention: 'String',
  imprintTail: 'UInt64',
  source: 'String',
  sourceMillis: 'UInt64',
  sourceNumber: 'UInt64',
  sourceIndex: 'UInt32',
  octets: 'String',
} as const;
const tailOctets = 8;
const noTail = Buffer.alloc(tailOctets);

/** What `imprintTail` holds for a messageImprint: the last eight octets of the hash, as a decimal number. */
export const imprintTail = (messageImprint: Uint8Array): string =>
  messageImprint.length < tailOctets
    ? '0'
    : Buffer.from(messageImprint)
        .readBigUInt64BE(messageImprint.length - tailOctets)
        .toString();

const tailOf = ({ kind, detail }: JournalEvent): Uint8Array => {
  const imprint = kind === 'timestamp.issued' || kind === 'timestamp.refused' ? detail.messageImprint : undefined;
  return imprint === undefined || imprint.length < tailOctets ? noTail : imprint.subarray(imprint.length - tailOctets);
};

const encodeRows = (run: readonly StoredEvent[], scratch: Buffer): RowBinaryWriter => {
  const out = new RowBinaryWriter(scratch);
  for (const { event, origin, octets } of run) {
    // The texts are in the entry too.
    out.makeRoom(2 * octets.length);
    out.uint64(event.sequence);
    out.uint64(event.unixMicros);
    out.string(event.clock);
    out.string(event.node);
    out.string(event.role);
    out.string(event.actor);
    out.string(event.kind);
    out.string(event.subject);
    out.string(event.outcome);
    out.string(eventCatalogue[event.kind].retention);
    out.uint64Of(tailOf(event));
    out.string(origin.source);
    out.uint64(origin.millis);
    out.uint64(origin.number);
    out.uint32(origin.index);
    out.octets(octets);
  }
  return out;
};

/** More than a Redis that lost two seconds can have forgotten. */
const originsMax = 200_000;

/**
 * What a run is known by: the entry that it comes behind. So of two runs behind one entry, in one partition, ClickHouse takes the first
 * only, whoever sends the other one, and however late it comes; who sends one must look which it was. Each partition remembers its own:
 * runs of one writer behind one entry begin with the same entry and so lie in the same one, those of two writers may not (fence.ts).
 */
const tokenOf = (run: readonly SealedEvent[]): string => {
  const { sequence, previous } = (run[0] as SealedEvent).event;
  return `${sequence}-${Buffer.from(previous).toString('hex')}`;
};

/** Name of the partition that an event lies in: class of retention and month (UTC). */
export const partitionOf = ({ kind, unixMicros }: Pick<JournalEvent, 'kind' | 'unixMicros'>): string => {
  const date = new Date(Math.floor(unixMicros / 1_000));
  return `${eventCatalogue[kind].retention}-${date.getUTCFullYear()}${String(date.getUTCMonth() + 1).padStart(2, '0')}`;
};

/** Cuts a block where the partition changes: what ClickHouse takes as a whole or not at all. */
export const runsOf = (block: readonly StoredEvent[]): StoredEvent[][] => {
  const runs: StoredEvent[][] = [];
  let partition = '';
  for (const one of block) {
    const its = partitionOf(one.event);
    if (its !== partition) runs.push([]);
    partition = its;
    runs.at(-1)?.push(one);
  }
  return runs;
};

export class JournalStore {
  readonly client: ClickHouseClient;
  readonly #engine: Engine | undefined;
  /** undefined: the engine is in this process, and its inserts die with it. */
  readonly #fence: Fence | undefined;
  #scratch: Buffer = Buffer.alloc(0);
  /** What the embedded engine works on, whether anybody still waits for it or not. */
  readonly #inserting = new Set<Promise<void>>();

  private constructor(client: ClickHouseClient, engine: Engine | undefined) {
    this.client = client;
    this.#engine = engine;
    this.#fence = engine === undefined ? undefined : new Fence(client, engine);
  }

  /**
   * Opens the store and brings its schema up to date; the client is closed with it.
   * @param engine of a server; undefined for the embedded engine
   * @throws JOURNAL_SCHEMA, JOURNAL_STORE_UNAVAILABLE
   */
  static async open(client: ClickHouseClient, engine?: Engine): Promise<JournalStore> {
    await asking('apply the schema', () => migrate(client, engine === undefined ? {} : { engine }));
    return new JournalStore(client, engine);
  }

  /**
   * Asked before the end of the journal is looked for, by who holds the lease; Redis must say once more, later, that it is held still,
   * before anything is inserted.
   * @param options.anew shut out also what other writers have sent since this was asked last
   * @returns whether nothing can come any more that was sent before, by whomever; if not, ask again
   * @throws JOURNAL_STORE_UNAVAILABLE
   */
  async fence(options: { readonly anew: boolean } = { anew: false }): Promise<boolean> {
    if (options.anew) this.#fence?.lower();
    return this.#fence === undefined || this.#fence.raise();
  }

  get #replicated(): boolean {
    return this.#engine?.kind === 'replicated';
  }

  /**
   * Stores a block; the same block again changes nothing, and neither does another one behind the same entry.
   * @param block entries in their order, without gap; those of one partition together make fewer inserts
   * @param signal ends it before the next run, and a request that is under way; its outcome is unknown then
   * @param options.anew store it although a block behind the same entry is known: see `insertSurely`
   * @throws JOURNAL_STORE_UNAVAILABLE with an unknown outcome: send it again
   */
  async insert(block: readonly StoredEvent[], signal?: AbortSignal, options: { readonly anew: boolean } = { anew: false }): Promise<void> {
    for (const run of runsOf(block)) {
      // Who gave up waiting may no longer be the writer: what was not sent yet is not sent any more.
      signal?.throwIfAborted();
      const { rows, scratch } = encodeRows(run, this.#scratch);
      // One insert at a time, so the buffer is free again when the next one is encoded; an insert that failed may still read it.
      this.#scratch = Buffer.alloc(0);
      const insertion: Insertion = {
        what: 'store a block',
        table: 'journal_events',
        columns,
        rows,
        ...(signal === undefined ? {} : { signal }),
        settings: {
          // Taken when it is stored, whatever the profile of the user says.
          async_insert: 0,
          ...(this.#replicated ? quorum : {}),
          ...(options.anew ? { insert_deduplicate: 0 } : { insert_deduplicate: 1, insert_deduplication_token: tokenOf(run) }),
          // One block of the engine however long the run is: whole or not at all.
          max_block_size: 1_048_576,
          max_insert_block_size: 1_048_576,
          min_insert_block_size_rows: 1_048_576,
          min_insert_block_size_bytes: 1_073_741_824,
          // Two threads for one block take a fifth more CPU time, and a buffer each.
          input_format_parallel_parsing: 0,
          max_threads: 1,
        },
      };
      if (this.#fence === undefined) await this.#embed(insertion);
      else await this.#fence.pass((sql) => insertRows(this.client, { ...insertion, condition: sql }));
      this.#scratch = scratch;
    }
  }

  /** Where the stored chain ends. @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED */
  async head(): Promise<ChainHead> {
    const question = {
      what: 'read the last entry',
      query: `SELECT octets FROM journal_events ORDER BY sequence DESC LIMIT 1${this.#consistently}`,
    };
    const last = (await octetRows(this.client, question, 1))[0]?.[0];
    return last === undefined ? emptyChain : { size: decodeEvent(last).sequence + 1, hash: hashEvent(last) };
  }

  /** Hash of an entry; undefined when it is not there. @throws JOURNAL_STORE_UNAVAILABLE */
  async hashAt(sequence: number): Promise<Buffer | undefined> {
    const question = {
      what: 'read an entry',
      query: `SELECT octets FROM journal_events WHERE sequence = ${sequence}${this.#consistently}`,
    };
    const octets = (await octetRows(this.client, question, 1))[0]?.[0];
    return octets === undefined ? undefined : hashEvent(octets);
  }

  /** Origins of the entries from a number on: what came into the store before Redis knew of it. @throws JOURNAL_STORE_UNAVAILABLE */
  async originsFrom(sequence: number): Promise<Origin[]> {
    return jsonRows<Origin>(this.client, {
      what: 'read where the last entries came from',
      query: `SELECT source, toFloat64(sourceMillis) AS millis, toFloat64(sourceNumber) AS number, sourceIndex AS index
        FROM journal_events WHERE sequence >= ${sequence} AND source != '' ORDER BY sequence DESC LIMIT ${originsMax}${this.#consistently}`,
    });
  }

  /** Inserts of entries that ClickHouse works on now, also for clients that are gone. @throws JOURNAL_STORE_UNAVAILABLE */
  insertsUnderWay(): Promise<number> {
    return insertsUnderWay(this.client, this.#engine);
  }

  /** A replica that lags behind must not tell where the journal ends. */
  get #consistently(): string {
    return this.#replicated ? ' SETTINGS select_sequential_consistency = 1' : '';
  }

  async #embed(insertion: Insertion): Promise<void> {
    const inserting = insertRows(this.client, insertion);
    this.#inserting.add(inserting);
    await inserting.finally(() => this.#inserting.delete(inserting));
  }

  /** Waits for inserts into an embedded engine: this process may open it again, and then they must not come behind what is new. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#inserting);
    await this.client.close();
  }
}
