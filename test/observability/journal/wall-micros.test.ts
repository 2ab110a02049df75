import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createWallMicros } from '../../../observability/journal/wall-micros.ts';

/** Two clocks over one true time, the system clock cut to whole milliseconds as JavaScript reads it. */
class Clocks {
  trueMs = 1_800_000_000_000;
  setByMs = 0;
  readonly wallMs = (): number => Math.floor(this.trueMs + this.setByMs);
  readonly monotonicMs = (): number => this.trueMs - 1_799_999_000_000;
}

describe('the system clock in microseconds', () => {
  test('lies within the millisecond of the system clock at every reading', () => {
    const clocks = new Clocks();
    const unixMicros = createWallMicros(clocks);
    for (let reading = 0; reading < 20_000; reading += 1) {
      clocks.trueMs += Math.random() * 3;
      const read = unixMicros();
      assert.equal(Math.floor(read / 1_000), clocks.wallMs());
      assert.ok(Number.isSafeInteger(read));
    }
  });

  test('closes in on the true microsecond, and does not go back while the clock is not set', () => {
    const clocks = new Clocks();
    const unixMicros = createWallMicros(clocks);
    let last = 0;
    for (let reading = 0; reading < 20_000; reading += 1) {
      clocks.trueMs += 0.0137;
      const read = unixMicros();
      assert.ok(read >= last, `${read} after ${last}`);
      last = read;
    }
    assert.ok(Math.abs(last - clocks.trueMs * 1_000) <= 20, `${last - clocks.trueMs * 1_000} µs off`);
  });

  test('follows a clock that is set, back and forward, with the next reading', () => {
    const clocks = new Clocks();
    const unixMicros = createWallMicros(clocks);
    unixMicros();
    for (const hours of [3, -5, 0.0001, 0]) {
      clocks.setByMs = hours * 3_600_000;
      clocks.trueMs += 0.4;
      assert.equal(Math.floor(unixMicros() / 1_000), clocks.wallMs());
    }
  });

  test('the clock of this machine: more than whole milliseconds', () => {
    const unixMicros = createWallMicros();
    const digits = new Set<number>();
    const end = performance.now() + 2_000;
    while (digits.size < 10 && performance.now() < end) digits.add(unixMicros() % 1_000);
    assert.ok(digits.size >= 10);
    assert.ok(Math.abs(unixMicros() / 1_000 - Date.now()) < 50);
  });
});
