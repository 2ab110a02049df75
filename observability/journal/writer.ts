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
import { monotonicMs } from '../../queue/redis-clock.ts';
import { type ChainHead, isSameHead, type SealedEvent } from './chain.ts';
import { collectEntries } from './collecting.ts';
import { within } from './deadline.ts';
import type { EventDraft } from './events.ts';
import { MerkleTree } from './merkle.ts';
import { findStart, type Opening } from './opening.ts';
import type { SourcePositions } from './origin.ts';
import { type AppendedEvent, sealBlock } from './sealing.ts';
import { insertSurely, shipSpool } from './shipping.ts';
import { JournalSources, type SourceEntry } from './sources.ts';
import type { SpoolBlock } from './spool.ts';
import type { JournalStore, StoredEvent } from './store.ts';
import { anotherCame, hasEnded, isBroken } from './writer-faults.ts';
import { asksForCheckpoint, type JournalSnapshot, type WriterOptions } from './writer-options.ts';
import { stateOf, type WriterState, writeWriterState } from './writer-state.ts';

/** Nothing that only one may do is begun with less of the lease left; an insert may take that long and still be under way when it ends. */
const leaseMarginMs = 1_000;
/** A store that takes longer has its block put into the spool, and is asked again. */
const insertDeadlineMs = 5_000;
/** A store that takes so long for a block gets full ones by way of the spool, several in one insert. */
const slowInsertMs = 1_000;
const retryMs = 500;
/** A stop writes what is there, for so long; the rest stays in Redis for the next start. */
const drainMsMax = 5_000;

/** Work that needs the store to be all of the journal, and to stay so. */
interface ExclusiveWork {
  readonly work: () => Promise<void>;
  readonly done: () => void;
  readonly failed: (error: Error) => void;
}

/** undefined when what Redis remembers is none: the store tells then. */
const treeOf = ({ size, subtrees }: WriterState): MerkleTree | undefined => {
  try {
    const hashes = subtrees.map((one) => Buffer.from(one, 'hex'));
    return MerkleTree.resume(size, hashes);
  } catch {
    return undefined; // a writer that did not know the tree writes none
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
  #works: ExclusiveWork[] = [];
  #foreign = 0;
  #ended = false;
  /** Hashes of the blocks that were written while the tree was read from the store. */
  #behindTree: Uint8Array[] | undefined;
  /** See `Opening`. */
  #unsettled: boolean;
  /** Redis may have forgotten that an earlier writer had sent a block (everysec): then nobody knows that something is unsettled. */
  #isFirst = true;
  /** What the store took for the last insert. */
  #insertMs = 0;
  /** Why it cannot go on, found beside the loop. */
  #broken: SigilloError | undefined;
  /** One at a time: the loop that ships, or the block that waits for it. */
  #shipment: Promise<void> | undefined;

  private constructor(
    options: WriterOptions,
    { head, storeHead, positions, covered, state, fromSpool, unsettled }: Opening,
    sources: JournalSources,
  ) {
    this.#options = options;
    this.#sources = sources;
    this.#head = head;
    this.#storeHead = storeHead;
    this.#storeDown = storeHead === undefined;
    this.#unsettled = unsettled;
    this.#state = stateOf(head, [], { positions, covered, node: fromSpool ? options.node : (state?.node ?? '') });
    this.#foreign = head.size;
  }

  /** Finds out where the journal ends (opening.ts). Only who holds the lease may call it. @throws as `findStart` */
  static async open(options: WriterOptions): Promise<JournalWriter> {
    const { redis, clock, on } = options;
    const opening = await findStart(options);
    const sources = await JournalSources.open({
      redis,
      positions: opening.positions,
      known: opening.known,
      ...(clock && { clock }),
      onQuarantined: (origin, error) => on.quarantined(`${origin.source} ${origin.millis}-${origin.number}`, error),
    });
    const writer = new JournalWriter(options, opening, sources);
    await writer.#resumeTree(opening.state);
    return writer;
  }

  /** The tree as Redis remembers it; else from the store. */
  async #resumeTree(recorded: WriterState | undefined): Promise<void> {
    const { size } = this.#head;
    if (size === 0) this.#tree = new MerkleTree();
    else if (recorded?.size === size) this.#tree = treeOf(recorded);
    if (this.#tree === undefined && this.#storeHead?.size === size) this.#tree = await this.#options.resumeTree(size);
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

  /**
   * Runs work between two blocks, when the store has all of the journal: nothing comes into it meanwhile.
   * @throws when the writer ended before, or what the work throws
   */
  exclusively(work: () => Promise<void>): Promise<void> {
    if (this.#ended) return Promise.reject(hasEnded());
    return new Promise((resolve, reject) => {
      this.#works.push({ work, done: resolve, failed: reject });
    });
  }

  /** Writes until the signal, then finishes the block under way. @throws when it cannot go on */
  async run(signal: AbortSignal): Promise<void> {
    const ending = new AbortController();
    const shipping = this.#ship(AbortSignal.any([signal, ending.signal]));
    try {
      let stoppedAtMs: number | undefined;
      for (let drained = false; !drained; ) {
        const entries = await this.#collect(signal);
        if (entries.length > 0 || this.#appended.length > 0) await this.#commit(entries, signal);
        await this.#workExclusively();
        if (signal.aborted) stoppedAtMs ??= monotonicMs();
        drained = stoppedAtMs !== undefined && (entries.length === 0 || monotonicMs() - stoppedAtMs > drainMsMax);
      }
    } finally {
      ending.abort();
      this.#ended = true;
      for (const { failed } of [...this.#appended, ...this.#works]) failed(hasEnded());
      this.#appended = [];
      this.#works = [];
      await shipping;
    }
  }

  get #storeHasAll(): boolean {
    return !this.#storeDown && this.#storeHead !== undefined && isSameHead(this.#storeHead, this.#head);
  }

  async #workExclusively(): Promise<void> {
    if (!this.#storeHasAll) return;
    for (const { work, done, failed } of this.#works.splice(0)) {
      this.#checkLease();
      await work().then(done, failed);
    }
  }

  /** The entries of the next block. @throws JOURNAL_LEASE_LOST, or what Redis says */
  #collect(signal: AbortSignal): Promise<SourceEntry[]> {
    return collectEntries(this.#sources, this.#options.block, {
      beforeRead: () => this.#checkLease(),
      isPressed: () => this.#appended.length > 0,
      isOver: (collected) => signal.aborted || (this.#works.length > 0 && collected === 0 && this.#storeHasAll),
    });
  }

  async #commit(entries: readonly SourceEntry[], signal: AbortSignal): Promise<void> {
    const positions = this.#sources.positions;
    const appended = this.#appended;
    this.#appended = [];
    try {
      const { block, head, unfit, settle } = sealBlock(this.#head, entries, appended, this.#options.clock);
      for (const [origin, error] of unfit) this.#options.on.quarantined(origin, error);
      if (block.length > 0) await this.#makeDurable(block, head, positions, signal);
      else await this.#passOver(positions);
      for (const done of settle) done();
      this.#told(entries, block.length);
    } catch (error) {
      // Whoever waits for one of them would wait for ever.
      for (const { failed } of appended) failed(error as Error);
      throw error;
    }
  }

  /** Nothing in them is new: that is recorded before they go, because what they were known by may be in this spool alone. */
  async #passOver(positions: SourcePositions): Promise<void> {
    await this.#writeState(this.#stateAt(this.#head, this.#tree, positions, this.#state.node));
    await this.#sources.trim(positions);
  }

  #stateAt(head: ChainHead, tree: MerkleTree | undefined, positions: SourcePositions, node: string): WriterState {
    const covered = this.#sources.someKnown ? (this.#state.covered ?? 0) : head.size;
    return stateOf(head, tree?.subtrees ?? [], { positions, covered, node });
  }

  #told(entries: readonly SourceEntry[], sealed: number): void {
    const oldest = entries[0]?.origin.millis;
    this.#options.on.sealed(sealed, oldest === undefined ? 0 : Math.max(0, (Date.now() - oldest) / 1_000));
  }

  async #makeDurable(block: readonly StoredEvent[], head: ChainHead, positions: SourcePositions, signal: AbortSignal): Promise<void> {
    let place = await this.#keep(block, head, positions, signal);
    while (place === 'nowhere') {
      // Nothing else is taken from Redis meanwhile: the gateways see it grow, and refuse.
      await delay(retryMs);
      place = await this.#keep(block, head, positions, signal);
    }
    const stored = place === 'store';
    const tree = this.#tree === undefined ? undefined : MerkleTree.resume(this.#tree.size, this.#tree.subtrees);
    for (const { hash } of block) tree?.append(hash);
    const state = this.#stateAt(head, tree, positions, stored ? '' : this.#options.node);
    // Only who still holds the lease comes past this; and only what is past it may be seen, signed or removed from Redis.
    // A block in the spool stays when that fails: another process of this home may have taken it over. If not, the next opening sees.
    await this.#writeState(state);
    this.#head = head;
    this.#tree = tree;
    this.#behindTree?.push(...block.map(({ hash }) => hash));
    this.#foreign += block.filter(({ event }) => asksForCheckpoint(event)).length;
    if (stored) {
      this.#storeHead = head;
      this.#options.onStored(block);
      await this.#options.spool.clear();
    }
    await this.#sources.trim(positions);
  }

  async #writeState(state: WriterState): Promise<void> {
    // At once: what is written next must not bring back what this one has left behind.
    this.#state = state;
    await writeWriterState(this.#options.redis, this.#options.holder, state);
  }

  /** Tries once to make a block durable. @throws when there is no place for it and the writer is to stop, or it is no longer the only one */
  async #keep(
    block: readonly StoredEvent[],
    head: ChainHead,
    positions: SourcePositions,
    signal: AbortSignal,
  ): Promise<'store' | SpoolBlock | 'nowhere'> {
    this.#checkLease();
    // The last blocks of an outage go first. Shipped here, because under full load there may never be a moment between two blocks.
    const slow = this.#insertMs > slowInsertMs;
    if (!this.#storeDown && this.#storeHead?.size !== this.#head.size && !slow) await this.#shipOnce(signal);
    if (this.#broken !== undefined) throw this.#broken;
    // An insert that nobody waited for any more may have been done after all.
    if (this.#storeHead !== undefined && isSameHead(this.#storeHead, head)) return 'store';
    // A store that cannot keep up gets larger blocks from the spool, while Redis stays short.
    const tooMuch = slow && block.length >= this.#options.block.rowsMax && !this.#unsettled;
    if (this.#storeHasAll && !tooMuch && (await this.#store(block, head))) return 'store';
    if (this.#unsettled) throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', 'What an earlier writer has sent may still come.');
    try {
      return await this.#options.spool.append(this.#head.size, block, positions);
    } catch (error) {
      if (!(error instanceof SigilloError) || error.code !== 'JOURNAL_SPOOL_FULL' || signal.aborted) throw error;
      // The store has a part of this block: only a writer that begins anew knows which.
      if (this.#storeHead !== undefined && this.#storeHead.size > this.#head.size) throw error;
      this.#options.on.spoolFull(error);
      // A store that was slow may take it now.
      this.#insertMs = 0;
      return 'nowhere';
    }
  }

  /** @returns false when the store did not take it, or nobody knows */
  async #store(block: readonly StoredEvent[], head: ChainHead): Promise<boolean> {
    // Who takes over must know that the block may be there; and who has lost the lease ends here.
    await this.#writeState({ ...this.#state, inserting: head.size });
    const late = new AbortController();
    try {
      const store = await within(insertDeadlineMs, this.#options.openStore());
      const startedAtMs = monotonicMs();
      if (this.#unsettled || this.#isFirst) await this.#settle(store, block, head);
      else await within(insertDeadlineMs, store.insert(block, late.signal), () => late.abort());
      this.#insertMs = monotonicMs() - startedAtMs;
      return true;
    } catch (error) {
      if (isBroken(error)) throw error;
      this.#storeDown = true;
      this.#options.on.storeFailed(error);
      return false;
    }
  }

  /** Of two blocks behind one entry the store takes the first: which was it? @throws JOURNAL_LEASE_LOST when it was the earlier writer's */
  async #settle(store: JournalStore, block: readonly StoredEvent[], head: ChainHead): Promise<void> {
    const end = await insertSurely(store, block, new AbortController().signal).catch((error: unknown) => {
      throw isBroken(error) ? anotherCame() : error;
    });
    if (end.size !== head.size) throw anotherCame();
    this.#unsettled = false;
    this.#isFirst = false;
  }

  #checkLease(): void {
    if (this.#broken !== undefined) throw this.#broken;
    if (this.#options.heldForMs() < leaseMarginMs) throw new SigilloError('JOURNAL_LEASE_LOST');
  }

  /** Brings what is in the spool into the store whenever that answers, and makes the tree meanwhile when only the store can tell it. */
  async #ship(signal: AbortSignal): Promise<void> {
    let reading = Promise.resolve();
    while (!signal.aborted) {
      if (!this.#storeHasAll) await this.#shipOnce(signal);
      if (this.#tree === undefined && this.#behindTree === undefined && !this.#storeDown) reading = this.#treeFromStore();
      await delay(retryMs, undefined, { signal }).catch(() => undefined); // its end by the abort
    }
    await reading;
  }

  /** It never fails: a store that does not answer is asked again, and a fault of the journal ends the loop. */
  async #shipOnce(signal: AbortSignal): Promise<void> {
    this.#shipment ??= this.#shipAll(signal)
      .catch((error: unknown) => {
        this.#storeDown = true;
        if (isBroken(error)) this.#broken = error;
        else this.#options.on.storeFailed(error);
      })
      .finally(() => {
        this.#shipment = undefined;
      });
    await this.#shipment;
  }

  async #shipAll(signal: AbortSignal): Promise<void> {
    const { spool, openStore, onStored } = this.#options;
    const { at, entries } = await shipSpool(
      {
        spool,
        openStore,
        head: () => this.#head,
        checkLease: () => this.#checkLease(),
        confirmLease: () => this.#writeState(this.#state),
        shipped: (block, end) => {
          this.#storeHead = end;
          onStored(block);
        },
      },
      signal,
    );
    if (signal.aborted) return;
    this.#storeHead = at;
    this.#storeDown = false;
    if (entries > 0) this.#options.on.storeBack(entries);
    await this.#sayShipped(at);
  }

  /** Blocks that are written meanwhile are put behind it. */
  async #treeFromStore(): Promise<void> {
    const size = this.#storeHead?.size;
    if (size !== this.#head.size) return;
    this.#behindTree = [];
    try {
      const tree = await this.#options.resumeTree(size);
      for (const hash of this.#behindTree) tree.append(hash);
      this.#tree = tree;
    } catch (error) {
      this.#options.on.storeFailed(error);
    } finally {
      this.#behindTree = undefined;
    }
  }

  /** Another host may take over from now on: nothing is left here that it would need. */
  async #sayShipped(at: ChainHead): Promise<void> {
    if (this.#state.node === '' || this.#state.size !== at.size || this.#head.size !== at.size) return;
    await this.#writeState({ ...this.#state, node: '' });
  }
}
