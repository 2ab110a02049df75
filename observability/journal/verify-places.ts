/**
 * One pass over consecutive places of the journal: chain, tree, checkpoints. It needs no store: places in, a verdict out.
 *
 * What it guarantees: every entry up to `anchored` is what it was when a checkpoint that covers it was signed. Entries behind
 * that are chained, and somebody who can write to the store could have made them anew.
 */

import { SigilloError } from '../../config/errors.ts';
import type { ChainHead } from './chain.ts';
import { type Checkpoint, type CheckpointKey, verifyCheckpoint } from './checkpoint.ts';
import { checkpointOf } from './checkpoint-events.ts';
import { scanEntry } from './entry-scan.ts';
import { decodeEvent, hashEvent, hashOctets } from './event-encoding.ts';
import { MerkleTree } from './merkle.ts';
import type { StoredPlace } from './reader.ts';
import { retoldEntry } from './told-events.ts';
import { ExpiredPlaces, type ExpiryEvent } from './verify-expiry.ts';
import type { TokenVerifier } from './verify-token.ts';
import { TreeWindow } from './verify-window.ts';

/** Everything that can be wrong with a journal. */
export const journalFaults = [
  /** An entry is not what the format says. */
  'malformed',
  /** An entry is not there. */
  'missing',
  /** A place is there twice. */
  'repeated',
  /** An entry stands at another place. */
  'reordered',
  /** An entry was changed: the next was made behind another. */
  'altered',
  /** Entries were changed, and the chain made anew behind them: a signed root says so. */
  'rewritten',
  /** Entries are missing at the end: a checkpoint covers more than there is. */
  'truncated',
  /** The event of a checkpoint does not say what its note says. */
  'checkpoint-malformed',
  /** The key of the journal has not signed this checkpoint. */
  'checkpoint-signature',
  /** The timestamp of a checkpoint is not valid. */
  'checkpoint-timestamp',
  /** The key of the journal has not signed a checkpoint that is held elsewhere. */
  'anchor-signature',
  /** What is stored of the tree before the range does not lead to a checkpoint: verify from 0. */
  'tree',
  /** Entries are said to be expired, and no event says that they went. */
  'expiry-unexplained',
  /** What stays of expired entries is not what the event says. */
  'expiry-altered',
  /** Entries went before their time. */
  'expiry-early',
  /** A bundle is damaged, or none. */
  'bundle',
] as const;
export type FaultName = (typeof journalFaults)[number];

export interface JournalFault {
  readonly kind: 'fault';
  readonly fault: FaultName;
  /** Sequence number of the first entry that is not what it was; when only a range is known, the first of the range. */
  readonly at: number;
  /** Behind the range in which the first such entry lies; `at + 1` when it is known exactly. */
  readonly until: number;
  readonly why: string;
}

export const faultAt = (fault: FaultName, at: number, why: string, until = at + 1): JournalFault => ({
  kind: 'fault',
  fault,
  at,
  until,
  why,
});

export interface PassOptions {
  /** Of the journal, also those that it had before; a checkpoint counts when one of them has signed it. */
  readonly keys: readonly CheckpointKey[];
  /** Unset: timestamps of checkpoints are not looked at. */
  readonly verifyToken?: TokenVerifier | undefined;
  /** Checkpoints that are verified already. */
  readonly anchors?: readonly Checkpoint[];
}

/** Where a pass begins. */
export interface PassStart {
  /** Of the entries before. */
  readonly tree: MerkleTree;
  /** Hash of the entry before; undefined: not known, the first entry is followed from its own `previous`. */
  readonly hash: Uint8Array | undefined;
}

export const journalStart = (): PassStart => ({ tree: new MerkleTree(), hash: new Uint8Array(hashOctets) });

/** What a pass has counted so far. */
export interface PassCount {
  readonly entries: number;
  /** Places of which only the hash is left. */
  readonly expired: number;
  /** Checkpoints that verified. */
  readonly checkpoints: number;
  /** Of these, those with a timestamp that verified. */
  readonly timestamped: number;
  /** genTime of the last of them. */
  readonly lastTimestamp: Date | undefined;
  /** Of the checkpoints, those whose root could not be compared, because they stand too far behind what they cover. */
  readonly uncompared: number;
  /** Entries that a verified root covers, counted from the first of the journal. */
  readonly anchored: number;
}

/** An expiry as the pass saw it told. */
export interface SeenExpiry {
  readonly event: ExpiryEvent;
  /** Of that event. */
  readonly octets: Buffer;
  /** Only told again by another entry: that it is what was told first is to be proven. */
  readonly isRetold: boolean;
}

/** What the pass saw of a partition that expired. */
export interface SeenPartition {
  readonly places: ExpiredPlaces;
  /** First place that has no entry; undefined: all have. */
  missing: number | undefined;
}

/** Verifies a note by any of the keys. */
export const verifyByAny = (note: string, keys: readonly CheckpointKey[]): ReturnType<typeof verifyCheckpoint> => {
  let why = 'no key is given';
  for (const key of keys) {
    const verdict = verifyCheckpoint(note, key);
    if (verdict.kind === 'valid') return verdict;
    why = verdict.why;
  }
  return { kind: 'invalid', why };
};

const sameOctets = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

export class JournalPass {
  readonly #options: PassOptions;
  readonly #window: TreeWindow;
  readonly #from: number;
  readonly #anchors: Checkpoint[];
  #size: number;
  #hash: Uint8Array | undefined;
  /** The last place was an entry. */
  #wasEntry = false;
  #nextAnchor: number;
  readonly #count = { entries: 0, expired: 0, checkpoints: 0, timestamped: 0, uncompared: 0, anchored: 0 };
  #lastTimestamp: Date | undefined;
  /** By name. */
  readonly partitions = new Map<string, SeenPartition>();
  /** The last for each partition. */
  readonly expiries = new Map<string, SeenExpiry>();

  constructor(start: PassStart, options: PassOptions) {
    const { tree, hash } = start;
    this.#options = options;
    this.#window = new TreeWindow(tree);
    this.#from = tree.size;
    this.#size = tree.size;
    this.#hash = hash;
    this.#anchors = (options.anchors ?? []).filter(({ size }) => size > tree.size).toSorted((a, b) => a.size - b.size);
    this.#nextAnchor = this.#anchors[0]?.size ?? Number.POSITIVE_INFINITY;
  }

  /** Behind the last place. */
  get head(): ChainHead {
    return { size: this.#size, hash: this.#hash ?? new Uint8Array(hashOctets) };
  }

  get count(): PassCount {
    return { ...this.#count, lastTimestamp: this.#lastTimestamp };
  }

  /** Root of the tree up to here. */
  root(): Uint8Array {
    return this.#window.rootAt(this.#size) as Uint8Array;
  }

  /** Tells the pass that the root up to here was verified otherwise. */
  noteAnchored(): void {
    this.#count.anchored = this.#size;
  }

  /** Takes the next place. @returns what is wrong with it, by what is known so far: see `nameFault` */
  next(place: StoredPlace): JournalFault | undefined {
    const found = place.kind === 'entry' ? this.#entry(place.octets) : this.#expired(place);
    if (found !== undefined) return found;
    return this.#size === this.#nextAnchor ? this.#reachAnchor() : undefined;
  }

  #entry(octets: Buffer): JournalFault | undefined {
    const size = this.#size;
    let scanned: ReturnType<typeof scanEntry>;
    try {
      scanned = scanEntry(octets);
    } catch (error) {
      if (!(error instanceof SigilloError)) throw error;
      return faultAt('malformed', size, error.message);
    }
    const { sequence, kind, previousAt } = scanned;
    if (sequence !== size) return this.#misplaced(sequence);
    if (this.#hash !== undefined && octets.compare(this.#hash, 0, hashOctets, previousAt) !== 0) {
      if (size === 0) return faultAt('altered', 0, 'entry 0 says that there was one before it');
      return faultAt('altered', size - 1, `entry ${size} was made behind another entry ${size - 1}`, size + 1);
    }
    const hash = hashEvent(octets);
    this.#follow(hash);
    this.#wasEntry = true;
    this.#count.entries += 1;
    if (kind === 'journal.checkpoint') return this.#checkpoint(octets);
    return kind === 'journal.expired' || kind === 'journal.retold' ? this.#noteExpiry(octets) : undefined;
  }

  #misplaced(sequence: number): JournalFault {
    const size = this.#size;
    return sequence > size
      ? faultAt('missing', size, `entry ${sequence} stands where ${size} belongs`)
      : faultAt('repeated', sequence, `entry ${sequence} stands where ${size} belongs`);
  }

  #expired({ sequence, hash, partition }: StoredPlace & { kind: 'expired' }): JournalFault | undefined {
    const size = this.#size;
    if (hash.length !== hashOctets) return faultAt('malformed', size, `what stays of entry ${sequence} is no hash`);
    // While a partition goes, for a moment both are there.
    const isShadow = this.#wasEntry && sequence === size - 1 && sameOctets(hash, this.#hash as Uint8Array);
    if (sequence !== size && !isShadow) return this.#misplaced(sequence);
    const seen = this.partitions.get(partition) ?? { places: new ExpiredPlaces(), missing: undefined };
    this.partitions.set(partition, seen);
    seen.places.add(sequence, hash);
    if (isShadow) return undefined;
    seen.missing ??= sequence;
    this.#follow(hash);
    this.#wasEntry = false;
    this.#count.expired += 1;
    return undefined;
  }

  #follow(hash: Buffer): void {
    this.#window.push(hash);
    this.#hash = hash;
    this.#size += 1;
  }

  #noteExpiry(octets: Buffer): JournalFault | undefined {
    const teller = decodeEvent(octets);
    // A copy: the octets are a part of a whole page.
    const told = retoldEntry(teller) ?? { event: teller, octets: Buffer.from(octets) };
    const { event } = told;
    if (event.kind !== 'journal.expired') return undefined;
    const known = this.expiries.get(event.subject);
    if (known === undefined || known.event.sequence < event.sequence) {
      this.expiries.set(event.subject, { event, octets: told.octets, isRetold: event !== teller });
      return undefined;
    }
    if (known.event.sequence > event.sequence || sameOctets(known.octets, told.octets)) return undefined;
    return faultAt('expiry-altered', teller.sequence, `entry ${teller.sequence} tells entry ${event.sequence} otherwise than it was`);
  }

  #checkpoint(octets: Buffer): JournalFault | undefined {
    const event = decodeEvent(octets);
    const at = event.sequence;
    let stored: ReturnType<typeof checkpointOf>;
    try {
      stored = checkpointOf(event);
    } catch (error) {
      if (!(error instanceof SigilloError)) throw error;
      return faultAt('checkpoint-malformed', at, error.message);
    }
    const { note, token, size } = stored;
    const verdict = verifyByAny(note, this.#options.keys);
    if (verdict.kind === 'invalid') return faultAt('checkpoint-signature', at, `the checkpoint in entry ${at}: ${verdict.why}`);
    const { checkpoint } = verdict;
    if (checkpoint.size !== size) return faultAt('checkpoint-malformed', at, `entry ${at} holds a checkpoint of size ${checkpoint.size}`);
    return this.#compare(checkpoint, `the checkpoint in entry ${at}`) ?? this.#timestamp(at, note, token);
  }

  #timestamp(at: number, note: string, token: Uint8Array | undefined): JournalFault | undefined {
    this.#count.checkpoints += 1;
    if (token === undefined || this.#options.verifyToken === undefined) return undefined;
    const verdict = this.#options.verifyToken(token, Buffer.from(note));
    if (verdict.kind === 'invalid') {
      return faultAt('checkpoint-timestamp', at, `the timestamp of the checkpoint in entry ${at}: ${verdict.why}`);
    }
    this.#count.timestamped += 1;
    this.#lastTimestamp = verdict.genTime;
    return undefined;
  }

  #reachAnchor(): JournalFault | undefined {
    const size = this.#size;
    while (this.#anchors[0]?.size === size) {
      const found = this.#compare(this.#anchors.shift() as Checkpoint, `a checkpoint of size ${size}`);
      if (found !== undefined) return found;
    }
    this.#nextAnchor = this.#anchors[0]?.size ?? Number.POSITIVE_INFINITY;
    return undefined;
  }

  #compare({ size, root }: Checkpoint, what: string): JournalFault | undefined {
    const own = this.#window.rootAt(size);
    if (own === undefined) {
      // Of what is before the pass nothing can be said; what is only far behind is covered by the next checkpoint.
      this.#count.uncompared += 1;
      return undefined;
    }
    const { anchored } = this.#count;
    if (sameOctets(own, root)) {
      this.#count.anchored = Math.max(anchored, size);
      return undefined;
    }
    const begin = Math.max(this.#from, anchored < size ? anchored : 0);
    return faultAt('rewritten', begin, `entries ${begin} to ${size - 1} are not those that ${what} was signed over`, size);
  }
}

/** Number that a place claims; undefined when there is none. */
const sequenceOf = (place: StoredPlace | undefined): number | undefined => {
  if (place === undefined || place.kind === 'expired') return place?.sequence;
  try {
    return scanEntry(place.octets).sequence;
  } catch {
    return undefined; // the fault that was found first is the one that is told
  }
};

/** Of a place with another number than belongs there. */
const nameMisplaced = (fault: JournalFault, size: number, claimed: number | undefined, following: readonly StoredPlace[]): JournalFault => {
  const belongs = following.findIndex((one) => sequenceOf(one) === size);
  if (belongs === -1 && sequenceOf(following[0]) === size + 1)
    return faultAt('altered', size, `entry ${size} says that it is entry ${claimed}`);
  return fault.fault === 'missing' && belongs !== -1 ? faultAt('reordered', size, `entry ${size} stands behind entry ${claimed}`) : fault;
};

/**
 * Names a fault by what stands behind it: an entry that is missing at its place may come later, and whether an entry or the one
 * before it was changed is known by the next.
 *
 * @param place at which the fault was found
 * @param size number that belongs there
 * @param following places behind it
 */
export const nameFault = (fault: JournalFault, place: StoredPlace, size: number, following: readonly StoredPlace[]): JournalFault => {
  const own = sequenceOf(place);
  if (fault.fault === 'missing' || fault.fault === 'repeated') return nameMisplaced(fault, size, own, following);
  if (fault.fault !== 'altered' || fault.at === size || place.kind === 'expired') return fault;
  const [next] = following;
  if (sequenceOf(next) === size) return faultAt('repeated', size, `entry ${size} is there twice`);
  if (next?.kind !== 'entry' || sequenceOf(next) !== size + 1) return fault;
  const { previousAt } = scanEntry(next.octets);
  const isGenuine = next.octets.compare(hashEvent(place.octets), 0, hashOctets, previousAt) === 0;
  // The next entry was made behind this one as it is: so it is the one before that was changed.
  return isGenuine ? { ...fault, until: size } : fault;
};
