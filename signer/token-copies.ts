/**
 * Copies of the files that SoftHSM's tokens stand and fall with. SoftHSM 2.6.1 empties `token.object` at each login and writes it anew,
 * without fsync, and in it is the key that all private objects are encrypted with: a process that is killed in that moment, or a power
 * cut, takes every key of the token with it.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomic } from '../config/atomic-file.ts';

const tokenFile = 'token.object';
/** SoftHSM reads nothing that does not end with `.object`. */
const copyFile = 'token.copy';
/** The file begins with a number that each login raises. */
const generationOctets = 8;
/** A login of another process empties the file for microseconds. */
const looksMax = 4;
const pauseMs = 50;
const pause = (): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, pauseMs);

const contentOf = (file: string): Buffer => (existsSync(file) ? readFileSync(file) : Buffer.alloc(0));

/** Values keep their sizes, so a file that is shorter than its copy was cut off; the zeros are what a power cut leaves. */
const isDamaged = (content: Buffer, copy: Buffer): boolean => content.length < copy.length || content.every((octet) => octet === 0);

/** Paths of the tokens; whatever else is there is not SoftHSM's. */
export const tokenFoldersIn = (tokenFolder: string): string[] =>
  readdirSync(tokenFolder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && /^[0-9a-f-]{36}$/.test(entry.name))
    .map(({ name }) => join(tokenFolder, name));

/** Keeps what the file of a token says now, unless it is damaged. @param folder of the token */
export const keepTokenFile = (folder: string): void => {
  const [content, copy] = [contentOf(join(folder, tokenFile)), contentOf(join(folder, copyFile))];
  if (isDamaged(content, copy) || content.subarray(generationOctets).equals(copy.subarray(generationOctets))) return;
  writeFileAtomic(join(folder, copyFile), content, { mode: 0o600 });
};

/**
 * Puts back the files that an interrupted login has emptied. To be called before a module is opened.
 * @param tokenFolder with a folder for each token
 * @returns the files that were put back
 */
export const restoreTokenFiles = (tokenFolder: string): string[] => {
  if (!existsSync(tokenFolder)) return [];
  return tokenFoldersIn(tokenFolder).flatMap((folder) => {
    const file = join(folder, tokenFile);
    const copy = contentOf(join(folder, copyFile));
    if (copy.length === 0) return [];
    for (let looks = 1; isDamaged(contentOf(file), copy); looks += 1) {
      if (looks === looksMax) {
        writeFileAtomic(file, copy, { mode: 0o600 });
        return [file];
      }
      pause();
    }
    return [];
  });
};
