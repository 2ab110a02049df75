import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { accuracySteps, stepFor } from '../../signer/clock-accuracy.ts';

describe('the accuracy that tokens state', () => {
  test('the configured one, then a fixed ladder up to the maximum', () => {
    assert.deepEqual(accuracySteps(1_000, 1_000_000), [1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000]);
    assert.deepEqual(accuracySteps(250_250, 600_000), [250_250, 500_000, 600_000]);
    assert.deepEqual(accuracySteps(1_000_000, 1_000_000), [1_000_000]);
    assert.deepEqual(accuracySteps(100_000, 200_000), [100_000, 200_000]);
  });

  test('an error exactly at a step is still held by it', () => {
    const steps = accuracySteps(10_000, 1_000_000);
    for (const [errorMs, micros] of [
      [0, 10_000],
      [10, 10_000],
      [10.001, 20_000],
      [200, 200_000],
      [999, 1_000_000],
    ] as const) {
      assert.equal(steps[stepFor(steps, errorMs)], micros, `${errorMs} ms`);
    }
  });

  test('never better than the error, never coarser than needed', () => {
    const micros = fc.integer({ min: 1_000, max: 1_000_000 });
    fc.assert(
      fc.property(micros, micros, fc.double({ min: 0, max: 1, noNaN: true }), (one, other, share) => {
        const steps = accuracySteps(Math.min(one, other), Math.max(one, other));
        const errorMs = (share * Math.max(one, other)) / 1_000;
        const step = stepFor(steps, errorMs);
        assert.ok((steps[step] as number) >= errorMs * 1_000 - 1e-6);
        if (step > 0) assert.ok((steps[step - 1] as number) < errorMs * 1_000);
        assert.deepEqual(
          steps,
          steps.toSorted((a, b) => a - b),
        );
      }),
    );
  });
});
