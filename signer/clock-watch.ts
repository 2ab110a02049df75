/**
 * Looks at the clock that all threads of a signer share, and tells the log and the journal when its state changes. Every step is an
 * anomaly of its own in the journal's register of time, also one that has passed between two looks.
 */
import type { Config } from '../config/schema.ts';
import { type JournalRecorder, nodeName } from '../observability/journal/recorder.ts';
import type { Logger } from '../observability/log.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { type ClockReading, type ClockSources, createClockMemory, createGuardedClock, readClockSteps } from './clock.ts';

/** So often that slewing never looks like a step (500 ppm of a second: 0.5 ms). */
const lookMs = 1_000;

export interface ClockWatch {
  readonly memory: SharedArrayBuffer;
  /** Looks now; it is done every second anyway. */
  look(): void;
  health(): HealthItem;
  close(): void;
}

export interface ClockWatchOptions {
  readonly time: Config['time'];
  readonly log: Pick<Logger, 'warn'>;
  readonly recorder: Pick<JournalRecorder, 'record'>;
  /** For tests. @defaultValue the clocks of the machine */
  readonly sources?: ClockSources;
}

type ClockState = 'unverified' | 'trusted' | 'stepped';

const stateOf = (reading: ClockReading): ClockState => (reading.kind === 'time' ? reading.state : reading.reason);

const describe = (reading: ClockReading): HealthItem => ({
  name: 'clock',
  ok: reading.kind === 'time',
  detail: reading.kind === 'time' ? 'system clock, not verified against any source' : `stamping stopped: ${reading.reason}`,
});

/** Starts the watch; the state that it finds is the first change, from `unknown`. */
export const watchClock = ({ time, log, recorder, sources = { wallMs: Date.now, monotonicMs } }: ClockWatchOptions): ClockWatch => {
  const memory = createClockMemory();
  const clock = createGuardedClock(memory, sources, time);
  const subject = nodeName();
  let state: ClockState | 'unknown' = 'unknown';
  let steps = 0;
  let reading = clock.read();

  const enter = (to: ClockState): void => {
    if (to === state) return;
    const detail = { from: state, to, offsetMicros: undefined, reason: undefined };
    recorder.record({ kind: 'time.state', subject, outcome: 'success', detail });
    state = to;
  };
  const look = (): void => {
    const before = reading;
    reading = clock.read();
    const seen = readClockSteps(memory);
    if (seen.count > steps) {
      steps = seen.count;
      const detail = { reason: 'step', observed: `${seen.lastMs.toFixed(3)} ms` };
      recorder.record({ kind: 'time.anomaly', subject, outcome: 'failure', detail });
      // The clock may have settled since: it was stepped nevertheless.
      enter('stepped');
    }
    enter(stateOf(reading));
    if (before.kind !== reading.kind) log.warn(describe(reading), 'clock: state changed');
  };
  enter(stateOf(reading));
  const timer = setInterval(look, lookMs);
  return { memory, look, health: () => describe(reading), close: () => clearInterval(timer) };
};
