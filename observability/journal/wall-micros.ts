/**
 * The system clock in microseconds. JavaScript reads it in whole milliseconds; the digits behind come from the monotonic clock.
 *
 * What is read always lies within the millisecond that the system clock says, however that was set or slewed: the clock whose state an
 * event tells is the one that dates it. Only the digits behind the millisecond are as good as the two clocks ran alike since.
 */
export interface WallMicrosClocks {
  /** The system clock, in milliseconds since 1970. */
  wallMs(): number;
  /** Any clock that is never set, in milliseconds with their fractions. */
  monotonicMs(): number;
}

/** The last microsecond of a millisecond. */
const lastMs = 0.999;

/** @param clocks for tests; @defaultValue those of the machine */
export const createWallMicros = (clocks: WallMicrosClocks = { wallMs: Date.now, monotonicMs: () => performance.now() }): (() => number) => {
  let difference = Number.NaN;
  return function unixMicros(): number {
    const wall = Math.floor(clocks.wallMs());
    const monotonic = clocks.monotonicMs();
    const fine = monotonic + difference;
    // Each correction is the least that fits, so the difference closes in on the true one from both sides.
    if (!(fine >= wall)) difference = wall - monotonic;
    else if (fine > wall + lastMs) difference = wall + lastMs - monotonic;
    return wall * 1_000 + Math.min(Math.max(Math.floor((monotonic + difference - wall) * 1_000), 0), 999);
  };
};

/** Microseconds since 1970-01-01T00:00:00Z by the system's clock. */
export const unixMicrosNow = createWallMicros();
