/**
 * Where batches are signed: on worker threads, or, when nothing else is going on and the token is in this process, here and now.
 *
 * A hand-over to a thread and back costs two wake-ups, 100 to 150 microseconds on two cores, which for a lone P-256 stamp is three
 * times its C_Sign. So with a token in this process a batch that is expected to sign within `inlineMsMax` is signed on the main thread
 * while no worker is busy. With any other token all batches go to the workers, and a slow native call never holds up the reader.
 *
 * A token that takes long for a signature and signs many at once gets many threads (parallelism.ts), and an entry of the lane is shared
 * out among them, so that its last request does not wait for all others.
 *
 * The first failure of the token ends the pool: nothing is signed any more, what is under way is given back unanswered, and only a new
 * process begins again, because a module is initialised anew for all threads or not at all.
 */
import { Piscina } from 'piscina';
import { SigilloError } from '../config/errors.ts';
import { joinAnswerBlocks, stampOutcomes } from '../queue/answer-block.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { countStampRequests, splitStampRequests } from '../queue/stamp-messages.ts';
import { longestCallMs } from './call-watch.ts';
import { Parallelism } from './parallelism.ts';
import type { SlotFailure, StampedBatch, StampTask, StampTaskResult, StampWorkerData } from './stamp-task.ts';
import { Stamper } from './stamper.ts';

/** The reader waits for so long at most: less than a worker's wake-ups and one signature take. */
export const inlineMsMax = 0.25;
/** What one thread signs in one go, when there are more threads than cores: long against its wake-ups, short against a deadline. */
const shareMs = 6;
/** Weight of the newest batch in the running mean of C_Sign. */
const newestWeight = 1 / 16;
const adaptEveryMs = 100;
const watchEveryMs = 100;

export interface StampingPoolOptions {
  readonly data: StampWorkerData;
  /** Threads at the start, and always. */
  readonly threads: number;
  /** Threads, and with them sessions, that the pool may have. */
  readonly threadsMax: number;
  /** The token is in this process, and cannot hang on a network: fast signatures may be made on the main thread. */
  readonly inline: boolean;
  /** A call into the module that takes longer will never end. */
  readonly callMsMax: number;
  /** How often sessions are used when nothing is signed. */
  readonly keepAliveMs: number;
}

/** A batch, or a part of one, that waits for a thread. */
interface Waiting {
  readonly task: StampTask;
  readonly done: (result: StampedBatch) => void;
  readonly failed: (error: unknown) => void;
}

/** The error for operators. */
const slotError = ({ errorClass, message }: SlotFailure): SigilloError =>
  new SigilloError(errorClass === 'credential' ? 'HSM_PIN_REFUSED' : 'HSM_DEVICE', message);

const sumOutcomes = (batches: readonly StampedBatch[]): StampedBatch['outcomes'] =>
  Object.fromEntries(
    stampOutcomes.map((outcome) => [outcome, batches.reduce((sum, { outcomes }) => sum + outcomes[outcome], 0)]),
  ) as StampedBatch['outcomes'];

const joinBatches = (node: string, batches: readonly StampedBatch[]): StampedBatch => {
  const stamps = new Map<string, number>();
  for (const batch of batches) for (const [client, count] of batch.stamps) stamps.set(client, (stamps.get(client) ?? 0) + count);
  return {
    kind: 'stamped',
    block: joinAnswerBlocks(
      node,
      batches.map(({ block }) => block),
    ),
    stamps,
    outcomes: sumOutcomes(batches),
    signMs: batches.reduce((sum, { signMs }) => sum + signMs, 0),
    cpuMs: batches.reduce((sum, { cpuMs }) => sum + cpuMs, 0),
    failure: batches.find(({ failure }) => failure !== undefined)?.failure,
  };
};

export class StampingPool {
  /** Resolves with what the token has failed with. */
  readonly failed: Promise<SigilloError>;
  readonly #options: StampingPoolOptions;
  readonly #workers: Piscina<StampTask | undefined, StampTaskResult | undefined>;
  /** For the main thread; undefined when it must not sign. */
  readonly #stamper: Stamper | undefined;
  readonly #parallelism: Parallelism;
  readonly #waiting: Waiting[] = [];
  readonly #timers: NodeJS.Timeout[];
  readonly #fail: (error: SigilloError) => void;
  #failure: SigilloError | undefined;
  #stuck = false;
  #busy = 0;
  /** Milliseconds of one signature; unknown until a worker has signed. */
  #signMs = Number.POSITIVE_INFINITY;
  #sample = { signatures: 0, signMs: 0, cpuMs: 0, waited: false };

  readonly #prepare = (): void => this.#stamper?.prepare();

  private constructor(options: StampingPoolOptions, workers: Piscina<StampTask | undefined, StampTaskResult | undefined>) {
    this.#options = options;
    this.#workers = workers;
    this.#stamper = options.inline ? new Stamper(options.data) : undefined;
    this.#parallelism = new Parallelism({ min: options.threads, max: options.threadsMax });
    const { promise, resolve } = Promise.withResolvers<SigilloError>();
    this.failed = promise;
    this.#fail = resolve;
    this.#timers = [
      setInterval(() => this.#adapt(), adaptEveryMs),
      setInterval(() => this.#watch(), watchEveryMs),
      setInterval(() => this.look(), options.keepAliveMs),
    ];
  }

  /** Opens sessions for each thread and for the main thread; resolves when all have proved their keys. @throws HSM_* */
  static async start(options: StampingPoolOptions): Promise<StampingPool> {
    const { data, threads, threadsMax } = options;
    const workers = new Piscina<StampTask | undefined, StampTaskResult | undefined>({
      filename: new URL('./stamp-worker.ts', import.meta.url).href,
      minThreads: Math.min(threads, threadsMax),
      maxThreads: threadsMax,
      concurrentTasksPerWorker: 1,
      idleTimeout: Number.POSITIVE_INFINITY,
      recordTiming: false,
      // A batch leaves little behind; the default of 48 MB in each thread would only be filled with garbage.
      resourceLimits: { maxYoungGenerationSizeMb: 4 },
      workerData: data,
    });
    try {
      const looks = await Promise.all(workers.threads.map(() => workers.run(undefined)));
      const failed = looks.find((result) => result?.kind === 'slotFailed');
      if (failed?.kind === 'slotFailed') throw slotError(failed);
      return new StampingPool(options, workers);
    } catch (error) {
      await workers.destroy();
      throw error;
    }
  }

  /** Worker threads that sign now. */
  get busyThreads(): number {
    return this.#busy;
  }

  /** Worker threads that are there, each with its sessions. */
  get threads(): number {
    return this.#workers.threads.length;
  }

  /** A call into the module does not come back: the process cannot end in order any more. */
  get stuck(): boolean {
    return this.#stuck;
  }

  /** Stamps a batch. `payload` may share its memory with others: it is copied when it travels. @throws HSM_DEVICE, HSM_PIN_REFUSED: nothing was answered */
  async stamp(payload: Buffer, enteredAtMs: number): Promise<StampedBatch> {
    if (this.#failure !== undefined) throw this.#failure;
    const requests = countStampRequests(payload);
    const batch =
      this.#stamper !== undefined && this.#busy === 0 && requests * this.#signMs <= inlineMsMax
        ? this.#stampInline(this.#stamper, payload, enteredAtMs)
        : await this.#stampInWorkers(payload, requests, enteredAtMs);
    if (batch.outcomes.granted > 0) this.#learn(batch);
    return batch;
  }

  /** Has all idle threads take over new TSUs, and use their sessions once. */
  look(): void {
    for (let idle = this.threads - this.#busy; idle > 0; idle -= 1) {
      this.#workers.run(undefined).then(
        (result) => {
          if (result?.kind === 'slotFailed') this.#giveUp(slotError(result));
        },
        (error: unknown) => this.#giveUp(new SigilloError('HSM_DEVICE', (error as Error).message, { cause: error })),
      );
    }
    const failed = this.#stamper?.look();
    if (failed !== undefined) this.#giveUp(slotError(failed));
  }

  /** Finishes what is under way, and closes the sessions. */
  async close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    await this.#workers.close();
    this.#stamper?.close();
  }

  #stampInline(stamper: Stamper, payload: Buffer, enteredAtMs: number): StampedBatch {
    // After the answer has been written.
    setImmediate(this.#prepare);
    return this.#stamped(stamper.stamp({ payload, enteredAtMs }));
  }

  async #stampInWorkers(payload: Buffer, requests: number, enteredAtMs: number): Promise<StampedBatch> {
    const share = this.#share(requests);
    if (share >= requests) return this.#hand(payload, enteredAtMs);
    const parts = splitStampRequests(payload, share);
    return joinBatches(this.#options.data.node, await Promise.all(parts.map((part) => this.#hand(part, enteredAtMs))));
  }

  /** Requests for one thread: all, unless there are threads that have nothing else to do than to wait for the token. */
  #share(requests: number): number {
    if (this.#parallelism.current <= this.#options.threads) return requests;
    return Math.max(1, Math.floor(shareMs / this.#signMs));
  }

  #hand(payload: Buffer, enteredAtMs: number): Promise<StampedBatch> {
    const task = { payload: new Uint8Array(payload), enteredAtMs };
    return new Promise((done, failed) => {
      this.#waiting.push({ task, done, failed });
      this.#startWaiting();
      if (this.#waiting.length > 0) this.#sample.waited = true;
    });
  }

  #startWaiting(): void {
    while (this.#busy < this.#parallelism.current) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      this.#busy += 1;
      this.#workers
        .run(next.task, { transferList: [next.task.payload.buffer as ArrayBuffer] })
        .then((result) => next.done(this.#stamped(result as StampTaskResult)))
        .catch(next.failed)
        .finally(() => {
          this.#busy -= 1;
          this.#startWaiting();
        });
    }
  }

  #stamped(result: StampTaskResult): StampedBatch {
    if (result.kind === 'slotFailed') throw this.#giveUp(slotError(result));
    return result;
  }

  #giveUp(error: SigilloError): SigilloError {
    if (this.#failure === undefined) {
      this.#failure = error;
      for (const { failed } of this.#waiting.splice(0)) failed(error);
      this.#fail(error);
    }
    return this.#failure;
  }

  #learn({ signMs, cpuMs, outcomes: { granted } }: StampedBatch): void {
    const each = signMs / granted;
    this.#signMs = Number.isFinite(this.#signMs) ? this.#signMs + (each - this.#signMs) * newestWeight : each;
    this.#sample.signatures += granted;
    this.#sample.signMs += signMs;
    this.#sample.cpuMs += cpuMs;
  }

  #adapt(): void {
    this.#sample.waited ||= this.#waiting.length > 0;
    this.#parallelism.adapt(this.#sample);
    this.#sample = { signatures: 0, signMs: 0, cpuMs: 0, waited: false };
    this.#startWaiting();
  }

  #watch(): void {
    const { data, callMsMax } = this.#options;
    const longest = longestCallMs(data.callMemory, monotonicMs());
    if (longest <= callMsMax || this.#stuck) return;
    this.#stuck = true;
    this.#giveUp(new SigilloError('HSM_DEVICE', `a call into the module has not come back for ${Math.round(longest)} ms`));
  }
}
