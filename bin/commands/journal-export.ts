/** `sigillo journal export`: a range of the journal as a bundle, which `journal verify --bundle` accepts elsewhere. */
import { createHash, randomBytes, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { syncFolder } from '../../config/atomic-file.ts';
import { SigilloError } from '../../config/errors.ts';
import { loadConfig } from '../../config/load.ts';
import { writeBundle } from '../../observability/journal/bundle.ts';
import type { CheckpointKey } from '../../observability/journal/checkpoint.ts';
import { latestCheckpoint } from '../../observability/journal/checkpoint-events.ts';
import { entriesOctets, firstEntryFrom } from '../../observability/journal/entry-places.ts';
import { JournalReader } from '../../observability/journal/reader.ts';
import { EncryptionError, encryptToRecipient } from '../../pki/cms-encrypt.ts';
import { createEntryProgress } from './entry-progress.ts';
import { openJournalAccess } from './journal-access.ts';
import { journalKeysOf, queryText, readSequence, readTime, usage } from './journal-options.ts';
import type { JournalReading } from './journal-reading.ts';

export interface ExportCommandOptions {
  readonly from?: string;
  readonly to?: string;
  readonly out: string;
  readonly recipient?: string;
  readonly force?: true;
  readonly key?: string;
  readonly origin?: string;
  readonly store?: string;
}

/** `openssl cms -decrypt` holds the whole file in memory, more than twice, and is sure to read 1.6 GB only. */
const encryptedOctetsMax = 1_500_000_000;
/** Octets of an entry take so much more in base64 with a newline. */
const base64Growth = 4 / 3;
const newline = 0x0a;

interface Range {
  readonly from: number;
  /** Behind the last. */
  readonly to: number;
}

const tooLong = (): SigilloError =>
  usage(
    `an encrypted export ends at ${encryptedOctetsMax / 1_000_000} MB, which openssl is sure to read: export shorter ranges, one after the other`,
  );

const readRecipient = (file: string): X509Certificate => {
  let content: Buffer;
  try {
    content = readFileSync(file);
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', file, { cause });
  }
  try {
    return new X509Certificate(content);
  } catch (cause) {
    throw new SigilloError('CERTIFICATE_INVALID', `${file}: no certificate in it`, { cause });
  }
};

/** A sequence number, or the first entry that has this time or a later one. */
const placeOf = async ({ client }: JournalReading, option: string, text: string): Promise<number> =>
  /^\d+$/.test(text) ? readSequence(option, text) : firstEntryFrom(client, readTime(option, text), option === '--to' ? 'after' : 'at');

const rangeOf = async (access: JournalReading, { from, to }: ExportCommandOptions): Promise<Range> => {
  const begin = from === undefined ? 0 : await placeOf(access, '--from', from);
  const end = to === undefined ? ((await latestCheckpoint(access.client))?.size ?? 0) : await placeOf(access, '--to', to);
  if (to === undefined && end === 0) throw new SigilloError('JOURNAL_UNCHECKPOINTED');
  if (begin >= end) throw usage(`there are no entries from ${begin} to before ${end}${to === undefined ? ', the newest checkpoint' : ''}`);
  return { from: begin, to: end };
};

/** Passes a bundle on, and tells how many of its entries went by. */
async function* counting(chunks: AsyncIterable<Buffer>, onEntries: (entries: number) => void): AsyncGenerator<Buffer> {
  // The first line is the header.
  let lines = -1;
  for await (const chunk of chunks) {
    for (let at = chunk.indexOf(newline); at !== -1; at = chunk.indexOf(newline, at + 1)) lines += 1;
    onEntries(lines);
    yield chunk;
  }
}

interface Written {
  readonly octets: number;
  readonly sha256: string;
}

const writeAll = async (handle: FileHandle, chunks: AsyncIterable<Uint8Array>): Promise<Written> => {
  const digest = createHash('sha256');
  let octets = 0;
  for await (const chunk of chunks) {
    digest.update(chunk);
    octets += chunk.length;
    await handle.writeFile(chunk);
  }
  await handle.sync();
  return { octets, sha256: digest.digest('hex') };
};

/** The file is there when all of it is on disk; what an interruption leaves has another name. */
const writeWhole = async (file: string, chunks: AsyncIterable<Uint8Array>): Promise<Written> => {
  const temporary = `${file}.new`;
  const handle = await open(temporary, 'w', 0o600).catch((cause: Error) => {
    throw usage(`--out: ${cause.message}`);
  });
  try {
    const written = await writeAll(handle, chunks).finally(() => handle.close());
    await rename(temporary, file);
    syncFolder(dirname(file));
    return written;
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
};

/** Checks the certificate at once, before anything is read. @throws CERTIFICATE_INVALID */
const encrypted = (chunks: AsyncIterable<Buffer>, recipient: X509Certificate): AsyncIterable<Buffer> => {
  try {
    return encryptToRecipient(chunks, recipient, {
      now: new Date(),
      randomBytes,
      contentOctetsMax: encryptedOctetsMax,
    });
  } catch (cause) {
    if (cause instanceof EncryptionError) throw new SigilloError('CERTIFICATE_INVALID', `--recipient: ${cause.message}`, { cause });
    throw cause;
  }
};

const exportRange = async (access: JournalReading, range: Range, key: CheckpointKey, options: ExportCommandOptions): Promise<Written> => {
  const { out, recipient: recipientFile } = options;
  const { from, to } = range;
  const recipient = recipientFile === undefined ? undefined : readRecipient(recipientFile);
  if (recipient !== undefined && (await entriesOctets(access.client, range)) * base64Growth > encryptedOctetsMax) throw tooLong();
  const progress = await createEntryProgress('exported');
  const bundle = counting(writeBundle(new JournalReader(access.client), { from, to, key }), (entries) =>
    progress.update(Math.max(0, Math.min(entries, to - from)), to - from),
  );
  const chunks = recipient === undefined ? bundle : encrypted(bundle, recipient);
  const query = queryText({ from, to, recipient: recipient?.fingerprint256.replaceAll(':', '').toLowerCase() });
  await access.record({ subject: 'export', query, entries: to - from });
  try {
    return await writeWhole(out, chunks);
  } catch (error) {
    if (error instanceof EncryptionError && error.reason === 'content') throw tooLong();
    throw error;
  } finally {
    progress.close();
  }
};

/**
 * Exports a range into a file.
 * @throws USAGE, CERTIFICATE_INVALID, JOURNAL_UNCHECKPOINTED, JOURNAL_MALFORMED, REDIS_UNAVAILABLE, JOURNAL_STORE_UNAVAILABLE, CONFIG_*
 */
export const exportJournal = async (options: ExportCommandOptions): Promise<void> => {
  const { out, force, key } = options;
  if (!force && existsSync(out)) throw usage(`--out: ${out} exists; --force replaces it`);
  const config = loadConfig();
  const [journalKey] = journalKeysOf(config, { ...options, key: key === undefined ? undefined : [key] });
  const access = await openJournalAccess(config, options.store);
  try {
    const range = await rangeOf(access, options);
    const { octets, sha256 } = await exportRange(access, range, journalKey as CheckpointKey, options);
    const { from, to } = range;
    process.stdout.write(`${out}: entries ${from} to ${to - 1}, ${octets.toLocaleString('en')} octets\n  sha256  ${sha256}\n`);
  } finally {
    await access.close();
  }
};
