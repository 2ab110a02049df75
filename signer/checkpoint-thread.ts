/**
 * The journal's key on a thread of its own, for tokens that may hang: the main thread, and with it every stamp, waits for none of them.
 *
 * A call that has not come back within `callMsMax` stops checkpoints, not stamps: requests are answered with the reason, and nothing
 * more is asked of the token. When the call comes back, as it does when TCP gives up, checkpoints are signed again. When it has not
 * after `handOverAfterMs`, only a new process can help, which begins with connections of its own: that is told to `onHandOver`.
 */
import { SHARE_ENV } from 'node:worker_threads';
import { Piscina } from 'piscina';
import { type ErrorCode, SigilloError } from '../config/errors.ts';
import type { CheckpointSignature } from '../queue/checkpoint-signing.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { createCallMemory, longestCallMs } from './call-watch.ts';
import type { CheckpointKey, CheckpointKeyOptions } from './checkpoint-key.ts';
import type { Hsm, HsmSlot } from './pkcs11-module.ts';

const watchEveryMs = 100;
/** Once in five minutes a slot may pause for the second that a new process takes; a connection that is dead lasts for fifteen. */
const handOverMs = 300_000;

/** Given to the thread at its start. */
export interface CheckpointThreadData extends Pick<Hsm, 'refusedPinFolder'>, Pick<CheckpointKeyOptions, 'askAgainMs'> {
  readonly slot: HsmSlot;
  readonly origin: string;
  /** What the main thread has opened of it: the module, and logged in to this very token too. */
  readonly shared: 'nothing' | 'module' | 'token';
  readonly callMemory: SharedArrayBuffer;
}

export type CheckpointTask = { readonly kind: 'load' | 'close' } | { readonly kind: 'sign'; readonly text: string };

/** A SigilloError between threads. */
export interface ToldError {
  readonly code: ErrorCode;
  readonly detail: string;
}

export interface CheckpointTaskResult {
  readonly signed?: { readonly signature: Uint8Array; readonly spki: Uint8Array };
  readonly thrown?: ToldError;
  readonly up: boolean;
  /** Checkpoints that the thread has signed. */
  readonly signatures: number;
  /** The token has failed meanwhile. */
  readonly failed: ToldError | undefined;
  readonly loginLost: boolean;
}

/** What signs checkpoints, wherever its key is called. */
export interface CheckpointSigner {
  /** Whether the key would sign, as far as is known. */
  readonly up: boolean;
  /** Checkpoints that this process has signed. */
  readonly signatures: number;
  /** A call into its module does not come back: the process cannot end in order. */
  readonly stuck: boolean;
  /** See CheckpointKey. */
  sign(text: string): Promise<CheckpointSignature>;
  close(): Promise<void>;
}

/** The key on the thread that asks, for a token that cannot hang. */
export const checkpointSignerHere = (key: CheckpointKey): CheckpointSigner => ({
  get up() {
    return key.up;
  },
  get signatures() {
    return key.signatures;
  },
  stuck: false,
  sign: async (text) => key.sign(text),
  close: async () => key.close(),
});

export interface CheckpointThreadOptions
  extends Pick<CheckpointThreadData, 'slot' | 'origin' | 'refusedPinFolder' | 'shared' | 'askAgainMs'>,
    Pick<CheckpointKeyOptions, 'onFailed' | 'onLoginLost'> {
  /** The key is loaded, for the first time or again, or its token hangs no more. */
  readonly onLoaded?: () => void;
  /** A call into the module that takes longer hangs. */
  readonly callMsMax: number;
  /** A call that hangs for so long will not come back in this process. */
  readonly onHandOver: (error: SigilloError) => void;
  /** @defaultValue five minutes */
  readonly handOverAfterMs?: number;
}

const errorOf = ({ code, detail }: ToldError): SigilloError => new SigilloError(code, detail);

export class CheckpointThread implements CheckpointSigner {
  readonly #options: CheckpointThreadOptions;
  readonly #callMemory = createCallMemory();
  readonly #workers: Piscina<CheckpointTask, CheckpointTaskResult>;
  readonly #timer: NodeJS.Timeout;
  #up = false;
  #signatures = 0;
  #handedOver = false;
  #hanging: SigilloError | undefined;
  #whenHanging = Promise.withResolvers<never>();

  /** Loads the key, and does not wait for it; a failure is told to `onFailed`, and so is a token that hangs. */
  constructor(options: CheckpointThreadOptions) {
    this.#options = options;
    const { slot, origin, refusedPinFolder, shared, askAgainMs } = options;
    const callMemory = this.#callMemory;
    const data: CheckpointThreadData = {
      slot,
      origin,
      refusedPinFolder,
      shared,
      callMemory,
      ...(askAgainMs === undefined ? {} : { askAgainMs }),
    };
    this.#workers = new Piscina({
      filename: new URL('./checkpoint-worker.ts', import.meta.url).href,
      minThreads: 1,
      maxThreads: 1,
      concurrentTasksPerWorker: 1,
      idleTimeout: Number.POSITIVE_INFINITY,
      recordTiming: false,
      resourceLimits: { maxYoungGenerationSizeMb: 4 },
      // Modules read their variables from the process, not from the copy that a thread gets.
      env: SHARE_ENV,
      workerData: data,
    });
    this.#whenHanging.promise.catch(() => undefined); // whoever waits sees it
    this.#timer = setInterval(() => this.#watch(), watchEveryMs);
    this.#run({ kind: 'load' }).catch(() => undefined); // what the token said is told; without a thread the key is not up
  }

  get up(): boolean {
    return this.#up && this.#hanging === undefined;
  }

  get signatures(): number {
    return this.#signatures;
  }

  get stuck(): boolean {
    return this.#hanging !== undefined;
  }

  async sign(text: string): Promise<CheckpointSignature> {
    const { signed } = await this.#run({ kind: 'sign', text });
    if (signed === undefined) throw new SigilloError('INTERNAL', 'the thread of the journal has signed nothing');
    return { signature: Buffer.from(signed.signature), spki: Buffer.from(signed.spki) };
  }

  /** Closes the session, unless the token hangs, which `stuck` goes on to say: then the thread ends when its call does. */
  async close(): Promise<void> {
    await this.#run({ kind: 'close' }).catch(() => undefined); // the session goes with the process
    clearInterval(this.#timer);
    const ended = this.#workers.destroy();
    if (!this.stuck) await ended;
  }

  async #run(task: CheckpointTask): Promise<CheckpointTaskResult> {
    // It would wait behind the call that hangs.
    if (this.#hanging !== undefined) throw this.#hanging;
    const result = await Promise.race([this.#workers.run(task).then((one) => this.#took(one)), this.#whenHanging.promise]);
    if (result.thrown !== undefined) throw errorOf(result.thrown);
    return result;
  }

  /** Also of a call that nobody waits for any more. */
  #took(result: CheckpointTaskResult): CheckpointTaskResult {
    const { onLoaded, onFailed, onLoginLost } = this.#options;
    const wasUp = this.#up;
    this.#up = result.up;
    this.#signatures = result.signatures;
    if (this.#up && !wasUp) onLoaded?.();
    const failure = result.failed === undefined ? undefined : errorOf(result.failed);
    if (failure !== undefined) onFailed(failure);
    if (result.loginLost && failure !== undefined) onLoginLost?.(failure);
    return result;
  }

  #watch(): void {
    const { callMsMax, slot, onFailed, onHandOver, handOverAfterMs = handOverMs } = this.#options;
    const longest = longestCallMs(this.#callMemory, monotonicMs());
    if (longest <= callMsMax) {
      const hung = this.#hanging !== undefined;
      this.#hanging = undefined;
      if (hung && this.#up) this.#options.onLoaded?.();
      return;
    }
    if (this.#hanging === undefined) {
      const ms = Math.round(longest);
      this.#hanging = new SigilloError('HSM_DEVICE', `the journal's key in token "${slot.label}": a call has not come back for ${ms} ms`);
      onFailed(this.#hanging);
      this.#whenHanging.reject(this.#hanging);
      this.#whenHanging = Promise.withResolvers<never>();
      this.#whenHanging.promise.catch(() => undefined); // whoever waits sees it
    }
    if (longest > handOverAfterMs && !this.#handedOver) {
      this.#handedOver = true;
      onHandOver(this.#hanging);
    }
  }
}
