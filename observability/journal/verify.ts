/**
 * Verifies the journal, as it is stored or as somebody hands it over, against what nobody who can write to the store can make: the
 * signatures of the journal's key, the timestamps of its checkpoints, and checkpoints that are held elsewhere.
 *
 * It needs the store and the trust anchors, and no running service. Measured with 200,000 stamps of 931 octets in an embedded store:
 * 95,000 to 155,000 entries a second on two cores that others kept busy too, 63,000 in the worst run; this thread alone does 287,000 in
 * a second of its own.
 */
import { SigilloError } from '../../config/errors.ts';
import type { Checkpoint, CheckpointKey } from './checkpoint.ts';
import { checkpointAtLeast, checkpointAtMost, type StoredCheckpoint } from './checkpoint-events.ts';
import { hashEvent } from './event-encoding.ts';
import { verifyInclusion } from './merkle.ts';
import { inclusionProof } from './proofs.ts';
import type { JournalReader } from './reader.ts';
import { lastExpiry } from './told-events.ts';
import { storedTree } from './tree-store.ts';
import { expiredPlaces, judgeExpiry } from './verify-expiry.ts';
import { faultAt, type JournalFault, JournalPass, journalStart, type PassStart, type SeenPartition, verifyByAny } from './verify-places.ts';
import {
  type ExpiryVerdict,
  expiryVerdict,
  type JournalVerdict,
  judgeEnd,
  judgePartitions,
  type PlacesRules,
  readAnchors,
  runPass,
  validOf,
} from './verify-run.ts';

export interface VerifyOptions extends PlacesRules {
  /** First entry; the pass begins at the checkpoint before it. @defaultValue 0 */
  readonly from?: number;
  /** Behind the last; the pass ends at the checkpoint behind it. @defaultValue all that is stored */
  readonly to?: number;
  /** Sequence numbers of rows that the caller needed for `verifyToken`, and could not read (`publishedChains`). */
  readonly unreadable?: readonly number[];
}

/** Octets of a row that are no entry. */
const unreadableAt = (sequence: number): JournalFault => faultAt('malformed', sequence, `the octets of entry ${sequence} are no entry`);

/** The stored checkpoint, verified; undefined when there is none. */
const checkedCheckpoint = (stored: StoredCheckpoint | undefined, keys: readonly CheckpointKey[]): Checkpoint | JournalFault | undefined => {
  if (stored === undefined) return undefined;
  const verdict = verifyByAny(stored.note, keys);
  const at = stored.sequence;
  if (verdict.kind === 'invalid') return faultAt('checkpoint-signature', at, `the checkpoint in entry ${at}: ${verdict.why}`);
  return verdict.checkpoint.size === stored.size
    ? verdict.checkpoint
    : faultAt('checkpoint-malformed', at, `entry ${at} holds a checkpoint of size ${verdict.checkpoint.size}`);
};
const isFault = (value: object | undefined): value is JournalFault => value !== undefined && 'kind' in value;

/** What is asked for; undefined when an entry on the way is malformed, or not what its row says: then more is to be read to name it. */
const unlessMalformed = async <T>(ask: () => Promise<T>): Promise<T | undefined> => {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof SigilloError && error.code === 'JOURNAL_MALFORMED') return undefined;
    throw error;
  }
};

/** The first checkpoint that covers so many entries; a row that lies about its size is none. */
const checkpointBehind = async ({ client }: JournalReader, entries: number): Promise<StoredCheckpoint | undefined> => {
  const found = await unlessMalformed(() => checkpointAtLeast(client, entries));
  return found !== undefined && found.size >= entries ? found : undefined;
};
const checkpointBefore = async ({ client }: JournalReader, entries: number): Promise<StoredCheckpoint | undefined> => {
  const found = await unlessMalformed(() => checkpointAtMost(client, entries));
  return found !== undefined && found.size <= entries ? found : undefined;
};

/** The tree at the last checkpoint before `from`, held against its signed root. */
const startAt = async (reader: JournalReader, from: number, keys: readonly CheckpointKey[]): Promise<PassStart | JournalFault> => {
  const checkpoint = from === 0 ? undefined : checkedCheckpoint(await checkpointBefore(reader, from), keys);
  if (isFault(checkpoint)) return checkpoint;
  if (checkpoint === undefined || checkpoint.size === 0) return journalStart();
  const { size, root } = checkpoint;
  const tree = await unlessMalformed(() => storedTree(reader.client, size));
  if (tree === undefined || Buffer.compare(tree.root(), root) !== 0) {
    return faultAt('tree', 0, `what is stored before entry ${size} does not lead to its checkpoint: verify from entry 0`, size);
  }
  const before = await hashAt(reader, size - 1);
  return before === 'none' ? unreadableAt(size - 1) : { tree, hash: before };
};

/** Hash of what stands there; `none`: no entry can be so long. */
const hashAt = async (reader: JournalReader, sequence: number): Promise<Uint8Array | 'none' | undefined> => {
  for await (const place of reader.read(sequence, sequence + 1)) {
    if (place.kind === 'expired') return place.hash;
    return (await unlessMalformed(async () => hashEvent(place.octets))) ?? 'none';
  }
  return undefined;
};

/** Judges the expiry of a partition by all that is stored of it, when what was read is only a part. */
const judgeByStore = async (
  reader: JournalReader,
  pass: JournalPass,
  seen: SeenPartition,
  context: { readonly partition: string; readonly from: number; readonly options: VerifyOptions },
): Promise<ExpiryVerdict> => {
  const { partition, from, options } = context;
  const { told, unreadable } = await lastExpiry(reader.client, partition);
  if (unreadable !== undefined) return unreadableAt(unreadable);
  if (told === undefined) {
    const why = `no event says that entries of partition ${partition} expired`;
    return faultAt('expiry-unexplained', seen.missing ?? seen.places.first, why, seen.places.last + 1);
  }
  const { event, octets, tellers } = told;
  const { sequence } = event;
  const isRetold = !told.isInPlace && tellers.some((teller) => teller.kind === 'journal.retold');
  const leaf = isRetold ? await hashAt(reader, sequence) : undefined;
  if (leaf === 'none' || (leaf !== undefined && Buffer.compare(leaf, hashEvent(octets)) !== 0)) {
    const why = `entry ${tellers.at(-1)?.sequence} tells entry ${sequence} otherwise than it was`;
    return expiryVerdict(seen, { fault: 'expiry-altered', why });
  }
  // Told again, it counts by the place that it had first, which the pass knows as a hash only; one that stands elsewhere than it says
  // was not followed in the chain.
  const isRead = told.isInPlace && sequence >= from && sequence < pass.head.size;
  if (!isRead && !(await isCovered(reader, sequence, octets, options.keys))) return 'unproven';
  return expiryVerdict(seen, judgeExpiry(partition, await expiredPlaces(reader, partition), event, options));
};

/** Whether a signed checkpoint covers the entry. */
const isCovered = async (reader: JournalReader, sequence: number, octets: Buffer, keys: readonly CheckpointKey[]): Promise<boolean> => {
  const checkpoint = checkedCheckpoint(await checkpointBehind(reader, sequence + 1), keys);
  if (checkpoint === undefined || isFault(checkpoint)) return false;
  const { size, root } = checkpoint;
  const proof = await unlessMalformed(() => inclusionProof(reader, sequence, size));
  return proof !== undefined && verifyInclusion(hashEvent(octets), { index: sequence, size }, proof.path, root);
};

/** The first row, wherever it lies, that verification needed and that is no entry. */
const firstUnreadable = ({ unreadable = [] }: VerifyOptions): JournalFault | undefined =>
  unreadable.length === 0 ? undefined : unreadableAt(unreadable.reduce((first, one) => Math.min(first, one)));

/** A timestamp whose certificates may be in a row that cannot be read is no fault of its own: that row is. */
const causeOf = (found: JournalFault, unreadable: JournalFault | undefined): JournalFault =>
  found.fault === 'checkpoint-timestamp' && unreadable !== undefined && unreadable.at < found.at ? unreadable : found;

/**
 * Verifies the stored journal, or a range of it. A row outside the range that was needed, and is no entry, is a fault too.
 *
 * @returns what is wrong first, or what was verified
 * @throws JOURNAL_STORE_UNAVAILABLE
 */
export const verifyJournal = async (reader: JournalReader, options: VerifyOptions): Promise<JournalVerdict> => {
  const { keys, from = 0, to, verifyToken, onProgress } = options;
  const held = readAnchors(options.anchors ?? [], keys);
  if (held.kind === 'fault') return held;
  const stored = await reader.size();
  const asked = Math.min(to ?? stored, stored);
  // Without a checkpoint behind the range all that is stored is read.
  const behind = asked < stored ? checkedCheckpoint(await checkpointBehind(reader, asked), keys) : undefined;
  if (isFault(behind)) return behind;
  const end = Math.min(behind?.size ?? stored, stored);
  const start = await startAt(reader, Math.min(from, end), keys);
  if (isFault(start)) return start;
  const begin = start.tree.size;
  const anchors = behind === undefined ? held.anchors : [...held.anchors, behind];
  const pass = new JournalPass(start, { keys, verifyToken, anchors });
  const onPage = (): void => onProgress?.(pass.head.size - begin, end - begin);
  const found = await runPass(pass, reader.pages(begin, end), onPage);
  const unreadable = firstUnreadable(options);
  if (found !== undefined) return causeOf(found, unreadable);
  const { size } = pass.head;
  if (size < end) return faultAt('missing', size, `there are no entries from ${size} to ${end - 1}`);
  const expiry = await judgePartitions(pass, options, (partition, seen) =>
    judgeByStore(reader, pass, seen, { partition, from: begin, options }),
  );
  if (!Array.isArray(expiry)) return expiry;
  return judgeEnd(stored, anchors) ?? unreadable ?? validOf(pass, begin, expiry);
};
