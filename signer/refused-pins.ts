/**
 * Remembers on disk what became of PINs: a few wrong tries lock a token for ever, and a service that is started again, by its supervisor
 * or by a worried operator, must not be what tries. A PIN file that was changed since counts as another PIN.
 *
 * Each try is written down before the token hears of it, and struck out when the token has taken the PIN. What stays behind, after a
 * crash or when the way to the token broke meanwhile, is a try whose end nobody knows. One more is allowed then, so that a good slot
 * survives a kill -9 in that moment, and no third: tokens lock after three at the least. Processes try one after the other, or a start
 * of several with a wrong PIN would use up what the token allows all at once.
 */
import { createHash, randomBytes } from 'node:crypto';
import {
  chownSync,
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { syncFolder, writeFileAtomic } from '../config/atomic-file.ts';
import { SigilloError } from '../config/errors.ts';
import { isProcessAlive, type ProcessName, processName, processNameSchema } from './process-name.ts';

const recordSchema = z.strictObject({
  label: z.string(),
  pinFile: z.string(),
  /** Of the PIN file when its PIN was refused: what tells another PIN, without a trace of the PIN itself. */
  changedAtMs: z.number(),
  refusedAt: z.iso.datetime(),
  reason: z.string(),
});

const trySchema = z.strictObject({
  by: processNameSchema,
  label: z.string(),
  pinFile: z.string(),
  triedAt: z.iso.datetime(),
  /** Why nobody knows what the token made of it; without one, the process is at it, or has died. */
  unclear: z.string().optional(),
});
type Try = z.output<typeof trySchema>;

/** A login that is about to be tried, and is tried by nobody else meanwhile. One of its ends must be called. */
export interface LoginTry {
  /** The token has taken the PIN. */
  taken(): void;
  /** The token has not seen the PIN. */
  untouched(): void;
  /** Nobody knows whether the token has seen it. */
  unclear(reason: string): void;
  refused(reason: string): void;
}

export interface RefusedPins {
  /** @throws HSM_PIN_REFUSED when the PIN of this file may not be tried; HSM_PIN_UNRECORDED when it cannot be written down; HSM_DEVICE when another process does not end its try */
  begin(label: string, pinFile: string): LoginTry;
}

/** Tries without a known end that one PIN may have. */
const triesMax = 2;
/** A login takes milliseconds, or seconds in an appliance that is busy. */
const othersMsMax = 15_000;
const pauseMs = 50;
const pause = (): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, pauseMs);

const noop = (): void => undefined;
/** Remembers nothing: for modules that are opened for a moment only. */
const forgetful: RefusedPins = { begin: () => ({ taken: noop, untouched: noop, unclear: noop, refused: noop }) };

const shortHash = (text: string, digits: number): string => createHash('sha256').update(text).digest('hex').slice(0, digits);

const changedAtMs = (pinFile: string): number => {
  try {
    return statSync(pinFile).mtimeMs;
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', pinFile, { cause });
  }
};

/** Writes a new file as a whole. @returns false when it is there already */
const create = (file: string, content: string): boolean => {
  const temporary = `${file}.${randomBytes(6).toString('hex')}.new`;
  try {
    const descriptor = openSync(temporary, 'wx', 0o600);
    try {
      writeFileSync(descriptor, content);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    linkSync(temporary, file);
    syncFolder(dirname(file));
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    rmSync(temporary, { force: true });
  }
};

const makeFolder = (folder: string): void => {
  if (existsSync(folder)) return;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  // A command that root runs before the first start must not keep the service out.
  const { uid, gid } = statSync(dirname(folder));
  if (process.getuid?.() === 0) chownSync(folder, uid, gid);
};

class PinFolder {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  begin(label: string, pinFile: string): LoginTry {
    const changed = changedAtMs(pinFile);
    const until = performance.now() + othersMsMax;
    for (;;) {
      this.#check(label, pinFile, changed);
      const file = this.#take(label, pinFile, changed);
      if (file === undefined) {
        if (performance.now() > until)
          throw new SigilloError('HSM_DEVICE', `another process has been logging in to token "${label}" for long`);
        pause();
        continue;
      }
      try {
        // It may have been refused to another between the two looks.
        this.#check(label, pinFile, changed);
      } catch (error) {
        rmSync(file, { force: true });
        throw error;
      }
      return this.#tryIn(file, label, pinFile, changed);
    }
  }

  /** A label may hold anything; its digest is a file name. */
  #fileOf(label: string): string {
    return join(this.#folder, `${shortHash(label, 32)}.json`);
  }

  #tryFile(label: string, pinFile: string, changed: number, n: number): string {
    return join(this.#folder, `${shortHash(label, 32)}.${shortHash(`${pinFile}\0${changed}`, 16)}.try${n}`);
  }

  /** What a file of ours says. @returns undefined when there is none */
  #read<T>(file: string, schema: z.ZodType<T>): T | undefined {
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw new SigilloError('CONFIG_UNREADABLE', file, { cause: error });
    }
    try {
      return schema.parse(JSON.parse(text));
    } catch (cause) {
      throw new SigilloError('CONFIG_UNREADABLE', file, { cause });
    }
  }

  #check(label: string, pinFile: string, changed: number): void {
    const record = this.#read(this.#fileOf(label), recordSchema);
    if (record === undefined || record.pinFile !== pinFile || record.changedAtMs !== changed) return;
    const when = `token "${label}" refused the PIN of ${pinFile} at ${record.refusedAt} (${record.reason})`;
    throw new SigilloError(
      'HSM_PIN_REFUSED',
      `${when}; it is not tried again before that file is changed, or ${this.#fileOf(label)} removed`,
    );
  }

  /**
   * Writes down that this process is about to try.
   * @returns the file; undefined while another process is at it
   * @throws HSM_PIN_REFUSED when the tries are used up, HSM_PIN_UNRECORDED when nothing can be written
   */
  #take(label: string, pinFile: string, changed: number): string | undefined {
    const mine: Try = { by: processName(), label, pinFile, triedAt: new Date().toISOString() };
    const seen: string[] = [];
    for (let n = 1; n <= triesMax; n += 1) {
      const file = this.#tryFile(label, pinFile, changed, n);
      try {
        makeFolder(this.#folder);
        if (create(file, `${JSON.stringify(mine)}\n`)) return file;
      } catch (cause) {
        // Without a trace of it there is no try: the next process would know nothing of this one.
        // A disk that is full may have room later, so this is no end of the slot.
        throw new SigilloError('HSM_PIN_UNRECORDED', `${file}: ${(cause as Error).message}`, { cause });
      }
      const other = this.#read(file, trySchema);
      if (other === undefined || (other.unclear === undefined && isProcessAlive(other.by as ProcessName))) return undefined;
      seen.push(`${other.triedAt} (${other.unclear ?? 'the process died meanwhile'}), ${file}`);
    }
    const tries = seen.join('; ');
    throw new SigilloError(
      'HSM_PIN_REFUSED',
      `nobody knows what token "${label}" made of the PIN of ${pinFile}: ${tries}; it is not tried again before that file is changed, or these are removed`,
    );
  }

  #tryIn(file: string, label: string, pinFile: string, changed: number): LoginTry {
    return {
      taken: () => {
        const own = `${shortHash(label, 32)}.`;
        for (const name of readdirSync(this.#folder)) if (name.startsWith(own)) rmSync(join(this.#folder, name), { force: true });
      },
      untouched: () => rmSync(file, { force: true }),
      unclear: (reason) => {
        const earlier = this.#read(file, trySchema);
        if (earlier !== undefined) writeFileAtomic(file, `${JSON.stringify({ ...earlier, unclear: reason })}\n`, { mode: 0o600 });
      },
      refused: (reason) => {
        const record = { label, pinFile, changedAtMs: changed, refusedAt: new Date().toISOString(), reason };
        writeFileAtomic(this.#fileOf(label), `${JSON.stringify(record)}\n`, { mode: 0o600 });
        rmSync(file, { force: true });
      },
    };
  }
}

/** @param folder where to remember them; undefined remembers nothing, for modules that are opened for a moment only */
export const createRefusedPins = (folder: string | undefined): RefusedPins => (folder === undefined ? forgetful : new PinFolder(folder));
