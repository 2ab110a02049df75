/** Whether a file that somebody else writes is still the one that was read. */
import { statSync } from 'node:fs';

/**
 * What changes when a file is written, replaced, made or removed, or what its link leads to; not when it is read.
 * @returns text to compare with an earlier one of the same path
 */
export const fileState = (path: string): string => {
  const found = statSync(path, { bigint: true, throwIfNoEntry: false });
  return found === undefined ? 'missing' : [found.dev, found.ino, found.size, found.mtimeNs, found.ctimeNs].join(':');
};
