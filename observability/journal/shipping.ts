/** Brings what is in the spool into the store, in order, whenever the store answers. */
import { SigilloError } from '../../config/errors.ts';
import { type ChainHead, emptyChain, isSameHead, type SealedEvent } from './chain.ts';
import { within } from './deadline.ts';
import { decodeEvent, hashEvent } from './event-encoding.ts';
import type { Spool } from './spool.ts';
import { type JournalStore, runsOf, type StoredEvent } from './store.ts';

export interface ShippingOptions {
  readonly spool: Spool;
  readonly openStore: () => Promise<JournalStore>;
  /** End of the chain, which goes on meanwhile. */
  readonly head: () => ChainHead;
  /** @throws JOURNAL_LEASE_LOST */
  readonly checkLease: () => void;
  /** Asks Redis. @throws JOURNAL_LEASE_LOST */
  readonly confirmLease: () => Promise<void>;
  /** A block is in the store; `at` is its end. */
  readonly shipped: (block: readonly SealedEvent[], at: ChainHead) => void;
}

const answerDeadlineMs = 5_000;
/** A store that comes back has much to do; but a stop must not wait longer. */
const insertDeadlineMs = 10_000;

/** Entries of one insert: several blocks, because a store that takes a second for one takes little more for four. */
const entriesMax = 12_000;

/** The entries that come behind `at`, of as many blocks before `end` as one insert takes. @throws JOURNAL_SHORTENED, JOURNAL_FORKED, JOURNAL_SPOOL_DAMAGED */
const entriesBehind = async (spool: Spool, at: ChainHead, end: number): Promise<StoredEvent[]> => {
  // The newest block does not count before it is recorded in Redis.
  const files = spool.blocks.filter(({ first, count }) => first + count > at.size && first + count <= end);
  if (files[0] === undefined || files[0].first > at.size) {
    throw new SigilloError('JOURNAL_SHORTENED', `Entry ${at.size} is neither in the store nor in the spool.`);
  }
  const block: StoredEvent[] = [];
  for (const file of files) {
    if (block.length > 0 && block.length + file.count > entriesMax) break;
    for (const { octets, origin } of (await spool.read(file)).entries) {
      const event = decodeEvent(octets);
      if (event.sequence >= at.size) block.push({ event, octets, hash: hashEvent(octets), origin });
    }
  }
  if (at.size > 0 && Buffer.compare(block[0]?.event.previous ?? emptyChain.hash, at.hash) !== 0) {
    throw new SigilloError('JOURNAL_FORKED', `Store and spool have different entries ${at.size - 1}.`);
  }
  return block;
};

/**
 * Stores a block run by run, and looks each time what became of it. ClickHouse notes that it knows a run before it has it: one that is
 * killed in between takes the run for stored when it comes again, and has nothing. Then it is stored anew, when no insert is under way
 * any more.
 * @returns where the store ends now, which is behind one of these entries: another block may have come first, or a part of this one
 * @throws JOURNAL_STORE_UNAVAILABLE; JOURNAL_FORKED when it ends with another entry than these
 */
export const insertSurely = async (store: JournalStore, block: readonly StoredEvent[], signal: AbortSignal): Promise<ChainHead> => {
  const insert = async (run: readonly StoredEvent[], anew: boolean): Promise<ChainHead> => {
    const late = new AbortController();
    await within(insertDeadlineMs, store.insert(run, AbortSignal.any([late.signal, signal]), { anew }), () => late.abort());
    return within(answerDeadlineMs, store.head());
  };
  let end: ChainHead | undefined;
  for (const run of runsOf(block)) {
    const [first, last] = [run[0] as StoredEvent, run.at(-1) as StoredEvent];
    end = await insert(run, false);
    if (end.size === first.event.sequence && (await within(answerDeadlineMs, store.insertsUnderWay())) === 0) end = await insert(run, true);
    // A shorter run behind the same entry came first: what follows must not be put behind a gap.
    if (end.size !== last.event.sequence + 1) break;
  }
  return endWithin(block, end as ChainHead);
};

/** @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_FORKED when the store ends elsewhere than behind one of these entries */
const endWithin = (block: readonly StoredEvent[], end: ChainHead): ChainHead => {
  const last = block.find(({ event }) => event.sequence === end.size - 1);
  if (last === undefined) throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', `It ends before entry ${end.size}, whatever it was given.`);
  if (Buffer.compare(last.hash, end.hash) !== 0) {
    throw new SigilloError('JOURNAL_FORKED', `Store and spool have different entries ${end.size - 1}.`);
  }
  return end;
};

/** @throws JOURNAL_FORKED when the store has as many entries, and another one at the end: what went on behind it would break the chain */
const checkSameEnd = (at: ChainHead, head: ChainHead): void => {
  if (at.size === head.size && !isSameHead(at, head)) {
    throw new SigilloError('JOURNAL_FORKED', `Store and writer have different entries ${at.size - 1}.`);
  }
};

/** The last block stays: it holds the positions. */
const removeShipped = async (spool: Spool, end: ChainHead): Promise<void> => {
  for (let [oldest, next] = spool.blocks; oldest !== undefined && next !== undefined; [oldest, next] = spool.blocks) {
    if (oldest.first + oldest.count > end.size) return;
    await spool.removeOldest();
  }
};

/**
 * Ships until the store has all of the chain, or the signal.
 * @returns where the store ends, and how many entries it got
 * @throws JOURNAL_STORE_UNAVAILABLE; JOURNAL_SHORTENED, JOURNAL_FORKED when spool and store do not belong together; JOURNAL_LEASE_LOST
 */
export const shipSpool = async (options: ShippingOptions, signal: AbortSignal): Promise<{ at: ChainHead; entries: number }> => {
  const { spool, head, checkLease, confirmLease } = options;
  const store = await within(answerDeadlineMs, options.openStore());
  checkLease();
  if (!(await within(answerDeadlineMs, store.fence()))) {
    throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', 'An insert that nobody waits for any more is still under way.');
  }
  // Whoever has the lease after this raises a newer fence than that: see fence.ts.
  await confirmLease();
  let at = await within(answerDeadlineMs, store.head());
  checkSameEnd(at, head());
  const before = at.size;
  while (at.size < head().size && !signal.aborted) {
    checkLease();
    const block = await entriesBehind(spool, at, head().size);
    // Of what was sent before, and of which nobody knows whether it came, a part may have come first.
    const end = await insertSurely(store, block, signal);
    // Before anybody knows: a block that goes into the store directly clears the spool.
    await removeShipped(spool, end);
    options.shipped(
      block.filter(({ event }) => event.sequence < end.size),
      end,
    );
    at = end;
  }
  checkSameEnd(at, head());
  return { at, entries: at.size - before };
};
