/**
 * The one writer of the journal: takes events from Redis, seals them into the chain, and makes each block durable before it removes
 * the events from Redis.
 *
 * Where a block becomes durable: in the store; or, while that is away, slow or full, in the spool on disk, from where it goes into the
 * store in order. When the spool is full nothing more is taken from Redis, and the gateways refuse. A writer that cannot go on ends with
 * an error; the next one finds out from store, spool and Redis where the journal ends (writer-state.ts).
 */
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../../config/errors.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { type ChainHead, emptyChain, headBehind, type SealedEvent } from './chain.ts';
import { decodeEvent, hashEvent } from './event-encoding.ts';
import type { EventDraft } from './events.ts';
import { MerkleTree } from './merkle.ts';
import { type AppendedEvent, sealBlock } from './sealing.ts';
import { JournalSources, type SourceEntry } from './sources.ts';
import type { SourcePositions, Spool } from './spool.ts';
import { type JournalStore, noOrigin, type StoredEvent } from './store.ts';
import { readWriterState, startingPoint, type WriterState, writeWriterState } from './writer-state.ts';

/** Lines of the log and counters; the writer itself neither prints nor counts. */
export interface WriterEvents {
  sealed(entries: number, lagSeconds: number): void;
  quarantined(origin: string, error: Error): void;
  storeFailed(error: unknown): void;
  storeBack(shipped: number): void;
  spoolFull(error: unknown): void;
}

export interface WriterOptions {
  readonly redis: RedisClient;
  /** Name of this host. */
  readonly node: string;
  /** How long this process is certain to be the only writer, in milliseconds. */
  readonly heldForMs: () => number;
  /** Opens the store, or gives the one that is open. @throws when it does not answer */
  readonly openStore: () => Promise<JournalStore>;
  readonly spool: Spool;
  readonly block: { readonly rowsMax: number; readonly ageMs: number };
  /** Makes the tree of the first `size` entries from the store. @throws when the store does not answer */
  readonly resumeTree: (size: number) => Promise<MerkleTree>;
  /** Entries that are in the store now, in order. */
  readonly onStored: (block: readonly SealedEvent[]) => void;
  readonly on: WriterEvents;
}

/** The journal up to an instant: durable, and not signed yet. */
export interface JournalSnapshot {
  readonly size: number;
  readonly root: Uint8Array;
  /** Events so far that were not made by the journal itself. */
  readonly foreign: number;
}

/** Nothing that only one may do is begun with less of the lease left; an insert may take that long and still be under way when it ends. */
const leaseMarginMs = 1_000;
/** A store that takes longer has its block put into the spool, and is asked again. */
const insertDeadlineMs = 5_000;
/** Idle, the streams are looked at so often. */
const pollMs = 50;
const retryMs = 500;
/** A stop writes what is there, for so long; the rest stays in Redis for the next start. */
const drainMsMax = 5_000;
/** Entries with more octets are not gathered into one block; with stamps of 1 KB rowsMax comes first. */
const blockOctetsMax = 64 * 1024 * 1024;

const hasEnded = (): SigilloError => new SigilloError('JOURNAL_LEASE_LOST', 'The writer has ended.');

const headOf = (entries: readonly Buffer[]): ChainHead => {
  const last = entries.at(-1) as Buffer;
  return { size: decodeEvent(last).sequence + 1, hash: hashEvent(last) };
};

/** What the last block of the spool says. */
const endOfSpool = async (spool: Spool) => {
  const [first, last] = [spool.blocks[0], spool.blocks.at(-1)];
  if (first === undefined || last === undefined) return undefined;
  const { entries, positions } = await spool.read(last);
  return { ...headOf(entries), first: first.first, positions };
};

const withDeadline = async <T>(work: Promise<T>, ms: number): Promise<T> => {
  const timer = new AbortController();
  const late = delay(ms, undefined, { signal: timer.signal }).then(() => {
    throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', `It took longer than ${ms} ms.`);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    timer.abort();
    late.catch(() => undefined); // its end by the abort
    work.catch(() => undefined); // what comes after the deadline is found out by asking the store
  }
};

export class JournalWriter {
  readonly #options: WriterOptions;
  readonly #sources: JournalSources;
  #head: ChainHead;
  #state: WriterState;
  /** undefined until the store can tell. */
  #tree: MerkleTree | undefined;
  /** End of what is in the store for certain; undefined while it does not answer. */
  #storeHead: ChainHead | undefined;
  #storeDown: boolean;
  #appended: AppendedEvent[] = [];
  #foreign = 0;
  #ended = false;
  /** One at a time: the loop that ships, or the block that waits for it. */
  #shipment: Promise<void> | undefined;

  private constructor(
    options: WriterOptions,
    at: { head: ChainHead; storeHead: ChainHead | undefined; state: WriterState },
    sources: JournalSources,
  ) {
    this.#options = options;
    this.#sources = sources;
    this.#head = at.head;
    this.#storeHead = at.storeHead;
    this.#storeDown = at.storeHead === undefined;
    this.#state = at.state;
    this.#foreign = at.head.size;
  }

  /**
   * Finds out where the journal ends. Only who holds the lease may call it.
   * @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_ELSEWHERE, JOURNAL_SHORTENED, JOURNAL_FORKED, JOURNAL_SPOOL_DAMAGED, JOURNAL_SCHEMA
   */
  static async open(options: WriterOptions): Promise<JournalWriter> {
    const { redis, node, spool, block, on } = options;
    let store: JournalStore | undefined;
    let storeHead: ChainHead | undefined;
    try {
      store = await options.openStore();
      storeHead = await withDeadline(store.head(), insertDeadlineMs);
    } catch (error) {
      if (!(error instanceof SigilloError) || error.code !== 'JOURNAL_STORE_UNAVAILABLE') throw error;
      on.storeFailed(error);
    }
    const recorded = await readWriterState(redis);
    const { head, positions } = startingPoint({ node, store: storeHead, spool: await endOfSpool(spool), state: recorded });
    const known = store === undefined || storeHead === undefined ? [] : await store.lastOrigins(2 * block.rowsMax);
    const sources = await JournalSources.open({
      redis,
      positions,
      known,
      onQuarantined: (origin, error) => on.quarantined(`${origin.source} ${origin.millis}-${origin.number}`, error),
    });
    const hash = Buffer.from(head.hash).toString('hex');
    const state: WriterState = { version: 1, size: head.size, hash, node: recorded?.node ?? '', positions, inserting: 0, subtrees: [] };
    const writer = new JournalWriter(options, { head, storeHead, state }, sources);
    await writer.#resumeTree(recorded);
    return writer;
  }

  /** The tree as Redis remembers it, and the entries behind it from the spool; else from the store. */
  async #resumeTree(recorded: WriterState | undefined): Promise<void> {
    const { size } = this.#head;
    if (size === 0) this.#tree = new MerkleTree();
    else if (recorded?.size === size && recorded.subtrees.length > 0) {
      this.#tree = MerkleTree.resume(
        size,
        recorded.subtrees.map((one) => Buffer.from(one, 'hex')),
      );
    } else if (this.#storeHead?.size === size) this.#tree = await this.#options.resumeTree(size);
  }

  get head(): ChainHead {
    return this.#head;
  }

  /** Entries that are durable, but not in the store yet; undefined while the store does not answer, and so cannot tell. */
  get unshipped(): number | undefined {
    return this.#storeHead === undefined ? undefined : this.#head.size - this.#storeHead.size;
  }

  get storeDown(): boolean {
    return this.#storeDown;
  }

  /** undefined while the tree is not known, because the store was away at the start. */
  get snapshot(): JournalSnapshot | undefined {
    return this.#tree === undefined ? undefined : { size: this.#tree.size, root: this.#tree.root(), foreign: this.#foreign };
  }

  /** Puts an event of the journal itself into the next block. Resolves when it is durable. @throws when the writer ended before */
  append(draft: EventDraft): Promise<SealedEvent> {
    if (this.#ended) return Promise.reject(hasEnded());
    return new Promise((resolve, reject) => {
      this.#appended.push({ draft, done: resolve, failed: reject });
    });
  }

  /** Writes until the signal, then finishes the block under way. @throws when it cannot go on */
  async run(signal: AbortSignal): Promise<void> {
    const ending = new AbortController();
    const shipping = this.#ship(AbortSignal.any([signal, ending.signal]));
    try {
      const untilMs = (): number => (signal.aborted ? monotonicMs() - stoppedAtMs : 0);
      let stoppedAtMs = 0;
      signal.addEventListener('abort', () => {
        stoppedAtMs = monotonicMs();
      });
      for (let drained = false; !drained; ) {
        const entries = await this.#collect(signal);
        if (entries.length > 0 || this.#appended.length > 0) await this.#commit(entries, signal);
        drained = signal.aborted && (entries.length === 0 || untilMs() > drainMsMax);
      }
    } finally {
      ending.abort();
      await shipping;
      this.#ended = true;
      for (const { failed } of this.#appended) failed(hasEnded());
      this.#appended = [];
    }
  }

  /** The entries of the next block: as many as there are, for as long as a block may wait. */
  async #collect(signal: AbortSignal): Promise<SourceEntry[]> {
    const { rowsMax, ageMs } = this.#options.block;
    const collected: SourceEntry[] = [];
    let rows = 0;
    let octets = 0;
    let firstAtMs: number | undefined;
    for (;;) {
      this.#checkLease();
      const entries = await this.#sources.next();
      for (const entry of entries) {
        collected.push(entry);
        rows += entry.events.length;
        octets += entry.block.length;
      }
      if (firstAtMs === undefined && (entries.length > 0 || this.#appended.length > 0)) firstAtMs = monotonicMs();
      const old = firstAtMs !== undefined && monotonicMs() - firstAtMs >= ageMs;
      if (old || rows >= rowsMax || octets >= blockOctetsMax || signal.aborted) return collected;
      if (entries.length === 0) await delay(Math.min(pollMs, ageMs));
    }
  }

  async #commit(entries: readonly SourceEntry[], signal: AbortSignal): Promise<void> {
    const positions = this.#sources.positions;
    const { block, head, unfit, settle } = sealBlock(this.#head, entries, this.#appended);
    this.#appended = [];
    for (const [origin, error] of unfit) this.#options.on.quarantined(origin, error);
    if (block.length > 0) await this.#makeDurable(block, head, positions, signal);
    else await this.#sources.trim(positions);
    for (const done of settle) done();
    const oldest = entries[0]?.origin.millis;
    this.#options.on.sealed(block.length, oldest === undefined ? 0 : Math.max(0, (Date.now() - oldest) / 1_000));
  }

  async #makeDurable(block: readonly StoredEvent[], head: ChainHead, positions: SourcePositions, signal: AbortSignal): Promise<void> {
    let place = await this.#keep(block, head, positions, signal);
    while (place === 'nowhere') {
      // Nothing else is taken from Redis meanwhile: the gateways see it grow, and refuse.
      await delay(retryMs);
      place = await this.#keep(block, head, positions, signal);
    }
    const stored = place === 'store';
    for (const { hash, event } of block) {
      this.#tree?.append(hash);
      if (!event.kind.startsWith('journal.') && event.actor !== journalClient) this.#foreign += 1;
    }
    this.#head = head;
    if (stored) this.#storeHead = head;
    this.#state = {
      version: 1,
      size: head.size,
      hash: Buffer.from(head.hash).toString('hex'),
      node: stored ? '' : this.#options.node,
      positions: { ...positions },
      inserting: 0,
      subtrees: this.#tree?.subtrees.map((one) => Buffer.from(one).toString('hex')) ?? [],
    };
    await writeWriterState(this.#options.redis, this.#state);
    if (stored) {
      this.#options.onStored(block);
      await this.#options.spool.clear();
    }
    await this.#sources.trim(positions);
  }

  /** Tries once to make a block durable. @throws when there is no place for it and the writer is to stop, or it is no longer the only one */
  async #keep(
    block: readonly StoredEvent[],
    head: ChainHead,
    positions: SourcePositions,
    signal: AbortSignal,
  ): Promise<'store' | 'spool' | 'nowhere'> {
    this.#checkLease();
    // The last blocks of an outage go first. Shipped here, because under full load there may never be a moment between two blocks.
    if (!this.#storeDown && this.#storeHead?.size !== this.#head.size) await this.#shipOnce(signal);
    if (!this.#storeDown && this.#storeHead?.size === this.#head.size && (await this.#store(block, head))) return 'store';
    try {
      await this.#options.spool.append(
        this.#head.size,
        block.map(({ octets }) => octets),
        positions,
      );
      return 'spool';
    } catch (error) {
      if (!(error instanceof SigilloError) || error.code !== 'JOURNAL_SPOOL_FULL' || signal.aborted) throw error;
      this.#options.on.spoolFull(error);
      return 'nowhere';
    }
  }

  /** @returns false when the store did not take it, or nobody knows */
  async #store(block: readonly StoredEvent[], head: ChainHead): Promise<boolean> {
    // Who takes over while the store is away must know that the block may be there.
    await writeWriterState(this.#options.redis, { ...this.#state, inserting: head.size });
    try {
      const store = await this.#options.openStore();
      await withDeadline(store.insert(block), insertDeadlineMs);
      return true;
    } catch (error) {
      this.#storeDown = true;
      this.#options.on.storeFailed(error);
      return false;
    }
  }

  #checkLease(): void {
    if (this.#options.heldForMs() < leaseMarginMs) throw new SigilloError('JOURNAL_LEASE_LOST');
  }

  /** Brings what is in the spool into the store whenever that answers. */
  async #ship(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      if (this.#storeDown || this.#storeHead?.size !== this.#head.size) await this.#shipOnce(signal);
      await delay(retryMs, undefined, { signal }).catch(() => undefined); // its end by the abort
    }
  }

  /** It never fails: a store that does not answer is asked again. */
  async #shipOnce(signal: AbortSignal): Promise<void> {
    this.#shipment ??= this.#shipAll(signal)
      .catch((error: unknown) => {
        this.#storeDown = true;
        this.#options.on.storeFailed(error);
      })
      .finally(() => {
        this.#shipment = undefined;
      });
    await this.#shipment;
  }

  async #shipAll(signal: AbortSignal): Promise<void> {
    const { spool } = this.#options;
    const store = await this.#options.openStore();
    let at = await withDeadline(store.head(), insertDeadlineMs);
    const before = at.size;
    while (at.size < this.#head.size) {
      if (signal.aborted) return;
      this.#checkLease();
      const file = spool.blocks.find(({ first, count }) => first <= at.size && at.size < first + count);
      if (file === undefined) throw new SigilloError('JOURNAL_SHORTENED', `Entry ${at.size} is neither in the store nor in the spool.`);
      const block = followedBlock(at, (await spool.read(file)).entries);
      await withDeadline(store.insert(block), 4 * insertDeadlineMs);
      this.#options.onStored(block);
      at = headBehind(block.at(-1) as SealedEvent);
      this.#storeHead = at;
      await spool.removeOldest();
    }
    this.#storeHead = at;
    this.#storeDown = false;
    if (this.#tree === undefined && at.size === this.#head.size) await this.#treeFromStore(at.size);
    await this.#sayShipped(at);
    if (at.size > before) this.#options.on.storeBack(at.size - before);
  }

  /** Blocks may be written meanwhile: then it is made again at the next turn. */
  async #treeFromStore(size: number): Promise<void> {
    const tree = await this.#options.resumeTree(size);
    if (this.#head.size === size) this.#tree = tree;
  }

  /** Another host may take over from now on: nothing is left here that it would need. */
  async #sayShipped(at: ChainHead): Promise<void> {
    if (this.#state.node === '' || this.#state.size !== at.size || this.#head.size !== at.size) return;
    this.#state = { ...this.#state, node: '' };
    await writeWriterState(this.#options.redis, this.#state);
  }
}

/** Client name under which the journal has its checkpoints stamped; no client can have it, because of the blank. */
export const journalClient = 'sigillo journal';

/** The entries of a spooled block that the store does not have. @throws JOURNAL_FORKED when they were made behind others */
const followedBlock = (at: ChainHead, entries: readonly Buffer[]): StoredEvent[] => {
  const block = entries
    .map((octets): StoredEvent => ({ event: decodeEvent(octets), octets, hash: hashEvent(octets), origin: noOrigin }))
    .filter(({ event }) => event.sequence >= at.size);
  if (at.size > 0 && Buffer.compare(block[0]?.event.previous ?? emptyChain.hash, at.hash) !== 0) {
    throw new SigilloError('JOURNAL_FORKED', `Store and spool have different entries ${at.size - 1}.`);
  }
  return block;
};
