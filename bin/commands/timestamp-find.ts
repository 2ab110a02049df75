/** `sigillo timestamp find`: stamps of the archive, as they were issued. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '../../config/atomic-file.ts';
import { SigilloError } from '../../config/errors.ts';
import { loadConfig } from '../../config/load.ts';
import { type ArchivedStamp, type Imprint, imprintOf, type StampSearch, TimestampArchive } from '../../observability/journal/archive.ts';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { readTokenSummary } from '../../pki/token-summary.ts';
import { grantedResponse } from '../../pki/tsp-granted.ts';
import { type JournalReading, openJournalReading } from './journal-reading.ts';
import { printable } from './printable.ts';

export interface FindCommandOptions {
  readonly serial?: string;
  readonly file?: string;
  readonly imprint?: string;
  readonly client?: string;
  readonly from?: string;
  readonly to?: string;
  readonly limit: string;
  readonly out?: string;
  readonly json?: true;
  readonly offline?: true;
}

type DigestName = keyof typeof digestAlgorithms;

/** Stamps that are recorded, shown and written together: about 1 MB, and one event for each such part of a long list. */
const stampsAtOnce = 500;
const limitMax = 10_000_000;
const isoTime = /^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d))?$/;

const usage = (detail: string): SigilloError => new SigilloError('USAGE', detail);

/** As the answers of the service and OpenSSL write it: 6b8f…, 0x6B8F…, 6B:8F:…. */
const readSerial = (text: string): string => {
  const serial = text.replace(/^0x/i, '').replaceAll(':', '').toLowerCase();
  if (!/^([0-9a-f]{2}){1,20}$/.test(serial)) throw usage(`--serial: ${JSON.stringify(text.slice(0, 80))} is no serial number`);
  return serial;
};

const readImprint = (text: string): Imprint => {
  const [name = '', hex = ''] = text.split(':');
  if (!Object.hasOwn(digestAlgorithms, name))
    throw usage(`--imprint: DIGEST:HEX, DIGEST one of ${Object.keys(digestAlgorithms).join(', ')}`);
  const digest = name as DigestName;
  if (!new RegExp(`^[0-9a-fA-F]{${2 * digestAlgorithms[digest].octets}}$`).test(hex) || text.split(':').length !== 2) {
    throw usage(`--imprint: ${digest} has ${2 * digestAlgorithms[digest].octets} hexadecimal digits`);
  }
  return { digest, hash: Buffer.from(hex, 'hex') };
};

const readTime = (option: string, text: string): number => {
  const millis = isoTime.test(text) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(millis)) throw usage(`${option}: an ISO 8601 time such as 2026-11-22 (UTC) or 2026-11-22T10:30:00Z`);
  return millis * 1_000;
};

const readLimit = (text: string): number => {
  const limit = /^\d{1,8}$/.test(text) ? Number(text) : 0;
  if (limit < 1 || limit > limitMax) throw usage(`--limit: 1 to ${limitMax}`);
  return limit;
};

/** The file under every digest that a stamp may have, in one reading. */
const imprintsOfFile = async (path: string): Promise<Imprint[]> => {
  const hashes = (Object.keys(digestAlgorithms) as DigestName[]).map((digest) => ({
    digest,
    hash: createHash(digestAlgorithms[digest].name),
  }));
  try {
    for await (const part of createReadStream(path)) for (const { hash } of hashes) hash.update(part as Buffer);
  } catch (cause) {
    throw new SigilloError('USAGE', `--file: ${(cause as Error).message}`, { cause });
  }
  return hashes.map(({ digest, hash }) => ({ digest, hash: hash.digest() }));
};

const imprintsOf = async ({ file, imprint }: FindCommandOptions): Promise<Imprint[] | undefined> => {
  if (file !== undefined && imprint !== undefined) throw usage('--file and --imprint exclude each other');
  if (file !== undefined) return imprintsOfFile(file);
  return imprint === undefined ? undefined : [readImprint(imprint)];
};

const searchOf = async (options: FindCommandOptions): Promise<StampSearch> => {
  const { serial, client, from, to } = options;
  const imprints = await imprintsOf(options);
  const search = {
    ...(serial === undefined ? {} : { serial: readSerial(serial) }),
    ...(imprints === undefined ? {} : { imprints }),
    ...(client === undefined ? {} : { client }),
    ...(from === undefined ? {} : { fromMicros: readTime('--from', from) }),
    ...(to === undefined ? {} : { toMicros: readTime('--to', to) }),
  };
  if (Object.keys(search).length === 0) throw usage('say what to find: --serial, --file, --imprint, --client, --from or --to');
  return { ...search, limit: readLimit(options.limit) };
};

/** What was asked for, as the journal keeps it: options and values, the name of a file by its SHA-256. */
const queryText = ({ serial, client, from, to, limit }: FindCommandOptions, { imprints }: StampSearch): string => {
  const imprint = imprints?.[0];
  const asked = {
    serial,
    imprint: imprint === undefined ? undefined : `${imprint.digest}:${Buffer.from(imprint.hash).toString('hex')}`,
    client,
    from,
    to,
    limit,
  };
  return Object.entries(asked)
    .flatMap(([name, value]) => (value === undefined ? [] : [`${name}=${value}`]))
    .join(' ');
};

interface Found {
  readonly serial: string;
  readonly genTime: string;
  readonly client: string;
  readonly imprint: string;
  readonly certReq: boolean;
  /** Number of its entry in the journal. */
  readonly sequence: number;
  readonly token: string;
  readonly file?: string;
}

const keep = (stamp: ArchivedStamp, folder: string | undefined): Found => {
  const { client, certReq, sequence, messageImprint, token } = stamp;
  const { digest, hash } = imprintOf(messageImprint);
  // From the token, so that it can only be hexadecimal: it becomes the name of a file.
  const { serial, genTime } = readTokenSummary(token);
  const file = folder === undefined ? undefined : join(folder, `${serial}.tsr`);
  if (file !== undefined) writeFileAtomic(file, grantedResponse(token), { mode: 0o644 });
  return {
    serial,
    genTime,
    client,
    imprint: `${digest}:${Buffer.from(hash).toString('hex')}`,
    certReq,
    sequence,
    token: Buffer.from(token).toString('base64'),
    ...(file === undefined ? {} : { file }),
  };
};

/** Writes a list that may be long, part by part. */
class Listing {
  readonly #json: boolean;
  #count = 0;

  constructor(json: boolean) {
    this.#json = json;
  }

  get count(): number {
    return this.#count;
  }

  add(found: Found): void {
    const first = this.#count === 0;
    this.#count += 1;
    if (this.#json) {
      process.stdout.write(`${first ? '[\n' : ',\n'}${JSON.stringify(found)}`);
      return;
    }
    const { serial, genTime, client, imprint, file } = found;
    if (first) process.stdout.write(`${'SERIAL'.padEnd(40)}  ${'TIME'.padEnd(24)}  CLIENT  ${file === undefined ? 'IMPRINT' : 'FILE'}\n`);
    process.stdout.write(`${serial.padEnd(40)}  ${genTime.padEnd(24)}  ${printable(client)}  ${file ?? imprint}\n`);
  }

  finish(): void {
    if (this.#json) process.stdout.write(this.#count === 0 ? '[]\n' : '\n]\n');
    else if (this.#count === 0) process.stderr.write('sigillo: no such timestamp in the archive\n');
  }
}

const listStamps = async (
  reading: JournalReading,
  search: StampSearch,
  query: string,
  show: (stamp: ArchivedStamp) => void,
): Promise<void> => {
  let part: ArchivedStamp[] = [];
  const showPart = async (): Promise<void> => {
    await reading.record({ subject: 'timestamp', query, entries: part.length });
    for (const stamp of part) show(stamp);
    part = [];
  };
  for await (const stamp of new TimestampArchive(reading.client).find(search)) {
    part.push(stamp);
    if (part.length >= stampsAtOnce) await showPart();
  }
  // Also a search that found nothing has read the journal.
  await showPart();
};

/** Finds stamps and shows them, newest first; false when there is none. @throws USAGE, REDIS_UNAVAILABLE, JOURNAL_STORE_UNAVAILABLE, CONFIG_* */
export const findTimestamps = async (options: FindCommandOptions): Promise<boolean> => {
  const search = await searchOf(options);
  const reading = await openJournalReading(loadConfig(), { offline: options.offline === true });
  const listing = new Listing(options.json === true);
  try {
    if (options.out !== undefined) await mkdir(options.out, { recursive: true });
    await listStamps(reading, search, queryText(options, search), (stamp) => listing.add(keep(stamp, options.out)));
    listing.finish();
  } finally {
    await reading.close();
  }
  return listing.count > 0;
};
