/**
 * `npm test`: the static checks, then every test. Arguments pick test files whose path contains one of them, and leave
 * out the static checks: `npm test -- pki system/crash`.
 *
 * Files under test/system put services under load and measure time, so they run one after the other. Those under test/load put services
 * under load and count, two at a time. Those under test/service run a whole service too, and wait for what it does, however long it takes.
 */
import { spawn } from 'node:child_process';
import { globSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, relative } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';

const root = join(import.meta.dirname, '..');
process.chdir(root);
// As a service does: all processes load what the first one has compiled.
process.env['NODE_COMPILE_CACHE'] ??= join(root, 'node_modules/.cache/sigillo-compile');
/** Files of a phase that are named with what they took: all together must stay under 15 minutes. */
const slowestShown = 12;
/** Longer than any single file takes, also with TEST_LONG=1 on a slow machine: a hang must end by itself. */
const fileTimeoutMs = process.env['TEST_LONG'] === undefined ? 900_000 : 6 * 3_600_000;

interface Check {
  readonly name: string;
  readonly script: string;
}
const checks: readonly Check[] = [
  { name: 'types', script: 'check:types' },
  { name: 'lint and format', script: 'check:lint' },
  { name: 'imports', script: 'check:imports' },
  { name: 'dead code', script: 'check:dead' },
];

interface Phase {
  readonly name: string;
  readonly passed: boolean;
  readonly detail: string;
}

const runCheck = ({ name, script }: Check): Promise<Phase> =>
  new Promise((resolve) => {
    const startedAt = performance.now();
    const child = spawn(process.execPath, ['--run', script], { stdio: ['ignore', 'pipe', 'pipe'] });
    const output: Buffer[] = [];
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => output.push(chunk));
    child.on('close', (code) => {
      if (code !== 0) process.stdout.write(`\n--- ${name} (npm run ${script})\n${Buffer.concat(output)}\n`);
      resolve({ name, passed: code === 0, detail: `${((performance.now() - startedAt) / 1000).toFixed(1)} s` });
    });
  });

interface Counts {
  tests: number;
  passed: number;
  failed: number;
  cancelled: number;
  skipped: number;
  todo: number;
}
const totals: Counts = { tests: 0, passed: 0, failed: 0, cancelled: 0, skipped: 0, todo: 0 };

const runFiles = (name: string, files: string[], concurrency: number): Promise<Phase> =>
  new Promise((resolve, reject) => {
    console.log(`\n--- ${name}: ${files.length} files, ${concurrency} at a time`);
    let phase: Phase = { name, passed: false, detail: 'no summary' };
    const stream = run({ files, concurrency, timeout: fileTimeoutMs });
    const seconds: (readonly [file: string, seconds: number])[] = [];
    stream.on('test:summary', ({ file, success, counts, duration_ms }) => {
      if (file !== undefined) {
        seconds.push([relative(root, file), duration_ms / 1000]);
        return;
      }
      const { tests, passed: good, cancelled, skipped, todo } = counts;
      const failed = tests - good - cancelled - skipped - todo;
      const ours: Counts = { tests, passed: good, failed, cancelled, skipped, todo };
      for (const key of Object.keys(totals) as (keyof Counts)[]) totals[key] += ours[key];
      const failures = failed + cancelled;
      const passed = success && failures === 0;
      phase = {
        name,
        passed,
        detail: `${good} passed, ${failures} failed, ${skipped} skipped, ${(duration_ms / 1000).toFixed(1)} s`,
      };
    });
    stream.on('error', reject);
    const report = stream.compose(new spec());
    report.on('data', (chunk: Buffer) => process.stdout.write(chunk));
    report.on('end', () => {
      const slowest = seconds.toSorted(([, a], [, b]) => b - a).slice(0, slowestShown);
      if (files.length > slowestShown) for (const [file, took] of slowest) console.log(`${took.toFixed(1).padStart(7)} s  ${file}`);
      resolve(phase);
    });
    report.on('error', reject);
  });

const patterns = process.argv.slice(2);
const all = globSync('test/**/*.test.ts').sort();
const files = patterns.length === 0 ? all : all.filter((file) => patterns.some((pattern) => file.includes(pattern)));
const phases: Phase[] = [];

if (files.length === 0) {
  console.error(`no test file matches ${patterns.join(' ') || 'test/**/*.test.ts'}`);
  process.exit(1);
}
if (patterns.length === 0) phases.push(...(await Promise.all(checks.map(runCheck))));
else console.log('only the chosen files run; the static checks are left out');

const inFolder = (folder: string): string[] => files.filter((file) => file.startsWith(folder));
const groups = [
  // One more than there are cores: each of them waits for processes a third of its time.
  {
    name: 'unit, component and interop tests',
    of: files.filter((file) => !file.startsWith('test/load/') && !file.startsWith('test/system/')),
    atOnce: availableParallelism() + 1,
  },
  { name: 'load tests', of: inFolder('test/load/'), atOnce: 2 },
  { name: 'system tests', of: inFolder('test/system/'), atOnce: 1 },
];
for (const { name, of, atOnce } of groups) if (of.length > 0) phases.push(await runFiles(name, of, atOnce));

const passed = phases.every((phase) => phase.passed);
console.log('\n--- summary');
for (const phase of phases) console.log(`${phase.passed ? 'ok    ' : 'FAILED'} ${phase.name.padEnd(34)} ${phase.detail}`);
// The closing lines of node's own reporter, over both runs.
const closing = {
  tests: totals.tests,
  pass: totals.passed,
  fail: totals.failed,
  cancelled: totals.cancelled,
  skipped: totals.skipped,
  todo: totals.todo,
};
for (const [name, count] of Object.entries(closing)) console.log(`ℹ ${name} ${count}`);
console.log(passed ? '\nall passed' : '\nFAILED');
process.exitCode = passed ? 0 : 1;
