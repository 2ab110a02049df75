/**
 * A range of the journal as one file that can be verified without the store, by whoever has the key of the journal: lines of text
 * (docs/journal.md), so that it can be read in twenty years.
 *
 * The first line is a JSON object, the header. One line for each place follows: the entry in base64, or `{"expired":...}`. The last
 * line is the trailer: how many places, and the SHA-256 of all lines before. The digest finds damage; what proves the entries is
 * the checkpoint in the header, because their root leads to its root.
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { SigilloError } from '../../config/errors.ts';
import { type Checkpoint, type CheckpointKey, verifyCheckpoint } from './checkpoint.ts';
import { checkpointAtLeast, type StoredCheckpoint } from './checkpoint-events.ts';
import { eventOctetsMax, hashOctets } from './event-encoding.ts';
import { consistencyProof } from './proofs.ts';
import type { JournalReader, StoredPlace } from './reader.ts';
import { publishedChains } from './told-events.ts';
import { storedTree } from './tree-store.ts';
import { chainFinder } from './verify-token.ts';

export const bundleFormat = 'sigillo-journal-bundle';
export const bundleVersion = 1;

/** The header holds a note, a token and a chain, each at most 64 KiB, and hashes; an entry is at most 87,384 characters. */
export const lineOctetsMax = 1_048_576;
/** Lines that are written together: about 1.2 MB of stamps. */
const linesPerChunk = 1_000;

const octets = z.base64().transform((text) => Buffer.from(text, 'base64'));
const hash = octets.refine(({ length }) => length === hashOctets, 'is no SHA-256');
const count = z.int().min(0);

const headerSchema = z.strictObject({
  format: z.literal(bundleFormat),
  version: z.literal(bundleVersion),
  /** Name of the journal. */
  origin: z.string(),
  /** Sequence number of the first place, and behind the last. */
  from: count,
  to: count,
  /** The perfect subtrees that the tree of the first `from` entries is made of, the largest first. */
  left: z.array(hash).max(64),
  /** Signed note of a checkpoint that covers all of it. */
  checkpoint: z.string(),
  /** TimeStampToken over the SHA-256 of the note, without certificates; null when there is none. */
  token: octets.nullable(),
  /** For the token: the certificate of the TSU, then its authorities. */
  certificates: z.array(octets).max(16),
  /** SubjectPublicKeyInfo of the journal's key, for information: a verifier has it from elsewhere. */
  key: octets,
  /** Proof that the tree of the checkpoint continues that of the first `to` entries (RFC 6962, section 2.1.2). */
  consistency: z.array(hash).max(64),
});
export type BundleHeader = z.output<typeof headerSchema>;

const expiredSchema = z.strictObject({ expired: z.strictObject({ sequence: count, hash, partition: z.string().max(100) }) });
const trailerSchema = z.strictObject({ entries: count, sha256: z.string().regex(/^[0-9a-f]{64}$/) });

const base64Of = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
const malformed = (what: string): SigilloError => new SigilloError('JOURNAL_MALFORMED', `bundle: ${what}`);

const parseLine = <T>(schema: z.ZodType<T>, line: Buffer, what: string): T => {
  let value: unknown;
  try {
    value = JSON.parse(line.toString('utf8'));
  } catch {
    throw malformed(`the ${what} is no JSON`);
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw malformed(`the ${what}: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
};

const lineOfPlace = (place: StoredPlace): string =>
  place.kind === 'entry'
    ? place.octets.toString('base64')
    : JSON.stringify({ expired: { sequence: place.sequence, hash: base64Of(place.hash), partition: place.partition } });

const fromBase64 = (line: Buffer): Buffer => {
  const entry = Buffer.from(line.toString('latin1'), 'base64');
  if (entry.length === 0 || entry.length > eventOctetsMax || Math.ceil(entry.length / 3) * 4 !== line.length) {
    throw malformed('a line is neither an entry nor anything else');
  }
  return entry;
};
const placeOfLine = (line: Buffer): StoredPlace => {
  if (line[0] !== 0x7b) return { kind: 'entry', octets: fromBase64(line) };
  return { kind: 'expired', ...parseLine(expiredSchema, line, 'line of an expired entry').expired };
};

/** A range and the checkpoint that covers it. */
export interface BundleRange {
  readonly from: number;
  readonly to: number;
  /** That signed the checkpoint. */
  readonly key: CheckpointKey;
}

const coveringCheckpoint = async (reader: JournalReader, { to, key }: BundleRange): Promise<[StoredCheckpoint, Checkpoint]> => {
  const stored = await checkpointAtLeast(reader.client, to);
  if (stored === undefined) throw new SigilloError('JOURNAL_UNCHECKPOINTED', `None covers the entries up to ${to - 1}.`);
  const verdict = verifyCheckpoint(stored.note, key);
  if (verdict.kind === 'invalid')
    throw new SigilloError('JOURNAL_MALFORMED', `The checkpoint in entry ${stored.sequence}: ${verdict.why}.`);
  return [stored, verdict.checkpoint];
};

/** Certificates for a token. @throws JOURNAL_MALFORMED when they may be in an entry that cannot be read */
const chainOf = async ({ client }: JournalReader, token: Uint8Array | undefined): Promise<readonly Uint8Array[]> => {
  if (token === undefined) return [];
  const { chains, unreadable } = await publishedChains(client);
  const chain = chainFinder(chains)(token);
  if (chain.length === 0 && unreadable.length > 0)
    throw new SigilloError('JOURNAL_MALFORMED', `Entry ${unreadable[0]} should hold certificates of a TSU, and cannot be read.`);
  return chain;
};

const headerOf = async (reader: JournalReader, range: BundleRange): Promise<object> => {
  const { from, to, key } = range;
  const [{ note, token }, checkpoint] = await coveringCheckpoint(reader, range);
  const chain = await chainOf(reader, token);
  return {
    format: bundleFormat,
    version: bundleVersion,
    origin: checkpoint.origin,
    from,
    to,
    left: (await storedTree(reader.client, from)).subtrees.map(base64Of),
    checkpoint: note,
    token: token === undefined ? null : base64Of(token),
    certificates: chain.map(base64Of),
    key: base64Of(key.spki),
    consistency: (await consistencyProof(reader, to, checkpoint.size)).map(base64Of),
  };
};

/**
 * Writes the entries from `from` to behind `to`, at least one, as a bundle.
 *
 * @throws JOURNAL_UNCHECKPOINTED when no checkpoint covers them; RangeError; JOURNAL_STORE_UNAVAILABLE; JOURNAL_MALFORMED when the
 *   journal is not whole: nothing is exported that would not verify
 */
export async function* writeBundle(reader: JournalReader, range: BundleRange): AsyncGenerator<Buffer> {
  const { from, to } = range;
  if (!(Number.isSafeInteger(from) && Number.isSafeInteger(to) && from >= 0 && from < to))
    throw new RangeError(`no entries from ${from} to ${to}`);
  const digest = createHash('sha256');
  const chunkOf = (lines: readonly string[]): Buffer => {
    const chunk = Buffer.from(`${lines.join('\n')}\n`);
    digest.update(chunk);
    return chunk;
  };
  yield chunkOf([JSON.stringify(await headerOf(reader, range))]);
  let entries = 0;
  for await (const places of reader.pages(from, to)) {
    for (let i = 0; i < places.length; i += linesPerChunk) {
      const lines = places.slice(i, i + linesPerChunk).map(lineOfPlace);
      entries += lines.length;
      yield chunkOf(lines);
    }
  }
  if (entries !== to - from) throw malformed(`${to - from} entries were asked for, and ${entries} are there`);
  yield Buffer.from(`${JSON.stringify({ entries, sha256: digest.digest('hex') })}\n`);
}

/** Cuts octets into lines, without their newline. @throws JOURNAL_MALFORMED when one is too long, or the last has no end */
async function* linesOf(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer[]> {
  let rest = Buffer.alloc(0);
  for await (const chunk of chunks) {
    const bytes = rest.length === 0 ? Buffer.from(chunk) : Buffer.concat([rest, chunk]);
    const lines: Buffer[] = [];
    let at = 0;
    for (let end = bytes.indexOf(0x0a); end !== -1; end = bytes.indexOf(0x0a, at)) {
      if (end - at > lineOctetsMax) throw malformed('a line is too long');
      lines.push(bytes.subarray(at, end));
      at = end + 1;
    }
    rest = bytes.subarray(at);
    if (rest.length > lineOctetsMax) throw malformed('a line is too long');
    if (lines.length > 0) yield lines;
  }
  if (rest.length > 0) throw malformed('it is cut off');
}

const newline = Buffer.of(0x0a);
const trailerStart = Buffer.from('{"entries"');

/** A bundle that is being read: the header, then the places. */
export interface OpenBundle {
  readonly header: BundleHeader;
  /** @throws JOURNAL_MALFORMED, also when the trailer does not fit */
  readonly places: AsyncGenerator<StoredPlace[]>;
}

async function* placesOf(first: readonly Buffer[], lines: AsyncGenerator<Buffer[]>, head: Buffer): AsyncGenerator<StoredPlace[]> {
  const digest = createHash('sha256').update(head).update(newline);
  let entries = 0;
  let isOver = false;
  const take = (line: Buffer): StoredPlace[] => {
    if (isOver) throw malformed('lines follow the trailer');
    if (line.subarray(0, trailerStart.length).equals(trailerStart)) {
      const trailer = parseLine(trailerSchema, line, 'trailer');
      if (trailer.entries !== entries) throw malformed(`it holds ${entries} entries; its trailer says ${trailer.entries}`);
      if (trailer.sha256 !== digest.digest('hex')) throw malformed('it is not what was written: the digest in its trailer is another');
      isOver = true;
      return [];
    }
    digest.update(line).update(newline);
    entries += 1;
    return [placeOfLine(line)];
  };
  yield first.flatMap(take);
  for await (const more of lines) yield more.flatMap(take);
  if (!isOver) throw malformed('it is cut off: the trailer is missing');
}

/** Reads the header; the places are read as they are asked for. Nothing is verified. @throws JOURNAL_MALFORMED */
export const openBundle = async (chunks: AsyncIterable<Uint8Array>): Promise<OpenBundle> => {
  const lines = linesOf(chunks);
  const start = await lines.next();
  const [head, ...first] = start.done === true ? [] : start.value;
  if (head === undefined) throw malformed('it is empty');
  const header = parseLine(headerSchema, head, 'header');
  if (header.from >= header.to) throw malformed(`no entries from ${header.from} to ${header.to}`);
  return { header, places: placesOf(first, lines, head) };
};
