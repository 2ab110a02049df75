/**
 * The Merkle tree of the journal (RFC 6962, section 2.1): the root for a checkpoint, and the proofs that an entry is in a tree
 * and that one tree continues another. Leaves are the hashes of events (event-encoding.ts).
 *
 * Sizes go up to 2^53, so arithmetic is on numbers, never on 32-bit integers; every loop and recursion ends after 53 levels.
 */
import { sha256 } from '../../pki/digest.ts';
import { hashOctets } from './event-encoding.ts';

/** Hash of the perfect subtree of 2^level leaves that starts at leaf index * 2^level. */
export type SubtreeHash = (level: number, index: number) => Uint8Array;

/** The prefix of a node, and room for its children: cheaper than a new buffer for each node. */
const node = Buffer.alloc(1 + 2 * hashOctets, 0x01);
const nodeHash = (left: Uint8Array, right: Uint8Array): Buffer => {
  node.set(left, 1);
  node.set(right, 1 + hashOctets);
  return sha256(node);
};
const emptyRoot = sha256(Buffer.alloc(0));

/** The largest power of two below n; n is at least 2. */
const splitOf = (n: number): number => {
  let k = 1;
  while (2 * k < n) k *= 2;
  return k;
};

/** The perfect subtrees that a tree of that size is made of, from left to right, each smaller than the one before. */
export const subtreesOf = (size: number): { readonly level: number; readonly index: number }[] => {
  const places: { level: number; index: number }[] = [];
  let begin = 0;
  for (let level = 52; level >= 0; level -= 1) {
    if (size - begin < 2 ** level) continue;
    places.push({ level, index: begin / 2 ** level });
    begin += 2 ** level;
  }
  return places;
};

/** Grows a tree leaf by leaf, and knows its root; keeps one hash for each bit of its size. */
export class MerkleTree {
  /** Perfect subtrees from left to right, each smaller than the one before. */
  readonly #subtrees: { readonly level: number; readonly hash: Uint8Array }[] = [];
  #size = 0;

  /** Continues a tree from what `subtrees` gave for it. */
  static resume(size: number, hashes: readonly Uint8Array[]): MerkleTree {
    const tree = new MerkleTree();
    for (const { level } of subtreesOf(size)) {
      const hash = hashes[tree.#subtrees.length];
      if (hash?.length !== hashOctets) throw new RangeError(`a tree of ${size} leaves needs other subtrees`);
      tree.#subtrees.push({ level, hash });
    }
    if (tree.#subtrees.length !== hashes.length) throw new RangeError(`a tree of ${size} leaves needs other subtrees`);
    tree.#size = size;
    return tree;
  }

  get size(): number {
    return this.#size;
  }

  /** Hashes of the perfect subtrees, the largest first: all that is needed to go on later. */
  get subtrees(): readonly Uint8Array[] {
    return this.#subtrees.map(({ hash }) => hash);
  }

  /** @param completed is told each perfect subtree above the leaves that this leaf completes, the smallest first */
  append(leaf: Uint8Array, completed?: (level: number, index: number, hash: Uint8Array) => void): void {
    let hash = leaf;
    let level = 0;
    this.#size += 1;
    for (let last = this.#subtrees.at(-1); last?.level === level; last = this.#subtrees.at(-1)) {
      this.#subtrees.pop();
      hash = nodeHash(last.hash, hash);
      level += 1;
      completed?.(level, this.#size / 2 ** level - 1, hash);
    }
    this.#subtrees.push({ level, hash });
  }

  root(): Uint8Array {
    const hashes = this.subtrees.toReversed();
    const [smallest, ...larger] = hashes;
    return smallest === undefined ? emptyRoot : larger.reduce((right, left) => nodeHash(left, right), smallest);
  }
}

/** Root of the leaves from `begin` to `end`, both multiples of the subtree that `begin` starts. */
const rangeHash = (begin: number, end: number, subtree: SubtreeHash): Uint8Array => {
  const n = end - begin;
  const level = Math.round(Math.log2(n));
  if (2 ** level === n) return subtree(level, begin / n);
  const middle = begin + splitOf(n);
  return nodeHash(rangeHash(begin, middle, subtree), rangeHash(middle, end, subtree));
};

/**
 * Proof that the leaf is in the tree of that size (RFC 6962, section 2.1.1): hashes from the leaf up.
 * @param index from 0, below size
 */
export const proveInclusion = (index: number, size: number, subtree: SubtreeHash): Uint8Array[] => {
  if (!(index >= 0 && index < size)) throw new RangeError(`no leaf ${index} in a tree of ${size}`);
  const proof: Uint8Array[] = [];
  let begin = 0;
  let end = size;
  while (end - begin > 1) {
    const middle = begin + splitOf(end - begin);
    if (index < middle) {
      proof.push(rangeHash(middle, end, subtree));
      end = middle;
    } else {
      proof.push(rangeHash(begin, middle, subtree));
      begin = middle;
    }
  }
  return proof.toReversed();
};

/** Proof that the tree of size `to` continues the tree of size `from` (RFC 6962, section 2.1.2). @param from 1 to `to` */
export const proveConsistency = (from: number, to: number, subtree: SubtreeHash): Uint8Array[] => {
  if (!(from >= 1 && from <= to)) throw new RangeError(`a tree of ${to} does not continue one of ${from}`);
  const proof: Uint8Array[] = [];
  let begin = 0;
  let end = to;
  while (end !== from) {
    const middle = begin + splitOf(end - begin);
    if (from <= middle) {
      proof.push(rangeHash(middle, end, subtree));
      end = middle;
    } else {
      proof.push(rangeHash(begin, middle, subtree));
      begin = middle;
    }
  }
  // The old tree as a whole is a subtree of the new one: who asks knows its root.
  if (begin > 0) proof.push(rangeHash(begin, end, subtree));
  return proof.toReversed();
};

const isEven = (n: number): boolean => n % 2 === 0;
const half = (n: number): number => Math.floor(n / 2);
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** Whether the proof leads from the leaf to the root (RFC 9162, section 2.1.3.2). */
export const verifyInclusion = (
  leaf: Uint8Array,
  place: { readonly index: number; readonly size: number },
  proof: readonly Uint8Array[],
  root: Uint8Array,
): boolean => {
  const { index, size } = place;
  if (!(index >= 0 && index < size) || proof.some(({ length }) => length !== hashOctets)) return false;
  let node = index;
  let last = size - 1;
  let hash = leaf;
  for (const sibling of proof) {
    if (last === 0) return false;
    if (!isEven(node) || node === last) {
      hash = nodeHash(sibling, hash);
      while (isEven(node) && node !== 0) {
        node = half(node);
        last = half(last);
      }
    } else hash = nodeHash(hash, sibling);
    node = half(node);
    last = half(last);
  }
  return last === 0 && same(hash, root);
};

/** Whether the proof shows that the tree `to` continues the tree `from` (RFC 9162, section 2.1.4.2). */
export const verifyConsistency = (
  from: { readonly size: number; readonly root: Uint8Array },
  to: { readonly size: number; readonly root: Uint8Array },
  proof: readonly Uint8Array[],
): boolean => {
  if (!(from.size >= 1 && from.size <= to.size) || proof.some(({ length }) => length !== hashOctets)) return false;
  if (from.size === to.size) return proof.length === 0 && same(from.root, to.root);
  let node = from.size - 1;
  let last = to.size - 1;
  while (!isEven(node)) {
    node = half(node);
    last = half(last);
  }
  // Only when the old tree is a whole subtree is its root not in the proof.
  const path = node === 0 ? [from.root, ...proof] : proof;
  const [first, ...rest] = path;
  if (first === undefined) return false;
  let oldHash = first;
  let newHash = first;
  for (const sibling of rest) {
    if (last === 0) return false;
    if (!isEven(node) || node === last) {
      oldHash = nodeHash(sibling, oldHash);
      newHash = nodeHash(sibling, newHash);
      while (isEven(node) && node !== 0) {
        node = half(node);
        last = half(last);
      }
    } else newHash = nodeHash(newHash, sibling);
    node = half(node);
    last = half(last);
  }
  return last === 0 && same(oldHash, from.root) && same(newHash, to.root);
};
