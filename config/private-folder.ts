/** Folders that only the user who runs Sigillo may enter. */
import { chmodSync, lstatSync, mkdirSync, statSync } from 'node:fs';
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

/**
 * Makes the home folder private. It is named by whoever starts Sigillo, perhaps by mistake: closing a folder that is shared on purpose,
 * such as /tmp, would break others.
 * @throws CONFIG_INVALID when it is open to others and not ours to close, CONFIG_UNREADABLE when it cannot be made or closed
 */
export const makePrivateHome = (home: string): void => {
  try {
    mkdirSync(home, { recursive: true, mode: 0o700 });
    const { mode, uid } = statSync(home);
    if ((mode & 0o077) === 0) return;
    if ((mode & 0o1000) !== 0 || uid !== process.getuid?.()) {
      throw new SigilloError('CONFIG_INVALID', `home: ${home} is open to others and not ours to close; choose a folder of its own`);
    }
    chmodSync(home, 0o700);
  } catch (cause) {
    if (cause instanceof SigilloError) throw cause;
    const detail = `home: ${home} cannot be made private (mode 0700) for the user that runs Sigillo.`;
    throw new SigilloError('CONFIG_UNREADABLE', detail, { cause });
  }
};
