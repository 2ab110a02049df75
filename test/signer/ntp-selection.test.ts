import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { largestMinority, selectTruechimers, type TimeCandidate } from '../../signer/ntp-selection.ts';

const utc = Date.UTC(2026, 10, 22);
const at = (offsetMs: number, distanceMs = 5, name = `${offsetMs}`): TimeCandidate => ({ name, utcMs: utc + offsetMs, distanceMs });
const select = (...candidates: TimeCandidate[]) => {
  const selection = selectTruechimers(candidates);
  return (
    selection && {
      true: selection.truechimers.map(({ name }) => name),
      false: selection.falsetickers.map(({ name }) => name),
      offset: selection.utcMs - utc,
      distance: selection.distanceMs,
    }
  );
};

describe('which servers tell the truth', () => {
  test('all of them, when their intervals meet', () => {
    assert.deepEqual(select(at(0), at(1), at(2))?.true, ['0', '1', '2']);
    assert.deepEqual(select(at(3, 7)), { true: ['3'], false: [], offset: 3, distance: 7 });
  });

  test('one liar among three, on either side', () => {
    for (const lie of [2_000, -2_000, 20]) {
      const selection = select(at(0), at(lie, 5, 'liar'), at(1));
      assert.deepEqual([selection?.true, selection?.false], [['0', '1'], ['liar']]);
    }
  });

  test('two liars among five, apart or together', () => {
    assert.deepEqual(select(at(0), at(1), at(2), at(2_000), at(2_001))?.false, ['2000', '2001']);
    assert.deepEqual(select(at(0), at(1), at(2), at(2_000), at(-900))?.false, ['2000', '-900']);
  });

  test('no majority: one against one, two against two, each another time, nobody', () => {
    assert.equal(select(at(0), at(2_000)), undefined);
    assert.equal(select(at(0), at(1), at(2_000), at(2_001)), undefined);
    assert.equal(select(at(0), at(2_000), at(4_000)), undefined);
    assert.equal(select(), undefined);
  });

  test('all liars agree: nobody can know', () => {
    assert.equal(select(at(2_000), at(2_001), at(2_002))?.true.length, 3);
  });

  test('a far server with a wide interval agrees with near ones, and blurs nothing', () => {
    const selection = select(at(0, 0.5, 'near'), at(60, 80, 'far'), at(0.4, 0.5, 'other'));
    assert.deepEqual(selection?.true, ['near', 'far', 'other']);
    assert.ok(Math.abs(selection?.offset ?? 9) < 1 && (selection?.distance ?? 9) < 2, JSON.stringify(selection));
  });

  test('servers that know each other to microseconds need not meet to the microsecond', () => {
    const selection = select(at(0, 0.01), at(0.1, 0.01), at(0.9, 0.01));
    assert.equal(selection?.false.length, 0);
    assert.ok((selection?.distance ?? 0) > 0.1, 'and what they prove is no better than what they differ by');
  });

  test('a liar among honest servers that claims to be precise makes what they prove no better', () => {
    for (const [candidates, honestMs] of [
      [[at(0, 100), at(5, 100), at(-3, 100), at(80, 0.1, 'liar')], 100],
      [[at(0, 20), at(0, 20, 'b'), at(0, 20, 'c'), at(0, 20, 'd'), at(15, 0.1, 'liar')], 20],
    ] as const) {
      const { offset, distance } = select(...candidates) ?? { offset: 0, distance: 0 };
      assert.ok(Math.abs(offset) <= distance, `off by ${offset}, claimed ${distance}`);
      assert.ok(distance <= 2 * honestMs, 'and no worse than it has to be');
      assert.ok(Math.abs(offset) < honestMs / 3, 'the precise one is not the mean');
    }
  });

  test('servers that are away may be the honest ones: what is left proves less', () => {
    const pair = [at(0, 10), at(9, 0.1, 'liar')];
    assert.ok((selectTruechimers(pair)?.distanceMs ?? 0) < 10, 'both are honest, where only two were asked');
    const selection = selectTruechimers(pair, largestMinority(3));
    assert.ok(selection !== undefined && selection.utcMs - selection.distanceMs <= utc - 10, JSON.stringify(selection));
    assert.deepEqual([0, 1, 2, 3, 4, 5, 6].map(largestMinority), [0, 0, 0, 1, 1, 2, 2]);
  });

  test('with fewer than half lying, at random and near the truth too, the truth is within what is proved', () => {
    const distanceMs = fc.oneof(fc.double({ min: 0.001, max: 1, noNaN: true }), fc.double({ min: 1, max: 200, noNaN: true }));
    const honest = fc.record({ distanceMs, share: fc.double({ min: -1, max: 1, noNaN: true }) });
    const lie = fc.oneof(fc.double({ min: -200, max: 200, noNaN: true }), fc.double({ min: -5_000, max: 5_000, noNaN: true }));
    const liar = fc.record({ distanceMs, lie });
    fc.assert(
      fc.property(
        fc.array(honest, { minLength: 1, maxLength: 7 }),
        fc.array(liar, { maxLength: 6 }),
        fc.nat(3),
        fc.nat(),
        (truthful, liars, away, seed) => {
          const lying = liars.slice(0, truthful.length - 1);
          const all = [
            ...truthful.map((one, index) => at(one.share * one.distanceMs, one.distanceMs, `true ${index}`)),
            ...lying.map((one, index) => at(one.lie, one.distanceMs, `liar ${index}`)),
          ];
          // Some of the honest ones do not answer, and there is a majority of all that were asked still.
          const silent = Math.min(away, truthful.length - largestMinority(all.length) - 1);
          const candidates = all
            .slice(Math.max(0, silent))
            .toSorted((a, b) => ((a.distanceMs * (seed + 1)) % 7) - ((b.distanceMs * (seed + 1)) % 7));
          const selection = selectTruechimers(candidates, largestMinority(all.length));
          if (silent <= 0) assert.ok(selection !== undefined, 'a majority is honest, so there is an agreement');
          if (selection === undefined) return;
          const { utcMs, distanceMs: proved, truechimers, falsetickers } = selection;
          assert.ok(truechimers.length * 2 > candidates.length);
          assert.equal(truechimers.length + falsetickers.length, candidates.length);
          if (lying.length === 0) assert.equal(falsetickers.length, 0);
          assert.ok(Math.abs(utcMs - utc) <= proved + 0.001, `off by ${utcMs - utc}, claimed ${proved}`);
        },
      ),
      { numRuns: 5_000 },
    );
  });

  test('the order of the servers changes nothing', () => {
    const one = fc.record({ offset: fc.integer({ min: -50, max: 50 }), distance: fc.integer({ min: 1, max: 60 }) });
    fc.assert(
      fc.property(fc.uniqueArray(one, { minLength: 1, maxLength: 6, selector: ({ offset }) => offset }), (all) => {
        const candidates = all.map(({ offset, distance }) => at(offset, distance));
        const names = (list: readonly TimeCandidate[] | undefined) => list?.map(({ name }) => name).toSorted();
        assert.deepEqual(names(selectTruechimers(candidates)?.truechimers), names(selectTruechimers(candidates.toReversed())?.truechimers));
      }),
    );
  });
});
