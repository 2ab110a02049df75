/** From the rounds of a measurement to the figures that are quoted, and their verdict against the targets. */
import type { TsuAlgorithm } from '../config/schema.ts';
import { bulkConnections, bulkStamps, type Measurement, type Round, type RowId, rowIds } from './measure.ts';
import { type ByRole, roles, totalOf } from './process-tree.ts';
import { median, type Spread, spread } from './statistics.ts';

export interface RowSummary {
  readonly id: RowId;
  readonly label: string;
  readonly stampsPerSecond: Spread;
  /** Of raw C_Sign, round by round; a bare HTTP server has none. */
  readonly ratio?: Spread;
  readonly p50: Spread;
  readonly p99: Spread;
  readonly p999: Spread;
  readonly errors: number;
  readonly firstError?: string;
  /** CPU microseconds for one stamp: medians. */
  readonly cpuMicros: ByRole;
  readonly cpuTotalMicros: Spread;
  /** What is left of the total without C_Sign itself, round by round. */
  readonly cpuOutsideMicros?: Spread;
  readonly generatorCpuMicros: number;
  /** Median share of the machine that something else used. */
  readonly disturbance: number;
}

export interface AlgorithmSummary {
  readonly algorithm: TsuAlgorithm;
  readonly keyLabel: string;
  readonly threads: number;
  readonly startMs: number;
  readonly verified: number;
  readonly rounds: number;
  readonly roundsSetAside: number;
  readonly raw: { readonly perSecond: Spread; readonly cpuMicros: Spread; readonly disturbance: number };
  readonly rows: readonly RowSummary[];
}

export interface Verdict {
  readonly algorithm: TsuAlgorithm;
  readonly what: string;
  readonly measured: number;
  readonly target: number;
  readonly unit: '' | 'µs' | 'ms' | 'x';
  readonly sense: 'at least' | 'at most';
  readonly passed: boolean;
}

const labels: Readonly<Record<RowId, string>> = {
  'hono-1': 'bare Hono, 1 connection',
  'closed-1': '/tsa, 1 connection',
  'closed-16': '/tsa, 16 connections',
  'closed-64': '/tsa, 64 connections',
  'closed-64-chain': '/tsa, 64, certReq',
  bulk: `/v1/timestamps, ${bulkStamps} x ${bulkConnections}`,
  'closed-256': '/tsa, 256 connections',
  'half-rate': '/tsa, fixed half rate',
  'hono-64': 'bare Hono, 64 connections',
};

const isService = (id: RowId): boolean => !id.startsWith('hono');
const rawPerSecond = (round: Round): number => median(round.raw.map((one) => one.perSecond));
const rawCpuMicros = (round: Round): number => median(round.raw.map((one) => one.cpuMicros));

const summarizeRow = (rounds: readonly Round[], id: RowId): RowSummary => {
  const results = rounds.map((round) => round[id]);
  const over = (value: (round: Round) => number): Spread => spread(rounds.map(value));
  const byRole = (value: (role: keyof ByRole) => number): ByRole =>
    Object.fromEntries(roles.map((role) => [role, value(role)])) as unknown as ByRole;
  const firstError = results.find((result) => result.firstError !== undefined)?.firstError;
  return {
    id,
    label: labels[id],
    stampsPerSecond: over((round) => round[id].stampsPerSecond),
    p50: over((round) => round[id].latencyMs.p50),
    p99: over((round) => round[id].latencyMs.p99),
    p999: over((round) => round[id].latencyMs.p999),
    errors: results.reduce((sum, result) => sum + result.errors, 0),
    ...(firstError === undefined ? {} : { firstError }),
    cpuMicros: byRole((role) => median(results.map((result) => result.cpuMicros[role]))),
    cpuTotalMicros: over((round) => totalOf(round[id].cpuMicros)),
    generatorCpuMicros: median(results.map((result) => result.generatorCpuMicros)),
    disturbance: median(results.map((result) => result.disturbance)),
    ...(isService(id)
      ? {
          ratio: over((round) => round[id].stampsPerSecond / rawPerSecond(round)),
          cpuOutsideMicros: over((round) => totalOf(round[id].cpuMicros) - rawCpuMicros(round)),
        }
      : {}),
  };
};

export const summarize = (measurement: Measurement): AlgorithmSummary => {
  const { rounds, algorithm, keyLabel, threads, startMs, verified } = measurement;
  const rawDisturbance = median(rounds.flatMap(({ raw }) => raw.map((one) => one.disturbance)));
  return {
    algorithm,
    keyLabel,
    threads,
    startMs,
    verified,
    rounds: rounds.length,
    roundsSetAside: measurement.setAside.length,
    raw: { perSecond: spread(rounds.map(rawPerSecond)), cpuMicros: spread(rounds.map(rawCpuMicros)), disturbance: rawDisturbance },
    rows: rowIds.map((id) => summarizeRow(rounds, id)),
  };
};

export const rowOf = (summary: AlgorithmSummary, id: RowId): RowSummary => {
  const row = summary.rows.find((one) => one.id === id);
  if (row === undefined) throw new Error(`no row ${id}`);
  return row;
};

/** The closed loop without certReq that stamped most: what the service can do, whichever number of clients it takes. */
export const bestClosedLoop = (summary: AlgorithmSummary): RowSummary =>
  (['closed-16', 'closed-64', 'closed-256'] as const)
    .map((id) => rowOf(summary, id))
    .reduce((best, row) => (row.stampsPerSecond.median > best.stampsPerSecond.median ? row : best));

/** Share of raw C_Sign with as many threads, in the best closed loop. */
export const ratioTargets: Readonly<Partial<Record<TsuAlgorithm, number>>> = { 'ec-p256': 0.4, 'rsa-2048': 0.75, 'rsa-3072': 0.85 };
/** The same for POST /v1/timestamps. */
export const bulkRatioTargets: Readonly<Partial<Record<TsuAlgorithm, number>>> = { 'ec-p256': 0.65 };
const cpuOutsideMicrosMax = 90;
const lonePerHonoMax = 5;
const halfRateP99MsMax = 15;

const verdict = (of: Omit<Verdict, 'passed'>): Verdict => ({
  ...of,
  // NaN passes nothing.
  passed: of.sense === 'at least' ? of.measured >= of.target : of.measured <= of.target,
});

/**
 * What the run says about the targets. Those that compare with microseconds are judged for P-256 alone: an RSA signature is
 * milliseconds of C_Sign, which alone is more than five bare answers, and whose noise hides 90 µs.
 */
export const judge = (summary: AlgorithmSummary): Verdict[] => {
  const { algorithm } = summary;
  const verdicts: Verdict[] = [];
  const ratioTarget = ratioTargets[algorithm];
  const bulkTarget = bulkRatioTargets[algorithm];
  const headline = bestClosedLoop(summary);
  if (ratioTarget !== undefined) {
    const measured = headline.ratio?.median ?? Number.NaN;
    verdicts.push(verdict({ algorithm, what: 'raw C_Sign, best closed loop', measured, target: ratioTarget, unit: '', sense: 'at least' }));
  }
  if (bulkTarget !== undefined) {
    const measured = rowOf(summary, 'bulk').ratio?.median ?? Number.NaN;
    verdicts.push(
      verdict({
        algorithm,
        what: `raw C_Sign, ${bulkStamps} imprints a request`,
        measured,
        target: bulkTarget,
        unit: '',
        sense: 'at least',
      }),
    );
  }
  if (algorithm === 'ec-p256') {
    const outside = headline.cpuOutsideMicros?.median ?? Number.NaN;
    const lone = rowOf(summary, 'closed-1').p50.median / rowOf(summary, 'hono-1').p50.median;
    verdicts.push(
      verdict({
        algorithm,
        what: 'CPU outside C_Sign a stamp',
        measured: outside,
        target: cpuOutsideMicrosMax,
        unit: 'µs',
        sense: 'at most',
      }),
      verdict({ algorithm, what: 'lone p50, of bare Hono', measured: lone, target: lonePerHonoMax, unit: 'x', sense: 'at most' }),
    );
  }
  const p99 = rowOf(summary, 'half-rate').p99.median;
  verdicts.push(
    verdict({ algorithm, what: 'p99 at half of the maximum', measured: p99, target: halfRateP99MsMax, unit: 'ms', sense: 'at most' }),
  );
  const errors = summary.rows.reduce((sum, row) => sum + row.errors, 0);
  verdicts.push(verdict({ algorithm, what: 'answers that were not granted', measured: errors, target: 0, unit: '', sense: 'at most' }));
  return verdicts;
};
