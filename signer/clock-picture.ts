/** How it stands with the clock, told to people and to metrics. */
import type { ClockPicture } from '../observability/clock-metrics.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import type { ClockReading, ClockRefusal } from './clock.ts';
import { type ClockStanding, signed } from './clock-verifier.ts';

/** State of a clock: what its stamps say of it, or why there are none. */
export type WatchedState = 'trusted' | ClockRefusal;

export const stateOf = (reading: ClockReading): WatchedState => (reading.kind === 'time' ? reading.state : reading.reason);

const why: Readonly<Record<ClockRefusal, string>> = {
  unverified: 'time.required is set, and there are no time servers',
  starting: 'no quorum of the time servers yet',
  stepped: 'the system clock was set',
  offset: 'the system clock is too far from UTC',
  noQuorum: 'the time servers have had no quorum for too long',
  uncertain: 'the time servers do not prove the time well enough',
  leap: 'a leap second is near',
};

const proofText = ({ proof, servers, quorum }: ClockStanding): string => {
  if (proof === undefined) return `0 of ${servers.length} time servers agree, ${quorum} must`;
  const { offsetMs, errorMs, ageMs, agreed } = proof;
  const who = `${agreed.length} of ${servers.length} time servers agreed ${(ageMs / 1_000).toFixed(1)} s ago`;
  return `${who}: offset ${signed(offsetMs)} ms, error at most ${errorMs.toFixed(3)} ms`;
};

const leapText = ({ leapWindow }: ClockStanding): string =>
  leapWindow === undefined
    ? ''
    : `a leap second is announced: no stamps from ${new Date(leapWindow.fromMs).toISOString()} to ${new Date(leapWindow.untilMs).toISOString()}`;

/** The item of /readyz. */
export const describeClock = (reading: ClockReading, standing: ClockStanding | undefined): HealthItem => {
  const ok = reading.kind === 'time';
  const stopped = ok ? '' : `stamping stopped (${reading.reason}): ${why[reading.reason]}`;
  if (standing === undefined) return { name: 'clock', ok, detail: ok ? 'system clock, not verified against any source' : stopped };
  const lacking = ok && standing.lastRound === 'noQuorum' ? 'without a quorum now; ' : '';
  const recovering = !ok && standing.goodRounds > 0 ? `; ${standing.goodRounds} good rounds since` : '';
  const bad = standing.servers.filter(({ condition }) => condition !== 'good').map(({ name, condition }) => `${name}: ${condition}`);
  const parts = [stopped, `${lacking}${proofText(standing)}${recovering}`, leapText(standing), bad.join(', ')];
  return { name: 'clock', ok, detail: parts.filter((part) => part !== '').join('; ') };
};

/** What the metrics tell. */
export const pictureOf = (reading: ClockReading, standing: ClockStanding | undefined): ClockPicture => ({
  state: stateOf(reading),
  offsetSeconds: standing?.proof && standing.proof.offsetMs / 1_000,
  errorSeconds: reading.kind === 'time' && reading.state === 'trusted' ? reading.errorMs / 1_000 : undefined,
  quorumAgeSeconds: standing?.proof && standing.proof.ageMs / 1_000,
  rounds: standing?.rounds ?? {},
  servers: (standing?.servers ?? []).map((server) => ({
    server: server.name,
    up: server.condition === 'good',
    exchanges: server.counts,
  })),
});
