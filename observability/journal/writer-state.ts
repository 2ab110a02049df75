/**
 * Where the journal stands, as Redis knows it, and from where a writer goes on.
 *
 * Three places know of the end of the chain: the store, the spool of this host, and this record. Together they say whether anything
 * is missing; a writer that began behind the wrong entry would split the journal in two, so it begins only when they agree.
 */
import { z } from 'zod';
import { SigilloError } from '../../config/errors.ts';
import { journalKeys } from '../../queue/keys.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { type ChainHead, emptyChain } from './chain.ts';
import type { SourcePositions } from './spool.ts';

const hash = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.int().min(0);

const stateSchema = z.strictObject({
  version: z.literal(1),
  /** Entries that are durable, and the hash of the last. */
  size: count,
  hash,
  /** Host in whose spool some of them are; empty: all are in the store. */
  node: z.string(),
  /** How far each source is in them. */
  positions: z.record(z.string(), z.string()),
  /** Size that the store has when the block arrives that was sent to it last; 0: nothing is under way. */
  inserting: count,
  /** Perfect subtrees of the Merkle tree of `size` leaves, the largest first. */
  subtrees: z.array(hash),
});

export type WriterState = z.output<typeof stateSchema>;

/** @throws JOURNAL_SHORTENED when the record cannot be read; or what Redis answers */
export const readWriterState = async (redis: RedisClient): Promise<WriterState | undefined> => {
  const text = await redis.get(journalKeys.state);
  if (text === null) return undefined;
  try {
    return stateSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new SigilloError('JOURNAL_SHORTENED', `${journalKeys.state} in Redis cannot be read`, { cause });
  }
};

export const writeWriterState = async (redis: RedisClient, state: WriterState): Promise<void> => {
  await redis.set(journalKeys.state, JSON.stringify(state));
};

/** What is known of the end of the chain. */
export interface KnownEnds {
  /** This host. */
  readonly node: string;
  /** undefined: the store does not answer. */
  readonly store: ChainHead | undefined;
  /** Of the last block in the spool of this host, and the first entry there. */
  readonly spool: (ChainHead & { readonly first: number; readonly positions: SourcePositions }) | undefined;
  /** undefined: Redis knows nothing. */
  readonly state: WriterState | undefined;
}

export interface StartingPoint {
  readonly head: ChainHead;
  readonly positions: SourcePositions;
}

const hexOf = (head: ChainHead): string => Buffer.from(head.hash).toString('hex');

const checkSameChain = (known: readonly ChainHead[]): void => {
  for (const one of known) {
    const other = known.find(({ size }) => size === one.size) as ChainHead;
    if (hexOf(one) !== hexOf(other)) {
      throw new SigilloError('JOURNAL_FORKED', `Store, spool and Redis have different entries ${one.size - 1}.`);
    }
  }
};

/**
 * Where a writer goes on.
 *
 * @throws JOURNAL_STORE_UNAVAILABLE when only the store can tell; JOURNAL_ELSEWHERE, JOURNAL_SHORTENED, JOURNAL_FORKED when to go on would
 * break the chain
 */
export const startingPoint = ({ node, store, spool, state }: KnownEnds): StartingPoint => {
  const recorded = state === undefined ? undefined : { size: state.size, hash: Buffer.from(state.hash, 'hex') };
  if (store === undefined) {
    if (spool === undefined && recorded === undefined) {
      throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', 'Only the store can tell where the journal ends.');
    }
    if (state !== undefined && state.inserting > Math.max(state.size, spool?.size ?? 0)) {
      throw new SigilloError(
        'JOURNAL_STORE_UNAVAILABLE',
        `Only the store can tell whether it has the entries up to ${state.inserting - 1}.`,
      );
    }
  }
  const here = [store, spool].filter((one) => one !== undefined);
  checkSameChain([...here, ...(recorded === undefined ? [] : [recorded])]);
  const furthest = here.reduce<ChainHead>((a, b) => (b.size > a.size ? b : a), emptyChain);
  if (store !== undefined && spool !== undefined && spool.size > store.size && spool.first > store.size) {
    throw new SigilloError('JOURNAL_SHORTENED', `The store ends before entry ${store.size}, the spool begins with ${spool.first}.`);
  }
  if (state !== undefined && recorded !== undefined && recorded.size > furthest.size) {
    // What is in the store alone is only out of reach; what was in a spool can be elsewhere.
    if (store === undefined && state.node === '') return { head: recorded, positions: state.positions };
    if (state.node !== '' && state.node !== node) {
      throw new SigilloError('JOURNAL_ELSEWHERE', `Entries ${furthest.size} to ${recorded.size - 1} are on ${state.node}.`);
    }
    throw new SigilloError(
      'JOURNAL_SHORTENED',
      `Entries ${furthest.size} to ${recorded.size - 1} are neither in the store nor in the spool.`,
    );
  }
  const fromSpool = spool !== undefined && spool.size === furthest.size && spool.size > (state?.size ?? -1);
  return { head: furthest, positions: fromSpool ? spool.positions : (state?.positions ?? {}) };
};
