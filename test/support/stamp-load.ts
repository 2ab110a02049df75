/** Load on POST /tsa from a process of its own: every request with a random imprint and nonce, every answer looked at. */
import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import { until } from './service.ts';

export interface LoadJob {
  readonly port: number;
  readonly connections: number;
  /** So many requests are sent; unset: until `stop`. */
  readonly requestsMax?: number;
  readonly certReq?: boolean;
  /** Headers of each request, without line ends. */
  readonly headers?: readonly string[];
  /** A connection that was answered 503, or was lost, waits so long. @defaultValue 20 */
  readonly pauseMs?: number;
  /** A request without an answer for so long counts as hanging. @defaultValue 15000 */
  readonly hangMs?: number;
  /** Keep granted answers; see `LoadResult.answers`. */
  readonly keep?: boolean;
}

/**
 * How one request ended: `granted`; `refused:<failInfo>` with HTTP 200; `busy`, a 503 with Retry-After and a TimeStampResp
 * with systemFailure; `lost`, a connection that ended under it; `hung`; or what was wrong with the answer.
 */
export type LoadOutcome = string;

/** One request; times are milliseconds of CLOCK_MONOTONIC, the same in all processes. */
export interface LoadRecord {
  readonly startedAt: number;
  readonly endedAt: number;
  readonly outcome: LoadOutcome;
}

export interface KeptAnswer {
  readonly imprint: Uint8Array;
  readonly nonce: Uint8Array;
  readonly response: Uint8Array;
  readonly startedAt: number;
  readonly endedAt: number;
}

/** What the process sends at the end. */
export interface LoadReport {
  readonly type: 'report';
  readonly startedAt: Float64Array;
  readonly endedAt: Float64Array;
  readonly outcomes: Uint8Array;
  readonly outcomeNames: readonly string[];
  /** Connections that could not be opened. */
  readonly connectFailures: number;
  readonly kept: readonly KeptAnswer[];
}

export interface LoadProgress {
  readonly type: 'progress';
  readonly open: number;
  readonly counts: Readonly<Record<LoadOutcome, number>>;
}

export interface LoadResult {
  readonly records: readonly LoadRecord[];
  readonly counts: Readonly<Record<LoadOutcome, number>>;
  readonly connectFailures: number;
  readonly kept: readonly KeptAnswer[];
}

export interface RunningLoad {
  /** Answers of a kind so far; at most 50 ms old. */
  count(outcome: LoadOutcome): number;
  granted(): number;
  untilGranted(count: number, deadlineMs?: number): Promise<void>;
  /** Sends nothing more, waits for what is on its way, and ends. */
  stop(): Promise<LoadResult>;
  /** Ends it at once, if it still runs: for `finally`. */
  abort(): void;
  /** The end of a job with `requestsMax`. */
  readonly done: Promise<LoadResult>;
}

/** Milliseconds of CLOCK_MONOTONIC. */
export const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6;

const toResult = (report: LoadReport): LoadResult => {
  const records = Array.from(report.outcomes, (outcome, i) => ({
    startedAt: report.startedAt[i] as number,
    endedAt: report.endedAt[i] as number,
    outcome: report.outcomeNames[outcome] as string,
  }));
  const counts: Record<string, number> = {};
  for (const { outcome } of records) counts[outcome] = (counts[outcome] ?? 0) + 1;
  return { records, counts, connectFailures: report.connectFailures, kept: report.kept };
};

/** Starts the load; resolves when all its connections are open. */
export const startLoad = async (job: LoadJob): Promise<RunningLoad> => {
  const child: ChildProcess = fork(join(import.meta.dirname, 'fixtures/stamp-load-process.ts'), [], {
    serialization: 'advanced',
    execArgv: [],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  let progress: LoadProgress = { type: 'progress', open: 0, counts: {} };
  let ended = false;
  const done = new Promise<LoadResult>((resolve, reject) => {
    child.on('message', (message: LoadProgress | LoadReport) => {
      if (message.type === 'progress') progress = message;
      else resolve(toResult(message));
    });
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      ended = true;
      reject(new Error(`the load process ended (${signal ?? code})`));
    });
  });
  done.catch(() => undefined); // whoever waits for it sees the failure
  child.send(job);
  const count = (outcome: LoadOutcome): number => progress.counts[outcome] ?? 0;
  const granted = (): number => count('granted');
  await until(
    () => `${job.connections} connections; ${progress.open} are open`,
    () => ended || progress.open >= job.connections || Object.keys(progress.counts).length > 0,
  );
  return {
    count,
    granted,
    done,
    abort: () => void child.kill('SIGKILL'),
    untilGranted: async (count, deadlineMs) => {
      await until(
        () => `${count} stamps under load; there were ${JSON.stringify(progress.counts)}`,
        () => ended || granted() >= count,
        deadlineMs,
      );
    },
    stop: () => {
      if (!ended) child.send('stop');
      return done;
    },
  };
};

/** Outcomes with their numbers and the slowest answer, for messages. */
export const describeLoad = ({ records, counts, connectFailures }: LoadResult): string => {
  const slowest = records.reduce((longest, { startedAt, endedAt }) => Math.max(longest, endedAt - startedAt), 0);
  return `${JSON.stringify(counts)}, slowest ${slowest.toFixed(0)} ms, ${connectFailures} refused connections`;
};
