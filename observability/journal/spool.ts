/**
 * The spool: sealed blocks of entries on disk, in order, while the store is away.
 *
 * Guarantees: what `append` has resolved for survives a crash of the machine (file and folder are synced); a block is there as a
 * whole or not at all (written beside, then renamed); blocks follow each other without gap; the folder never holds more than its
 * bound. A damaged block is told, never skipped.
 *
 * A block is a file named by its first sequence number and its count, `0000000000001234-500.block`. Version 1:
 *
 *     8 octets "SIGILLOJ", u32 version, u32 count, u32 length and the positions, u32 length of the entries before they were
 *     compressed (Zstandard, RFC 8878), the entries compressed, 32 octets SHA-256 of all before
 *
 * The entries are, each behind the other, u32 length and canonical octets; positions are JSON, an object of strings.
 *
 * Positions say how far each source was read when the block was sealed: who takes over after a crash knows from the last block
 * which events are in the journal already. So the last block stays when it is durable elsewhere, until another one follows it.
 */
import { hash as digestOf } from 'node:crypto';
import { constants, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { constants as zlibConstants, zstdCompress, zstdDecompress } from 'node:zlib';
import { z } from 'zod';
import { SigilloError } from '../../config/errors.ts';
import { eventOctetsMax, hashOctets } from './event-encoding.ts';

/** The id of the last entry that was taken from each source, such as a stream in Redis. */
export type SourcePositions = Readonly<Record<string, string>>;

export interface SpoolBlock {
  /** Sequence number of the first entry. */
  readonly first: number;
  readonly count: number;
  /** Size of the file. */
  readonly octets: number;
}

const magic = Buffer.from('SIGILLOJ', 'latin1');
const version = 1;
const headerOctets = magic.length + 8;
const nameDigits = 16;
const namePattern = /^(\d{16})-([1-9]\d{0,9})\.block$/;
const unfinishedSuffix = '.unfinished';

const damaged = (what: string): SigilloError => new SigilloError('JOURNAL_SPOOL_DAMAGED', what);

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);
/** Level 1: a stamp of 960 octets takes 195, and the work is done off the main thread. */
const compressionOptions = { params: { [zlibConstants.ZSTD_c_compressionLevel]: 1 } };
/** The largest block that is read: rowsMax at its limit with stamps of 10 KB. */
const entriesOctetsMax = 1024 * 1024 * 1024;

const encodeBlock = async (entries: readonly Uint8Array[], positions: SourcePositions): Promise<Buffer> => {
  const plain = Buffer.allocUnsafe(entries.reduce((sum, entry) => sum + 4 + entry.length, 0));
  let at = 0;
  for (const entry of entries) {
    at = plain.writeUInt32BE(entry.length, at);
    plain.set(entry, at);
    at += entry.length;
  }
  const compressed = await compress(plain, compressionOptions);
  const text = Buffer.from(JSON.stringify(positions));
  const head = Buffer.allocUnsafe(headerOctets + 4);
  magic.copy(head);
  head.writeUInt32BE(version, magic.length);
  head.writeUInt32BE(entries.length, magic.length + 4);
  head.writeUInt32BE(text.length, headerOctets);
  const plainLength = Buffer.allocUnsafe(4);
  plainLength.writeUInt32BE(plain.length);
  const body = Buffer.concat([head, text, plainLength, compressed]);
  return Buffer.concat([body, digestOf('sha256', body, 'buffer')]);
};

const positionsSchema = z.record(z.string(), z.string());

const readPositions = (text: string, name: string): SourcePositions => {
  try {
    return positionsSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new SigilloError('JOURNAL_SPOOL_DAMAGED', `${name} has positions that cannot be read`, { cause });
  }
};

const readEntries = (plain: Buffer, count: number, name: string): Buffer[] => {
  const entries: Buffer[] = [];
  let at = 0;
  while (at + 4 <= plain.length && entries.length < count) {
    const length = plain.readUInt32BE(at);
    if (length > eventOctetsMax || at + 4 + length > plain.length) break;
    entries.push(plain.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  if (at !== plain.length || entries.length !== count) throw damaged(`${name} does not hold ${count} entries`);
  return entries;
};

const decodeBlock = async (bytes: Buffer, count: number, name: string): Promise<{ entries: Buffer[]; positions: SourcePositions }> => {
  const end = bytes.length - hashOctets;
  if (end < headerOctets + 8 || !bytes.subarray(0, magic.length).equals(magic)) throw damaged(`${name} is no block`);
  if (!digestOf('sha256', bytes.subarray(0, end), 'buffer').equals(bytes.subarray(end))) throw damaged(`${name} is not what was written`);
  if (bytes.readUInt32BE(magic.length) !== version) throw damaged(`${name} is of another version`);
  if (bytes.readUInt32BE(magic.length + 4) !== count) throw damaged(`${name} does not hold ${count} entries`);
  const positionsAt = headerOctets + 4;
  const lengthAt = positionsAt + bytes.readUInt32BE(headerOctets);
  if (lengthAt + 4 > end) throw damaged(`${name} is not what was written`);
  const positions = readPositions(bytes.toString('utf8', positionsAt, lengthAt), name);
  const plainOctets = bytes.readUInt32BE(lengthAt);
  if (plainOctets > entriesOctetsMax) throw damaged(`${name} is longer than a block can be`);
  let plain: Buffer;
  try {
    plain = await decompress(bytes.subarray(lengthAt + 4, end), { maxOutputLength: plainOctets });
  } catch (cause) {
    throw new SigilloError('JOURNAL_SPOOL_DAMAGED', `${name} cannot be decompressed`, { cause });
  }
  if (plain.length !== plainOctets) throw damaged(`${name} does not hold ${count} entries`);
  return { entries: readEntries(plain, count, name), positions };
};

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
  async append(first: number, entries: readonly Uint8Array[], positions: SourcePositions): Promise<SpoolBlock> {
    if (entries.length === 0 || (this.next !== undefined && this.next !== first)) {
      throw new SigilloError('INTERNAL', `a spool block of ${entries.length} entries from ${first}, behind ${this.next}`);
    }
    const bytes = await encodeBlock(entries, positions);
    if (this.#octets + bytes.length > this.#octetsMax) {
      throw new SigilloError('JOURNAL_SPOOL_FULL', `${this.#octets} of ${this.#octetsMax} octets in ${this.#folder}`);
    }
    const block: SpoolBlock = { first, count: entries.length, octets: bytes.length };
    const path = this.#pathOf(block);
    try {
      await this.#write(path, bytes);
    } catch (cause) {
      for (const file of [`${path}${unfinishedSuffix}`, path]) await rm(file, { force: true });
      if (isDiskFull(cause)) throw new SigilloError('JOURNAL_SPOOL_FULL', `the disk of ${this.#folder}`, { cause });
      throw cause;
    }
    this.#blocks.push(block);
    this.#octets += block.octets;
    return block;
  }

  /** A block, checked against what was written. @throws JOURNAL_SPOOL_DAMAGED */
  async read(block: SpoolBlock): Promise<{ entries: Buffer[]; positions: SourcePositions }> {
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

  /** Takes back a block that was just added: its writer had lost the lease, and nothing of it counts. */
  async removeNewest(block: SpoolBlock): Promise<void> {
    if (this.#blocks.at(-1) !== block) throw new SigilloError('INTERNAL', 'the newest block of the spool is another one');
    await rm(this.#pathOf(block), { force: true });
    await syncFolder(this.#folder);
    this.#blocks.pop();
    this.#octets -= block.octets;
  }

  /** Moves all blocks out of the way, into a folder for people to look at. @returns that folder */
  async setAside(): Promise<string> {
    const aside = `${this.#folder}-stray`;
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
    const handle = await open(`${path}${unfinishedSuffix}`, 'w', 0o600);
    try {
      await handle.writeFile(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(`${path}${unfinishedSuffix}`, path);
    await syncFolder(this.#folder);
  }

  #pathOf({ first, count }: SpoolBlock): string {
    return join(this.#folder, `${String(first).padStart(nameDigits, '0')}-${count}.block`);
  }
}
