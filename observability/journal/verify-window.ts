/**
 * The Merkle tree of the entries of one pass. A checkpoint stands behind what it covers, by as many entries as came while it was
 * signed and stamped: so the tree is kept back, with the hashes of the last entries, and its root can be asked for any size among them.
 */
import { hashOctets } from './event-encoding.ts';
import { MerkleTree } from './merkle.ts';

/** Hashes in one piece: 2 MiB. */
const entriesPerPiece = 65_536;
/** At 20,000 entries a second 52 s, much longer than signer and TSU may take for a checkpoint; 34 MB. */
const piecesMax = 17;

/** The tree at the begin of a piece. */
interface Piece {
  readonly begin: number;
  readonly hashes: Buffer;
  /** undefined: the tree has not come so far. */
  tree: MerkleTree | undefined;
}

const copyOf = (tree: MerkleTree): MerkleTree => MerkleTree.resume(tree.size, tree.subtrees);

export class TreeWindow {
  readonly #pieceEntries: number;
  readonly #pieces: Piece[];
  /** Follows what is asked for. */
  #tree: MerkleTree;
  #size: number;

  /**
   * @param tree of what is before the pass
   * @param pieceEntries sizes go back to 16 times so many
   */
  constructor(tree: MerkleTree, pieceEntries = entriesPerPiece) {
    this.#pieceEntries = pieceEntries;
    this.#tree = copyOf(tree);
    this.#size = tree.size;
    this.#pieces = [{ begin: tree.size, hashes: Buffer.allocUnsafe(pieceEntries * hashOctets), tree: copyOf(tree) }];
  }

  /** Entries so far, with those before the pass. */
  get size(): number {
    return this.#size;
  }

  /** @param hash of the next entry */
  push(hash: Buffer): void {
    let last = this.#pieces.at(-1) as Piece;
    if (this.#size - last.begin === this.#pieceEntries) last = this.#addPiece();
    hash.copy(last.hashes, (this.#size - last.begin) * hashOctets);
    this.#size += 1;
  }

  /** Root of the tree of that size; undefined when it is too far back, or ahead. */
  rootAt(size: number): Uint8Array | undefined {
    if (size > this.#size) return undefined;
    if (size < this.#tree.size) {
      const piece = this.#pieces.findLast(({ begin, tree }) => begin <= size && tree !== undefined);
      if (piece?.tree === undefined) return undefined;
      this.#tree = copyOf(piece.tree);
    }
    this.#growTo(size);
    return this.#tree.root();
  }

  #addPiece(): Piece {
    const oldest = this.#pieces.length < piecesMax ? undefined : this.#dropOldest();
    const hashes = oldest?.hashes ?? Buffer.allocUnsafe(this.#pieceEntries * hashOctets);
    const piece: Piece = { begin: this.#size, hashes, tree: undefined };
    this.#pieces.push(piece);
    return piece;
  }

  #dropOldest(): Piece {
    const [oldest, next] = this.#pieces as [Piece, Piece];
    // The tree must not stay behind what is left.
    if (this.#tree.size < next.begin) {
      if (next.tree === undefined) this.#growTo(next.begin);
      else this.#tree = copyOf(next.tree);
    }
    this.#pieces.shift();
    return oldest;
  }

  #growTo(size: number): void {
    const tree = this.#tree;
    for (const piece of this.#pieces) {
      const { begin, hashes } = piece;
      const end = Math.min(size, begin + this.#pieceEntries);
      // Trees keep the hashes they are given, and the piece is used again: so each gets its own.
      while (tree.size < end) {
        if (tree.size === begin) piece.tree ??= copyOf(tree);
        const at = (tree.size - begin) * hashOctets;
        tree.append(Buffer.from(hashes.subarray(at, at + hashOctets)));
      }
      if (tree.size === size) return;
    }
  }
}
