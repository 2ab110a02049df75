/** What the measuring process and the load generator tell each other. */
import {
  type ByRole,
  differenceByRole,
  disturbanceOf,
  machineCpuBetween,
  readCpuMicros,
  readMachineCpu,
  totalOf,
  zeroByRole,
} from './process-tree.ts';
import type { RequestTemplate } from './requests.ts';
import { type LatencySummary, SampleRecorder, summarizeLatencies } from './statistics.ts';

interface CommonJob {
  readonly origin: string;
  readonly template: RequestTemplate;
  readonly connections: number;
  readonly warmupMs: number;
  /** The window ends after this time, or earlier with `answersMax`. */
  readonly durationMs: number;
  /** Shorter answers are errors: a refusal is a fraction of a token. */
  readonly answerBytesMin: number;
  /** Root of the processes whose CPU time is read at both ends of the window. */
  readonly watchPid: number;
}

/** Each connection sends its next request when it has the answer to the last one. */
export interface ClosedLoopJob extends CommonJob {
  readonly kind: 'closed-loop';
  readonly answersMax?: number;
}

/** Requests start by the clock, whether or not earlier ones are answered. */
export interface FixedRateJob extends CommonJob {
  readonly kind: 'fixed-rate';
  readonly requestsPerSecond: number;
  /** Keep when each answer came, for a picture. */
  readonly timeline?: boolean;
}

export type LoadJob = ClosedLoopJob | FixedRateJob;

/** What one window showed. */
export interface LoadResult {
  /** Answers in the window that granted everything. */
  readonly requests: number;
  readonly stamps: number;
  readonly seconds: number;
  readonly stampsPerSecond: number;
  /** Everything but a granted answer, warm-up included. */
  readonly errors: number;
  readonly firstError?: string;
  readonly latencyMs: LatencySummary;
  /** CPU microseconds of each watched role for one stamp. */
  readonly cpuMicros: ByRole;
  readonly generatorCpuMicros: number;
  /** Share of the machine that was used meanwhile by anything but the measured processes and the generator. */
  readonly disturbance: number;
  /** Monotonic microseconds of both ends, to cut profiles to the window. */
  readonly windowMicros: readonly [number, number];
  /** For each answer its time since the beginning of the window and its latency, both in milliseconds; when it was asked for. */
  readonly timeline?: readonly (readonly [atMs: number, latencyMs: number])[];
}

export type LoadAnswer = { readonly result: LoadResult } | { readonly failure: string };

/** What keeps an answer from being a good one, in words; undefined for a good one. */
export const problemOf = (job: LoadJob, answer: { status: number; bytes: number }, granted: number): string | undefined => {
  if (answer.status !== 200) return `HTTP status ${answer.status}`;
  if (granted !== job.template.stamps) return `${granted} of ${job.template.stamps} stamps granted`;
  if (answer.bytes < job.answerBytesMin) return `an answer of only ${answer.bytes} bytes`;
  return undefined;
};

const monotonicMicros = (): number => Number(process.hrtime.bigint() / 1_000n);

/** Collects one job's answers; outside its window only errors count. */
export class Meter {
  readonly #job: LoadJob;
  readonly #latencies = new SampleRecorder();
  readonly #begun: { micros: number; cpu: ByRole; own: NodeJS.CpuUsage; machine: string }[] = [];
  #open = false;
  #errors = 0;
  #firstError: string | undefined;
  #requests = 0;
  #onFull: (() => void) | undefined;
  readonly #timeline: (readonly [number, number])[] = [];

  constructor(job: LoadJob) {
    this.#job = job;
  }

  get #keepsTimeline(): boolean {
    return this.#job.kind === 'fixed-rate' && this.#job.timeline === true;
  }

  /** Resolves early when a job with `answersMax` has them. */
  untilFull(): Promise<void> {
    return new Promise((resolve) => {
      this.#onFull = resolve;
    });
  }

  /** One answer, with what is wrong about it. */
  answered(latencyMs: number, problem: string | undefined): void {
    if (problem !== undefined) this.failed(problem);
    if (problem !== undefined || !this.#open) return;
    this.#requests += 1;
    this.#latencies.record(latencyMs);
    if (this.#keepsTimeline) this.#timeline.push([(monotonicMicros() - (this.#begun[0]?.micros ?? 0)) / 1_000, latencyMs]);
    if (this.#job.kind === 'closed-loop' && this.#requests === this.#job.answersMax) this.#onFull?.();
  }

  /** One request without a good answer; it has no latency worth to count. */
  failed(what: string): void {
    this.#errors += 1;
    this.#firstError ??= what;
  }

  begin(): void {
    this.#begun.push({
      cpu: readCpuMicros(this.#job.watchPid),
      machine: readMachineCpu(),
      own: process.cpuUsage(),
      micros: monotonicMicros(),
    });
    this.#open = true;
  }

  end(): LoadResult {
    this.#open = false;
    const micros = monotonicMicros();
    const begun = this.#begun[0];
    if (begun === undefined) throw new Error('the window was never opened');
    if (this.#requests === 0) throw new Error(`not one good answer in ${this.#job.durationMs} ms: ${this.#firstError ?? 'none at all'}`);
    const own = process.cpuUsage(begun.own);
    const cpu = differenceByRole(begun.cpu, readCpuMicros(this.#job.watchPid), 1);
    const machine = machineCpuBetween(begun.machine, readMachineCpu());
    const seconds = (micros - begun.micros) / 1e6;
    const stamps = this.#requests * this.#job.template.stamps;
    return {
      requests: this.#requests,
      stamps,
      seconds,
      stampsPerSecond: stamps / seconds,
      errors: this.#errors,
      ...(this.#firstError === undefined ? {} : { firstError: this.#firstError }),
      cpuMicros: differenceByRole(zeroByRole, cpu, stamps),
      generatorCpuMicros: (own.user + own.system) / stamps,
      disturbance: disturbanceOf(machine, totalOf(cpu) + own.user + own.system),
      windowMicros: [begun.micros, micros],
      latencyMs: summarizeLatencies(this.#latencies.samples()),
      ...(this.#keepsTimeline ? { timeline: this.#timeline } : {}),
    };
  }
}
