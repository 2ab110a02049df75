import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { awaitTurn, createPaceMemory, takeTurn } from '../../signer/session-pace.ts';

test('a token that needs no pause is not waited for', () => {
  const memory = createPaceMemory(0);
  const started = monotonicMs();
  for (let i = 0; i < 1_000; i += 1) awaitTurn(memory, monotonicMs());
  assert.ok(monotonicMs() - started < 1_000);
});

test('turns are as far apart as is asked, whoever takes them, and the first waits for nothing', () => {
  const memory = createPaceMemory(20);
  // Whoever woke late, as at 1046, delays nobody, and brings nobody nearer than the turn that was planned.
  const turns = [1_000, 1_000, 1_003, 1_046, 1_046, 1_200, 1_200].map((now) => now + takeTurn(memory, now));
  assert.deepEqual(turns, [1_000, 1_020, 1_040, 1_060, 1_080, 1_200, 1_220]);
});

test('a thread is held up until its turn has come', () => {
  const memory = createPaceMemory(20);
  const started = monotonicMs();
  for (let i = 0; i < 4; i += 1) awaitTurn(memory, monotonicMs());
  // Turns are at whole milliseconds.
  assert.ok(monotonicMs() - started >= 3 * 20 - 1);
});

test('so are those of several threads', async () => {
  const memory = createPaceMemory(30);
  const source = `
    const { workerData, parentPort } = require('node:worker_threads');
    Promise.all([import(workerData.pace), import(workerData.clock)]).then(([{ awaitTurn }, { monotonicMs }]) => {
      const came = monotonicMs();
      awaitTurn(workerData.memory, came);
      parentPort.postMessage({ came, went: monotonicMs() });
    });`;
  const pace = new URL('../../signer/session-pace.ts', import.meta.url).href;
  const clock = new URL('../../queue/redis-clock.ts', import.meta.url).href;
  const times = await Promise.all(
    Array.from(
      { length: 5 },
      () =>
        new Promise<{ came: number; went: number }>((resolve, reject) => {
          const worker = new Worker(source, { eval: true, workerData: { memory, pace, clock } });
          worker.on('message', resolve);
          worker.on('error', reject);
        }),
    ),
  );
  const [first, last] = [Math.min(...times.map(({ came }) => came)), Math.max(...times.map(({ went }) => went))];
  assert.ok(last - first >= 4 * 30 - 1, JSON.stringify(times));
});
