/**
 * Redis's clock, read without asking it every time. Deadlines and queue waits are counted on this one clock, so that
 * hosts whose wall clocks disagree, or step, neither drop good requests nor sign dead ones.
 */
import { hrtime } from 'node:process';
import type { RedisClient } from './redis.ts';

/** Milliseconds of CLOCK_MONOTONIC: the same in all threads of this machine, and never set. */
export const monotonicMs = (): number => Number(hrtime.bigint()) / 1e6;

const refreshMs = 5_000;

export interface RedisClock {
  /** The time on this machine's monotonic clock at which Redis's clock showed `redisMs`. */
  toMonotonicMs(redisMs: number): number;
  /** What Redis's clock shows now, Unix milliseconds. */
  nowMs(): number;
  close(): void;
}

/** Measures once, then every five seconds; a failed measurement keeps the one before. @throws when the first one fails */
export const createRedisClock = async (command: RedisClient): Promise<RedisClock> => {
  let offset = 0;
  const measure = async (): Promise<void> => {
    const before = monotonicMs();
    const [seconds, micros] = (await command.time()) as unknown as [string | number, string | number];
    const after = monotonicMs();
    offset = (before + after) / 2 - (Number(seconds) * 1_000 + Number(micros) / 1_000);
  };
  await measure();
  const timer = setInterval(() => {
    measure().catch(() => undefined); // best effort: clocks drift by microseconds a second, the last offset stays good
  }, refreshMs);
  timer.unref();
  return {
    toMonotonicMs: (redisMs) => redisMs + offset,
    nowMs: () => monotonicMs() - offset,
    close: () => clearInterval(timer),
  };
};
