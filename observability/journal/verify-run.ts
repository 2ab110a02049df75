/** Runs a pass over places and says what came of it: for a store (verify.ts), a bundle (verify-bundle.ts), or any places. */
import type { ChainHead } from './chain.ts';
import type { Checkpoint, CheckpointKey } from './checkpoint.ts';
import type { StoredPlace } from './reader.ts';
import { type ExpiryFault, type ExpiryRules, judgeExpiry } from './verify-expiry.ts';
import {
  faultAt,
  type JournalFault,
  JournalPass,
  journalStart,
  nameFault,
  type PassStart,
  type SeenExpiry,
  type SeenPartition,
  verifyByAny,
} from './verify-places.ts';
import type { TokenVerifier } from './verify-token.ts';

/** Places behind a fault that are looked at to name it. */
const lookAheadMax = 10_000;

export interface JournalValid {
  readonly kind: 'valid';
  /** What was read: wider than what was asked for, to the checkpoints around it. */
  readonly from: number;
  readonly to: number;
  readonly head: ChainHead;
  /** Root of the tree of size `to`. */
  readonly root: Uint8Array;
  readonly entries: number;
  /** Places of which only the hash is left. */
  readonly expired: number;
  readonly checkpoints: number;
  /** Of these, those with a timestamp that verified. */
  readonly timestamped: number;
  readonly lastTimestamp: Date | undefined;
  /** Of the checkpoints, those that cover less than what was read, or stand too far behind what they cover; another covers it. */
  readonly uncompared: number;
  /** Entries at the end that no checkpoint covers yet: they are chained, and not signed. */
  readonly unanchored: number;
  /** Partitions whose expiry could not be proven, because the event lies outside what was read and no checkpoint covers it. */
  readonly expiryUnproven: readonly string[];
}
export type JournalVerdict = JournalValid | JournalFault;

export type Pages = AsyncIterable<readonly StoredPlace[]>;

/** Runs the pass to its end, or to the first fault. */
export const runPass = async (pass: JournalPass, pages: Pages, onPage: (places: number) => void): Promise<JournalFault | undefined> => {
  const reading = pages[Symbol.asyncIterator]();
  try {
    for (let page = await reading.next(); page.done !== true; page = await reading.next()) {
      const places = page.value;
      for (let i = 0; i < places.length; i += 1) {
        const place = places[i] as StoredPlace;
        const found = pass.next(place);
        if (found === undefined) continue;
        const following = places.slice(i + 1, i + 1 + lookAheadMax);
        const more = following.length === 0 ? await reading.next() : undefined;
        return nameFault(found, place, pass.head.size, more?.done === false ? more.value : following);
      }
      onPage(places.length);
    }
    return undefined;
  } finally {
    await reading.return?.();
  }
};

const placesPerPage = 1_000;

async function* inPages(places: AsyncIterable<StoredPlace>): Pages {
  let page: StoredPlace[] = [];
  for await (const place of places) {
    page.push(place);
    if (page.length < placesPerPage) continue;
    yield page;
    page = [];
  }
  yield page;
}

type Anchors = { readonly kind: 'anchors'; readonly anchors: Checkpoint[] } | JournalFault;

export const readAnchors = (notes: readonly string[], keys: readonly CheckpointKey[]): Anchors => {
  const anchors: Checkpoint[] = [];
  for (const [i, note] of notes.entries()) {
    const verdict = verifyByAny(note, keys);
    if (verdict.kind === 'invalid') return faultAt('anchor-signature', 0, `checkpoint ${i + 1} of those held elsewhere: ${verdict.why}`, 0);
    anchors.push(verdict.checkpoint);
  }
  return { kind: 'anchors', anchors };
};

/** @param size of what was read */
export const judgeEnd = (size: number, anchors: readonly Checkpoint[]): JournalFault | undefined => {
  const [beyond] = anchors.filter((anchor) => anchor.size > size).toSorted((a, b) => b.size - a.size);
  if (beyond === undefined) return undefined;
  const why = `a checkpoint covers ${beyond.size} entries, and there are ${size}`;
  return faultAt('truncated', size, why);
};

export const validOf = (pass: JournalPass, from: number, expiryUnproven: readonly string[]): JournalValid => {
  const { head } = pass;
  const { anchored, ...count } = pass.count;
  return {
    kind: 'valid',
    from,
    to: head.size,
    head,
    root: pass.root(),
    ...count,
    unanchored: head.size - Math.max(from, anchored),
    expiryUnproven,
  };
};

export type ExpiryVerdict = JournalFault | 'good' | 'unproven';

export const expiryVerdict = (seen: SeenPartition, found: ExpiryFault | undefined): ExpiryVerdict =>
  found === undefined ? 'good' : faultAt(found.fault, seen.missing ?? seen.places.first, found.why, seen.places.last + 1);

/** Decides about a partition by more than the pass saw: `found` is what is wrong by what it saw, `told` the event that it saw. */
export type JudgeOtherwise = (
  partition: string,
  seen: SeenPartition,
  found: ExpiryFault | undefined,
  told: SeenExpiry | undefined,
) => ExpiryVerdict | Promise<ExpiryVerdict>;

/**
 * Judges all partitions of which something expired in what was read.
 * @param otherwise decides when what was read has no event of it, or only one that tells it again, or what was found does not fit
 */
export const judgePartitions = async (
  pass: JournalPass,
  rules: ExpiryRules,
  otherwise: JudgeOtherwise,
): Promise<JournalFault | string[]> => {
  const unproven: string[] = [];
  const faults: JournalFault[] = [];
  for (const [partition, seen] of pass.partitions) {
    // An entry that is still there needs no excuse.
    if (seen.missing === undefined) continue;
    const told = pass.expiries.get(partition);
    const own = told === undefined ? undefined : judgeExpiry(partition, seen.places, told.event, rules);
    const isProven = told?.isRetold === false && own === undefined;
    const verdict = isProven ? 'good' : await otherwise(partition, seen, own, told);
    if (verdict === 'unproven') unproven.push(partition);
    else if (verdict !== 'good') faults.push(verdict);
  }
  return faults.toSorted((a, b) => a.at - b.at)[0] ?? unproven;
};

/** How to verify, wherever the places come from. */
export interface PlacesRules extends ExpiryRules {
  /** Of the journal, also those that it had before. */
  readonly keys: readonly CheckpointKey[];
  /** Signed notes that are held outside the store: beside it, or by a client. */
  readonly anchors?: readonly string[];
  /** Unset: timestamps of checkpoints are not looked at. */
  readonly verifyToken?: TokenVerifier | undefined;
  /** Told after each page how many places were read, and how many there are. */
  readonly onProgress?: (count: number, total: number) => void;
}

export interface VerifyPlacesOptions extends PlacesRules {
  /** What is before the first place. @defaultValue nothing: the journal begins there */
  readonly start?: PassStart;
  /** Sequence number behind the last place, where it is known. */
  readonly to?: number;
}

/**
 * Without a store: from the first entry on everything that an event tells of is there, otherwise some of it may have come before. An
 * event that is told again is taken as the writer told it, because nothing here leads to the place that it had first.
 */
export const judgeAlone =
  (from: number): JudgeOtherwise =>
  (_partition, seen, found, told) => {
    if (found === undefined) return told === undefined ? 'unproven' : 'good';
    return from > 0 ? 'unproven' : expiryVerdict(seen, found);
  };

/**
 * Verifies consecutive places, wherever they come from. Without a store, expired places are judged only by events among the places.
 */
export const verifyPlaces = async (places: AsyncIterable<StoredPlace>, options: VerifyPlacesOptions): Promise<JournalVerdict> => {
  const { start = journalStart(), to, keys, verifyToken, onProgress } = options;
  const held = readAnchors(options.anchors ?? [], keys);
  if (held.kind === 'fault') return held;
  const from = start.tree.size;
  const pass = new JournalPass(start, { keys, verifyToken, anchors: held.anchors });
  const found = await runPass(pass, inPages(places), () => onProgress?.(pass.head.size - from, (to ?? pass.head.size) - from));
  if (found !== undefined) return found;
  const { size } = pass.head;
  if (to !== undefined && size < to) return faultAt('missing', size, `there are no entries from ${size} to ${to - 1}`);
  const expiry = await judgePartitions(pass, options, judgeAlone(from));
  if (!Array.isArray(expiry)) return expiry;
  return judgeEnd(size, held.anchors) ?? validOf(pass, from, expiry);
};
