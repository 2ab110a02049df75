/** How a run over many files is shown: a bar for people at a terminal, one plain line for each file otherwise. */
import type { FileReport, StampSummary } from './stamp-files.ts';

export interface Progress {
  readonly report: (report: FileReport) => void;
  finish(summary: StampSummary): void;
  /** Gives the terminal back; may be called more than once. */
  close(): void;
}

/** Failures that a bar's run lists at its end; the summary has the whole number. */
const failuresListedMax = 20;

const line = ({ outcome, path, why }: FileReport): string => `${outcome.padEnd(7)}  ${path}${why === undefined ? '' : `: ${why}`}\n`;

const printSummary = (summary: StampSummary): void => {
  process.stdout.write(`${summary.stamped} stamped, ${summary.skipped} skipped, ${summary.failed} failed\n`);
  if (summary.stopped !== undefined) process.stderr.write(`sigillo: stopped: ${summary.stopped}\n`);
};

const plainLines: Progress = {
  report: (report) => void (report.outcome === 'failed' ? process.stderr : process.stdout).write(line(report)),
  finish: printSummary,
  close: () => undefined,
};

/** @param count called for the length of the bar only when there will be one */
export const createProgress = async (count: () => Promise<number>): Promise<Progress> => {
  if (!process.stderr.isTTY || !process.stdout.isTTY) return plainLines;
  const { SingleBar } = (await import('cli-progress')).default;
  const bar = new SingleBar({
    format: '{bar} {percentage}%  {value}/{total} files  {eta_formatted} left',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    hideCursor: true,
    clearOnComplete: true,
    etaBuffer: 1_000,
    stream: process.stderr,
  });
  const failures: FileReport[] = [];
  bar.start(await count(), 0);
  return {
    report: (report) => {
      bar.increment();
      if (report.outcome === 'failed' && failures.length < failuresListedMax) failures.push(report);
    },
    finish: (summary) => {
      bar.stop();
      for (const failure of failures) process.stderr.write(line(failure));
      if (summary.failed > failures.length) process.stderr.write(`... and ${summary.failed - failures.length} more\n`);
      printSummary(summary);
    },
    close: () => bar.stop(),
  };
};
