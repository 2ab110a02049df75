/** Sessions of one process are opened one after the other, with a pause: some tokens and networks fail when many come at once. */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicMs } from '../queue/redis-clock.ts';
import type { CallMark } from './call-watch.ts';

const nextAt = 0;
const betweenAt = 1;
/** Nobody writes it: waiting for it to change is waiting for the time to pass. */
const neverAt = 2;

/** Memory that the threads of one process share. @param betweenMs whole milliseconds between two sessions; 0 for a token that needs no pause */
export const createPaceMemory = (betweenMs: number): SharedArrayBuffer => {
  const memory = new SharedArrayBuffer(3 * Int32Array.BYTES_PER_ELEMENT);
  new Int32Array(memory)[betweenAt] = betweenMs;
  return memory;
};

/**
 * Takes the next turn to open a session.
 * @param nowMs on the monotonic clock, the same for all threads
 * @returns milliseconds until it comes
 */
export const takeTurn = (memory: SharedArrayBuffer, nowMs: number): number => {
  const shared = new Int32Array(memory);
  const betweenMs = shared[betweenAt] as number;
  if (betweenMs === 0) return 0;
  // Whole milliseconds modulo 2^31, which is 24 days: compared by their difference, which survives the overflow.
  const now = Math.floor(nowMs) | 0;
  for (;;) {
    const planned = Atomics.load(shared, nextAt);
    const turn = (planned - now) | 0;
    const mine = turn > 0 && turn < 60_000 ? turn : 0;
    if (Atomics.compareExchange(shared, nextAt, planned, (now + mine + betweenMs) | 0) !== planned) continue;
    return mine;
  }
};

/** Waits until this thread may open its next session, and holds the thread up meanwhile. @param nowMs as above */
export const awaitTurn = (memory: SharedArrayBuffer, nowMs: number): void => {
  const ms = takeTurn(memory, nowMs);
  if (ms > 0) Atomics.wait(new Int32Array(memory), neverAt, 0, ms);
};

/** How one user of sessions waits for its turns. */
export interface SessionTurns {
  /** Holds the thread up. */
  now(): void;
  /** @returns undefined when it has come already */
  later(): Promise<void> | undefined;
}

/**
 * Turns for somebody who says when it is in the module: waiting for a turn is no call, and must not look like one that hangs.
 * @param call begun by whoever takes a turn, and left begun
 */
export const turnsOutside = (call: CallMark, memory: SharedArrayBuffer): SessionTurns => ({
  now() {
    call.end();
    awaitTurn(memory, monotonicMs());
    call.begin(monotonicMs());
  },
  later() {
    const ms = takeTurn(memory, monotonicMs());
    if (ms === 0) return undefined;
    call.end();
    return delay(ms).then(() => call.begin(monotonicMs()));
  },
});

/** For a session that needs no pace, as the only one of its kind. */
export const noTurns: SessionTurns = { now: () => undefined, later: () => undefined };
