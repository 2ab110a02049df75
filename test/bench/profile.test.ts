import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type CpuProfile, selfTimes } from '../../bench/profile.ts';

const node = (id: number, functionName: string, url = '', lineNumber = -1) => ({ id, callFrame: { functionName, url, lineNumber } });

test('self time is summed by function within the window, without waiting', () => {
  const profile: CpuProfile = {
    nodes: [
      node(1, '(idle)'),
      node(2, 'sign', 'file:///srv/sigillo/signer/stamper.ts', 9),
      node(3, '(garbage collector)'),
      node(4, 'sign', 'file:///srv/sigillo/signer/stamper.ts', 9),
      node(5, 'atomicsWaitLoop', '/srv/node_modules/piscina/dist/worker.js', 1),
      node(6, '', '/srv/node_modules/ioredis/built/Redis.js', 4),
      node(7, 'writev'),
    ],
    startTime: 1_000,
    //         before  1   2   3   4   5   6   7   after
    samples: [2, 1, 2, 3, 4, 5, 6, 7, 2],
    timeDeltas: [100, 100, 100, 100, 100, 100, 100, 100, 100],
  };
  assert.deepEqual(selfTimes(profile, [1_150, 1_850]), [
    { name: 'sign  signer/stamper.ts:10', micros: 200 },
    { name: '(garbage collector)', micros: 100 },
    { name: '(anonymous)  ioredis/built/Redis.js:5', micros: 100 },
    { name: 'writev  native', micros: 100 },
  ]);
});
