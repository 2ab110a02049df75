/**
 * Around a leap second no clock that counts Unix time can be told from one that is a second wrong: 23:59:59 comes twice, or not at
 * all, and every host does it at its own moment. Servers announce it (leap indicator, RFC 5905, 7.3), often on the day, sometimes
 * all month, and kernels carry it out at the end of the day on which they are told: so it is expected at the end of every UTC day
 * while it is announced.
 */

export interface LeapWindow {
  /** Wall clock, milliseconds since 1970. */
  readonly fromMs: number;
  readonly untilMs: number;
}

const dayMs = 86_400_000;
/** 23:59:59 is the second that may be missing; 00:00:00 the one that a kernel sets back from, so that 23:59:59 comes again. */
const secondMs = 1_000;
/** Neither servers nor daemons act to the millisecond. */
const marginMs = 500;

/**
 * The time around the end of the UTC day in which nothing may be stamped.
 * @param wallMs milliseconds since 1970
 * @param errorMs how far the wall clock may be off; it widens the window on both sides
 */
export const leapWindow = (wallMs: number, errorMs: number): LeapWindow => {
  const midnight = (Math.floor(wallMs / dayMs) + 1) * dayMs;
  return { fromMs: midnight - secondMs - marginMs - errorMs, untilMs: midnight + secondMs + marginMs + errorMs };
};

/** The window to keep, after a round in which the majority did or did not announce a leap second; undefined when there is none. */
export const nextLeapWindow = (
  current: LeapWindow | undefined,
  { announced, wallMs, errorMs }: { readonly announced: boolean; readonly wallMs: number; readonly errorMs: number },
): LeapWindow | undefined => {
  // What has begun is passed through, whatever the servers say by then: the first ones stop announcing it at midnight.
  if (current !== undefined && wallMs >= current.fromMs && wallMs < current.untilMs) return current;
  return announced ? leapWindow(wallMs, errorMs) : undefined;
};
