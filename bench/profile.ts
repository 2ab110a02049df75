/**
 * Where the time goes: V8 CPU profiles of every Node process and thread of the service under load, cut to the window of the load, as
 * self time by function. Profiles are written by Node itself when a process or thread ends in order.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { TsuAlgorithm } from '../config/schema.ts';
import { Helper } from './child-process.ts';
import { checkCorrectness } from './correctness.ts';
import type { LoadAnswer, LoadJob, LoadResult } from './load-job.ts';
import { bulkStamps, type Progress } from './measure.ts';
import type { Durability, Plan } from './options.ts';
import { listTree, type Role, roles } from './process-tree.ts';
import { formatTable } from './report.ts';
import { queryTemplate } from './requests.ts';
import { startService } from './service.ts';

/** The part of a .cpuprofile that is used (Chrome DevTools Protocol, Profiler.Profile). */
export interface CpuProfile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: { readonly functionName: string; readonly url: string; readonly lineNumber: number };
  }[];
  readonly startTime: number;
  readonly samples: readonly number[];
  /** Microseconds between the samples. */
  readonly timeDeltas: readonly number[];
}

export interface SelfTime {
  readonly name: string;
  readonly micros: number;
}

const connections = 64;
const windowMs = 10_000;
const functionsShown = 25;
const samplingMicros = 500;
/** Samples are taken by the clock, also while a thread waits in a call: these calls only wait. */
const waits = new Set(['(idle)', 'atomicsWaitLoop']);

/** Where a function is, short enough for a table. */
const placeOf = (url: string, line: number): string => {
  if (url === '') return 'native';
  const inModules = url.lastIndexOf('/node_modules/');
  const name =
    inModules >= 0 ? url.slice(inModules + '/node_modules/'.length) : url.startsWith('node:') ? url : url.split('/').slice(-2).join('/');
  return `${name}:${line + 1}`;
};

/** Self time by function within a window of monotonic microseconds, the most expensive first; waiting is left out. */
export const selfTimes = (profile: CpuProfile, [from, to]: readonly [number, number]): SelfTime[] => {
  const names = new Map<number, string>();
  for (const { id, callFrame } of profile.nodes) {
    const { functionName, url, lineNumber } = callFrame;
    if (waits.has(functionName)) continue;
    const name = functionName === '' ? '(anonymous)' : functionName;
    names.set(id, name.startsWith('(') && url === '' ? name : `${name}  ${placeOf(url, lineNumber)}`);
  }
  const micros = new Map<string, number>();
  let now = profile.startTime;
  for (const [i, id] of profile.samples.entries()) {
    const delta = profile.timeDeltas[i] ?? 0;
    now += delta;
    const name = names.get(id);
    if (name === undefined || now < from || now > to) continue;
    micros.set(name, (micros.get(name) ?? 0) + delta);
  }
  return [...micros].map(([name, sum]) => ({ name, micros: sum })).toSorted((a, b) => b.micros - a.micros);
};

interface ThreadProfile {
  readonly role: Role;
  readonly thread: number;
  readonly times: readonly SelfTime[];
}

/** Node names a profile CPU.<date>.<time>.<pid>.<thread>.<number>.cpuprofile. */
const readProfiles = (folder: string, roleByPid: ReadonlyMap<number, Role>, window: readonly [number, number]): ThreadProfile[] =>
  readdirSync(folder)
    .flatMap((file): ThreadProfile[] => {
      const [, pid, thread] = /^CPU\.\d+\.\d+\.(\d+)\.(\d+)\.\d+\.cpuprofile$/.exec(basename(file)) ?? [];
      const role = roleByPid.get(Number(pid));
      if (role === undefined) return []; // a step of the start, gone before the load
      const times = selfTimes(JSON.parse(readFileSync(join(folder, file), 'utf8')) as CpuProfile, window);
      return times.length === 0 ? [] : [{ role, thread: Number(thread), times }];
    })
    .toSorted((a, b) => roles.indexOf(a.role) - roles.indexOf(b.role) || a.thread - b.thread);

const formatThread = ({ role, thread, times }: ThreadProfile, stamps: number, seconds: number): string => {
  const total = times.reduce((sum, { micros }) => sum + micros, 0);
  const rows = times
    .slice(0, functionsShown)
    .map(({ name, micros }) => [name, (micros / stamps).toFixed(2), `${((micros / total) * 100).toFixed(1)} %`]);
  const busy = ((total / (seconds * 1e6)) * 100).toFixed(0);
  const title = `${role}, ${thread === 0 ? 'main thread' : `thread ${thread}`}: ${(total / stamps).toFixed(1)} µs a stamp, ${busy} % of the time`;
  return `${title}\n${formatTable(['self time', 'µs a stamp', 'share'], rows)}`;
};

const formatCpu = (load: LoadResult): string => {
  const cpu = roles.map((role) => `${role} ${load.cpuMicros[role].toFixed(1)}`).join(', ');
  return `${Math.round(load.stampsPerSecond).toLocaleString('en')} stamps/s while profiled; CPU µs a stamp by the kernel's account: ${cpu}; load ${load.generatorCpuMicros.toFixed(1)}; ${load.errors} errors`;
};

/** Profiles a fresh service at 64 connections. @returns the report */
export const profileAlgorithm = async (
  options: { algorithm: TsuAlgorithm; threads: number; durability: Durability; plan: Plan; resultsFolder: string },
  say: Progress,
): Promise<string> => {
  const { algorithm, plan, resultsFolder } = options;
  const folder = join(resultsFolder, `profiles-${algorithm}`);
  say(`${algorithm}: starting a fresh service with profiling`);
  const nodeOptions = `--cpu-prof --cpu-prof-dir=${folder} --cpu-prof-interval=${samplingMicros}`;
  const service = await startService({ ...options, nodeOptions });
  const answers = await checkCorrectness(service.origin, bulkStamps);
  const load = new Helper<LoadJob, LoadAnswer>('./load-process.ts');
  say(`${algorithm}: ${windowMs / 1_000} s at ${connections} connections`);
  const { result } = await load.ask({
    kind: 'closed-loop',
    origin: service.origin,
    template: queryTemplate({ certReq: false }),
    connections,
    warmupMs: plan.firstWarmupMs,
    durationMs: windowMs,
    answerBytesMin: Math.floor(answers.replyBytes * 0.9),
    watchPid: service.pid,
  });
  const roleByPid = new Map(listTree(service.pid).map(({ pid, role }) => [pid, role]));
  say(`${algorithm}: stopping, so that the profiles are written`);
  for (const one of [load, service]) await one.stop();
  const threads = readProfiles(folder, roleByPid, result.windowMicros);
  const note = 'Profiles count wall time: on a machine with less cores than busy threads a function also pays for being preempted.';
  return [formatCpu(result), note, ...threads.map((thread) => formatThread(thread, result.stamps, result.seconds))].join('\n\n');
};
