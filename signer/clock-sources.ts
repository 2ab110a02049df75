/** The clocks of this machine, as a thread reads them. */
import { monotonicMs } from '../queue/redis-clock.ts';
import type { ClockSources } from './clock.ts';

/** Reading both takes a tenth of a microsecond; a pair that lies further apart was interrupted. */
const pairMsMax = 0.05;
const triesMax = 20;

/**
 * performance.now() is faster than hrtime, but has its own zero in each thread. The difference stays what it is for the life of the
 * thread, so a bad measurement of it would stay too: the closest of a few pairs counts.
 */
const zeroMs = (): number => {
  let best = Number.NaN;
  let closest = Number.POSITIVE_INFINITY;
  for (let tries = 0; tries < triesMax && closest > pairMsMax; tries += 1) {
    const before = performance.now();
    const monotonic = monotonicMs();
    const apart = performance.now() - before;
    if (apart >= closest) continue;
    closest = apart;
    best = monotonic - before - apart / 2;
  }
  return best;
};

/** System clock and CLOCK_MONOTONIC; make it once for each thread. */
export const machineClocks = (): ClockSources => {
  const zero = zeroMs();
  return { wallMs: Date.now, monotonicMs: () => performance.now() + zero };
};

/** A clock that does not tick within so many readings stands still: a test moves it. */
const readingsMax = 50_000;

/**
 * System clock less monotonic clock, to some microseconds. JavaScript reads the system clock in whole milliseconds, so this waits for
 * the next one: 0.5 ms in the mean, once a round.
 */
export const fineDifferenceMs = ({ wallMs, monotonicMs: monotonic }: ClockSources): number => {
  let wall = wallMs();
  let before = monotonic();
  for (let readings = 0; readings < readingsMax; readings += 1) {
    const next = wallMs();
    const after = monotonic();
    // A millisecond that began while this thread had lost its core began nobody knows when.
    if (next !== wall && after - before <= pairMsMax) return next - after;
    wall = next;
    before = after;
  }
  return wall - before;
};
