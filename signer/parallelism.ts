/**
 * How many batches are in the token at once: as many as it makes use of.
 *
 * A token in this process, such as SoftHSM, is as fast as our cores: more threads than cores only stand in each other's way. Behind a
 * network a signature mostly waits, and a module signs many at once: then threads are added as long as a signature takes no longer for it,
 * and given back when they only queue in the module.
 */

export interface ParallelismOptions {
  /** As many as there are cores. */
  readonly min: number;
  /** Sessions that the slot may have. */
  readonly max: number;
}

/** What was signed since the last look. */
export interface SigningSample {
  readonly signatures: number;
  /** Milliseconds in the module, all signatures together. */
  readonly signMs: number;
  /** Milliseconds that the threads worked. */
  readonly cpuMs: number;
  /** Batches had to wait for a thread. */
  readonly waited: boolean;
}

/** A signature that waits for less is not worth another thread: its wake-ups take as long. */
const waitMsMin = 0.3;
/** Another thread is worth it while a signature takes at most so much longer than it has at best. */
const growBelow = 1.15;
/** Beyond it the last threads only wait for the others. */
const shrinkAbove = 1.5;
/** The best time is forgotten slowly: a network may have become slower for good. */
const forgetting = 1.005;

export class Parallelism {
  readonly #options: ParallelismOptions;
  #current: number;
  #bestMs = Number.POSITIVE_INFINITY;

  constructor(options: ParallelismOptions) {
    this.#options = options;
    this.#current = Math.min(options.min, options.max);
  }

  get current(): number {
    return this.#current;
  }

  /** Takes what was seen in the last fraction of a second. @returns the new number */
  adapt({ signatures, signMs, cpuMs, waited }: SigningSample): number {
    if (signatures === 0) return this.#current;
    const eachMs = signMs / signatures;
    this.#bestMs = Math.min(this.#bestMs * forgetting, eachMs);
    const waitMs = this.#bestMs - cpuMs / signatures;
    // CPU time of a thread does not grow when others take the cores away, so a busy machine is not taken for a slow token.
    const waits = waitMs > waitMsMin && waitMs > this.#bestMs / 2;
    const slower = eachMs / this.#bestMs;
    if (!waits) this.#current = this.#options.min;
    else if (waited && slower <= growBelow) this.#current *= 2;
    else if (slower > shrinkAbove) this.#current = Math.ceil((this.#current / slower) * 1.25);
    this.#current = Math.max(Math.min(this.#current, this.#options.max), Math.min(this.#options.min, this.#options.max));
    return this.#current;
  }
}
