import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { EventOutcome } from '../../../observability/journal/events.ts';
import type { KindStatistics, Statistics } from '../../../observability/journal/statistics.ts';
import { drawStatistics } from '../../../observability/journal/statistics-picture.ts';
import { timeTicks } from '../../../observability/journal/time-ticks.ts';
import { allKinds } from './fixtures.ts';

const begin = Date.UTC(2026, 10, 1);
const dayMs = 86_400_000;
type Counts = Partial<Record<EventOutcome, number[]>>;
const countedOf = (counts: Counts, days: number) => {
  const whole = { success: Array(days).fill(0), refused: Array(days).fill(0), failure: Array(days).fill(0), ...counts };
  return {
    counts: whole,
    total: Object.values(whole)
      .flat()
      .reduce((a, b) => a + b, 0),
  };
};
/** @param occurrences as many as entries, unless they are given */
const kindOf = (kind: string, counts: Counts, days: number, occurrences: Counts = counts): KindStatistics => ({
  kind,
  ...countedOf(counts, days),
  occurrences: countedOf(occurrences, days),
});
const statisticsOf = (kinds: readonly KindStatistics[], days: number): Statistics => ({
  by: 'day',
  intervals: Array.from({ length: days }, (_, i) => begin + i * dayMs),
  total: kinds.reduce((sum, { total }) => sum + total, 0),
  occurrences: kinds.reduce((sum, { occurrences }) => sum + occurrences.total, 0),
  kinds,
});
const draw = (kinds: readonly KindStatistics[], days: number): string => drawStatistics(statisticsOf(kinds, days), { title: 'A <title>' });
/** Everything that is drawn must lie within the picture. */
const assertWithin = (svg: string): void => {
  const [, width, height] = /^<svg [^>]*width="(\d+)" height="(\d+)"/.exec(svg) ?? [];
  const drawn = [...svg.matchAll(/ (?:d|points)="([^"]*)"/g)].map(([, points]) => points).join(' ');
  for (const [, x, y] of drawn.matchAll(/(-?[\d.]+),(-?[\d.]+)/g)) {
    assert.ok(Number(x) >= 0 && Number(x) <= Number(width) && Number(y) >= 0 && Number(y) <= Number(height), `${x},${y}`);
  }
  for (const bad of ['NaN', 'Infinity', 'undefined']) assert.ok(!svg.includes(bad), bad);
};

describe('the picture of the statistics', () => {
  for (const count of [1, 2, 3, 4, 8, 9, 25, 40]) {
    test(`${count} kinds: each has its name, and everything is within the picture`, () => {
      const kinds = Array.from({ length: count }, (_, i) =>
        kindOf(
          `${allKinds[i % allKinds.length]}${i}`,
          { success: Array.from({ length: 40 }, (_, day) => ((day * 7 + i) % 5) * 10 ** (i % 7)) },
          40,
        ),
      );
      const svg = draw(kinds, 40);
      for (const { kind } of kinds) assert.ok(svg.includes(`>${kind}</text>`), kind);
      assertWithin(svg);
    });
  }

  test('one entry in one interval, and none at all', () => {
    assertWithin(draw([kindOf('service.started', { failure: [1] }, 1)], 1));
    const empty = drawStatistics({ by: 'day', intervals: [], total: 0, occurrences: 0, kinds: [] }, { title: 'x' });
    assert.match(empty, /There are no entries/);
  });

  test('a logarithmic scale only where the numbers of one kind need it; a few failures are seen under a million successes', () => {
    const success = [1_000_000, 3, 0, 900_000];
    const svg = draw(
      [kindOf('timestamp.issued', { success, failure: [2, 0, 0, 0] }, 4), kindOf('service.started', { success: [1, 2, 0, 3] }, 4)],
      4,
    );
    assert.equal(svg.match(/log scale</g)?.length, 1);
    assert.match(svg, />1,900,005, log scale</);
    const [, height] = /<path d="M[\d.]+,[\d.]+h[\d.]+v([\d.]+)[^"]*" fill="#d55e00"\/>/.exec(svg) ?? [];
    assert.ok(Number(height) >= 5, `a bar of ${height} pixels`);
    assertWithin(svg);
  });

  test('a flood that was told in few entries is drawn as a flood, and both numbers are told', () => {
    const svg = draw(
      [
        kindOf('timestamp.refused', { refused: [10, 10, 10, 10] }, 4, { refused: [10, 10, 9_000, 10] }),
        kindOf('service.started', { success: [1, 2, 0, 3] }, 4),
      ],
      4,
    );
    assert.match(svg, />9,030, log scale</);
    assert.deepEqual(svg.match(/>[\d,]+ entries for</g), ['>40 entries for<']);
    assert.match(svg, />46 entries for 9,036 occurrences, /);
    assert.match(svg, />refused 9,030</);
    const heights = [...svg.matchAll(/<path d="([^"]*)" fill="#e69f00"\/>/g)].flatMap(([, path]) =>
      [...(path as string).matchAll(/v([\d.]+)/g)].map(([, height]) => Number(height)),
    );
    assert.equal(heights.length, 4);
    assert.ok((heights[2] as number) > 2 * (heights[1] as number), String(heights));
    assertWithin(svg);
  });

  test('what a changed row calls a kind cannot break the picture', () => {
    const svg = draw([kindOf(`<script>&"\u0000\u001b${'x'.repeat(300)}`, { success: [1] }, 1)], 1);
    assert.ok(!svg.includes('<script>') && !/[^\n -~]/.test(svg) && !svg.includes('x'.repeat(41)));
    assert.ok(svg.includes('A &lt;title&gt;'));
  });

  test('two thousand intervals are drawn as groups', () => {
    const svg = draw([kindOf('timestamp.issued', { success: Array(2_000).fill(5) }, 2_000)], 2_000);
    assert.match(svg, /a bar is 8 days/);
    assert.ok((svg.match(/M[\d.]+,/g) ?? []).length < 300);
    assertWithin(svg);
  });
});

describe('ticks of a time axis', () => {
  const labels = (from: string, to: string, most: number): string[] =>
    timeTicks(Date.parse(from), Date.parse(to), most).map(({ label }) => label);

  test('at round times, no more than there is room for', () => {
    assert.deepEqual(labels('2026-11-01T05:30Z', '2026-11-01T09:30Z', 5), ['06:00', '07:00', '08:00', '09:00']);
    assert.deepEqual(labels('2026-11-01T00:00Z', '2026-11-02T12:00Z', 4), ['1 Nov', '12:00', '2 Nov', '12:00']);
    assert.deepEqual(labels('2026-11-01T00:00Z', '2026-11-20T00:00Z', 4), ['2 Nov', '9 Nov', '16 Nov']);
    assert.deepEqual(labels('2026-11-18T00:00Z', '2027-02-07T00:00Z', 4), ['Dec', '2027', 'Feb']);
    assert.deepEqual(labels('2026-11-18T00:00Z', '2046-11-01T00:00Z', 4), ['2030', '2035', '2040', '2045']);
    for (const most of [1, 2, 3, 7, 100]) {
      for (const days of [0.01, 1, 10, 100, 1_000, 10_000, 100_000]) {
        assert.ok(timeTicks(begin, begin + days * dayMs, most).length <= most);
      }
    }
  });
});
