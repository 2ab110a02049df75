import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { ClockMemory, clockVerdicts, createClockMemory, nothingProved } from '../../signer/clock-memory.ts';

describe('what threads share about the clock', () => {
  test('nothing is proved in a new one, and no step was seen', () => {
    const memory = new ClockMemory(createClockMemory());
    const proof = { ...nothingProved, verdict: 'trusted' as (typeof clockVerdicts)[number] };
    memory.read(proof);
    assert.deepEqual(proof, nothingProved);
    assert.deepEqual([memory.steps, memory.lastStepMs, memory.untrustedUntilMs], [0, 0, 0]);
    assert.ok(Number.isNaN(memory.baselineMs));
  });

  test('every verdict comes back, also to another view', () => {
    const shared = createClockMemory();
    const [one, other] = [new ClockMemory(shared), new ClockMemory(shared)];
    for (const [index, verdict] of clockVerdicts.entries()) {
      const proof = { verdict, utcMs: 1.8e12 + index / 8, distanceMs: index, provedAtMs: 7, steps: index, leapFromMs: 1, leapUntilMs: 2 };
      one.publish(proof);
      const read = { ...nothingProved };
      other.read(read);
      assert.deepEqual(read, proof);
    }
    other.noteStep(-3, 99);
    assert.deepEqual([one.steps, one.lastStepMs, one.untrustedUntilMs], [1, -3, 99]);
  });

  test('a thread never reads half a proof, however fast they follow each other', async () => {
    const shared = createClockMemory();
    const memory = new ClockMemory(shared);
    const workerData = { shared, reads: 2_000_000 };
    const worker = new Worker(new URL('./fixtures/clock-reader.ts', import.meta.url), { workerData });
    await once(worker, 'message');
    let ended: { torn: number; different: number } | undefined;
    worker.once('message', (message) => {
      ended = message;
    });
    for (let value = 1; ended === undefined; value += 1) {
      memory.publish({ ...nothingProved, utcMs: value, distanceMs: value, provedAtMs: value, leapUntilMs: value });
      // The message of the thread comes between two turns.
      if (value % 10_000 === 0) await new Promise(setImmediate);
    }
    assert.equal(ended.torn, 0);
    assert.ok(ended.different > 1, 'they did run at the same time');
  });
});
