/**
 * Remembers on disk what became of PINs: a few wrong tries lock a token for ever, and a service that is started again, by its supervisor
 * or by a worried operator, must not be what tries. A PIN is known by what it is, and not by the time of its file: one that is made anew at
 * each restart, as secrets of containers are, has the PIN that it had.
 *
 * Each try is written down before the token hears of it, and struck out when the token has taken the PIN. What stays behind, after a
 * crash or when the way to the token broke meanwhile, is a try whose end nobody knows. One more is allowed then, so that a good slot
 * survives a kill -9 in that moment, and no third: tokens lock after three at the least. Processes try one after the other, or a start
 * of several with a wrong PIN would use up what the token allows all at once.
 */
import { createHash, randomBytes, scryptSync } from 'node:crypto';
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
import { readSecretFile } from '../config/secrets.ts';
import { isProcessAlive, type ProcessName, processName, processNameSchema } from './process-name.ts';

/** Which PIN it was stands in the name of its file. */
const recordSchema = z.strictObject({
  label: z.string(),
  pinFile: z.string(),
  refusedAt: z.iso.datetime(),
  reason: z.string(),
});

/** As earlier releases wrote it, which took a PIN file of another time for another PIN. */
const datedRecordSchema = recordSchema.extend({ changedAtMs: z.number() });

const saltSchema = z.hex().length(32);

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
  /** The PIN to try: what was in its file when the try was written down. */
  readonly pin: string;
  /** The token has taken the PIN. */
  taken(): void;
  /** The token has not seen the PIN. */
  untouched(): void;
  /** Nobody knows whether the token has seen it. */
  unclear(reason: string): void;
  refused(reason: string): void;
}

export interface RefusedPins {
  /** @throws CONFIG_UNREADABLE, CONFIG_INVALID when the file has no PIN; HSM_PIN_REFUSED when the PIN of this file may not be tried; HSM_PIN_UNRECORDED when it cannot be written down; HSM_DEVICE when another process does not end its try */
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
const forgetful: RefusedPins = {
  begin: (_label, pinFile) => ({ pin: readSecretFile(pinFile), taken: noop, untouched: noop, unclear: noop, refused: noop }),
};

const shortHash = (text: string, digits: number): string => createHash('sha256').update(text).digest('hex').slice(0, digits);

const changedAtMs = (pinFile: string): number => {
  try {
    return statSync(pinFile).mtimeMs;
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', pinFile, { cause });
  }
};

/** What root writes, such as a command before the first start, must not keep the service out. */
const giveToOwnerOf = (folder: string, file: string): void => {
  if (process.getuid?.() !== 0) return;
  const { uid, gid } = statSync(folder);
  chownSync(file, uid, gid);
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
    giveToOwnerOf(dirname(file), temporary);
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
  giveToOwnerOf(dirname(folder), folder);
};

/** 55 ms of a core and 16 MB: nothing beside a login, and all PINs of six digits take 15 hours to go through. */
const scryptCost = { N: 16_384, r: 8, p: 1 } as const;

/** What is about to be tried, and how it is known again. */
interface Candidate {
  readonly label: string;
  readonly pinFile: string;
  readonly pin: string;
  /**
   * Salted scrypt of the PIN. It stands in names of files, mode 0600 in a folder of the service: who can read that can read the PIN file,
   * and the PINs that stay are those that were refused, or whose login nobody knows the end of.
   */
  readonly id: string;
  /** Of the PIN file, by which records of earlier releases know it. */
  readonly changedAtMs: number;
}

class PinFolder {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  begin(label: string, pinFile: string): LoginTry {
    // The time first: should the file be changed in between, the PIN may only seem older than it is.
    const changed = changedAtMs(pinFile);
    const pin = readSecretFile(pinFile);
    const id = scryptSync(pin, this.#salt(label), 16, scryptCost).toString('hex');
    const candidate: Candidate = { label, pinFile, pin, id, changedAtMs: changed };
    const until = performance.now() + othersMsMax;
    for (;;) {
      this.#check(candidate);
      const file = this.#take(candidate);
      if (file === undefined) {
        if (performance.now() > until)
          throw new SigilloError('HSM_DEVICE', `another process has been logging in to token "${label}" for long`);
        pause();
        continue;
      }
      try {
        // It may have been refused to another between the two looks.
        this.#check(candidate);
      } catch (error) {
        rmSync(file, { force: true });
        throw error;
      }
      return this.#tryIn(file, candidate);
    }
  }

  /** A label may hold anything; its digest is a file name. */
  #file(label: string, rest: string): string {
    return join(this.#folder, `${shortHash(label, 32)}.${rest}`);
  }

  #tryFiles({ label, id }: Candidate): string[] {
    return Array.from({ length: triesMax }, (_, n) => this.#file(label, `${id}.try${n + 1}`));
  }

  /** As earlier releases named them. */
  #datedTryFiles({ label, pinFile, changedAtMs: changed }: Candidate): string[] {
    return Array.from({ length: triesMax }, (_, n) => this.#file(label, `${shortHash(`${pinFile}\0${changed}`, 16)}.try${n + 1}`));
  }

  /** Of each token its own, so that tokens with one PIN do not show it. It stays for good: without it no PIN is known again. */
  #salt(label: string): Buffer {
    const file = this.#file(label, 'salt');
    const known = this.#read(file, saltSchema);
    if (known !== undefined) return Buffer.from(known, 'hex');
    const salt = randomBytes(16);
    // Another process may be first: then its salt counts.
    return this.#create(file, salt.toString('hex')) ? salt : this.#salt(label);
  }

  /** @returns false when it is there already @throws HSM_PIN_UNRECORDED */
  #create(file: string, content: unknown): boolean {
    try {
      makeFolder(this.#folder);
      return create(file, `${JSON.stringify(content)}\n`);
    } catch (cause) {
      // Without a trace of it there is no try: the next process would know nothing of this one.
      // A disk that is full may have room later, so this is no end of the slot.
      throw new SigilloError('HSM_PIN_UNRECORDED', `${file}: ${(cause as Error).message}`, { cause });
    }
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

  #check({ label, pinFile, id, changedAtMs: changed }: Candidate): void {
    const refuse = (file: string, record: z.output<typeof recordSchema>): void => {
      const when = `token "${label}" refused the PIN of ${record.pinFile} at ${record.refusedAt} (${record.reason})`;
      throw new SigilloError('HSM_PIN_REFUSED', `${when}; it is not tried again before ${pinFile} has another one, or ${file} is removed`);
    };
    const file = this.#file(label, `${id}.json`);
    const record = this.#read(file, recordSchema);
    if (record !== undefined) refuse(file, record);
    const datedFile = this.#file(label, 'json');
    const dated = this.#read(datedFile, datedRecordSchema);
    if (dated?.pinFile === pinFile && dated.changedAtMs === changed) refuse(datedFile, dated);
  }

  /**
   * Writes down that this process is about to try.
   * @returns the file; undefined while another process is at it
   * @throws HSM_PIN_REFUSED when the tries are used up, HSM_PIN_UNRECORDED when nothing can be written
   */
  #take(candidate: Candidate): string | undefined {
    const { label, pinFile } = candidate;
    const mine: Try = { by: processName(), label, pinFile, triedAt: new Date().toISOString() };
    const seen: string[] = [];
    const isAtIt = (other: Try): boolean => other.unclear === undefined && isProcessAlive(other.by as ProcessName);
    const see = (file: string, other: Try): unknown =>
      seen.push(`${other.triedAt} (${other.unclear ?? 'the process died meanwhile'}), ${file}`);
    for (const file of this.#datedTryFiles(candidate)) {
      const other = this.#read(file, trySchema);
      if (other === undefined) continue;
      if (isAtIt(other)) return undefined;
      see(file, other);
    }
    for (const file of this.#tryFiles(candidate)) {
      if (seen.length >= triesMax) break;
      if (this.#create(file, mine)) return file;
      const other = this.#read(file, trySchema);
      if (other === undefined || isAtIt(other)) return undefined;
      see(file, other);
    }
    const tries = seen.join('; ');
    throw new SigilloError(
      'HSM_PIN_REFUSED',
      `nobody knows what token "${label}" made of the PIN of ${pinFile}: ${tries}; it is not tried again before that file has another one, or these are removed`,
    );
  }

  #tryIn(file: string, { label, pinFile, pin, id }: Candidate): LoginTry {
    return {
      pin,
      taken: () => {
        const own = readdirSync(this.#folder).filter((name) => name.startsWith(`${shortHash(label, 32)}.`) && !name.endsWith('.salt'));
        for (const name of own) rmSync(join(this.#folder, name), { force: true });
      },
      untouched: () => rmSync(file, { force: true }),
      unclear: (reason) => {
        const earlier = this.#read(file, trySchema);
        if (earlier === undefined) return;
        writeFileAtomic(file, `${JSON.stringify({ ...earlier, unclear: reason })}\n`, { mode: 0o600 });
        giveToOwnerOf(this.#folder, file);
      },
      refused: (reason) => {
        const record = { label, pinFile, refusedAt: new Date().toISOString(), reason };
        this.#create(this.#file(label, `${id}.json`), record);
        rmSync(file, { force: true });
      },
    };
  }
}

/** @param folder where to remember them; undefined remembers nothing, for modules that are opened for a moment only */
export const createRefusedPins = (folder: string | undefined): RefusedPins => (folder === undefined ? forgetful : new PinFolder(folder));
