/**
 * Walks files, hashes them, has them stamped and writes FILE.tsr beside each.
 *
 * A .tsr file appears whole or not at all, after its imprint and nonce were compared. Memory stays bounded whatever the
 * number of files: each lane holds one batch.
 */
import { createHash, randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, open, opendir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { digestAlgorithms } from '../../pki/algorithms.ts';
import type { Stamp, TimestampClient } from './timestamp-client.ts';
import { TimestampServerError } from './timestamp-client.ts';

type DigestName = keyof typeof digestAlgorithms;

export interface FileReport {
  readonly outcome: 'stamped' | 'skipped' | 'failed';
  readonly path: string;
  readonly why?: string | undefined;
}

export interface StampSummary {
  readonly stamped: number;
  readonly skipped: number;
  readonly failed: number;
  /** Why the run ended before its last file. */
  readonly stopped: string | undefined;
}

export interface StampRun {
  readonly paths: readonly string[];
  readonly digest: DigestName;
  /** Write over a .tsr file that is there. */
  readonly replace: boolean;
  readonly client: TimestampClient;
  readonly report: (report: FileReport) => void;
}

/** What one request takes (timestamp.imprintsMax). */
const batchFiles = 1_000;
/** One batch is on its way while the next is hashed. */
const lanes = 2;
/** File operations of one lane at once; more only queue for the four threads of libuv. */
const filesAtOnce = 4;
const readOctets = 262_144;
const suffix = '.tsr';

type Found = { readonly path: string; readonly skip?: string; readonly fault?: string };

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const classify = (path: string, kind: { isFile(): boolean; isSymbolicLink(): boolean }): Found => {
  if (path.endsWith(suffix)) return { path, skip: 'is a timestamp' };
  if (kind.isSymbolicLink()) return { path, skip: 'is a symbolic link' };
  return kind.isFile() ? { path } : { path, skip: 'is no regular file' };
};

/** Every file under the paths; what is in a folder and is no file to stamp, timestamps above all, is passed over in silence. */
async function* walk(paths: readonly string[]): AsyncGenerator<Found> {
  const open = paths.toReversed().map((path) => ({ path, named: true }));
  while (open.length > 0) {
    const { path, named } = open.pop() as { path: string; named: boolean };
    try {
      if (named) {
        const stat = await lstat(path);
        if (!stat.isDirectory()) {
          yield classify(path, stat);
          continue;
        }
      }
      for await (const entry of await opendir(path)) {
        const inner = join(path, entry.name);
        if (entry.isDirectory()) open.push({ path: inner, named: false });
        else if (!entry.name.endsWith(suffix)) yield classify(inner, entry);
      }
    } catch (error) {
      yield { path, fault: messageOf(error) };
    }
  }
}

/** How many reports a run over these paths will make. */
export const countFiles = async (paths: readonly string[]): Promise<number> => {
  let count = 0;
  for await (const _found of walk(paths)) count += 1;
  return count;
};

/** An empty .tsr is what a crash of the machine can leave; it is no timestamp. */
const hasTimestamp = async (path: string): Promise<boolean> => {
  const stat = await lstat(path + suffix).catch(() => undefined);
  return stat !== undefined && (!stat.isFile() || stat.size > 0);
};

/** Digest of a file, read in pieces. @throws when it is no regular file, cannot be read or changes meanwhile */
export const hashFile = async (path: string, digest: string): Promise<Uint8Array> => {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const before = await file.stat();
    if (!before.isFile()) throw new Error('is no regular file');
    const hash = createHash(digest);
    const buffer = Buffer.allocUnsafe(Math.max(1, Math.min(readOctets, before.size)));
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length, null);
      if (bytesRead === 0) break;
      hash.update(buffer.subarray(0, bytesRead));
    }
    const after = await file.stat();
    if (after.size !== before.size || after.mtimeMs !== before.mtimeMs) throw new Error('changed while it was read');
    return hash.digest();
  } finally {
    await file.close();
  }
};

/** Writes FILE.tsr under a name that a later walk passes over, and moves it into place when it is on the disk. */
const writeTimestamp = async (path: string, bytes: Uint8Array): Promise<void> => {
  const temporary = join(dirname(path), `.${randomBytes(8).toString('hex')}${suffix}`);
  try {
    await writeFile(temporary, bytes, { flag: 'wx', flush: true });
    await rename(temporary, path + suffix);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
};

const forEachAtOnce = async <T>(items: readonly T[], atOnce: number, action: (item: T, index: number) => Promise<void>): Promise<void> => {
  let next = 0;
  const run = async (): Promise<void> => {
    while (next < items.length) {
      const index = next;
      next += 1;
      await action(items[index] as T, index);
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, run));
};

class StampingRun {
  readonly #run: StampRun;
  readonly #files: AsyncGenerator<Found>;
  readonly #counts = { stamped: 0, skipped: 0, failed: 0 };
  #stopped: string | undefined;
  #gathering: Promise<unknown> = Promise.resolve();

  constructor(run: StampRun) {
    this.#run = run;
    this.#files = walk(run.paths);
  }

  async run(): Promise<StampSummary> {
    await Promise.all(Array.from({ length: lanes }, () => this.#lane()));
    return { ...this.#counts, stopped: this.#stopped };
  }

  #report(outcome: FileReport['outcome'], path: string, why?: string): void {
    this.#counts[outcome] += 1;
    this.#run.report({ outcome, path, why });
  }

  /** The next files that need a stamp; empty at the end. One lane gathers at a time: shared out, they would get half batches. */
  #nextBatch(): Promise<string[]> {
    const batch = this.#gathering.then(() => this.#gather());
    this.#gathering = batch;
    return batch;
  }

  async #gather(): Promise<string[]> {
    const batch: string[] = [];
    while (batch.length < batchFiles && this.#stopped === undefined) {
      const { done, value } = await this.#files.next();
      if (done) break;
      if (value.fault !== undefined) this.#report('failed', value.path, value.fault);
      else if (value.skip !== undefined) this.#report('skipped', value.path, value.skip);
      else if (!this.#run.replace && (await hasTimestamp(value.path)))
        this.#report('skipped', value.path, 'has a timestamp (--force replaces it)');
      else batch.push(value.path);
    }
    return batch;
  }

  async #lane(): Promise<void> {
    for (let batch = await this.#nextBatch(); batch.length > 0; batch = await this.#nextBatch()) {
      const hashes: (Uint8Array | undefined)[] = [];
      await forEachAtOnce(batch, filesAtOnce, async (path, i) => {
        try {
          hashes[i] = await hashFile(path, this.#run.digest);
        } catch (error) {
          this.#report('failed', path, messageOf(error));
        }
      });
      const hashed = batch.flatMap((path, i) => (hashes[i] === undefined ? [] : { path, hash: hashes[i] }));
      await this.#stampBatch(hashed);
    }
  }

  async #stampBatch(hashed: readonly { readonly path: string; readonly hash: Uint8Array }[]): Promise<void> {
    if (hashed.length === 0) return;
    let stamps: readonly Stamp[];
    try {
      stamps = await this.#run.client.stamp(hashed.map(({ hash }) => hash));
    } catch (error) {
      if (!(error instanceof TimestampServerError)) throw error;
      // What is wrong with the service or the credential is wrong for every other file too.
      this.#stopped ??= error.message;
      for (const { path } of hashed) this.#report('failed', path, error.message);
      return;
    }
    await forEachAtOnce(stamps, filesAtOnce, async (stamp, i) => {
      const { path } = hashed[i] as { path: string };
      if (stamp.kind === 'refused') {
        this.#report('failed', path, stamp.reason);
        return;
      }
      try {
        await writeTimestamp(path, stamp.response);
        this.#report('stamped', path);
      } catch (error) {
        this.#report('failed', path, messageOf(error));
      }
    });
  }
}

/** Stamps every file under the paths. Ends early when the service refuses altogether; what was written stays. */
export const stampFiles = (run: StampRun): Promise<StampSummary> => new StampingRun(run).run();
