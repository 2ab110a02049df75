/** `npm run bench`: measures a fresh service, prints what it is worth, saves it. See `--help`. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cleanUp, cleanUpOnSignals } from './child-process.ts';
import { compareDurability, formatDurability } from './durability.ts';
import { benchHsm } from './hsm-bench.ts';
import { benchJournal } from './journal-bench.ts';
import { describeMachine, type Machine } from './machine.ts';
import { type Measurement, measureAlgorithm, type Progress } from './measure.ts';
import { type BenchOptions, parseOptions, usage } from './options.ts';
import { drawRun } from './picture.ts';
import { profileAlgorithm } from './profile.ts';
import { formatMachine, formatSummary, formatVerdicts, legend } from './report.ts';
import { soakAlgorithm } from './soak.ts';
import { type AlgorithmSummary, judge, summarize } from './summary.ts';

interface Run {
  readonly options: BenchOptions;
  readonly machine: Machine;
  readonly startedAt: Date;
  readonly folder: string;
  readonly say: Progress;
}

const print = (text: string): void => void process.stdout.write(`${text}\n\n`);
const save = (run: Run, name: string, content: string): void => writeFileSync(join(run.folder, name), content);
const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

/** @returns whether every target is met */
const measure = async (run: Run): Promise<boolean> => {
  const { algorithms, threads, durability, plan } = run.options;
  const measurements: Measurement[] = [];
  const summaries: AlgorithmSummary[] = [];
  for (const algorithm of algorithms) {
    const measurement = await measureAlgorithm({ algorithm, threads, durability, plan, resultsFolder: run.folder }, run.say);
    measurements.push(measurement);
    summaries.push(summarize(measurement));
    // After each algorithm: what is measured is not lost when a later one fails.
    const verdicts = summaries.flatMap(judge);
    const { machine, options, startedAt } = run;
    save(run, 'results.json', json({ version: 1, startedAt, machine, flags: options.flags, plan, verdicts, summaries, measurements }));
    save(run, 'results.svg', drawRun(summaries, machine, startedAt.toISOString().slice(0, 10)));
  }
  const verdicts = summaries.flatMap(judge);
  const [first] = algorithms;
  const compared =
    first === undefined ? [] : await compareDurability({ algorithm: first, threads, plan, resultsFolder: run.folder }, run.say);
  save(run, 'durability.json', json({ version: 1, machine: run.machine, algorithm: first, rows: compared }));
  const text = [
    formatMachine(run.machine, run.options.flags),
    ...summaries.map(formatSummary),
    ...(first === undefined ? [] : [formatDurability(first, compared)]),
    legend,
    formatVerdicts(verdicts),
  ].join('\n\n');
  save(run, 'results.txt', `${text}\n`);
  print(text);
  return verdicts.every(({ passed }) => passed);
};

const soak = async (run: Run): Promise<boolean> => {
  let flat = true;
  for (const algorithm of run.options.algorithms) {
    const { threads, durability, soakStamps, plan } = run.options;
    const result = await soakAlgorithm({ algorithm, threads, durability, stamps: soakStamps, plan, resultsFolder: run.folder }, run.say);
    save(run, `soak-${algorithm}.json`, json({ version: 1, machine: run.machine, flags: run.options.flags, ...result.data }));
    save(run, `soak-${algorithm}.svg`, result.picture);
    print(`${formatMachine(run.machine, run.options.flags)}\n\n${result.text}`);
    flat &&= result.passed;
  }
  return flat;
};

const profile = async (run: Run): Promise<boolean> => {
  for (const algorithm of run.options.algorithms) {
    const { threads, durability, plan } = run.options;
    const text = await profileAlgorithm({ algorithm, threads, durability, plan, resultsFolder: run.folder }, run.say);
    save(run, `profile-${algorithm}.txt`, `${text}\n`);
    print(`${formatMachine(run.machine, run.options.flags)}\n\n${text}`);
  }
  return true;
};

const journalPlan = { eventsPerSecond: 20_000, seconds: 20, backlog: 400_000 } as const;

const journal = async (run: Run): Promise<boolean> => {
  const { text, data, passed } = await benchJournal(journalPlan, run.say);
  save(run, 'journal.json', json({ version: 1, machine: run.machine, flags: run.options.flags, ...data }));
  save(run, 'journal.txt', `${formatMachine(run.machine, run.options.flags)}\n\n${text}\n`);
  print(`${formatMachine(run.machine, run.options.flags)}\n\n${text}`);
  return passed;
};

const hsm = async (run: Run): Promise<boolean> => {
  const { threads, plan, durability } = run.options;
  const { text, data, picture, passed } = await benchHsm({ threads, plan, durability, resultsFolder: run.folder }, run.say);
  save(run, 'hsm.json', json({ version: 1, machine: run.machine, flags: run.options.flags, ...data }));
  save(run, 'rotation.svg', picture);
  save(run, 'hsm.txt', `${formatMachine(run.machine, run.options.flags)}\n\n${text}\n`);
  print(`${formatMachine(run.machine, run.options.flags)}\n\n${text}`);
  return passed;
};

const resultsFolder = (startedAt: Date): string => {
  const name = startedAt.toISOString().replaceAll(':', '-').replace(/\..*$/, 'Z');
  const folder = fileURLToPath(new URL(`results/${name}/`, import.meta.url));
  mkdirSync(folder, { recursive: true });
  return folder;
};

const main = async (): Promise<number> => {
  const options = parseOptions(process.argv.slice(2));
  if (options === undefined) {
    process.stdout.write(usage);
    return 0;
  }
  cleanUpOnSignals();
  const startedAt = new Date();
  const say: Progress = (text) => {
    const seconds = ((Date.now() - startedAt.getTime()) / 1_000).toFixed(1);
    process.stderr.write(`${seconds.padStart(6)} s  ${text}\n`);
  };
  const run: Run = { options, machine: describeMachine(), startedAt, folder: resultsFolder(startedAt), say };
  try {
    const passed = await { measure, soak, profile, journal, hsm }[options.mode](run);
    process.stdout.write(`Saved in ${run.folder}\n`);
    return options.check && !passed ? 1 : 0;
  } finally {
    await cleanUp();
  }
};

try {
  process.exitCode = await main();
} catch (error) {
  const misuse = error instanceof RangeError || (error instanceof TypeError && 'code' in error);
  process.stderr.write(
    misuse ? `${error.message}\n\n${usage}` : `${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
  );
  process.exitCode = 2;
}
