/**
 * CPU time and memory of a process and everything it started, read from /proc (proc(5)) and summed by the part it plays.
 *
 * A child that ended meanwhile is not lost: its time is in the cutime/cstime of the parent that waited for it, and sums over the
 * whole tree stay right when what it had used before is subtracted with the first reading.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

export const roles = ['gateway', 'signer', 'redis', 'journal', 'other'] as const;
/** `other` is the supervisor and whatever else it runs. */
export type Role = (typeof roles)[number];
export type ByRole = Readonly<Record<Role, number>>;

export interface TreeProcess {
  readonly pid: number;
  readonly role: Role;
  /** PIDs are used again; this tells whose it is. */
  readonly start: string;
}

/** What a command line, its arguments parted by NUL, stands for. */
export const roleOf = (commandLine: string): Role => {
  const [program = '', ...parameters] = commandLine.split('\0');
  if (/(^|\/)redis[^/]*$/.test(program.split(' ', 1)[0] ?? '')) return 'redis';
  for (const role of ['gateway', 'signer', 'journal'] as const) {
    if (parameters.some((parameter) => parameter.endsWith(`bin/${role}.ts`))) return role;
  }
  return 'other';
};

/** Clock ticks of a process in user and system mode, its own and those of children it waited for. */
export const ticksOfStat = (stat: string): number => {
  // The command name may itself hold spaces and brackets; the last bracket ends it. utime is field 14, cstime field 17.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
};

/** When a process started, in ticks since boot: with the PID, its identity. */
export const startOfStat = (stat: string): string => stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';

/** VmRSS of a /proc/<pid>/status in bytes; 0 for a process that is only waiting to be reaped. */
export const residentBytesOfStatus = (status: string): number => Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1024;

/** A process may end between the listing and the reading. */
const readOrUndefined = (file: string): string | undefined => {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
};

/** A child is listed under the thread that forked it. */
const childrenOf = (pid: number): number[] => {
  let threads: string[];
  try {
    threads = readdirSync(`/proc/${pid}/task`);
  } catch {
    return []; // ended meanwhile
  }
  return threads.flatMap((thread) =>
    (readOrUndefined(`/proc/${pid}/task/${thread}/children`) ?? '').split(' ').filter(Boolean).map(Number),
  );
};

/** The process and all its descendants that live now. */
export const listTree = (rootPid: number): TreeProcess[] => {
  const found: TreeProcess[] = [];
  const open = [rootPid];
  for (let pid = open.pop(); pid !== undefined; pid = open.pop()) {
    const commandLine = readOrUndefined(`/proc/${pid}/cmdline`);
    const stat = readOrUndefined(`/proc/${pid}/stat`);
    if (commandLine === undefined || stat === undefined) continue;
    found.push({ pid, role: roleOf(commandLine), start: startOfStat(stat) });
    open.push(...childrenOf(pid));
  }
  return found;
};

export const zeroByRole: ByRole = { gateway: 0, signer: 0, redis: 0, journal: 0, other: 0 };

/** True while this very process lives; one that waits to be reaped does not. */
export const isAlive = ({ pid, start }: TreeProcess): boolean => {
  const stat = readOrUndefined(`/proc/${pid}/stat`);
  return stat !== undefined && startOfStat(stat) === start && !/\) [ZX] /.test(stat);
};

const sumByRole = (processes: readonly TreeProcess[], value: (pid: number) => number): ByRole => {
  const sums = { ...zeroByRole };
  for (const { pid, role } of processes) sums[role] += value(pid);
  return sums;
};

let microsPerTick: number | undefined;
const tickMicros = (): number => {
  microsPerTick ??= 1_000_000 / Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
  return microsPerTick;
};

/** CPU microseconds used so far, by role; only differences of two readings mean anything. */
export const readCpuMicros = (rootPid: number): ByRole =>
  sumByRole(listTree(rootPid), (pid) => {
    const stat = readOrUndefined(`/proc/${pid}/stat`);
    return stat === undefined ? 0 : ticksOfStat(stat) * tickMicros();
  });

/** Resident bytes now, by role. */
export const readResidentBytes = (rootPid: number): ByRole =>
  sumByRole(listTree(rootPid), (pid) => residentBytesOfStatus(readOrUndefined(`/proc/${pid}/status`) ?? ''));

/** `after` minus `before`, each divided. */
export const differenceByRole = (before: ByRole, after: ByRole, divisor: number): ByRole => ({
  gateway: (after.gateway - before.gateway) / divisor,
  signer: (after.signer - before.signer) / divisor,
  redis: (after.redis - before.redis) / divisor,
  journal: (after.journal - before.journal) / divisor,
  other: (after.other - before.other) / divisor,
});

export const totalOf = (byRole: ByRole): number => roles.reduce((sum, role) => sum + byRole[role], 0);

/** What a whole machine did between two readings of the first line of /proc/stat, in CPU microseconds. */
export interface MachineCpu {
  readonly busyMicros: number;
  /** What its hypervisor gave to others. */
  readonly stolenMicros: number;
  readonly allMicros: number;
}

/** @param before first line of /proc/stat, as is `after` */
export const machineCpuBetween = (before: string, after: string): MachineCpu => {
  // user, nice, system, idle, iowait, irq, softirq, steal; what follows (guests) is contained in user and nice.
  const fields = (line: string): number[] => line.trim().split(/\s+/).slice(1, 9).map(Number);
  const first = fields(before);
  const ticks = fields(after).map((value, i) => value - (first[i] ?? 0));
  const at = (i: number): number => ticks[i] ?? 0;
  const sum = (places: readonly number[]): number => places.reduce((total, i) => total + at(i), 0) * tickMicros();
  return { busyMicros: sum([0, 1, 2, 5, 6]), stolenMicros: sum([7]), allMicros: sum([0, 1, 2, 3, 4, 5, 6, 7]) };
};

/** Share of the machine that was used by anything but what used `ownMicros`; the other guests of its hypervisor included. */
export const disturbanceOf = ({ busyMicros, stolenMicros, allMicros }: MachineCpu, ownMicros: number): number =>
  allMicros === 0 ? 0 : Math.max(0, (busyMicros + stolenMicros - ownMicros) / allMicros);

/** The first line of /proc/stat. */
export const readMachineCpu = (): string => (readOrUndefined('/proc/stat') ?? '').split('\n', 1)[0] ?? '';
