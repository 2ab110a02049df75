/**
 * What `journal.durability` costs: two services side by side, one with each, and windows of load on them in turn, so that a machine
 * that slows down slows down both.
 */
import type { Config, TsuAlgorithm } from '../config/schema.ts';
import { Helper } from './child-process.ts';
import { checkCorrectness } from './correctness.ts';
import type { LoadAnswer, LoadJob, LoadResult } from './load-job.ts';
import type { Progress } from './measure.ts';
import type { Durability, Plan } from './options.ts';
import { formatTable } from './report.ts';
import { queryTemplate } from './requests.ts';
import { type RunningService, startService } from './service.ts';
import { median } from './statistics.ts';

export interface DurabilityOptions {
  readonly algorithm: TsuAlgorithm;
  readonly threads: number;
  readonly plan: Plan;
  readonly resultsFolder: string;
}

export interface DurabilityRow {
  readonly connections: number;
  readonly durability: Durability;
  readonly stampsPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly errors: number;
}

const kinds = ['everysec', 'fsync'] as const satisfies readonly Config['journal']['durability'][];
const loads = [1, 64, 256] as const;
const answerShareMin = 0.9;

type Windows = Readonly<Record<Durability, LoadResult[]>>;

const rowOf = (connections: number, durability: Durability, windows: readonly LoadResult[]): DurabilityRow => ({
  connections,
  durability,
  stampsPerSecond: median(windows.map(({ stampsPerSecond }) => stampsPerSecond)),
  p50Ms: median(windows.map(({ latencyMs }) => latencyMs.p50)),
  p99Ms: median(windows.map(({ latencyMs }) => latencyMs.p99)),
  errors: windows.reduce((sum, { errors }) => sum + errors, 0),
});

/** Measures both. */
export const compareDurability = async (options: DurabilityOptions, say: Progress): Promise<DurabilityRow[]> => {
  const { plan } = options;
  const services = new Map<Durability, RunningService>();
  for (const durability of kinds) services.set(durability, await startService({ ...options, durability }));
  const load = new Helper<LoadJob, LoadAnswer>('./load-process.ts');
  const template = queryTemplate({ certReq: false });
  const measure = async (durability: Durability, connections: number, durationMs: number): Promise<LoadResult> => {
    const service = services.get(durability) as RunningService;
    const { result } = await load.ask({
      kind: 'closed-loop',
      origin: service.origin,
      template,
      connections,
      warmupMs: plan.warmupMs,
      durationMs,
      answerBytesMin: Math.floor(replyBytes * answerShareMin),
      watchPid: service.pid,
    });
    return result;
  };
  const { replyBytes } = await checkCorrectness((services.get('fsync') as RunningService).origin, 1);
  for (const durability of kinds) await measure(durability, 64, plan.firstWarmupMs / 2);
  const rows: DurabilityRow[] = [];
  for (const connections of loads) {
    const windows: Windows = { everysec: [], fsync: [] };
    for (let round = 0; round < plan.rounds; round += 1) {
      for (const durability of kinds) {
        const result = await measure(durability, connections, plan.windowMs);
        say(`${durability}, ${connections} connections: ${Math.round(result.stampsPerSecond).toLocaleString('en')}/s`);
        windows[durability].push(result);
      }
    }
    for (const durability of kinds) rows.push(rowOf(connections, durability, windows[durability]));
  }
  for (const one of [load, ...services.values()]) await one.stop();
  return rows;
};

/** A row for each load, both kinds beside each other. */
export const formatDurability = (algorithm: TsuAlgorithm, rows: readonly DurabilityRow[]): string => {
  const of = (connections: number, durability: Durability): DurabilityRow =>
    rows.find((row) => row.connections === connections && row.durability === durability) as DurabilityRow;
  const table = formatTable(
    [`${algorithm}, connections`, 'everysec', 'p50 ms', 'p99', 'fsync', 'p50 ms', 'p99', 'fsync/everysec', 'errors'],
    loads.map((connections) => {
      const [loose, strict] = [of(connections, 'everysec'), of(connections, 'fsync')];
      const cells = (row: DurabilityRow): string[] => [
        `${Math.round(row.stampsPerSecond).toLocaleString('en')}/s`,
        row.p50Ms.toFixed(2),
        row.p99Ms.toFixed(1),
      ];
      return [
        String(connections),
        ...cells(loose),
        ...cells(strict),
        (strict.stampsPerSecond / loose.stampsPerSecond).toFixed(2),
        String(loose.errors + strict.errors),
      ];
    }),
  );
  return `What journal.durability costs (fsync: an answer is on the disk of Redis before it is given; two services, windows in turn)\n\n${table}`;
};
