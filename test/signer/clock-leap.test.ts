import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { leapWindow, nextLeapWindow } from '../../signer/clock-leap.ts';

const midnight = Date.UTC(2026, 11, 31, 24);

describe('the window around a leap second', () => {
  test('from before 23:59:59 until after 00:00:00 UTC, widened by what the clock may be off', () => {
    for (const now of [midnight - 1, midnight - 86_400_000, midnight - 40_000_000]) {
      assert.deepEqual(leapWindow(now, 0), { fromMs: midnight - 1_500, untilMs: midnight + 1_500 });
      assert.deepEqual(leapWindow(now, 250), { fromMs: midnight - 1_750, untilMs: midnight + 1_750 });
    }
    assert.equal(leapWindow(midnight, 0).fromMs, midnight + 86_400_000 - 1_500);
  });

  test('while it is announced it follows the clock; withdrawn, it is gone', () => {
    const window = nextLeapWindow(undefined, { announced: true, wallMs: midnight - 3_600_000, errorMs: 10 });
    assert.deepEqual(window, leapWindow(midnight - 1, 10));
    assert.deepEqual(nextLeapWindow(window, { announced: true, wallMs: midnight - 60_000, errorMs: 2 }), leapWindow(midnight - 1, 2));
    assert.equal(nextLeapWindow(window, { announced: false, wallMs: midnight - 60_000, errorMs: 2 }), undefined);
    assert.equal(nextLeapWindow(undefined, { announced: false, wallMs: midnight, errorMs: 2 }), undefined);
  });

  test('one that has begun is passed through, whatever is announced by then', () => {
    const window = leapWindow(midnight - 1, 10);
    for (const wallMs of [window.fromMs, midnight, window.untilMs - 1]) {
      for (const announced of [true, false]) assert.equal(nextLeapWindow(window, { announced, wallMs, errorMs: 0 }), window);
    }
    assert.equal(nextLeapWindow(window, { announced: false, wallMs: window.untilMs, errorMs: 0 }), undefined);
  });
});
