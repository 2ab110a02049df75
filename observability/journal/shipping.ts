/** Brings what is in the spool into the store, in order, whenever the store answers. */
import { SigilloError } from '../../config/errors.ts';
import { type ChainHead, emptyChain, headBehind, type SealedEvent } from './chain.ts';
import { within } from './deadline.ts';
import { decodeEvent, hashEvent } from './event-encoding.ts';
import type { Spool } from './spool.ts';
import { type JournalStore, noOrigin, type StoredEvent } from './store.ts';

export interface ShippingOptions {
  readonly spool: Spool;
  readonly openStore: () => Promise<JournalStore>;
  /** End of the chain, which goes on meanwhile. */
  readonly head: () => ChainHead;
  /** @throws JOURNAL_LEASE_LOST */
  readonly checkLease: () => void;
  /** A block is in the store; `at` is its end. */
  readonly shipped: (block: readonly SealedEvent[], at: ChainHead) => void;
}

const answerDeadlineMs = 5_000;
/** A store that comes back has much to do; but a stop must not wait longer. */
const insertDeadlineMs = 10_000;

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

/**
 * Ships until the store has all of the chain, or the signal.
 * @returns where the store ends, and how many entries it got
 * @throws JOURNAL_STORE_UNAVAILABLE; JOURNAL_SHORTENED, JOURNAL_FORKED when spool and store do not belong together; JOURNAL_LEASE_LOST
 */
export const shipSpool = async (options: ShippingOptions, signal: AbortSignal): Promise<{ at: ChainHead; entries: number }> => {
  const { spool, head, checkLease } = options;
  const store = await within(answerDeadlineMs, options.openStore());
  let at = await within(answerDeadlineMs, store.head());
  const before = at.size;
  while (at.size < head().size && !signal.aborted) {
    checkLease();
    const place = at.size;
    const file = spool.blocks.find(({ first, count }) => first <= place && place < first + count);
    if (file === undefined) throw new SigilloError('JOURNAL_SHORTENED', `Entry ${place} is neither in the store nor in the spool.`);
    const block = followedBlock(at, (await spool.read(file)).entries);
    const late = new AbortController();
    await within(insertDeadlineMs, store.insert(block, AbortSignal.any([late.signal, signal])), () => late.abort());
    at = headBehind(block.at(-1) as SealedEvent);
    // Before anybody knows: a block that goes into the store directly clears the spool.
    await spool.removeOldest();
    options.shipped(block, at);
  }
  return { at, entries: at.size - before };
};
