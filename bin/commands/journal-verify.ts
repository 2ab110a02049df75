/**
 * `sigillo journal verify`: the stored journal, a copy of it or a bundle, against the key of the journal, trusted roots and
 * checkpoints that are held elsewhere. It shows nothing of what entries say, so it is no reading that the journal records.
 */
import { createReadStream, existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import { loadConfig } from '../../config/load.ts';
import { type Config, checkpointDefaults } from '../../config/schema.ts';
import { openJournal, openJournalFolder } from '../../observability/journal/open-journal.ts';
import { JournalReader } from '../../observability/journal/reader.ts';
import { publishedChains } from '../../observability/journal/told-events.ts';
import { verifyJournal } from '../../observability/journal/verify.ts';
import { verifyBundle } from '../../observability/journal/verify-bundle.ts';
import { judgeCover } from '../../observability/journal/verify-cover.ts';
import type { JournalVerdict } from '../../observability/journal/verify-run.ts';
import { tokenVerifier } from '../../observability/journal/verify-token.ts';
import { journalKeys } from '../../queue/keys.ts';
import { commandRedis } from './command-redis.ts';
import { createEntryProgress, type EntryProgress } from './entry-progress.ts';
import { journalKeysOf, readSequence, usage } from './journal-options.ts';
import { describeVerdict, type VerifyRun, verdictJson } from './journal-verdict.ts';
import { readCertificates, trustFile } from './timestamp-verify.ts';

export interface VerifyJournalOptions {
  readonly from?: string;
  readonly to?: string;
  readonly bundle?: string;
  readonly store?: string;
  readonly key?: readonly string[];
  readonly origin?: string;
  readonly trust?: string;
  readonly checkpoint?: readonly string[];
  readonly json?: true;
}

/** A signed note, or the JSON around one as it is published and kept. */
const noteIn = (text: string): string => {
  if (!text.startsWith('{')) return text;
  const { note } = JSON.parse(text) as { note?: unknown };
  if (typeof note !== 'string') throw new TypeError('no note in it');
  return note;
};

const readNote = async (file: string): Promise<string> => {
  try {
    return noteIn(await readFile(file, 'utf8'));
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', `${file}: no checkpoint in it`, { cause });
  }
};

/** The checkpoint that Redis has, which an intruder at the store alone cannot take back. */
const publishedNote = async (config: Config): Promise<string | undefined> => {
  const { mode } = config.redis;
  // The private one runs with the service only: nobody needs to wait for it.
  if (mode === 'embedded' && !existsSync(homePaths(config.home).redisSocket)) return undefined;
  const redis = await commandRedis(config).catch(() => undefined); // one anchor less, which the summary says
  if (redis === undefined) return undefined;
  try {
    const published = await redis.get(journalKeys.checkpoint);
    return published === null ? undefined : noteIn(published);
  } catch {
    process.stderr.write('sigillo: the checkpoint that Redis has cannot be read: it is not compared\n');
    return undefined;
  } finally {
    redis.disconnect();
  }
};

/** Checkpoints that are held outside the store. @throws CONFIG_UNREADABLE */
const anchorsOf = async (config: Config, { checkpoint = [], store }: VerifyJournalOptions): Promise<string[]> => {
  const given = await Promise.all(checkpoint.map(readNote));
  if (store !== undefined) return given;
  const { journalCheckpoint } = homePaths(config.home);
  const kept = existsSync(journalCheckpoint) ? await readNote(journalCheckpoint) : undefined;
  const own = [kept, await publishedNote(config)].filter((note) => note !== undefined);
  return [...new Set([...given, ...own])];
};

/** Trusted roots; undefined when there are none, so that no timestamp can be verified. @throws CONFIG_UNREADABLE */
const rootsOf = async ({ trust }: VerifyJournalOptions, config: Config): Promise<Uint8Array[] | undefined> => {
  const isThere = trust !== undefined || config.trust.rootsFile !== undefined || existsSync(homePaths(config.home).rootCertificate);
  return isThere ? readCertificates(trustFile(trust)) : undefined;
};

type Checked = Pick<VerifyRun, 'verdict' | 'anchors' | 'trusted' | 'cover'>;

const verifyStore = async (config: Config, options: VerifyJournalOptions, progress: EntryProgress): Promise<Checked> => {
  const { from, to, store } = options;
  const range = {
    ...(from === undefined ? {} : { from: readSequence('--from', from) }),
    ...(to === undefined ? {} : { to: readSequence('--to', to) }),
  };
  const keys = journalKeysOf(config, options);
  const roots = await rootsOf(options, config);
  // Before the store is asked how long it is: a checkpoint that is made meanwhile would cover more than that.
  const anchors = await anchorsOf(config, options);
  const journal = store === undefined ? await openJournal(config) : await openJournalFolder(store);
  try {
    const { chains, unreadable } = await publishedChains(journal.client);
    const reader = new JournalReader(journal.client);
    const now = new Date();
    const verdict = await verifyJournal(reader, {
      ...range,
      keys,
      anchors,
      verifyToken: roots === undefined ? undefined : tokenVerifier(roots, chains),
      unreadable,
      ...(store === undefined ? { retentionMonths: config.journal.retentionMonths } : {}),
      now,
      onProgress: progress.update,
    });
    // What is known of the service is known of its own store only.
    const rules = store === undefined ? { interval: config.journal.checkpoint, now } : { interval: checkpointDefaults };
    const cover = verdict.kind === 'valid' ? await judgeCover(reader, verdict, rules) : undefined;
    return { verdict, cover, anchors: anchors.length, trusted: roots !== undefined };
  } finally {
    await journal.close();
  }
};

const verifyFile = async (file: string, config: Config, options: VerifyJournalOptions, progress: EntryProgress): Promise<Checked> => {
  if (options.from !== undefined || options.to !== undefined || options.store !== undefined || options.checkpoint !== undefined) {
    throw usage('--bundle is verified as a whole, without --from, --to, --store and --checkpoint');
  }
  const keys = journalKeysOf(config, options);
  const roots = await rootsOf(options, config);
  const chunks = createReadStream(file, { highWaterMark: 1_048_576 });
  let verdict: JournalVerdict;
  try {
    verdict = await verifyBundle(chunks, {
      keys,
      ...(roots === undefined ? {} : { roots }),
      now: new Date(),
      onProgress: progress.update,
    });
  } catch (cause) {
    if (cause instanceof SigilloError || (cause as NodeJS.ErrnoException).syscall === undefined) throw cause;
    throw new SigilloError('CONFIG_UNREADABLE', (cause as Error).message, { cause });
  } finally {
    chunks.destroy();
  }
  // The checkpoint in it covers all of it.
  return { verdict, cover: undefined, anchors: undefined, trusted: roots !== undefined };
};

/** Verifies and says what came of it; false when something is wrong, or nothing is signed. @throws USAGE, CONFIG_*, CERTIFICATE_INVALID, JOURNAL_STORE_UNAVAILABLE */
export const verifyStoredJournal = async (options: VerifyJournalOptions): Promise<boolean> => {
  const config = loadConfig();
  const progress = await createEntryProgress('verified');
  const startedAt = performance.now();
  let checked: Checked;
  try {
    checked =
      options.bundle === undefined
        ? await verifyStore(config, options, progress)
        : await verifyFile(options.bundle, config, options, progress);
  } finally {
    progress.close();
  }
  const run: VerifyRun = { ...checked, seconds: (performance.now() - startedAt) / 1_000 };
  process.stdout.write(options.json ? `${JSON.stringify(verdictJson(run), null, 2)}\n` : describeVerdict(run));
  return run.verdict.kind === 'valid' && run.cover?.kind !== 'unsigned';
};
