/**
 * What all threads of a signer share about the clock. Any thread may note a step; only the main thread says what has been proved,
 * and every thread reads that for each stamp. A reader never waits: what is proved is written beside what was, and then counts.
 */

/** What the main thread knows of the clock, where time servers are configured; the order is that of the code in memory. */
export const clockVerdicts = ['starting', 'trusted', 'stepped', 'offset', 'noQuorum', 'uncertain', 'leap'] as const;
/**
 * `starting`: no quorum yet. `trusted`. `stepped`: the clock was set. `offset`: too far from UTC. `noQuorum`: for too long.
 * `uncertain`: UTC is not known well enough. `leap`: a leap second is near.
 */
export type ClockVerdict = (typeof clockVerdicts)[number];

/** The last proof, and what follows from it. */
export interface ClockProof {
  readonly verdict: ClockVerdict;
  /** UTC less the monotonic clock when it was proved, its largest error then, and when that was on the monotonic clock; milliseconds. */
  readonly utcMs: number;
  readonly distanceMs: number;
  readonly provedAtMs: number;
  /** Steps of the clock that the verdict takes account of: one more, and it is void. */
  readonly steps: number;
  /** Wall clock times between which nothing is stamped, milliseconds since 1970; equal when there are none. */
  readonly leapFromMs: number;
  readonly leapUntilMs: number;
}

export type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** Before the first round: nothing is proved. */
export const nothingProved: ClockProof = {
  verdict: 'starting',
  utcMs: 0,
  distanceMs: 0,
  provedAtMs: 0,
  steps: 0,
  leapFromMs: 0,
  leapUntilMs: 0,
};

const baselineAt = 0;
const untrustedUntilAt = 1;
const lastStepAt = 2;
const stepFields = 3;
const proofFields = 7;
const floats = stepFields + 2 * proofFields;
const stepsAt = 0;
/** Proofs that were published; the newest is in the place of its parity. */
const proofsAt = 1;
const integers = 2;

/** Memory that all threads of a signer share; make it once. */
export const createClockMemory = (): SharedArrayBuffer => {
  const memory = new SharedArrayBuffer(floats * Float64Array.BYTES_PER_ELEMENT + integers * Int32Array.BYTES_PER_ELEMENT);
  new Float64Array(memory)[baselineAt] = Number.NaN;
  return memory;
};

/** A thread's view of the memory. */
export class ClockMemory {
  readonly #floats: Float64Array;
  readonly #integers: Int32Array;

  constructor(memory: SharedArrayBuffer) {
    this.#floats = new Float64Array(memory, 0, floats);
    this.#integers = new Int32Array(memory, floats * Float64Array.BYTES_PER_ELEMENT, integers);
  }

  /** Wall clock less the monotonic one at the last reading of any thread; NaN before the first. */
  get baselineMs(): number {
    return this.#floats[baselineAt] as number;
  }

  set baselineMs(value: number) {
    this.#floats[baselineAt] = value;
  }

  /** When the clock has run evenly for long enough, on the monotonic clock. */
  get untrustedUntilMs(): number {
    return this.#floats[untrustedUntilAt] as number;
  }

  /** Steps that any thread has seen. */
  get steps(): number {
    return Atomics.load(this.#integers, stepsAt);
  }

  /** By how much the clock was set at the last step; negative: back. */
  get lastStepMs(): number {
    return this.#floats[lastStepAt] as number;
  }

  noteStep(byMs: number, untrustedUntilMs: number): void {
    this.#floats[untrustedUntilAt] = untrustedUntilMs;
    this.#floats[lastStepAt] = byMs;
    Atomics.add(this.#integers, stepsAt, 1);
  }

  /** Replaces the proof; for the main thread. */
  publish(proof: ClockProof): void {
    const next = Atomics.load(this.#integers, proofsAt) + 1;
    const { verdict, utcMs, distanceMs, provedAtMs, steps, leapFromMs, leapUntilMs } = proof;
    const at = stepFields + (next & 1) * proofFields;
    this.#floats.set([clockVerdicts.indexOf(verdict), utcMs, distanceMs, provedAtMs, steps, leapFromMs, leapUntilMs], at);
    Atomics.store(this.#integers, proofsAt, next);
  }

  /** Copies the newest proof into `into`, so that a stamp allocates nothing for it. */
  read(into: Mutable<ClockProof>): void {
    let place: number;
    do {
      place = Atomics.load(this.#integers, proofsAt);
      const at = stepFields + (place & 1) * proofFields;
      into.verdict = clockVerdicts[this.#floats[at] as number] as ClockVerdict;
      into.utcMs = this.#floats[at + 1] as number;
      into.distanceMs = this.#floats[at + 2] as number;
      into.provedAtMs = this.#floats[at + 3] as number;
      into.steps = this.#floats[at + 4] as number;
      into.leapFromMs = this.#floats[at + 5] as number;
      into.leapUntilMs = this.#floats[at + 6] as number;
      // Two newer ones since, and this one may be written over by half.
    } while (Atomics.load(this.#integers, proofsAt) !== place);
  }
}
