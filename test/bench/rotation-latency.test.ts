import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { aroundSwitches, rotationsPass } from '../../bench/rotation-latency.ts';

const switchesMs = Array.from({ length: 10 }, (_, i) => 1_500 + i * 3_000);
/** An answer every 10 ms, for 33 s. @param nearMs latency within 70 ms of a change */
const timeline = (nearMs: number): (readonly [number, number])[] =>
  Array.from({ length: 3_300 }, (_, i) => [i * 10, switchesMs.some((one) => Math.abs(i * 10 - one) <= 70) ? nearMs : 2]);

describe('what clients see of changes of keys', () => {
  const passes = (nearMs: number, more: { switches?: number; errors?: number } = {}): boolean =>
    rotationsPass({ switches: switchesMs.length, errors: 0, ...aroundSwitches(timeline(nearMs), switchesMs), ...more });

  test('quantiles near the changes, and of all others', () => {
    assert.deepEqual(aroundSwitches(timeline(7), switchesMs), { near: { p50: 7, p99: 7 }, others: { p50: 2, p99: 2 } });
  });

  test('passes when a change costs nothing to be seen', () => {
    assert.ok(passes(2));
    assert.ok(passes(8));
    assert.ok(!passes(8.1), 'more than 1.5 times 2 ms, and 5 ms');
  });

  test('does not pass with an error, with fewer changes, or when nothing was measured near them', () => {
    assert.ok(!passes(2, { errors: 1 }));
    assert.ok(!passes(2, { switches: 9 }));
    assert.ok(!rotationsPass({ switches: 10, errors: 0, ...aroundSwitches(timeline(2), []) }));
  });
});
