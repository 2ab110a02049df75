/** Names a process so that another one can tell whether it still lives: a number alone may have been given to somebody else since. */
import { readFileSync } from 'node:fs';
import { z } from 'zod';

export const processNameSchema = z.strictObject({
  pid: z.int().positive(),
  /** When it was started, in the kernel's ticks since the boot; unknown where there is no /proc. */
  startedTicks: z.string().optional(),
});
export type ProcessName = z.output<typeof processNameSchema>;

/** Field 22 of /proc/[pid]/stat (proc(5)); the name in field 2 may hold blanks and parentheses. */
const startedTicks = (pid: number): string | undefined => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined; // no /proc here, or the process has ended
  }
};

/** The name of this process. */
export const processName = (): ProcessName => {
  const ticks = startedTicks(process.pid);
  return ticks === undefined ? { pid: process.pid } : { pid: process.pid, startedTicks: ticks };
};

/** Whether the process of this name lives on this machine. */
export const isProcessAlive = ({ pid, startedTicks: known }: ProcessName): boolean => {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
  }
  const now = startedTicks(pid);
  return known === undefined || now === undefined || known === now;
};
