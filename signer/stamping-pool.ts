/**
 * Where batches are signed: on worker threads, or, when nothing else is going on and the token is fast, here and now.
 *
 * A hand-over to a thread and back costs two wake-ups, 100 to 150 microseconds on two cores, which for a lone P-256 stamp
 * is three times its C_Sign. So a batch that is expected to sign within `inlineMsMax` is signed on the main thread while no
 * worker is busy. What a signature costs is measured; until it is known, and with every token that takes a network round
 * trip, all batches go to the workers, and a slow native call never holds up the reader.
 */
import { Piscina } from 'piscina';
import { countStampRequests } from '../queue/stamp-messages.ts';
import type { StampTask, StampTaskResult, StampWorkerData } from './stamp-task.ts';
import { Stamper } from './stamper.ts';

/** The reader waits for so long at most: less than a worker's wake-ups and one signature take. */
export const inlineMsMax = 0.25;
/** Weight of the newest batch in the running mean of C_Sign. */
const newestWeight = 1 / 16;

export class StampingPool {
  readonly #workers: Piscina<StampTask | undefined, StampTaskResult>;
  readonly #stamper: Stamper;
  readonly threads: number;
  #busy = 0;
  /** Milliseconds of one signature; unknown until a worker has signed. */
  #signMs = Number.POSITIVE_INFINITY;

  readonly #prepare = (): void => this.#stamper.prepare();

  private constructor(workers: Piscina<StampTask | undefined, StampTaskResult>, stamper: Stamper, threads: number) {
    this.#workers = workers;
    this.#stamper = stamper;
    this.threads = threads;
  }

  /** Opens a session for each thread and one for the main thread; resolves when all have proved the key. @throws HSM_* */
  static async start(data: StampWorkerData, threads: number): Promise<StampingPool> {
    const workers = new Piscina<StampTask | undefined, StampTaskResult>({
      filename: new URL('./stamp-worker.ts', import.meta.url).href,
      minThreads: threads,
      maxThreads: threads,
      concurrentTasksPerWorker: 1,
      idleTimeout: Number.POSITIVE_INFINITY,
      recordTiming: false,
      // A batch leaves little behind; the default of 48 MB in each thread would only be filled with garbage.
      resourceLimits: { maxYoungGenerationSizeMb: 4 },
      workerData: data,
    });
    await Promise.all(Array.from({ length: threads }, () => workers.run(undefined)));
    return new StampingPool(workers, new Stamper(data), threads);
  }

  /** Worker threads that sign now. */
  get busyThreads(): number {
    return this.threads - this.#workers.idleThreads;
  }

  /** Stamps a batch. `payload` may share its memory with others: it is copied when it travels. */
  async stamp(payload: Buffer, enteredAtMs: number): Promise<StampTaskResult> {
    const inline = this.#busy === 0 && countStampRequests(payload) * this.#signMs <= inlineMsMax;
    const result = inline ? this.#stampInline(payload, enteredAtMs) : await this.#hand(payload, enteredAtMs);
    const { signMs, outcomes } = result;
    if (outcomes.granted > 0) this.#learn(signMs / outcomes.granted);
    return result;
  }

  async close(): Promise<void> {
    await this.#workers.close();
    this.#stamper.close();
  }

  #stampInline(payload: Buffer, enteredAtMs: number): StampTaskResult {
    // After the answer has been written.
    setImmediate(this.#prepare);
    return this.#stamper.stamp({ payload, enteredAtMs });
  }

  async #hand(payload: Buffer, enteredAtMs: number): Promise<StampTaskResult> {
    this.#busy += 1;
    try {
      const copy = new Uint8Array(payload);
      return await this.#workers.run({ payload: copy, enteredAtMs }, { transferList: [copy.buffer] });
    } finally {
      this.#busy -= 1;
    }
  }

  #learn(signMs: number): void {
    this.#signMs = Number.isFinite(this.#signMs) ? this.#signMs + (signMs - this.#signMs) * newestWeight : signMs;
  }
}
