import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { awaitTurn, createPaceMemory } from '../../signer/session-pace.ts';

test('a token that needs no pause is not waited for', () => {
  const memory = createPaceMemory(0);
  const started = monotonicMs();
  for (let i = 0; i < 1_000; i += 1) awaitTurn(memory, monotonicMs());
  assert.ok(monotonicMs() - started < 1_000);
});

test('sessions of one thread are as far apart as is asked, and the first waits for nothing', () => {
  const memory = createPaceMemory(20);
  const at = Array.from({ length: 4 }, () => {
    awaitTurn(memory, monotonicMs());
    return monotonicMs();
  });
  for (let i = 1; i < at.length; i += 1) assert.ok((at[i] as number) - (at[i - 1] as number) > 15, at.join());
});

test('so are those of several threads', async () => {
  const memory = createPaceMemory(30);
  const source = `
    const { workerData, parentPort } = require('node:worker_threads');
    Promise.all([import(workerData.pace), import(workerData.clock)]).then(([{ awaitTurn }, { monotonicMs }]) => {
      awaitTurn(workerData.memory, monotonicMs());
      parentPort.postMessage(monotonicMs());
    });`;
  const pace = new URL('../../signer/session-pace.ts', import.meta.url).href;
  const clock = new URL('../../queue/redis-clock.ts', import.meta.url).href;
  const times = await Promise.all(
    Array.from(
      { length: 5 },
      () =>
        new Promise<number>((resolve, reject) => {
          const worker = new Worker(source, { eval: true, workerData: { memory, pace, clock } });
          worker.on('message', resolve);
          worker.on('error', reject);
        }),
    ),
  );
  const sorted = times.toSorted((a, b) => a - b);
  // A thread that is woken late makes one distance shorter, and never all of them together.
  assert.ok((sorted.at(-1) as number) - (sorted[0] as number) > 4 * 30 - 25, sorted.join());
});
