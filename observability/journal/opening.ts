/** How a writer finds out where the journal ends, before it writes anything. */
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../../config/errors.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { type ChainHead, isSameHead } from './chain.ts';
import { within } from './deadline.ts';
import { decodeEvent, hashEvent } from './event-encoding.ts';
import type { Origin, SourcePositions } from './origin.ts';
import type { Spool } from './spool.ts';
import type { JournalStore } from './store.ts';
import { coveredBy, readWriterState, type StartingPoint, startingPoint, type WriterState } from './writer-state.ts';

export interface OpeningOptions {
  readonly redis: RedisClient;
  readonly node: string;
  readonly openStore: () => Promise<JournalStore>;
  readonly spool: Spool;
  readonly stateMayBeOld: boolean;
  readonly on: { storeFailed(error: unknown): void; strayBlocks(folder: string): void };
}

export interface Opening extends StartingPoint {
  /** undefined: the store does not answer. */
  readonly storeHead: ChainHead | undefined;
  readonly state: WriterState | undefined;
  /** Events behind the positions that may be in the store nevertheless. */
  readonly known: readonly Origin[];
  /** Entries that the positions speak for: `known` is of those behind. */
  readonly covered: number;
  /**
   * The last insert of an earlier writer was not stored. ClickHouse may take it for stored, and so the first block, which has the same
   * token: that must be seen to be there before anything else counts.
   */
  readonly unsettled: boolean;
}

const storeDeadlineMs = 5_000;
/** An insert takes milliseconds; one that a server works on for so long is given up by it. */
const insertsPatienceMs = 30_000;
const lookMs = 100;

type SpoolHead = ChainHead & { readonly first: number; readonly positions: SourcePositions };

/** What the last block of the spool says. */
const endOfSpool = async (spool: Spool): Promise<SpoolHead | undefined> => {
  const [first, last] = [spool.blocks[0], spool.blocks.at(-1)];
  if (first === undefined || last === undefined) return undefined;
  const { entries, positions } = await spool.read(last);
  const { octets } = entries.at(-1) as { octets: Buffer };
  return { size: decodeEvent(octets).sequence + 1, hash: hashEvent(octets), first: first.first, positions };
};

/** The head, when nothing can come behind it any more that another writer has sent, or this one before. */
const settledHead = async (store: JournalStore): Promise<ChainHead> => {
  const until = performance.now() + insertsPatienceMs;
  // Others may have written since this process did, and what they sent may still come.
  let settled = await within(storeDeadlineMs, store.fence({ anew: true }));
  while (!settled) {
    if (performance.now() > until) throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', 'Inserts of an earlier writer are still under way.');
    await delay(lookMs);
    settled = await within(storeDeadlineMs, store.fence());
  }
  return within(storeDeadlineMs, store.head());
};

/** What the store has of the spool goes; what was made there behind another entry than the store's is set aside. */
const clearLeftover = async (store: JournalStore, spoolHead: ChainHead, { spool, on }: OpeningOptions): Promise<void> => {
  const hash = await within(storeDeadlineMs, store.hashAt(spoolHead.size - 1));
  // Its writer had lost the lease before it could say so in Redis: nothing was removed there, so nothing of it is missing.
  if (hash !== undefined && Buffer.compare(hash, spoolHead.hash) !== 0) on.strayBlocks(await spool.setAside());
  else await spool.clear();
};

/** Whether the spool goes on behind this end; undefined: it does not tell. */
const goesOnBehind = async (spoolHead: SpoolHead, spool: Spool, at: ChainHead): Promise<boolean | undefined> => {
  if (at.size === spoolHead.size) return isSameHead(at, spoolHead);
  const block = spool.blocks.find(({ first, count }) => first <= at.size && at.size < first + count);
  if (block === undefined) return undefined;
  const { entries } = await spool.read(block);
  const { octets } = entries[at.size - block.first] as { octets: Buffer };
  return Buffer.compare(decodeEvent(octets).previous, at.hash) === 0;
};

/**
 * Whether the spool is of a writer that had lost the lease, or died, before it could say in Redis what it had spooled, while another one
 * went on elsewhere: nothing was removed from Redis for it, so nothing of it is missing. Of blocks that Redis knows the store must have
 * no others: that is a journal split in two, which nobody may hide.
 */
const isStray = async (
  spoolHead: SpoolHead,
  { spool }: OpeningOptions,
  state: WriterState | undefined,
  storeHead: ChainHead | undefined,
): Promise<boolean> => {
  const recorded = state && (await goesOnBehind(spoolHead, spool, { size: state.size, hash: Buffer.from(state.hash, 'hex') }));
  if (recorded !== undefined) return !recorded;
  // Who emptied Redis must hear of it when what is left does not belong together.
  return state !== undefined && storeHead !== undefined && (await goesOnBehind(spoolHead, spool, storeHead)) === false;
};

/**
 * Only who holds the lease may call it.
 * @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_ELSEWHERE, JOURNAL_SHORTENED, JOURNAL_FORKED, JOURNAL_SPOOL_DAMAGED, JOURNAL_SCHEMA
 */
export const findStart = async (options: OpeningOptions): Promise<Opening> => {
  const { redis, node, spool, stateMayBeOld, on } = options;
  const state = await readWriterState(redis);
  let store: JournalStore | undefined;
  let storeHead: ChainHead | undefined;
  try {
    store = await within(storeDeadlineMs, options.openStore());
    storeHead = await settledHead(store);
  } catch (error) {
    if (!(error instanceof SigilloError) || error.code !== 'JOURNAL_STORE_UNAVAILABLE') throw error;
    on.storeFailed(error);
  }
  let spoolHead = await endOfSpool(spool);
  if (store !== undefined && storeHead !== undefined && spoolHead !== undefined && spoolHead.size <= storeHead.size) {
    await clearLeftover(store, spoolHead, options);
    spoolHead = undefined;
  }
  if (spoolHead !== undefined && (await isStray(spoolHead, options, state, storeHead))) {
    on.strayBlocks(await spool.setAside());
    spoolHead = undefined;
  }
  const start = startingPoint({ node, store: storeHead, spool: spoolHead, state, stateMayBeOld });
  // Of an outage long ago: the record says that everything is in the store, and the next block must not lie behind that one.
  if (spoolHead !== undefined && spoolHead.size < start.head.size) await spool.clear();
  const unknownFrom = coveredBy(state);
  const known = store === undefined || storeHead === undefined ? [] : await within(storeDeadlineMs, store.originsFrom(unknownFrom));
  const isAllInSpool = start.fromSpool && unknownFrom === state?.size && (spoolHead?.first ?? 0) <= unknownFrom;
  const covered = isAllInSpool ? start.head.size : unknownFrom;
  // A Redis that fell back a moment has entries again that went into the store by way of the spool.
  const unsettled = storeHead !== undefined && (state?.inserting ?? 0) > storeHead.size;
  return { ...start, storeHead, state, known, covered, unsettled };
};
