import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { fineDifferenceMs, machineClocks } from '../../signer/clock-sources.ts';

describe('the clocks of the machine', () => {
  test('the monotonic one is that of all threads', () => {
    const clocks = machineClocks();
    const [before, between, after] = [monotonicMs(), clocks.monotonicMs(), monotonicMs()];
    assert.ok(between > before - 0.1 && between < after + 0.1, `${before} ${between} ${after}`);
  });

  test('the difference of both is found to a part of the millisecond in which the system clock is read', () => {
    let monotonic = 10;
    // Each reading takes 10 microseconds; the system clock is 1000.4 ms ahead.
    const sources = {
      monotonicMs: () => {
        monotonic += 0.01;
        return monotonic;
      },
      wallMs: () => {
        monotonic += 0.01;
        return Math.floor(monotonic + 1_000.4);
      },
    };
    for (let i = 0; i < 100; i += 1) {
      const difference = fineDifferenceMs(sources);
      assert.ok(difference > 1_000.35 && difference <= 1_000.4, `${difference}`);
    }
  });

  test('a millisecond that began while the thread was away does not count', () => {
    let monotonic = 10;
    let readings = 0;
    const sources = {
      monotonicMs: () => monotonic,
      wallMs: () => {
        readings += 1;
        monotonic += readings < 5 ? 7 : 0.01;
        return Math.floor(monotonic + 1_000.4);
      },
    };
    const difference = fineDifferenceMs(sources);
    assert.ok(difference > 1_000.35 && difference <= 1_000.4, `${difference}`);
  });

  test('a clock that stands still is read all the same', () => {
    assert.equal(fineDifferenceMs({ wallMs: () => 1_000, monotonicMs: () => 1 }), 999);
  });
});
