/**
 * Where batches are signed: on worker threads, or, when nothing else is going on and the token is in this process, here and now.
 *
 * A hand-over to a thread and back costs two wake-ups, 100 to 150 microseconds on two cores, which for a lone P-256 stamp is three
 * times its C_Sign. So with a token in this process a batch that is expected to sign within `inlineMsMax` is signed on the main thread
 * while no worker is busy. With any other token all batches go to the workers, and a slow native call never holds up the reader.
 *
 * A token that takes long for a signature and makes many at once gets as many at once as it makes use of (parallelism.ts): then the
 * threads do not wait for their signatures (concurrent-stamper.ts).
 *
 * The first failure of the token ends the pool: nothing is signed any more, what is under way is given back unanswered, and only a new
 * process begins again, because a module is initialised anew for all threads or not at all.
 */
import { Piscina } from 'piscina';
import { SigilloError } from '../config/errors.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { countStampRequests } from '../queue/stamp-messages.ts';
import { longestCallMs } from './call-watch.ts';
import { Parallelism } from './parallelism.ts';
import { SlotError } from './slot-failure.ts';
import type { LookResult, StampedBatch, StampTask, StampTaskResult, StampWorkerData } from './stamp-task.ts';
import { Stamper } from './stamper.ts';

/** The reader waits for so long at most: less than a worker's wake-ups and one signature take. */
export const inlineMsMax = 0.25;
/** Batches that one thread has under way when it does not wait for its signatures: the end of one is the beginning of the next. */
const batchesPerThread = 3;
/** Where that is fewer, as many requests as may be in the token at once, so many times: small batches must fill it too. */
const requestsAhead = 2;
/** Weight of the newest batch in the running mean of C_Sign. */
const newestWeight = 1 / 16;
const adaptEveryMs = 100;
const watchEveryMs = 100;

export interface StampingPoolOptions {
  readonly data: StampWorkerData;
  readonly threads: number;
  /** Signatures that may be in the token at once, each in a session of its own. */
  readonly sessionsMax: number;
  /** The token is in this process, and cannot hang on a network: fast signatures may be made on the main thread. */
  readonly inline: boolean;
  /** A call into the module that takes longer will never end. */
  readonly callMsMax: number;
  /** How often sessions are used when nothing is signed. */
  readonly keepAliveMs: number;
  /** TSUs cannot be opened, as a thread has found; the others stamp on. */
  readonly onSetAside?: (messages: readonly string[]) => void;
}

/** A batch that waits for a thread. */
interface Waiting {
  readonly payload: Buffer;
  readonly requests: number;
  readonly enteredAtMs: number;
  readonly done: (result: StampedBatch) => void;
  readonly failed: (error: unknown) => void;
}

export class StampingPool {
  /** Resolves with what the token has failed with. */
  readonly failed: Promise<SigilloError>;
  readonly #options: StampingPoolOptions;
  readonly #workers: Piscina<StampTask | undefined, StampTaskResult | LookResult>;
  /** For the main thread; undefined when it must not sign. */
  readonly #stamper: Stamper | undefined;
  readonly #parallelism: Parallelism;
  readonly #waiting: Waiting[] = [];
  readonly #timers: NodeJS.Timeout[];
  readonly #fail: (error: SigilloError) => void;
  #failure: SigilloError | undefined;
  #stuck = false;
  #busy = 0;
  /** In the batches at work. */
  #requestsBusy = 0;
  /** In the batches that wait for a thread. */
  #requestsWaiting = 0;
  /** Milliseconds of one signature; unknown until a worker has signed. */
  #signMs = Number.POSITIVE_INFINITY;
  #sample = { signatures: 0, signMs: 0, cpuMs: 0, waited: false };

  readonly #prepare = (): void => this.#stamper?.prepare();

  private constructor(options: StampingPoolOptions, workers: Piscina<StampTask | undefined, StampTaskResult | LookResult>) {
    this.#options = options;
    this.#workers = workers;
    this.#stamper = options.inline ? new Stamper(options.data) : undefined;
    this.#parallelism = new Parallelism({ min: options.threads, max: options.sessionsMax });
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
    const { data, sessionsMax } = options;
    const threads = Math.min(options.threads, sessionsMax);
    const workers = new Piscina<StampTask | undefined, StampTaskResult | LookResult>({
      filename: new URL('./stamp-worker.ts', import.meta.url).href,
      minThreads: threads,
      maxThreads: threads,
      // The pool itself hands over no more than there is room for.
      concurrentTasksPerWorker: Math.max(batchesPerThread, requestsAhead * sessionsMax),
      idleTimeout: Number.POSITIVE_INFINITY,
      recordTiming: false,
      // A batch leaves little behind; the default of 48 MB in each thread would only be filled with garbage.
      resourceLimits: { maxYoungGenerationSizeMb: 4 },
      workerData: data,
    });
    // A thread dies with nothing to do, such as one that Piscina has put in the place of another that could not begin.
    const died = Promise.withResolvers<never>();
    workers.on('error', died.reject);
    try {
      const looks = await Promise.race([Promise.all(workers.threads.map(() => workers.run(undefined))), died.promise]);
      const failed = looks.find((result) => result?.kind === 'slotFailed');
      if (failed?.kind === 'slotFailed') throw new SlotError(failed);
      const pool = new StampingPool(options, workers);
      died.promise.catch((error: Error) => pool.#giveUp(new SigilloError('HSM_DEVICE', error.message, { cause: error })));
      return pool;
    } catch (error) {
      died.promise.catch(() => undefined); // told already
      await workers.destroy();
      throw error;
    }
  }

  /** Batches at work in the threads. */
  get busy(): number {
    return this.#busy;
  }

  get threads(): number {
    return this.#workers.threads.length;
  }

  /** Signatures that may be in the token at once now. */
  get atOnce(): number {
    return this.#parallelism.current;
  }

  /** Signatures that may ever be in the token at once. */
  get atMost(): number {
    return this.#options.sessionsMax;
  }

  /** Signatures that may be in the token now, and for which there is a request. */
  get signing(): number {
    return Math.min(this.#lanesPerThread > 1 ? this.#requestsBusy : this.#busy, this.atOnce);
  }

  /** Milliseconds of one signature, in the running mean; undefined until one was made. */
  get signMs(): number | undefined {
    return Number.isFinite(this.#signMs) ? this.#signMs : undefined;
  }

  /** A call into the module does not come back: the process cannot end in order any more. */
  get stuck(): boolean {
    return this.#stuck;
  }

  /** Stamps a batch. `payload` may share its memory with others: it is copied when it travels. @throws LANE_ENTRY_MALFORMED; HSM_DEVICE, HSM_REQUEST, HSM_PIN_REFUSED, TSU_NONE_ACTIVE: nothing was answered */
  async stamp(payload: Buffer, enteredAtMs: number): Promise<StampedBatch> {
    if (this.#failure !== undefined) throw this.#failure;
    const batch =
      this.#stamper !== undefined && this.#busy === 0 && countStampRequests(payload) * this.#signMs <= inlineMsMax
        ? this.#stampInline(this.#stamper, payload, enteredAtMs)
        : await this.#hand(payload, enteredAtMs);
    if (batch.outcomes.granted > 0) this.#learn(batch);
    return batch;
  }

  /** Has the threads take over new TSUs, and use their sessions once. */
  look(): void {
    for (let n = 0; n < this.threads; n += 1) {
      this.#workers.run(undefined).then(
        (result) => {
          this.#looked(result as LookResult);
        },
        (error: unknown) => this.#giveUp(new SigilloError('HSM_DEVICE', (error as Error).message, { cause: error })),
      );
    }
    this.#looked(this.#stamper?.look());
  }

  #looked(result: LookResult): void {
    if (result?.kind === 'slotFailed') this.#giveUp(new SlotError(result));
    if (result?.kind === 'setAside') this.#options.onSetAside?.(result.messages);
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
    return this.#stamped(stamper.stamp({ payload, enteredAtMs, atOnce: 1 }));
  }

  #hand(payload: Buffer, enteredAtMs: number): Promise<StampedBatch> {
    return new Promise((done, failed) => {
      const requests = countStampRequests(payload);
      this.#waiting.push({ payload, requests, enteredAtMs, done, failed });
      this.#requestsWaiting += requests;
      this.#startWaiting();
    });
  }

  /** Signatures that each thread may have in the token at once; 1: it waits for each. */
  get #lanesPerThread(): number {
    return Math.ceil(this.atOnce / this.threads);
  }

  get #hasRoom(): boolean {
    if (this.#lanesPerThread <= 1) return this.#busy < this.atOnce;
    return this.#busy < this.threads * batchesPerThread || this.#requestsBusy < this.atOnce * requestsAhead;
  }

  #startWaiting(): void {
    const atOnce = this.#lanesPerThread;
    while (this.#hasRoom) {
      const next = this.#waiting.shift();
      if (next === undefined) break;
      this.#busy += 1;
      this.#requestsBusy += next.requests;
      this.#requestsWaiting -= next.requests;
      const task: StampTask = { payload: new Uint8Array(next.payload), enteredAtMs: next.enteredAtMs, atOnce };
      this.#workers
        .run(task, { transferList: [task.payload.buffer as ArrayBuffer] })
        .then((result) => next.done(this.#stamped(result as StampTaskResult)))
        .catch(next.failed)
        .finally(() => {
          this.#busy -= 1;
          this.#requestsBusy -= next.requests;
          this.#startWaiting();
        });
    }
    // Requests, not batches: a thread that has a single batch may have a hundred to sign, one after the other.
    this.#sample.waited ||= this.#requestsBusy + this.#requestsWaiting > this.atOnce;
  }

  #stamped(result: StampTaskResult): StampedBatch {
    if (result.kind === 'slotFailed') throw this.#giveUp(new SlotError(result));
    if (result.kind === 'noTsu') throw new SigilloError('TSU_NONE_ACTIVE', result.message);
    if (result.kind === 'malformed') throw new SigilloError('LANE_ENTRY_MALFORMED', result.message);
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
