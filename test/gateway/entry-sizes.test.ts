import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseConfig } from '../../config/load.ts';
import { tsuAlgorithms } from '../../config/schema.ts';
import { entrySizes, type SlotCapacity } from '../../gateway/entry-sizes.ts';
import type { EntrySizes } from '../../queue/lane-requester.ts';

const sizesOf = (timestamp: Record<string, unknown>, slots?: readonly SlotCapacity[]): EntrySizes =>
  entrySizes(parseConfig({ timestamp }).timestamp, slots);
const slots = (count: number, atOnce: number, threads = 2): SlotCapacity[] => Array(count).fill({ atOnce, threads });
const inFlight = ({ batchMax, entriesOutstandingMax, fullEntriesBesides }: EntrySizes): number =>
  batchMax * (entriesOutstandingMax + fullEntriesBesides);

test('the algorithm decides, and a slower one gets smaller entries', () => {
  const all = tsuAlgorithms.map((algorithm) => sizesOf({ algorithm }));
  for (const { batchMin, batchMax, entriesOutstandingMax, fullEntriesBesides } of all) {
    assert.ok(Number.isInteger(batchMax) && batchMax >= 1 && batchMax <= 256);
    assert.ok(Number.isInteger(batchMin) && batchMin >= 1 && batchMin <= batchMax / 4);
    assert.deepEqual([entriesOutstandingMax, fullEntriesBesides], [4, 0]);
  }
  const sizes = all.map(({ batchMax }) => batchMax);
  const [p256, p384, rsa2048, rsa3072, rsa4096, ...pss] = sizes;
  assert.deepEqual([p256, p384], [64, 8]);
  assert.ok(Number(rsa2048) > Number(rsa3072) && Number(rsa3072) > Number(rsa4096));
  assert.deepEqual(pss, [rsa2048, rsa3072, rsa4096]);
});

test('a configured batchMax wins over the algorithm', () => {
  assert.equal(sizesOf({ algorithm: 'rsa-4096', batchMax: 256 }).batchMax, 256);
  const small = sizesOf({ batchMax: 4 });
  assert.deepEqual([small.batchMax, small.batchMin], [4, 4]);
});

describe('how long a signature takes', () => {
  const slot = (signMs: number | undefined, atOnce = 2): SlotCapacity => ({ atOnce, threads: 2, signMs });

  test('an entry is signed in a tenth of a second, also by the slowest slot, or holds four', () => {
    for (const [signMs, batchMax] of [
      [1.5, 64],
      [1.6, 62],
      [10, 10],
      [20, 5],
      [25, 4],
      [26, 4],
      [60_000, 4],
    ] as const) {
      assert.equal(sizesOf({}, [slot(signMs)]).batchMax, batchMax, `${signMs} ms`);
      assert.equal(sizesOf({}, [slot(0.04), slot(signMs), slot(undefined)]).batchMax, batchMax, `${signMs} ms beside fast ones`);
    }
    const slow = sizesOf({}, [slot(400, 8), slot(400, 1)]);
    assert.deepEqual([slow.batchMax, slow.batchMin], [4, 4]);
    assert.ok(inFlight(slow) >= 3 * 9);
  });

  test('with signatures of our cores, and with those of a far token that makes many at once, nothing changes', () => {
    for (const [algorithm, signMs] of [
      ['ec-p256', 0.04],
      ['ec-p384', 0.6],
      ['rsa-2048', 0.5],
      ['rsa-3072', 1.1],
      ['rsa-4096', 2],
    ] as const)
      assert.deepEqual(sizesOf({ algorithm }, [slot(signMs, 1)]), sizesOf({ algorithm }, [slot(undefined, 1)]), algorithm);
    assert.deepEqual(sizesOf({}, [slot(8, 32)]), sizesOf({}, [slot(undefined, 32)]));
  });

  test('a configured batchMax is the most there may be, and not more than is signed in time', () => {
    assert.equal(sizesOf({ batchMax: 256 }, [slot(1, 1)]).batchMax, 100);
    assert.equal(sizesOf({ batchMax: 8 }, [slot(1, 1)]).batchMax, 8);
  });
});

describe('what the tokens hold at once', () => {
  test('with tokens on our cores, one or two, nothing changes', () => {
    for (const algorithm of tsuAlgorithms) {
      for (const local of [slots(1, 2), slots(2, 2), slots(1, 1, 1), slots(1, 4, 4)])
        assert.deepEqual(sizesOf({ algorithm }, local), sizesOf({ algorithm }), `${algorithm}, ${JSON.stringify(local)}`);
    }
    // Nor with P-256 on a large machine.
    assert.deepEqual(sizesOf({}, slots(1, 64, 64)), sizesOf({}));
  });

  test('three requests are in flight for each signature at once, whatever the algorithm', () => {
    for (const algorithm of tsuAlgorithms) {
      for (const far of [slots(1, 32), slots(2, 32), slots(8, 64), slots(1, 64, 16), [...slots(1, 2), ...slots(1, 32)]]) {
        const sizes = sizesOf({ algorithm }, far);
        const atOnce = far.reduce((sum, one) => sum + one.atOnce, 0);
        assert.ok(inFlight(sizes) >= 3 * atOnce, `${algorithm}: ${inFlight(sizes)} for ${atOnce}`);
        assert.ok(inFlight(sizes) < Math.max(3 * atOnce, inFlight(sizesOf({ algorithm }))) + sizes.batchMax);
        assert.ok(sizes.batchMax <= sizesOf({ algorithm }).batchMax && sizes.batchMin <= sizes.batchMax, algorithm);
        assert.equal(sizes.entriesOutstandingMax, 4, 'small entries are no more than before');
      }
    }
    assert.deepEqual(sizesOf({ algorithm: 'rsa-3072' }, slots(1, 32)), {
      batchMax: 6,
      batchMin: 1,
      entriesOutstandingMax: 4,
      fullEntriesBesides: 12,
    });
  });

  test('a slow token that holds many signatures in each thread gets two entries for each of them', () => {
    assert.deepEqual(sizesOf({}, slots(1, 32)), sizesOf({}), 'four entries are two for each of two threads');
    for (const [far, threads] of [
      [slots(2, 32), 4],
      [slots(4, 32), 8],
      [slots(1, 32, 8), 8],
      [[...slots(2, 2), ...slots(1, 32, 4)], 4],
    ] as const) {
      const sizes = sizesOf({}, far);
      assert.ok(sizes.entriesOutstandingMax + sizes.fullEntriesBesides >= 2 * threads, JSON.stringify(sizes));
    }
    assert.equal(sizesOf({}, slots(2, 32)).batchMax, 32);
    assert.equal(sizesOf({}, slots(1, 2_000, 1_000)).batchMax, 3, 'never none');
  });

  test('a signer of another release tells no threads: only what its token holds counts', () => {
    const sizes = sizesOf({}, Array(4).fill({ atOnce: 32, threads: undefined }));
    assert.equal(sizes.batchMax, 64);
    assert.ok(inFlight(sizes) >= 3 * 128);
  });

  test('never more than the gateway may have in flight, however much is told', () => {
    for (const algorithm of tsuAlgorithms) {
      const sizes = sizesOf({ algorithm, inFlightMax: 1_000 }, slots(8, 1_000));
      assert.ok(inFlight(sizes) < 1_000 + sizes.batchMax, algorithm);
    }
  });
});
