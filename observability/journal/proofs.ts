/**
 * Proofs from the stored tree (RFC 6962, sections 2.1.1 and 2.1.2). They prove to whoever holds a signed checkpoint, and need no
 * trust in the store: a proof made of changed rows does not verify.
 */
import { hashOctets } from './event-encoding.ts';
import { proveConsistency, proveInclusion, type SubtreeHash } from './merkle.ts';
import type { JournalReader } from './reader.ts';
import { type SubtreePlace, subtreeHashes } from './tree-store.ts';

const anyHash = new Uint8Array(hashOctets);

/** Runs a proof twice: once to learn which subtrees it asks for, then with them. */
const proveWith = async (reader: JournalReader, more: readonly SubtreePlace[], prove: (subtree: SubtreeHash) => Uint8Array[]) => {
  const wanted: SubtreePlace[] = [...more];
  prove((level, index) => {
    wanted.push({ level, index });
    return anyHash;
  });
  const subtree = await subtreeHashes(reader.client, wanted);
  return { subtree, path: prove(subtree) };
};

/**
 * Proof that an entry, also one that expired, is in the tree of that size.
 *
 * @param index sequence number, below `size`
 * @param size at most the number of stored entries
 * @returns hash of the entry, and the hashes from it up
 * @throws RangeError when there is no such leaf; JOURNAL_STORE_UNAVAILABLE; JOURNAL_MALFORMED when an entry is missing
 */
export const inclusionProof = async (
  reader: JournalReader,
  index: number,
  size: number,
): Promise<{ leaf: Uint8Array; path: Uint8Array[] }> => {
  const { subtree, path } = await proveWith(reader, [{ level: 0, index }], (hashes) => proveInclusion(index, size, hashes));
  return { leaf: subtree(0, index), path };
};

/**
 * Proof that the tree of size `to` continues the tree of size `from`.
 *
 * @param from 1 to `to`
 * @param to at most the number of stored entries
 * @throws RangeError when the sizes do not fit; JOURNAL_STORE_UNAVAILABLE; JOURNAL_MALFORMED when an entry is missing
 */
export const consistencyProof = async (reader: JournalReader, from: number, to: number): Promise<Uint8Array[]> =>
  (await proveWith(reader, [], (hashes) => proveConsistency(from, to, hashes))).path;
