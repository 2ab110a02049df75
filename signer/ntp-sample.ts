/**
 * What one exchange with a server proves, and which exchange of the last ones proves most (RFC 5905, 8 and 10).
 *
 * Everything is told against this machine's monotonic clock, which nobody sets: UTC is that clock plus `utcMs`, within
 * `distanceMs`. A step of the system clock changes nothing in it; how wrong the system clock is, is only a difference.
 */
import type { LeapIndicator, NtpReply } from './ntp-packet.ts';

export interface NtpSample {
  /** UTC less the monotonic clock, milliseconds. */
  readonly utcMs: number;
  /** Root distance when the sample was taken: the largest error of `utcMs`, when the server tells the truth. */
  readonly distanceMs: number;
  readonly delayMs: number;
  /** On the monotonic clock. */
  readonly takenAtMs: number;
  readonly leap: LeapIndicator;
  readonly stratum: number;
}

/** MAXDIST of RFC 5905, figure 27: a server that knows its own time no better than to a second says nothing about a second. */
export const distanceMsMax = 1_000;
/** A round trip shorter than the server's own work can only be the grain of its timestamps; RFC 5905, 8, wants it clamped. */
const delaySlackMs = 1;
/** NSTAGE of RFC 5905, figure 27. */
const stages = 8;

const driftMs = (ms: number, driftPpm: number): number => (ms * driftPpm) / 1e6;

/**
 * A sample from a reply and the monotonic times around it (RFC 5905, 8 and A.5.5.2).
 * @returns undefined when its timestamps contradict themselves, or it proves nothing
 */
export const takeSample = (reply: NtpReply, sentAtMs: number, receivedAtMs: number, driftPpm: number): NtpSample | undefined => {
  const roundTripMs = receivedAtMs - sentAtMs;
  const delayMs = roundTripMs - (reply.transmitMs - reply.receiveMs);
  if (delayMs < -delaySlackMs) return undefined;
  const utcMs = (reply.receiveMs - sentAtMs + (reply.transmitMs - receivedAtMs)) / 2;
  const distanceMs =
    (reply.rootDelayMs + Math.max(delayMs, 0)) / 2 +
    reply.rootDispersionMs +
    reply.precisionMs +
    driftMs(Math.max(roundTripMs, 0), driftPpm);
  if (!(distanceMs < distanceMsMax)) return undefined;
  return { utcMs, distanceMs, delayMs: Math.max(delayMs, 0), takenAtMs: receivedAtMs, leap: reply.leap, stratum: reply.stratum };
};

/** Largest error of a sample now: clocks have drifted since. */
export const agedDistanceMs = (sample: Pick<NtpSample, 'distanceMs' | 'takenAtMs'>, nowMs: number, driftPpm: number): number =>
  sample.distanceMs + driftMs(Math.max(nowMs - sample.takenAtMs, 0), driftPpm);

/**
 * The last samples with a new one among them. When the new one and the best of the old ones cannot both be right, the server
 * or this machine's clock has jumped, and only the new one says how it is now.
 */
export const withSample = (samples: readonly NtpSample[], newest: NtpSample, driftPpm: number): readonly NtpSample[] => {
  const best = bestSample(samples, newest.takenAtMs, driftPpm);
  if (best === undefined) return [newest];
  const apartMs = Math.abs(best.utcMs - newest.utcMs);
  const agree = apartMs <= agedDistanceMs(best, newest.takenAtMs, driftPpm) + newest.distanceMs;
  return agree ? [...samples.slice(1 - stages), newest] : [newest];
};

/** The sample that proves most now: one with a short round trip, as long as drift has not eaten up its advantage. */
export const bestSample = (samples: readonly NtpSample[], nowMs: number, driftPpm: number): NtpSample | undefined =>
  samples.reduce<NtpSample | undefined>(
    (best, sample) =>
      best === undefined || agedDistanceMs(sample, nowMs, driftPpm) < agedDistanceMs(best, nowMs, driftPpm) ? sample : best,
    undefined,
  );
