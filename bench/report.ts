/** The table that a run prints: what was measured, on what, and what it is worth against the targets. */
import type { Machine } from './machine.ts';
import { disturbanceMax } from './measure.ts';
import { relativeSpread, type Spread } from './statistics.ts';
import { type AlgorithmSummary, type RowSummary, rowOf, type Verdict } from './summary.ts';

/** Columns padded to their widest cell: the first to the left, figures to the right. */
export const formatTable = (header: readonly string[], rows: readonly (readonly string[])[]): string => {
  const widths = header.map((title, column) => Math.max(...[header, ...rows].map((row) => (row[column] ?? '').length), title.length));
  const line = (row: readonly string[]): string =>
    widths
      .map((width, column) => (column === 0 ? (row[column] ?? '').padEnd(width) : (row[column] ?? '').padStart(width)))
      .join('  ')
      .trimEnd();
  return [line(header), widths.map((width) => '─'.repeat(width)).join('──'), ...rows.map(line)].join('\n');
};

const whole = (value: number): string => (Number.isFinite(value) ? Math.round(value).toLocaleString('en') : '–');
const fixed = (value: number | undefined, digits: number): string =>
  value === undefined || !Number.isFinite(value) ? '–' : value.toFixed(digits);
const plusMinus = (values: Spread): string => `±${(relativeSpread(values) * 100).toFixed(0)}%`;
const milliseconds = (values: Spread): string => fixed(values.median, values.median < 10 ? 2 : 1);

const header = [
  '',
  'stamps/s',
  '',
  'of raw',
  '',
  'p50 ms',
  'p99',
  'p99.9',
  'errors',
  'gateway µs',
  'signer',
  'redis',
  'journal',
  'other',
  'total',
  'outside',
  'load',
];

const rowCells = (row: RowSummary): string[] => {
  const service = row.ratio !== undefined;
  const micros = (value: number): string => fixed(value, 1);
  return [
    row.label,
    whole(row.stampsPerSecond.median),
    plusMinus(row.stampsPerSecond),
    fixed(row.ratio?.median, 3),
    row.ratio === undefined ? '' : plusMinus(row.ratio),
    milliseconds(row.p50),
    milliseconds(row.p99),
    milliseconds(row.p999),
    whole(row.errors),
    service ? micros(row.cpuMicros.gateway) : '–',
    service ? micros(row.cpuMicros.signer) : '–',
    service ? micros(row.cpuMicros.redis) : '–',
    service ? micros(row.cpuMicros.journal) : '–',
    micros(row.cpuMicros.other),
    micros(row.cpuTotalMicros.median),
    fixed(row.cpuOutsideMicros?.median, 1),
    micros(row.generatorCpuMicros),
  ];
};

/** One algorithm's rows. */
export const formatSummary = (summary: AlgorithmSummary): string => {
  const { raw } = summary;
  const rawCells = [
    `raw C_Sign, ${summary.threads} threads`,
    whole(raw.perSecond.median),
    plusMinus(raw.perSecond),
    '1.000',
    '',
    '',
    '',
    '',
    '',
  ];
  const rawRow = [...rawCells, '', '', '', '', '', fixed(raw.cpuMicros.median, 1), '', ''];
  const honoShare = rowOf(summary, 'closed-1').p50.median / rowOf(summary, 'hono-1').p50.median;
  const disturbance = Math.max(raw.disturbance, ...summary.rows.map((row) => row.disturbance));
  const errors = summary.rows.flatMap((row) => (row.firstError === undefined ? [] : [`${row.label}: ${row.firstError}`]));
  return [
    `${summary.algorithm}  (${summary.keyLabel}; ready after ${(summary.startMs / 1_000).toFixed(1)} s; ${summary.verified} samples verified by openssl ts -verify)`,
    '',
    formatTable(header, [rawRow, ...summary.rows.map(rowCells)]),
    '',
    `A lone request's p50 is ${fixed(honoShare, 1)} times that of bare Hono.`,
    `${summary.rounds} rounds; ${summary.roundsSetAside} more set aside, which other programs disturbed. Other programs took at most ${(disturbance * 100).toFixed(1)} % of the machine${disturbance > disturbanceMax ? ': TOO MUCH, measure again when it is quiet' : ''}.`,
    ...errors.map((line) => `ERROR  ${line}`),
  ].join('\n');
};

/** The targets next to what was measured. */
export const formatVerdicts = (verdicts: readonly Verdict[]): string => {
  const digits = { '': 3, x: 2, µs: 1, ms: 2 } as const;
  const value = (amount: number, { unit }: Verdict): string =>
    `${Number.isInteger(amount) ? String(amount) : fixed(amount, digits[unit])}${unit === '' ? '' : ` ${unit}`}`;
  return formatTable(
    ['target', 'measured', '', 'wanted', ''],
    verdicts.map((one) => [
      `${one.algorithm}: ${one.what}`,
      value(one.measured, one),
      one.sense,
      value(one.target, one),
      one.passed ? 'pass' : 'MISSED',
    ]),
  );
};

export const formatMachine = (machine: Machine, flags: readonly string[]): string => {
  const versions = Object.entries(machine.versions).map(([name, version]) => `${name} ${version}`);
  return [
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGb} GB, ${machine.kernel}`,
    versions.join(', '),
    `flags: ${flags.length === 0 ? '(none)' : flags.join(' ')}`,
  ].join('\n');
};

/** How to read the columns. */
export const legend = [
  'Median of the rounds; ± is half the distance between the extremes. "of raw" is taken within each round.',
  'The µs columns are CPU time a stamp, user and system: outside = total of the service minus C_Sign; load = the load generator.',
  'The targets are for the best closed loop without certReq. Bare Hono answers a POST of the same size with a reply of the same size.',
].join('\n');
