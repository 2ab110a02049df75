import assert from 'node:assert/strict';
import { test } from 'node:test';
import { judgeSoak, type SoakSample } from '../../bench/soak-growth.ts';

const run = (
  shape: (share: number) => { gateway?: number; signer?: number; journal?: number; stream?: number },
): Record<string, boolean> => {
  const samples = Array.from({ length: 120 }, (_, second): SoakSample => {
    const { gateway = 120e6, signer = 110e6, journal = 500e6, stream = 2_000 } = shape(second / 119);
    return { second, residentBytes: { gateway, signer, redis: 50e6, journal, other: 60e6 }, streams: { stream } };
  });
  return Object.fromEntries(judgeSoak(samples).map(({ what, passed }) => [what.split(',')[0], passed]));
};

test('a heap that fills up at first and then stays is flat', () => {
  assert.deepEqual(
    run((share) => ({ gateway: 80e6 + 60e6 * Math.min(1, share * 4) })),
    { gateway: true, signer: true, journal: true, stream: true },
  );
});

test('memory that keeps growing is not flat', () => {
  assert.equal(run((share) => ({ gateway: 80e6 + 100e6 * share }))['gateway'], false);
  assert.equal(run((share) => ({ signer: 80e6 + 100e6 * share }))['signer'], false);
});

test('flat but too much is not passed either', () => {
  assert.equal(run(() => ({ signer: 201e6 }))['signer'], false);
  assert.equal(run(() => ({ journal: 601e6 }))['journal'], false);
});

test('a stream that is never trimmed is found; one that fills up to its cap early is not blamed', () => {
  assert.equal(run((share) => ({ stream: 10_000 * share }))['stream'], false);
  assert.equal(run((share) => ({ stream: Math.min(2_000, 10_000 * share) }))['stream'], true);
});
