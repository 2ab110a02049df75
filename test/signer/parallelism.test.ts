import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Parallelism } from '../../signer/parallelism.ts';

/** A module that takes `latencyMs` for a signature, and `atOnce` of them at a time. */
const sampleOf = (threads: number, latencyMs: number, atOnce: number, cpuMs: number) => {
  const eachMs = latencyMs * Math.max(1, threads / atOnce);
  const signatures = Math.floor((100 * Math.min(threads, atOnce)) / latencyMs);
  return { signatures, signMs: signatures * eachMs, cpuMs: signatures * cpuMs, waited: true };
};

const settle = (parallelism: Parallelism, latencyMs: number, atOnce: number, cpuMs: number): number[] =>
  Array.from({ length: 40 }, () => parallelism.adapt(sampleOf(parallelism.current, latencyMs, atOnce, cpuMs)));

describe('how many batches are in the token at once', () => {
  test('a token as fast as the cores: one for each core, however busy the machine is', () => {
    const parallelism = new Parallelism({ min: 2, max: 32 });
    for (const slowness of [1, 1, 5, 20, 3, 1]) {
      const sample = { signatures: 1_000, signMs: 1_000 * 0.04 * slowness, cpuMs: 1_000 * 0.045, waited: true };
      assert.equal(parallelism.adapt(sample), 2);
    }
  });

  test('2 ms a signature and 16 at once: at least 16, and not many more', () => {
    const parallelism = new Parallelism({ min: 2, max: 64 });
    const [last] = settle(parallelism, 2, 16, 0.05).slice(-1) as [number];
    assert.ok(last >= 16 && last <= 32, `${last}`);
  });

  test('never beyond the sessions of the slot, nor below the cores but for a token with fewer', () => {
    assert.ok(settle(new Parallelism({ min: 2, max: 8 }), 2, 16, 0.05).every((threads) => threads <= 8));
    const few = new Parallelism({ min: 4, max: 1 });
    assert.equal(few.current, 1);
    assert.ok(settle(few, 2, 16, 0.05).every((threads) => threads === 1));
  });

  test('nothing waits, nothing is signed: nothing changes', () => {
    const parallelism = new Parallelism({ min: 2, max: 32 });
    for (let i = 0; i < 10; i += 1) {
      assert.equal(parallelism.adapt({ signatures: 10, signMs: 20, cpuMs: 0.5, waited: false }), 2);
      assert.equal(parallelism.adapt({ signatures: 0, signMs: 0, cpuMs: 0, waited: true }), 2);
    }
  });

  test('a module that takes fewer at once than it did gets fewer', () => {
    const parallelism = new Parallelism({ min: 2, max: 64 });
    settle(parallelism, 2, 32, 0.05);
    const before = parallelism.current;
    settle(parallelism, 2, 8, 0.05);
    assert.ok(before >= 32 && parallelism.current <= 24, `${before} to ${parallelism.current}`);
  });
});
