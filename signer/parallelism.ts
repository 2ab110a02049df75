/**
 * How many signatures are in the token at once: as many as it makes use of.
 *
 * A token in this process, such as SoftHSM, is as fast as our cores: more signatures at once than cores only stand in each other's way.
 * Behind a network a signature mostly waits, and a module makes many at once: then there are more of them until some wait in the module
 * for others, so that it always has one to begin, and fewer again when most of them do.
 */

export interface ParallelismOptions {
  /** As many as there are cores. */
  readonly min: number;
  /** Sessions that it may have. */
  readonly max: number;
}

/** What was signed since the last look. */
export interface SigningSample {
  readonly signatures: number;
  /** Milliseconds in the module, all signatures together. */
  readonly signMs: number;
  /** Milliseconds that the threads worked. */
  readonly cpuMs: number;
  /** There was more to sign than was in the token. */
  readonly waited: boolean;
}

/** A signature that waits for less is not worth a wake-up, which takes as long. */
const waitMsMin = 0.3;
/** While a signature takes less than so many times what it takes at best, the module has room, or little that waits. */
const growBelow = 1.6;
/** Beyond it most of them wait. */
const shrinkAbove = 3;
/** Weight of the newest look in the mean. */
const newestWeight = 1 / 4;
/** A second without a reason to wait for the token: it is as fast as the cores after all. */
const fastLooksMin = 10;
/** Looks until a change shows: batches that are under way were begun before it. */
const settlingLooks = 4;
const mean = (before: number | undefined, newest: number): number =>
  before === undefined ? newest : before + (newest - before) * newestWeight;

/** The best time is forgotten slowly, by half in two minutes: a network may have become slower for good. */
const forgetting = 1.0005;

export class Parallelism {
  readonly #options: ParallelismOptions;
  #current: number;
  #bestMs = Number.POSITIVE_INFINITY;
  /** Of a signature, in the running mean: threads report theirs in lumps. */
  #cpuMs: number | undefined;
  /** Time of a signature, in the running mean: a moment in which this process stood still must not count for the token. */
  #eachMs: number | undefined;
  /** Looks in a row at which it was not worth waiting for. */
  #fastLooks = 0;
  #settling = 0;

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
    this.#cpuMs = mean(this.#cpuMs, cpuMs / signatures);
    this.#eachMs = mean(this.#eachMs, eachMs);
    const waitMs = this.#bestMs - this.#cpuMs;
    // CPU time of a thread does not grow when others take the cores away, so a busy machine is not taken for a slow token.
    const waits = waitMs > waitMsMin && waitMs > this.#bestMs / 2;
    this.#fastLooks = waits ? 0 : this.#fastLooks + 1;
    const slower = this.#eachMs / this.#bestMs;
    this.#settling -= 1;
    if (this.#fastLooks >= fastLooksMin) this.#current = this.#options.min;
    else if (this.#settling > 0) return this.#current;
    // The mean lags behind the last step; this look does not.
    else if (waits && waited && Math.max(slower, eachMs / this.#bestMs) <= growBelow) this.#change(this.#current * 2);
    else if (slower > shrinkAbove) this.#change(Math.ceil(this.#current * 0.75));
    this.#current = Math.max(Math.min(this.#current, this.#options.max), Math.min(this.#options.min, this.#options.max));
    return this.#current;
  }

  #change(next: number): void {
    this.#current = next;
    this.#settling = settlingLooks;
  }
}
