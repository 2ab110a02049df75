/**
 * The spool: sealed blocks of entries on disk, in order, while the store is away.
 *
 * Guarantees: what `append` has resolved for survives a crash of the machine (file and folder are synced); a block is there as a
 * whole or not at all (written beside, then linked); blocks follow each other without gap; the folder never holds more than its
 * bound. A damaged block is told, never skipped.
 *
 * A block is a file named by its first sequence number and its count, `0000000000001234-500.block`; `spool-block.ts` has the format.
 *
 * Positions say how far each source was read when the block was sealed: who takes over after a crash knows from the last block
 * which events are in the journal already. So the last block stays when it is durable elsewhere, until another one follows it.
 */
import { randomBytes } from 'node:crypto';
import { constants, link, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { SigilloError } from '../../config/errors.ts';
import type { SourcePositions } from './origin.ts';
import { decodeBlock, encodeBlock, type SpoolContent, type SpooledEntry } from './spool-block.ts';

export interface SpoolBlock {
  /** Sequence number of the first entry. */
  readonly first: number;
  readonly count: number;
  /** Size of the file. */
  readonly octets: number;
}

const nameDigits = 16;
const namePattern = /^(\d{16})-([1-9]\d{0,9})\.block$/;
const unfinishedSuffix = '.unfinished';
/** Blocks that belong to no chain, for people to look at; names with a dot are none of the spool's. */
const strayFolder = '.stray';

const damaged = (what: string): SigilloError => new SigilloError('JOURNAL_SPOOL_DAMAGED', what);

/** Makes a rename or a removal in the folder last. */
const syncFolder = async (folder: string): Promise<void> => {
  const handle = await open(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
};

const isDiskFull = (error: unknown): boolean => ['ENOSPC', 'EDQUOT'].includes((error as NodeJS.ErrnoException).code ?? '');

export class Spool {
  readonly #folder: string;
  readonly #octetsMax: number;
  readonly #blocks: SpoolBlock[];
  #octets: number;

  private constructor(folder: string, octetsMax: number, blocks: SpoolBlock[]) {
    this.#folder = folder;
    this.#octetsMax = octetsMax;
    this.#blocks = blocks;
    this.#octets = blocks.reduce((sum, { octets }) => sum + octets, 0);
  }

  /**
   * Opens the folder, which is made when it is missing, and removes what a crash left unfinished: it was never promised.
   * @param octetsMax bound of all blocks together
   * @throws JOURNAL_SPOOL_DAMAGED when a block is missing between others, or a file is none of ours
   */
  static async open(folder: string, octetsMax: number): Promise<Spool> {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    // A disk of its own has a folder of its own, and a network file system names of its own.
    const names = (await readdir(folder)).filter((name) => name !== 'lost+found' && !name.startsWith('.'));
    for (const name of names.filter((one) => one.endsWith(unfinishedSuffix))) await rm(join(folder, name));
    const blocks: SpoolBlock[] = [];
    for (const name of names.filter((one) => !one.endsWith(unfinishedSuffix)).toSorted()) {
      const [, first, count] = namePattern.exec(name) ?? [];
      if (first === undefined || count === undefined) throw damaged(`${join(folder, name)} does not belong there`);
      const last = blocks.at(-1);
      if (last !== undefined && last.first + last.count !== Number(first)) {
        throw damaged(`between entry ${last.first + last.count} and ${Number(first)} in ${folder} there is a gap, or they overlap`);
      }
      blocks.push({ first: Number(first), count: Number(count), octets: (await stat(join(folder, name))).size });
    }
    return new Spool(folder, octetsMax, blocks);
  }

  get folder(): string {
    return this.#folder;
  }

  /** Bound of all blocks together. */
  get octetsMax(): number {
    return this.#octetsMax;
  }

  /** The blocks, the oldest first. */
  get blocks(): readonly SpoolBlock[] {
    return this.#blocks;
  }

  /** Octets of all blocks. */
  get octets(): number {
    return this.#octets;
  }

  /** Sequence number that the next block must start with; undefined while the spool is empty. */
  get next(): number | undefined {
    const last = this.#blocks.at(-1);
    return last === undefined ? undefined : last.first + last.count;
  }

  /**
   * Adds a block behind the last; when it resolves, the block survives a crash.
   * @param first sequence number of the first entry
   * @param positions of all sources, also of those that have nothing in this block
   * @throws JOURNAL_SPOOL_FULL when the bound or the disk has no room; nothing of the block is left then
   */
  async append(first: number, entries: readonly SpooledEntry[], positions: SourcePositions): Promise<SpoolBlock> {
    if (entries.length === 0 || (this.next !== undefined && this.next !== first)) {
      throw new SigilloError('INTERNAL', `a spool block of ${entries.length} entries from ${first}, behind ${this.next}`);
    }
    const bytes = await encodeBlock({ entries, positions });
    if (this.#octets + bytes.length > this.#octetsMax) {
      throw new SigilloError('JOURNAL_SPOOL_FULL', `${this.#octets} of ${this.#octetsMax} octets in ${this.#folder}`);
    }
    const block: SpoolBlock = { first, count: entries.length, octets: bytes.length };
    const path = this.#pathOf(block);
    try {
      await this.#write(path, bytes);
    } catch (cause) {
      if (isDiskFull(cause)) throw new SigilloError('JOURNAL_SPOOL_FULL', `the disk of ${this.#folder}`, { cause });
      throw cause;
    }
    this.#blocks.push(block);
    this.#octets += block.octets;
    return block;
  }

  /** A block, checked against what was written. @throws JOURNAL_SPOOL_DAMAGED */
  async read(block: SpoolBlock): Promise<SpoolContent> {
    const path = this.#pathOf(block);
    let bytes: Buffer;
    try {
      bytes = await readFile(path);
    } catch (cause) {
      throw new SigilloError('JOURNAL_SPOOL_DAMAGED', `${path} cannot be read`, { cause });
    }
    return decodeBlock(bytes, block.count, path);
  }

  /** Removes the oldest block, once it is durable elsewhere. The last one stays: it holds the positions. */
  async removeOldest(): Promise<void> {
    const [oldest, next] = this.#blocks;
    if (oldest === undefined || next === undefined) return;
    await rm(this.#pathOf(oldest), { force: true });
    await syncFolder(this.#folder);
    this.#blocks.shift();
    this.#octets -= oldest.octets;
  }

  /** Moves all blocks out of the way, into a folder for people to look at. @returns that folder */
  async setAside(): Promise<string> {
    // On the same file system, whatever that is.
    const aside = join(this.#folder, strayFolder);
    await mkdir(aside, { recursive: true, mode: 0o700 });
    for (const block of this.#blocks) await rename(this.#pathOf(block), join(aside, basename(this.#pathOf(block))));
    await syncFolder(aside);
    await syncFolder(this.#folder);
    this.#blocks.length = 0;
    this.#octets = 0;
    return aside;
  }

  /** Removes all blocks, once they are durable elsewhere and their positions too. */
  async clear(): Promise<void> {
    if (this.#blocks.length === 0) return;
    for (let block = this.#blocks.shift(); block !== undefined; block = this.#blocks.shift())
      await rm(this.#pathOf(block), { force: true });
    this.#octets = 0;
    await syncFolder(this.#folder);
  }

  async #write(path: string, bytes: Buffer): Promise<void> {
    const unfinished = `${path}-${randomBytes(8).toString('hex')}${unfinishedSuffix}`;
    try {
      const handle = await open(unfinished, 'wx', 0o600);
      try {
        await handle.writeFile(bytes);
        await handle.sync();
      } finally {
        await handle.close();
      }
      // Not renamed over a block that another process of this home has put there, which may count already.
      await link(unfinished, path);
    } finally {
      await rm(unfinished, { force: true });
    }
    try {
      await syncFolder(this.#folder);
    } catch (error) {
      await rm(path, { force: true });
      throw error;
    }
  }

  #pathOf({ first, count }: SpoolBlock): string {
    return join(this.#folder, `${String(first).padStart(nameDigits, '0')}-${count}.block`);
  }
}
