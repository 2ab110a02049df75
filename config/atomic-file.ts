/** Files that are whole or absent: what a reader finds is never half of a write, whatever interrupted it. */
import { closeSync, fsyncSync, openSync, readdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** Makes the entries of a folder durable: a rename is safe against power loss only after this. */
export const syncFolder = (folder: string): void => {
  const descriptor = openSync(folder, 'r');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
};

/** Makes every file and folder below `folder` durable, for what a library wrote without fsync. */
export const syncTree = (folder: string): void => {
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile() || entry.isDirectory()) syncFolder(join(entry.parentPath, entry.name));
  }
  syncFolder(folder);
};

/**
 * Writes a file through a temporary neighbour, fsync and rename.
 * The neighbour has a fixed name, so one writer for each file: a leftover of an interruption is then simply overwritten.
 *
 * @param options.mode permission bits, for example 0o600 for a secret
 */
export const writeFileAtomic = (file: string, content: string | Uint8Array, options: { mode: number }): void => {
  const temporary = `${file}.new`;
  const descriptor = openSync(temporary, 'w', options.mode);
  try {
    writeFileSync(descriptor, content);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  renameSync(temporary, file);
  syncFolder(dirname(file));
};
