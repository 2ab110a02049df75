/** Folders that only the user who runs Sigillo may enter. */
import { chmodSync, lstatSync, mkdirSync } from 'node:fs';
import { SigilloError } from './errors.ts';

/**
 * Makes a folder private; one that is there already may lie under the world-writable temporary folder, and must be ours before anything
 * listens in it.
 * @throws CONFIG_UNREADABLE when it is somebody else's
 */
export const makePrivateFolder = (folder: string): void => {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const stats = lstatSync(folder);
  if (!stats.isDirectory() || stats.uid !== process.getuid?.()) {
    throw new SigilloError('CONFIG_UNREADABLE', `${folder}: must be a folder of the user that runs Sigillo`);
  }
  chmodSync(folder, 0o700);
};
