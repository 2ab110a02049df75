/**
 * A block of the spool as octets: sealed entries, each with where it came from, and how far the sources were read. Version 1:
 *
 *     8 octets "SIGILLOJ", u32 version, u32 count, u32 length of the header, the header, u32 length of the entries before they were
 *     compressed (Zstandard, RFC 8878), the entries compressed, 32 octets SHA-256 of all before
 *
 * The header is JSON: `sources`, the names of streams, and `positions`, the id of the last entry that was taken from each. The entries
 * are, each behind the other: u8 number of the source (255: none), f64 and f64 id of the entry there, u32 place in it, u32 length and
 * canonical octets.
 */
import { hash as digestOf } from 'node:crypto';
import { promisify } from 'node:util';
import { constants as zlibConstants, zstdCompress, zstdDecompress } from 'node:zlib';
import { z } from 'zod';
import { SigilloError } from '../../config/errors.ts';
import { eventOctetsMax, hashOctets } from './event-encoding.ts';
import { noOrigin, type Origin, type SourcePositions } from './origin.ts';

/** A sealed entry: canonical octets, and where it came from. */
export interface SpooledEntry {
  readonly octets: Uint8Array;
  readonly origin: Origin;
}

export interface SpoolContent {
  readonly entries: readonly { readonly octets: Buffer; readonly origin: Origin }[];
  readonly positions: SourcePositions;
}

const magic = Buffer.from('SIGILLOJ', 'latin1');
const version = 1;
const fixedOctets = magic.length + 8;
/** What stands before the octets of an entry. */
const entryHeadOctets = 1 + 8 + 8 + 4 + 4;
const noSource = 255;

const damaged = (what: string, cause?: unknown): SigilloError => new SigilloError('JOURNAL_SPOOL_DAMAGED', what, { cause });

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);
/** Level 1: a stamp of 960 octets takes 195, and the work is done off the main thread. */
const compressionOptions = { params: { [zlibConstants.ZSTD_c_compressionLevel]: 1 } };
/** The largest block that is read: rowsMax at its limit with stamps of 10 KB. */
const entriesOctetsMax = 1024 * 1024 * 1024;

const encodeEntries = (entries: readonly SpooledEntry[], sources: readonly string[]): Buffer => {
  const out = Buffer.allocUnsafe(entries.reduce((sum, { octets }) => sum + entryHeadOctets + octets.length, 0));
  const numbers = new Map(sources.map((source, number) => [source, number]));
  let at = 0;
  for (const { octets, origin } of entries) {
    at = out.writeUInt8(numbers.get(origin.source) ?? noSource, at);
    at = out.writeDoubleBE(origin.millis, at);
    at = out.writeDoubleBE(origin.number, at);
    at = out.writeUInt32BE(origin.index, at);
    at = out.writeUInt32BE(octets.length, at);
    out.set(octets, at);
    at += octets.length;
  }
  return out;
};

/** @returns the whole file */
export const encodeBlock = async ({
  entries,
  positions,
}: {
  entries: readonly SpooledEntry[];
  positions: SourcePositions;
}): Promise<Buffer> => {
  const sources = [...new Set(entries.map(({ origin }) => origin.source))].filter((source) => source !== '');
  const plain = encodeEntries(entries, sources);
  const compressed = await compress(plain, compressionOptions);
  const header = Buffer.from(JSON.stringify({ sources, positions }));
  const start = Buffer.allocUnsafe(fixedOctets + 4);
  magic.copy(start);
  start.writeUInt32BE(version, magic.length);
  start.writeUInt32BE(entries.length, magic.length + 4);
  start.writeUInt32BE(header.length, fixedOctets);
  const plainLength = Buffer.allocUnsafe(4);
  plainLength.writeUInt32BE(plain.length);
  const body = Buffer.concat([start, header, plainLength, compressed]);
  return Buffer.concat([body, digestOf('sha256', body, 'buffer')]);
};

const headerSchema = z.strictObject({
  sources: z.array(z.string().min(1)).max(noSource),
  positions: z.record(z.string(), z.string()),
});

const readHeader = (text: string, name: string): z.output<typeof headerSchema> => {
  try {
    return headerSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw damaged(`${name} has a header that cannot be read`, cause);
  }
};

const readEntries = (plain: Buffer, count: number, sources: readonly string[], name: string): SpoolContent['entries'] => {
  const entries: SpoolContent['entries'][number][] = [];
  let at = 0;
  while (at + entryHeadOctets <= plain.length && entries.length < count) {
    const start = at + entryHeadOctets;
    const length = plain.readUInt32BE(start - 4);
    const source = sources[plain.readUInt8(at)];
    if (length > eventOctetsMax || start + length > plain.length) break;
    const [millis, number, index] = [plain.readDoubleBE(at + 1), plain.readDoubleBE(at + 9), plain.readUInt32BE(at + 17)];
    const origin = source === undefined ? noOrigin : { source, millis, number, index };
    entries.push({ octets: plain.subarray(start, start + length), origin });
    at = start + length;
  }
  if (at !== plain.length || entries.length !== count) throw damaged(`${name} does not hold ${count} entries`);
  return entries;
};

/**
 * @param count entries that it must hold
 * @param name of the file, for the error
 * @throws JOURNAL_SPOOL_DAMAGED when it is not, octet for octet, what was written
 */
export const decodeBlock = async (bytes: Buffer, count: number, name: string): Promise<SpoolContent> => {
  const end = bytes.length - hashOctets;
  if (end < fixedOctets + 8 || !bytes.subarray(0, magic.length).equals(magic)) throw damaged(`${name} is no block`);
  if (!digestOf('sha256', bytes.subarray(0, end), 'buffer').equals(bytes.subarray(end))) throw damaged(`${name} is not what was written`);
  if (bytes.readUInt32BE(magic.length) !== version) throw damaged(`${name} is of another version`);
  if (bytes.readUInt32BE(magic.length + 4) !== count) throw damaged(`${name} does not hold ${count} entries`);
  const headerAt = fixedOctets + 4;
  const lengthAt = headerAt + bytes.readUInt32BE(fixedOctets);
  if (lengthAt + 4 > end) throw damaged(`${name} is not what was written`);
  const { sources, positions } = readHeader(bytes.toString('utf8', headerAt, lengthAt), name);
  const plainOctets = bytes.readUInt32BE(lengthAt);
  if (plainOctets > entriesOctetsMax) throw damaged(`${name} is longer than a block can be`);
  let plain: Buffer;
  try {
    plain = await decompress(bytes.subarray(lengthAt + 4, end), { maxOutputLength: plainOctets });
  } catch (cause) {
    throw damaged(`${name} cannot be decompressed`, cause);
  }
  if (plain.length !== plainOctets) throw damaged(`${name} does not hold ${count} entries`);
  return { entries: readEntries(plain, count, sources, name), positions };
};
