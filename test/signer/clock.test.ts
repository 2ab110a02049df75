import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { parseConfig } from '../../config/load.ts';
import { type ClockOptions, type ClockReading, createGuardedClock, type GuardedClock } from '../../signer/clock.ts';
import { accuracySteps, stepFor } from '../../signer/clock-accuracy.ts';
import { createClockMemory } from '../../signer/clock-memory.ts';

const start = Date.UTC(2026, 10, 22, 10, 0, 0);
const options: ClockOptions = parseConfig({}).time;

/** Two clocks that a test moves: together, or the wall clock alone. */
class FakeTime {
  wall = start;
  monotonic = 5_000;
  readonly memory = createClockMemory();

  clock(more: Partial<ClockOptions> = {}): GuardedClock {
    return createGuardedClock(this.memory, { wallMs: () => this.wall, monotonicMs: () => this.monotonic }, { ...options, ...more });
  }

  pass(ms: number): void {
    this.wall += ms;
    this.monotonic += ms;
  }

  step(ms: number): void {
    this.wall += ms;
  }
}

const millisOf = (reading: ClockReading): number => {
  assert.equal(reading.kind, 'time', JSON.stringify(reading));
  return reading.kind === 'time' ? reading.unixMillis : Number.NaN;
};
const reasonOf = (reading: ClockReading): string => (reading.kind === 'unavailable' ? reading.reason : 'time');

describe('the guarded clock', () => {
  test('tells the time in whole milliseconds, and that nobody vouches for it', () => {
    const time = new FakeTime();
    const clock = time.clock();
    assert.deepEqual(clock.read(), { kind: 'time', unixMillis: start, state: 'unverified', errorMs: 1_000 });
    time.pass(1.999);
    assert.equal(millisOf(clock.read()), start + 1);
  });

  for (const [unverifiedMicros, errorMs] of [
    [1_000, 2],
    [50_000, 51],
    [999_000, 1_000],
    [999_500, 1_000],
    [1_000_000, 1_000],
  ] as const) {
    test(`on the word that the clock is within ${unverifiedMicros} µs, the cut to the millisecond comes on top`, () => {
      const reading = new FakeTime().clock({ unverifiedMicros }).read();
      assert.ok(reading.kind === 'time');
      assert.equal(reading.errorMs, errorMs);
      const steps = accuracySteps(unverifiedMicros, 1_000_000);
      assert.ok((steps[stepFor(steps, reading.errorMs)] as number) >= errorMs * 1_000, 'no token states less');
    });
  }

  test('is never ahead of the wall clock, and by less than a millisecond behind', () => {
    fc.assert(
      fc.property(fc.array(fc.double({ min: 0, max: 5_000, noNaN: true }), { maxLength: 50 }), (steps) => {
        const time = new FakeTime();
        const clock = time.clock();
        for (const step of steps) {
          time.pass(step);
          const behind = time.wall - millisOf(clock.read());
          assert.ok(behind >= 0 && behind < 1);
        }
      }),
    );
  });

  for (const step of [501, -501, 1_000, -1_000, 3_600_000, -3_600_000, 86_400_000, -86_400_000, 20 * 365 * 86_400_000, -start]) {
    test(`a step of ${step} ms stops the very stamp that sees it, until the clock has settled`, () => {
      const time = new FakeTime();
      const clock = time.clock();
      millisOf(clock.read());
      time.pass(3);
      time.step(step);
      assert.equal(reasonOf(clock.read()), 'stepped');
      time.pass(options.settleMs - 1);
      assert.equal(reasonOf(clock.read()), 'stepped');
      time.pass(1);
      assert.equal(millisOf(clock.read()), Math.floor(time.wall));
    });
  }

  for (const step of [1, -1, 100, -100, 500, -500]) {
    test(`${step} ms is no step`, () => {
      const time = new FakeTime();
      const clock = time.clock();
      clock.read();
      time.step(step);
      assert.equal(millisOf(clock.read()), start + step);
    });
  }

  test('a step of one millisecond more than allowed is one, whatever is allowed', () => {
    for (const stepMsMax of [10, 500, 1_000]) {
      for (const sign of [1, -1]) {
        const time = new FakeTime();
        const clock = time.clock({ stepMsMax });
        clock.read();
        time.step(sign * stepMsMax);
        assert.equal(reasonOf(clock.read()), 'time');
        time.step(sign * (stepMsMax + 1));
        assert.equal(reasonOf(clock.read()), 'stepped');
      }
    }
  });

  test('a second step while settling starts the wait again', () => {
    const time = new FakeTime();
    const clock = time.clock();
    clock.read();
    time.step(2_000);
    assert.equal(reasonOf(clock.read()), 'stepped');
    time.pass(9_000);
    time.step(-2_000);
    assert.equal(reasonOf(clock.read()), 'stepped');
    time.pass(9_999);
    assert.equal(reasonOf(clock.read()), 'stepped');
    time.pass(1);
    assert.equal(reasonOf(clock.read()), 'time');
  });

  test('a step and its correction between two readings is no step: every stamp had the right time', () => {
    const time = new FakeTime();
    const clock = time.clock();
    clock.read();
    time.step(5_000);
    time.step(-5_000);
    assert.equal(reasonOf(clock.read()), 'time');
  });

  for (const ppm of [500, -500]) {
    test(`slewing by ${ppm} ppm for a day is no step when the clock is looked at every second`, () => {
      const time = new FakeTime();
      const clock = time.clock();
      for (let second = 0; second < 86_400; second += 1) {
        time.pass(1_000);
        time.step((1_000 * ppm) / 1e6);
        millisOf(clock.read());
      }
      assert.ok(Math.abs(time.wall - time.monotonic - (start - 5_000)) > 43_000, 'a day of slewing is more than any step');
    });
  }

  test('slewing does not hide a step', () => {
    const time = new FakeTime();
    const clock = time.clock();
    for (let second = 0; second < 1_000; second += 1) {
      time.pass(1_000);
      time.step(0.5);
      clock.read();
    }
    time.step(-501);
    assert.equal(reasonOf(clock.read()), 'stepped');
  });

  test('one thread sees what another one saw', () => {
    const time = new FakeTime();
    const [one, other] = [time.clock(), time.clock()];
    one.read();
    time.step(60_000);
    assert.equal(reasonOf(one.read()), 'stepped');
    assert.equal(reasonOf(other.read()), 'stepped', 'though the baseline has moved');
    time.pass(options.settleMs);
    assert.equal(reasonOf(other.read()), 'time');
    assert.equal(reasonOf(one.read()), 'time');
  });

  test('a thread that starts after the step is stopped with the others', () => {
    const time = new FakeTime();
    const one = time.clock();
    one.read();
    time.step(60_000);
    one.read();
    assert.equal(reasonOf(time.clock().read()), 'stepped');
  });

  test('two memories do not know of each other', () => {
    const [one, other] = [new FakeTime(), new FakeTime()];
    const [first, second] = [one.clock(), other.clock()];
    first.read();
    second.read();
    one.step(60_000);
    assert.equal(reasonOf(first.read()), 'stepped');
    assert.equal(reasonOf(second.read()), 'time');
  });

  test('required: no source vouches, no time; a step is the more telling reason', () => {
    const time = new FakeTime();
    const clock = time.clock({ required: true });
    assert.equal(reasonOf(clock.read()), 'unverified');
    time.step(60_000);
    assert.equal(reasonOf(clock.read()), 'stepped');
    time.pass(options.settleMs);
    assert.equal(reasonOf(clock.read()), 'unverified');
  });

  test('any sequence: time exactly when the last step is long enough ago', () => {
    const event = fc.oneof(
      fc.record({ pass: fc.integer({ min: 0, max: 12_000 }) }),
      fc.record({
        step: fc.oneof(fc.integer({ min: -500, max: 500 }), fc.integer({ min: 501, max: 1e9 }), fc.integer({ min: -1e9, max: -501 })),
      }),
    );
    fc.assert(
      fc.property(fc.array(event, { maxLength: 40 }), (events) => {
        const time = new FakeTime();
        const clock = time.clock();
        clock.read();
        let until = 0;
        for (const one of events) {
          if ('pass' in one) time.pass(one.pass);
          else {
            time.step(one.step);
            if (Math.abs(one.step) > options.stepMsMax) until = time.monotonic + options.settleMs;
          }
          assert.equal(reasonOf(clock.read()), time.monotonic < until ? 'stepped' : 'time');
        }
      }),
    );
  });
});
