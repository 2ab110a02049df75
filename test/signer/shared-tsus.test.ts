import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { createTsuMemory, readTsus, tsuVersion, writeTsus } from '../../signer/shared-tsus.ts';
import type { Tsu } from '../../signer/stamp-task.ts';

const tsuOf = (id: string, chainOctets: number): Tsu => ({
  id,
  tokenLabel: 'token',
  keyLabel: `key ${id}`,
  scheme: { kind: 'ecdsa', curve: 'P-256' },
  signatureDigest: 'sha256',
  chain: [new Uint8Array(randomBytes(chainOctets)), new Uint8Array(randomBytes(3))],
  activeFromMs: 1_795_000_000_123,
  usableUntilMs: 1_800_000_000_123,
});

test('TSUs are read as they were written, and their version tells of a change', () => {
  const first = [tsuOf('a', 1_500), tsuOf('b', 0)];
  const memory = createTsuMemory(first);
  const { version, tsus } = readTsus(memory);
  assert.deepEqual(tsus, first);
  assert.equal(tsuVersion(memory), version);
  writeTsus(memory, []);
  assert.notEqual(tsuVersion(memory), version);
  assert.deepEqual(readTsus(memory).tsus, []);
});

test('more than the memory holds is refused, and what was there stays', () => {
  const memory = createTsuMemory([tsuOf('a', 10)]);
  assert.throws(() => writeTsus(memory, [tsuOf('b', 1_000_000)]), { code: 'INTERNAL' });
  assert.equal(readTsus(memory).tsus[0]?.id, 'a');
});

test('another thread that reads while they are written sees one state or the other', async () => {
  const memory = createTsuMemory([tsuOf('0', 100)]);
  const source = `
    const { workerData, parentPort } = require('node:worker_threads');
    import(workerData.url).then(({ readTsus }) => {
      parentPort.postMessage('ready');
      let reads = 0;
      const seen = new Set();
      for (;;) {
        const { tsus } = readTsus(workerData.memory);
        reads += 1;
        seen.add(tsus[0].id);
        if (tsus.length !== Number(tsus[0].id) % 5 + 1 && tsus[0].id !== '0') throw new Error('torn');
        if (tsus[0].id === '5000') break;
      }
      parentPort.postMessage(seen.size);
    });`;
  const url = new URL('../../signer/shared-tsus.ts', import.meta.url).href;
  const worker = new Worker(source, { eval: true, workerData: { memory, url } });
  const messages: unknown[] = [];
  const ready = Promise.withResolvers<void>();
  const ended = new Promise<void>((resolve, reject) => {
    worker.on('message', (message) => {
      messages.push(message);
      ready.resolve();
    });
    worker.on('error', reject);
    worker.on('exit', () => resolve());
  });
  await Promise.race([ready.promise, ended]);
  for (let n = 1; n <= 5_000; n += 1) {
    writeTsus(
      memory,
      Array.from({ length: (n % 5) + 1 }, (_, i) => tsuOf(i === 0 ? String(n) : 'x', 50)),
    );
  }
  await ended;
  assert.ok(Number(messages[1]) > 1, 'it has read while they were written');
});
