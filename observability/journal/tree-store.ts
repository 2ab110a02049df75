/**
 * The Merkle tree of the journal in ClickHouse: perfect subtrees at levels 8, 16, 24 and so on, one hash for 256 of the level below.
 * So a proof over a thousand million entries reads a few thousand hashes, and a writer that starts reads 256 entries.
 *
 * What the table says is believed by nobody: a root that comes of it is compared with a signed checkpoint. It can be made again
 * from the entries, and a row that is written twice is the same row (ReplacingMergeTree).
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import type { Checkpoint } from './checkpoint.ts';
import { asking, octetRows } from './clickhouse.ts';
import { hashEvent, hashOctets } from './event-encoding.ts';
import { MerkleTree, type SubtreeHash, subtreesOf } from './merkle.ts';
import type { JournalReader } from './reader.ts';

/** One stored hash stands for so many levels. */
const levelsPerStep = 8;
const nodesPerStep = 2 ** levelsPerStep;
/** Subtrees collected between two inserts while the table is brought up to date: 10 million entries, 4 MB of JSON. */
const pendingMax = 40_000;
/**
 * Nodes that one fetch may come down to at one level. A proof needs about 1,000; when the table is behind, each missing one
 * costs 256 of the level below.
 */
const nodesMax = 65_536;

/** A perfect subtree, as SubtreeHash names it. */
export interface SubtreePlace {
  readonly level: number;
  readonly index: number;
}

interface TreeRow {
  readonly level: number;
  readonly number: number;
  readonly hashBase64: string;
}

/** Keeps the table: it is told the hashes of entries in their order, once they are stored. */
export class TreeRecorder {
  /** Of its own: the tree of a writer is ahead of what is stored. */
  readonly #tree: MerkleTree;
  readonly #client: ClickHouseClient;
  #pending: TreeRow[] = [];

  /** @param tree nobody else appends to it; what it has completed before is in the table */
  constructor(client: ClickHouseClient, tree: MerkleTree = new MerkleTree()) {
    this.#client = client;
    this.#tree = tree;
  }

  /** Entries that it was told, which is the number of the next. */
  get size(): number {
    return this.#tree.size;
  }

  /** A tree of the same size, which grows on its own. */
  tree(): MerkleTree {
    return MerkleTree.resume(this.#tree.size, this.#tree.subtrees);
  }

  /** Subtrees that are not in the table yet. */
  get pending(): number {
    return this.#pending.length;
  }

  /** @param leaf hash of the next entry */
  append(leaf: Uint8Array): void {
    this.#tree.append(leaf, this.#collect);
  }

  readonly #collect = (level: number, number: number, hash: Uint8Array): void => {
    if (level % levelsPerStep === 0) this.#pending.push({ level, number, hashBase64: Buffer.from(hash).toString('base64') });
  };

  /** Stores what was completed. @throws JOURNAL_STORE_UNAVAILABLE; then it is tried again with the next flush */
  async flush(): Promise<void> {
    const rows = this.#pending;
    if (rows.length === 0) return;
    this.#pending = [];
    try {
      await asking('store subtrees', () =>
        this.#client.insert({ table: 'journal_tree', values: rows, columns: ['level', 'number', 'hashBase64'], format: 'JSONEachRow' }),
      );
    } catch (error) {
      this.#pending = [...rows, ...this.#pending];
      throw error;
    }
  }
}

/** Consecutive numbers as ranges, so that a question stays short. */
const rangesOf = (numbers: Iterable<number>): { from: number; to: number }[] => {
  const ranges: { from: number; to: number }[] = [];
  for (const number of [...numbers].toSorted((a, b) => a - b)) {
    const last = ranges.at(-1);
    if (last?.to === number) last.to += 1;
    else ranges.push({ from: number, to: number + 1 });
  }
  return ranges;
};
const within = (column: string, numbers: Iterable<number>): string =>
  `(${rangesOf(numbers)
    .map(({ from, to }) => `${column} >= ${from} AND ${column} < ${to}`)
    .join(' OR ')})`;

/** Hashes at one level that is stored. */
const storedNodes = async (client: ClickHouseClient, level: number, numbers: ReadonlySet<number>): Promise<Map<number, Uint8Array>> => {
  const question = {
    what: 'read subtrees',
    query: `SELECT toString(number), hash FROM journal_tree FINAL WHERE level = ${level} AND ${within('number', numbers)}`,
  };
  const rows = (await octetRows(client, question, 2)) as [Buffer, Buffer][];
  return new Map(rows.filter(([, hash]) => hash.length === hashOctets).map(([number, hash]) => [Number(number.toString()), hash]));
};

/** Leaf hashes: of entries that are there, and what stays of those that expired. */
const storedLeaves = async (client: ClickHouseClient, numbers: ReadonlySet<number>): Promise<Map<number, Uint8Array>> => {
  const where = `WHERE ${within('sequence', numbers)}`;
  const entries = { what: 'read entries', query: `SELECT toString(sequence), octets FROM journal_events ${where}` };
  const expired = {
    what: 'read what stays of expired entries',
    query: `SELECT toString(sequence), hash FROM journal_expired FINAL ${where}`,
  };
  const [there, gone] = (await Promise.all([octetRows(client, entries, 2), octetRows(client, expired, 2)])) as [Buffer, Buffer][][];
  const leaves = new Map<number, Uint8Array>();
  for (const [sequence, hash] of gone as [Buffer, Buffer][]) if (hash.length === hashOctets) leaves.set(Number(sequence.toString()), hash);
  for (const [sequence, octets] of there as [Buffer, Buffer][]) leaves.set(Number(sequence.toString()), hashEvent(octets));
  return leaves;
};

/** The stored level at or below. */
const baseOf = (level: number): number => level - (level % levelsPerStep);

const nodeKey = (level: number, index: number): string => `${level}/${index}`;

/**
 * Fetches what subtrees are made of, level by level from the top: nodes that the table has, and for one that it has not, its 256
 * children; at the bottom entries.
 */
const fetchNodes = async (client: ClickHouseClient, wanted: readonly SubtreePlace[]): Promise<Map<string, Uint8Array>> => {
  const needed = new Map<number, Set<number>>();
  const need = (level: number, first: number, count: number): void => {
    const numbers = needed.get(level) ?? new Set<number>();
    needed.set(level, numbers);
    if (numbers.size + count > nodesMax) {
      throw new SigilloError('JOURNAL_MALFORMED', `The tree lacks subtrees at level ${level + levelsPerStep}.`);
    }
    for (let number = first; number < first + count; number += 1) numbers.add(number);
  };
  for (const { level, index } of wanted) {
    const count = 2 ** (level - baseOf(level));
    need(baseOf(level), index * count, count);
  }
  const found = new Map<string, Uint8Array>();
  for (let level = Math.max(0, ...needed.keys()); level >= 0; level -= levelsPerStep) {
    const numbers = needed.get(level);
    if (numbers === undefined) continue;
    const hashes = level === 0 ? await storedLeaves(client, numbers) : await storedNodes(client, level, numbers);
    for (const number of numbers) {
      const hash = hashes.get(number);
      if (hash !== undefined) found.set(nodeKey(level, number), hash);
      else if (level === 0) throw new SigilloError('JOURNAL_MALFORMED', `Entry ${number} is missing.`);
      else need(level - levelsPerStep, number * nodesPerStep, nodesPerStep);
    }
  }
  return found;
};

/** Root of nodes at one level, a power of two of them. */
const rootOf = (hashes: readonly Uint8Array[]): Uint8Array => {
  const tree = new MerkleTree();
  for (const hash of hashes) tree.append(hash);
  return tree.root();
};

/**
 * All subtrees that a proof asks for, in a few questions.
 *
 * @param wanted complete subtrees
 * @returns for those, and for nothing else
 * @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED when an entry is missing or the table far behind
 */
export const subtreeHashes = async (client: ClickHouseClient, wanted: readonly SubtreePlace[]): Promise<SubtreeHash> => {
  const found = await fetchNodes(client, wanted);
  const hashAt = (level: number, index: number): Uint8Array => {
    const known = found.get(nodeKey(level, index));
    if (known !== undefined) return known;
    const step = level - baseOf(level) || levelsPerStep;
    if (level === 0) throw new SigilloError('INTERNAL', `subtree ${nodeKey(level, index)} was not asked for`);
    const children = Array.from({ length: 2 ** step }, (_, i) => hashAt(level - step, index * 2 ** step + i));
    const hash = rootOf(children);
    found.set(nodeKey(level, index), hash);
    return hash;
  };
  return hashAt;
};

/** The tree of that size, by what is stored. @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_MALFORMED */
export const storedTree = async (client: ClickHouseClient, size: number): Promise<MerkleTree> => {
  const places = subtreesOf(size);
  const subtree = await subtreeHashes(client, places);
  return MerkleTree.resume(
    size,
    places.map(({ level, index }) => subtree(level, index)),
  );
};

/** How many of the first so many subtrees of a level are there before the first that is not. */
const firstGap = async (client: ClickHouseClient, level: number, subtrees: number): Promise<number> => {
  const isWhole = async (upTo: number): Promise<boolean> => {
    const question = {
      what: 'look for gaps in the tree',
      query: `SELECT toString(count()) FROM journal_tree FINAL WHERE level = ${level} AND number < ${upTo}`,
    };
    return Number((await octetRows(client, question, 1))[0]?.[0]?.toString()) === upTo;
  };
  if (await isWhole(subtrees)) return subtrees;
  let [whole, torn] = [0, subtrees];
  while (torn - whole > 1) {
    const middle = Math.floor((whole + torn) / 2);
    if (await isWhole(middle)) whole = middle;
    else torn = middle;
  }
  return whole;
};

/** Entries whose subtrees are in the table at every stored level; what is behind a gap, which no crash can leave, is made again. */
const coveredEntries = async (client: ClickHouseClient): Promise<number> => {
  const question = {
    what: 'read how far the tree is stored',
    query: `SELECT toString(count()), toString(max(number)) FROM journal_tree WHERE level = ${levelsPerStep}`,
  };
  const [count = 0, last = 0] = ((await octetRows(client, question, 2))[0] ?? []).map((text) => Number(text.toString()));
  let covered = count === 0 ? 0 : (last + 1) * nodesPerStep;
  for (let level = levelsPerStep; covered >= 2 ** level; level += levelsPerStep) {
    const subtrees = Math.floor(covered / 2 ** level);
    const whole = await firstGap(client, level, subtrees);
    if (whole < subtrees) covered = whole * 2 ** level;
  }
  return covered;
};

/** Grows the tree by stored entries. @throws JOURNAL_MALFORMED when one is missing */
const growTree = async (recorder: TreeRecorder, reader: JournalReader, size: number): Promise<void> => {
  for await (const places of reader.pages(recorder.size, size)) {
    for (const place of places) {
      const leaf = place.kind === 'entry' ? hashEvent(place.octets) : place.hash;
      if (leaf.length !== hashOctets) throw new SigilloError('JOURNAL_MALFORMED', `What stays of entry ${recorder.size} is no hash.`);
      recorder.append(leaf);
    }
    if (recorder.pending >= pendingMax) await recorder.flush();
  }
  if (recorder.size !== size) throw new SigilloError('JOURNAL_MALFORMED', `Of entries 0 to ${size} some are missing, or there twice.`);
};

/**
 * The tree of a journal of that size, with the table brought up to it; at most 256 entries are read when the last stop was clean.
 *
 * With a checkpoint the tree is held against its root before it is continued: a table that was changed is made again from the
 * entries, so that no root is signed that does not come of them.
 *
 * @param checkpoint the last that was signed, of at most that size
 * @throws JOURNAL_STORE_UNAVAILABLE; JOURNAL_MALFORMED when the entries themselves do not lead to the checkpoint
 */
export const resumeTree = async (
  reader: JournalReader,
  size: number,
  checkpoint?: Checkpoint,
): Promise<{ tree: MerkleTree; recorder: TreeRecorder }> => {
  const { client } = reader;
  const limit = Math.min(size, checkpoint?.size ?? size);
  const start = Math.min(await coveredEntries(client), limit - (limit % nodesPerStep));
  for (const begin of start === 0 ? [0] : [start, 0]) {
    const recorder = new TreeRecorder(client, await storedTree(client, begin));
    await growTree(recorder, reader, limit);
    if (checkpoint !== undefined && Buffer.compare(recorder.tree().root(), checkpoint.root) !== 0) continue;
    await growTree(recorder, reader, size);
    await recorder.flush();
    return { tree: recorder.tree(), recorder };
  }
  throw new SigilloError('JOURNAL_MALFORMED', `The entries do not lead to the checkpoint of size ${limit}.`);
};
