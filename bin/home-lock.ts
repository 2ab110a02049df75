/**
 * One supervisor for each home folder, by a file that names the owner and its children.
 *
 * A process is known by its PID and the moment it started, so that a PID which the kernel gave away again is never
 * mistaken for a living owner. What an owner that was killed left running is handed to the next one.
 */
import { execFileSync } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { SigilloError } from '../config/errors.ts';

const processSchema = z.object({ name: z.string(), pid: z.int().positive(), started: z.string() });
const contentSchema = z.object({ owner: processSchema, children: z.array(processSchema) });

/** A process that cannot be confused with a later one of the same PID. */
export type KnownProcess = z.infer<typeof processSchema>;
type Content = z.infer<typeof contentSchema>;

export interface HomeLock {
  /** Processes of an earlier owner that were alive when the lock was taken. */
  readonly leftovers: readonly KnownProcess[];
  /** Puts a child on record, in place of an earlier one of the same name. */
  record(name: string, pid: number): void;
  release(): void;
}

const attemptsMax = 50;
const attemptPauseMs = 20;

const bootId = (): string => {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
  } catch {
    return ''; // not Linux: the start time below is a wall-clock time and needs no boot beside it
  }
};

/** When the process started, in whatever form the system tells; undefined when it does not run. */
const startOf = (pid: number): string | undefined => {
  if (process.platform === 'linux') {
    try {
      // proc(5): the name in parentheses may hold anything, so fields count from the last one; state is 3, starttime 22.
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return fields[0] === 'Z' ? undefined : `${bootId()}:${fields[19]}`;
    } catch {
      return undefined;
    }
  }
  try {
    return execFileSync('ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8' }).trim() || undefined;
  } catch {
    return undefined;
  }
};

export const isAlive = (known: KnownProcess): boolean => startOf(known.pid) === known.started;

/** @returns undefined when the process does not run */
export const knowProcess = (name: string, pid: number): KnownProcess | undefined => {
  const started = startOf(pid);
  return started === undefined ? undefined : { name, pid, started };
};

const readContent = (file: string): { text: string; content: Content | undefined } | undefined => {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new SigilloError('CONFIG_UNREADABLE', file, { cause: error });
  }
  try {
    return { text, content: contentSchema.parse(JSON.parse(text)) };
  } catch {
    return { text, content: undefined }; // a power cut left it torn: nobody who wrote it is alive
  }
};

/** Creates `file` with its whole content at once. @returns false when it exists already */
const createWhole = (file: string, text: string): boolean => {
  const draft = `${file}.${randomUUID()}`;
  writeFileSync(draft, text, { mode: 0o600 });
  try {
    linkSync(draft, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    rmSync(draft);
  }
};

const replaceWhole = (file: string, text: string): void => {
  const draft = `${file}.${randomUUID()}`;
  writeFileSync(draft, text, { mode: 0o600 });
  renameSync(draft, file);
};

const inUse = (file: string, owner: KnownProcess): SigilloError => new SigilloError('HOME_IN_USE', `Process ${owner.pid} holds ${file}.`);

/**
 * Replaces the file of a dead owner. Two that see the same dead owner must not both win: only one can create the claim
 * that is named after that very content, and whoever gets it later finds other content in the file.
 */
const takeOver = (file: string, stale: string, ours: string): boolean => {
  const claim = `${file}.claim-${createHash('sha256').update(stale).digest('hex').slice(0, 16)}`;
  if (!createWhole(claim, ours)) {
    const claimant = readContent(claim)?.content?.owner;
    if (claimant === undefined || !isAlive(claimant)) rmSync(claim, { force: true });
    return false;
  }
  try {
    if (readContent(file)?.text !== stale) return false;
    replaceWhole(file, ours);
    return true;
  } finally {
    rmSync(claim, { force: true });
  }
};

/** Takes the home folder for this process. @throws HOME_IN_USE */
export const lockHome = async (file: string): Promise<HomeLock> => {
  const owner = knowProcess('supervisor', process.pid);
  if (owner === undefined) throw new SigilloError('INTERNAL', 'the start time of this process cannot be read');
  const children = new Map<string, KnownProcess>();
  const text = (): string => `${JSON.stringify({ owner, children: [...children.values()] })}\n`;
  const lock = (leftovers: readonly KnownProcess[]): HomeLock => ({
    leftovers,
    record(name, pid) {
      const known = knowProcess(name, pid);
      if (known === undefined) return;
      children.set(name, known);
      replaceWhole(file, text());
    },
    release: () => rmSync(file, { force: true }),
  });

  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    if (createWhole(file, text())) return lock([]);
    const found = readContent(file);
    if (found?.content !== undefined && isAlive(found.content.owner)) throw inUse(file, found.content.owner);
    const leftovers = found?.content?.children.filter(isAlive) ?? [];
    // Children of the dead owner stay on record until they are gone, in case we die too before that.
    for (const child of leftovers) children.set(`left-over ${child.name} ${child.pid}`, child);
    if (found !== undefined && takeOver(file, found.text, text())) return lock(leftovers);
    children.clear();
    await delay(attemptPauseMs);
  }
  throw new SigilloError('HOME_IN_USE', `${file} is being taken over by another process.`);
};

/** Waits for a process that is not our child; kills it when the bound is over. @returns false when it had to be killed */
export const untilGone = async (known: KnownProcess, boundMs: number): Promise<boolean> => {
  const deadline = performance.now() + boundMs;
  let killed = false;
  while (isAlive(known)) {
    if (!killed && performance.now() >= deadline) {
      killed = true;
      try {
        process.kill(known.pid, 'SIGKILL');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
    }
    await delay(attemptPauseMs);
  }
  return !killed;
};
