/**
 * The time that goes into stamps, and whether it may. One guard for all threads of a signer, in shared memory.
 *
 * A wall clock that moves against the monotonic one by more than `stepMsMax` has been set by somebody: stamping stops at
 * the very stamp that sees it, and resumes when the clock has run evenly for `settleMs`. Whether the clock is right in the
 * first place only an outside source can say; without one the time is `unverified`, and `required` refuses it.
 */
export interface ClockOptions {
  readonly required: boolean;
  readonly stepMsMax: number;
  readonly settleMs: number;
}

/** The two clocks, injected so that tests can move them. Milliseconds. */
export interface ClockSources {
  wallMs(): number;
  monotonicMs(): number;
}

export type ClockReading =
  | { readonly kind: 'time'; readonly unixMillis: number; readonly state: 'unverified' | 'trusted' }
  | { readonly kind: 'unavailable'; readonly reason: 'stepped' | 'unverified' };

const baselineAt = 0;
const untrustedUntilAt = 1;
const stepsAt = 2;
const lastStepAt = 3;

/** Memory that all threads of a signer share; make it once. */
export const createClockMemory = (): SharedArrayBuffer => {
  const memory = new SharedArrayBuffer(4 * Float64Array.BYTES_PER_ELEMENT);
  new Float64Array(memory)[baselineAt] = Number.NaN;
  return memory;
};

export interface ClockSteps {
  /** Steps that any thread has seen. */
  readonly count: number;
  /** By how much the clock was set at the last one; negative: back. */
  readonly lastMs: number;
}

/** What the threads that share this memory have seen. */
export const readClockSteps = (memory: SharedArrayBuffer): ClockSteps => {
  const shared = new Float64Array(memory);
  return { count: shared[stepsAt] as number, lastMs: shared[lastStepAt] as number };
};

export interface GuardedClock {
  /** The time for one stamp, in whole milliseconds, or why there is none. */
  read(): ClockReading;
}

/** A thread's view of the clock that `memory` guards. */
export const createGuardedClock = (memory: SharedArrayBuffer, sources: ClockSources, options: ClockOptions): GuardedClock => {
  const shared = new Float64Array(memory);
  const stepped: ClockReading = { kind: 'unavailable', reason: 'stepped' };
  const unverified: ClockReading = { kind: 'unavailable', reason: 'unverified' };
  return {
    read() {
      const wall = sources.wallMs();
      const monotonic = sources.monotonicMs();
      const difference = wall - monotonic;
      const baseline = shared[baselineAt] as number;
      // Following small differences lets the clock be slewed; a step shows between two readings, which are never far apart.
      shared[baselineAt] = difference;
      if (Math.abs(difference - baseline) > options.stepMsMax) {
        shared[untrustedUntilAt] = monotonic + options.settleMs;
        shared[lastStepAt] = difference - baseline;
        shared[stepsAt] = (shared[stepsAt] as number) + 1;
      }
      if (monotonic < (shared[untrustedUntilAt] as number)) return stepped;
      if (options.required) return unverified;
      return { kind: 'time', unixMillis: Math.floor(wall), state: 'unverified' };
    },
  };
};
