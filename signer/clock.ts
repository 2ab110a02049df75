/**
 * The time that goes into stamps, and whether it may. One guard for all threads of a signer, in shared memory.
 *
 * A wall clock that moves against the monotonic one by more than `stepMsMax` has been set by somebody: stamping stops at
 * the very stamp that sees it, and resumes when the clock has run evenly for `settleMs`. Whether the clock is right in the
 * first place only time servers can say (clock-verifier.ts): with them, each stamp is held against what they proved last; without
 * them the time is `unverified`, and `required` refuses it. What they say never corrects the time.
 */
import type { Config } from '../config/schema.ts';
import { ClockMemory, type ClockProof, type ClockVerdict, type Mutable, nothingProved } from './clock-memory.ts';

export type ClockOptions = Pick<
  Config['time'],
  'required' | 'stepMsMax' | 'settleMs' | 'servers' | 'offsetMsMax' | 'accuracyMicrosMax' | 'unverifiedMicros' | 'holdoverMs' | 'driftPpm'
>;

/** The two clocks, injected so that tests can move them. Milliseconds. */
export interface ClockSources {
  wallMs(): number;
  monotonicMs(): number;
}

/** Why there is no time: what the verdict is, or no server vouches for it. */
export type ClockRefusal = 'unverified' | Exclude<ClockVerdict, 'trusted'>;

export type ClockReading =
  | {
      readonly kind: 'time';
      readonly unixMillis: number;
      readonly state: 'unverified' | 'trusted';
      /** How far `unixMillis` can be from UTC, milliseconds; what the configuration says when nobody has verified it. */
      readonly errorMs: number;
    }
  | { readonly kind: 'unavailable'; readonly reason: ClockRefusal };

export interface GuardedClock {
  /** The time for one stamp, in whole milliseconds, or why there is none. */
  read(): ClockReading;
}

/** The system clock is read in whole milliseconds: so much it may seem to be behind UTC though it is not. */
const grainMs = 1;

/** What a clock that nobody verifies is taken to be at worst, its cut included: the coarsest accuracy that a token may state (EN 319 422). */
const unverifiedErrorMsMax = 1_000;

/** A thread's view of the clock that `shared` guards. */
export const createGuardedClock = (shared: SharedArrayBuffer, sources: ClockSources, options: ClockOptions): GuardedClock => {
  const memory = new ClockMemory(shared);
  const isVerified = options.servers.length > 0;
  const errorMsMax = options.accuracyMicrosMax / 1_000;
  const proof: Mutable<ClockProof> = { ...nothingProved };
  // With servers the cut is in the measured offset.
  const unverifiedErrorMs = Math.min(options.unverifiedMicros / 1_000 + grainMs, unverifiedErrorMsMax);
  const refusal = (reason: ClockRefusal): ClockReading => ({ kind: 'unavailable', reason });

  const isStep = (differenceMs: number): boolean => Math.abs(differenceMs - memory.baselineMs) > options.stepMsMax;

  const verified = (wall: number, monotonic: number): ClockReading => {
    memory.read(proof);
    if (proof.steps !== memory.steps) return refusal('stepped');
    if (proof.verdict !== 'trusted') return refusal(proof.verdict);
    const ageMs = monotonic - proof.provedAtMs;
    if (ageMs > options.holdoverMs) return refusal('noQuorum');
    const unixMillis = Math.floor(wall);
    if (unixMillis >= proof.leapFromMs && unixMillis < proof.leapUntilMs) return refusal('leap');
    const offsetMs = Math.abs(proof.utcMs + monotonic - unixMillis);
    if (offsetMs > options.offsetMsMax + grainMs) return refusal('offset');
    const errorMs = offsetMs + proof.distanceMs + (Math.max(ageMs, 0) * options.driftPpm) / 1e6;
    if (errorMs > errorMsMax) return refusal('uncertain');
    return { kind: 'time', unixMillis, state: 'trusted', errorMs };
  };

  return {
    read() {
      let wall = sources.wallMs();
      let monotonic = sources.monotonicMs();
      if (isStep(wall - monotonic)) {
        // A thread that lost its core between the two clocks sees the same; looking again tells, and is nearer to now.
        wall = sources.wallMs();
        monotonic = sources.monotonicMs();
        if (isStep(wall - monotonic)) memory.noteStep(wall - monotonic - memory.baselineMs, monotonic + options.settleMs);
      }
      // Following small differences lets the clock be slewed; a step shows between two readings, which are never far apart.
      memory.baselineMs = wall - monotonic;
      if (monotonic < memory.untrustedUntilMs) return refusal('stepped');
      if (isVerified) return verified(wall, monotonic);
      if (options.required) return refusal('unverified');
      return { kind: 'time', unixMillis: Math.floor(wall), state: 'unverified', errorMs: unverifiedErrorMs };
    },
  };
};
