/** Who runs a command, as the journal names them. */
import { userInfo } from 'node:os';

/** Name of the user of this machine; its number where it has no name, as in some containers. */
export const operatorName = (): string => {
  try {
    return userInfo().username;
  } catch {
    return `uid-${process.getuid?.() ?? 'unknown'}`;
  }
};
