/**
 * Looks at the clock that all threads of a signer share, and tells the log and the journal when its state changes. Every step is an
 * anomaly of its own in the journal's register of time, also one that has passed between two looks. Where time servers are configured,
 * it holds the clock against them (clock-verifier.ts).
 */
import type { Config } from '../config/schema.ts';
import type { ClockPicture } from '../observability/clock-metrics.ts';
import { type JournalRecorder, nodeName } from '../observability/journal/recorder.ts';
import { createWallMicros } from '../observability/journal/wall-micros.ts';
import type { Logger } from '../observability/log.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import type { ToldClock } from '../queue/host-clock.ts';
import { type ClockReading, type ClockSources, createGuardedClock } from './clock.ts';
import { ClockMemory, createClockMemory } from './clock-memory.ts';
import { describeClock, pictureOf, stateOf, type WatchedState } from './clock-picture.ts';
import { fineDifferenceMs, machineClocks } from './clock-sources.ts';
import { type ClockAnomaly, ClockVerifier } from './clock-verifier.ts';
import { type NtpTransport, udpTransport } from './ntp-transport.ts';

/** So often that slewing never looks like a step (500 ppm of a second: 0.5 ms). */
const lookMs = 1_000;

export interface ClockWatch {
  readonly memory: SharedArrayBuffer;
  /** Looks now; it is done every second anyway. */
  look(): void;
  /** Asks the time servers now; it is done every `time.pollMs` anyway. */
  round(): Promise<void>;
  /** What this signer says of its host's clock at this instant, for events. */
  told(): ToldClock;
  health(): HealthItem;
  /** For the metrics. */
  picture(): ClockPicture;
  close(): void;
}

export interface ClockWatchOptions {
  readonly time: Config['time'];
  readonly log: Pick<Logger, 'warn'>;
  readonly recorder: Pick<JournalRecorder, 'record'>;
  /** For tests. @defaultValue the clocks of the machine */
  readonly sources?: ClockSources;
  /** For tests. @defaultValue the network */
  readonly transport?: NtpTransport;
  /** Begins by itself; a test asks for its rounds. @defaultValue true */
  readonly rounds?: boolean;
}

const micros = (ms: number): number => Math.round(ms * 1_000);

/** What a change of state tells of the last quorum. */
const stateDetail = (verifier: ClockVerifier | undefined) => {
  const proof = verifier?.standing.proof;
  if (proof === undefined) return { offsetMicros: undefined, errorMicros: undefined, agreed: undefined };
  const { offsetMs, errorMs, agreed } = proof;
  return { offsetMicros: String(micros(offsetMs)), errorMicros: micros(errorMs), agreed: agreed.join(' ') };
};

/** Starts the watch; the state that it finds is the first change, from `unknown`. */
export const watchClock = (options: ClockWatchOptions): ClockWatch => {
  const { time, log, recorder, sources = machineClocks(), transport = udpTransport, rounds = true } = options;
  const shared = createClockMemory();
  const memory = new ClockMemory(shared);
  const clock = createGuardedClock(shared, sources, time);
  const subject = nodeName();
  let state: WatchedState | 'unknown' = 'unknown';
  let steps = 0;
  let reading: ClockReading = clock.read();
  const unixMicros = createWallMicros(sources);

  /** The register says with every event whether the clock that dates it was trusted. */
  const at = () => ({ unixMicros: unixMicros(), clock: state === 'trusted' ? 'trusted' : 'unverified' }) as const;
  const tellAnomaly = (reason: ClockAnomaly | 'step', observed: string, server?: string): void => {
    log.warn({ reason, observed, server, state }, 'clock: anomaly');
    recorder.record({ kind: 'time.anomaly', subject, outcome: 'failure', detail: { reason, state, observed, server }, at: at() });
  };
  const verifier =
    time.servers.length === 0
      ? undefined
      : new ClockVerifier({
          time,
          memory,
          clock,
          clocks: sources,
          differenceMs: () => fineDifferenceMs(sources),
          transport,
          onAnomaly: tellAnomaly,
          onRound: () => notice(),
        });
  const enter = (to: WatchedState): void => {
    if (to === state) return;
    const detail = { from: state, to, ...stateDetail(verifier) };
    state = to;
    recorder.record({ kind: 'time.state', subject, outcome: 'success', detail, at: at() });
    if (detail.from !== 'unknown') log.warn({ from: detail.from, ...describeClock(reading, verifier?.standing) }, 'clock: state changed');
  };
  const notice = (): void => {
    reading = clock.read();
    const { steps: seen, lastStepMs } = memory;
    if (seen !== steps) {
      steps = seen;
      tellAnomaly('step', `${lastStepMs.toFixed(3)} ms`);
      // The clock may have settled since: it was stepped nevertheless.
      enter('stepped');
    }
    enter(stateOf(reading));
  };
  const look = (): void => {
    verifier?.look();
    notice();
  };

  if (verifier === undefined) {
    log.warn({ required: time.required }, 'clock: there are no time servers (time.servers): nobody verifies the time in stamps');
  }
  enter(stateOf(reading));
  if (rounds) verifier?.start();
  const timer = setInterval(look, lookMs);
  return {
    memory: shared,
    look,
    round: async () => verifier?.round(),
    told() {
      // Read anew, so that an event that follows a step does not say what was true before it.
      const now = clock.read();
      const trusted = now.kind === 'time' && now.state === 'trusted';
      const differenceMs = sources.wallMs() - sources.monotonicMs();
      return { state: trusted ? 'trusted' : 'unverified', differenceMs, stepMsMax: time.stepMsMax };
    },
    health: () => describeClock(reading, verifier?.standing),
    picture: () => pictureOf(reading, verifier?.standing),
    close() {
      clearInterval(timer);
      verifier?.close();
    },
  };
};
