/**
 * Where the journal stands, as Redis knows it, and from where a writer goes on.
 *
 * Three places know of the end of the chain: the store, the spool of this host, and this record. Together they say whether anything
 * is missing; a writer that began behind the wrong entry would split the journal in two, so it begins only when they agree.
 */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { SigilloError } from '../../config/errors.ts';
import { journalKeys } from '../../queue/keys.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { type ChainHead, emptyChain } from './chain.ts';
import type { SourcePositions } from './origin.ts';

const writeScript = readFileSync(new URL('../../queue/commands/writeJournalState-2.lua', import.meta.url), 'utf8');

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
  /** The positions speak for so many entries: where those behind came from, only the store tells. Missing: for all. */
  covered: count.optional(),
  /** Size that the store has when the block arrives that was sent to it last; 0: nothing is under way. */
  inserting: count,
  /** Perfect subtrees of the Merkle tree of `size` leaves, the largest first. */
  subtrees: z.array(hash),
});

export type WriterState = z.output<typeof stateSchema>;

/** The record of a journal that ends there. @param subtrees of its tree; none: only the store can tell */
export const stateOf = (
  { size, hash: last }: ChainHead,
  subtrees: readonly Uint8Array[],
  { positions, covered, node }: Pick<WriterState, 'positions' | 'covered' | 'node'>,
): WriterState => ({
  version: 1,
  size,
  hash: Buffer.from(last).toString('hex'),
  node,
  positions: { ...positions },
  covered,
  inserting: 0,
  subtrees: subtrees.map((one) => Buffer.from(one).toString('hex')),
});

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

/**
 * Writes the record, if the lease is still this holder's. A writer that stood still, and believes to hold it, ends here: before it has
 * removed anything from Redis that another one needs.
 * @throws JOURNAL_LEASE_LOST
 */
export const writeWriterState = async (redis: RedisClient, holder: string, state: WriterState): Promise<void> => {
  const written = await redis.eval(writeScript, 2, journalKeys.writer, journalKeys.state, holder, JSON.stringify(state));
  if (written !== 1) throw new SigilloError('JOURNAL_LEASE_LOST');
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
  /** Redis may have fallen back by a moment: it syncs once a second, or has replicas that take over. */
  readonly stateMayBeOld: boolean;
}

export interface StartingPoint {
  readonly head: ChainHead;
  readonly positions: SourcePositions;
  /** Both are those of the spool: Redis does not know of its last block. */
  readonly fromSpool: boolean;
}

/** Entries that the positions speak for. */
export const coveredBy = (state: WriterState | undefined): number => state?.covered ?? state?.size ?? 0;

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
export const startingPoint = ({ node, store, spool, state, stateMayBeOld }: KnownEnds): StartingPoint => {
  const recorded = state === undefined ? undefined : { size: state.size, hash: Buffer.from(state.hash, 'hex') };
  if (store === undefined) {
    // A spool alone may be what an outage long ago has left, and a record alone may be of a moment ago.
    if (state === undefined || (stateMayBeOld && (spool === undefined || spool.size <= state.size))) {
      throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', 'Only the store can tell where the journal ends.');
    }
    if (state.inserting > Math.max(state.size, spool?.size ?? 0)) {
      throw new SigilloError(
        'JOURNAL_STORE_UNAVAILABLE',
        `Only the store can tell whether it has the entries up to ${state.inserting - 1}.`,
      );
    }
    const besideSpool = spool !== undefined && spool.size > state.size && spool.first > state.size;
    if (coveredBy(state) < state.size || besideSpool) {
      throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', 'Only the store can tell where its last entries came from.');
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
    if (store === undefined && state.node === '') return { head: recorded, positions: state.positions, fromSpool: false };
    if (state.node !== '' && state.node !== node) {
      throw new SigilloError('JOURNAL_ELSEWHERE', `Entries ${furthest.size} to ${recorded.size - 1} are on ${state.node}.`);
    }
    throw new SigilloError(
      'JOURNAL_SHORTENED',
      `Entries ${furthest.size} to ${recorded.size - 1} are neither in the store nor in the spool.`,
    );
  }
  const fromSpool = spool !== undefined && spool.size === furthest.size && spool.size > (state?.size ?? -1);
  return { head: furthest, positions: fromSpool ? spool.positions : (state?.positions ?? {}), fromSpool };
};
