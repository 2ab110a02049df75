/** The picture of a run with changes of keys: latency over time, and when keys changed. */
import { grid, linearScale, pale, svgColumns, svgDocument, svgLine, svgText } from '../observability/svg.ts';

const left = 80;
const right = 1_180;
const top = 70;
const bottom = 400;
const bucketMs = 50;
const colours = { p50: '#0072b2', p99: '#d55e00', change: '#009e73' } as const;

interface Bucket {
  readonly atMs: number;
  readonly p50: number;
  readonly p99: number;
}

const bucketsOf = (timeline: readonly (readonly [number, number])[]): Bucket[] =>
  [...Map.groupBy(timeline, ([atMs]) => Math.floor(atMs / bucketMs))]
    .toSorted(([a], [b]) => a - b)
    .map(([bucket, answers]) => {
      const sorted = answers.map(([, latencyMs]) => latencyMs).toSorted((a, b) => a - b);
      const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] as number;
      return { atMs: (bucket + 0.5) * bucketMs, p50: at(0.5), p99: at(0.99) };
    });

/**
 * @param timeline for each answer when it came, and its latency, milliseconds
 * @param switchesMs when another key began to sign
 */
export const drawRotations = (
  timeline: readonly (readonly [number, number])[],
  switchesMs: readonly number[],
  durationMs: number,
): string => {
  const buckets = bucketsOf(timeline);
  const x = linearScale(durationMs / 1_000, left, right);
  const y = linearScale(Math.max(1, ...buckets.map(({ p99 }) => p99)), bottom, top);
  const out = [
    svgText(40, 34, `Latency over ${switchesMs.length} changes of keys`, { size: 17, weight: 600 }),
    svgText(40, 54, `p50 and p99 of each ${bucketMs} ms, milliseconds; the lines from top to bottom are the changes`, {
      size: 12,
      fill: pale,
    }),
  ];
  for (const tick of y.ticks) {
    const points = [
      [left, y.at(tick)],
      [right, y.at(tick)],
    ] as const;
    out.push(svgLine(points, grid), svgText(left - 10, y.at(tick) + 4, `${tick} ms`, { anchor: 'end', size: 12, fill: pale }));
  }
  for (const tick of x.ticks) out.push(svgText(x.at(tick), bottom + 18, `${tick} s`, { anchor: 'middle', size: 12, fill: pale }));
  for (const atMs of switchesMs) {
    const at = x.at(atMs / 1_000);
    const points = [
      [at, top],
      [at, bottom],
    ] as const;
    out.push(svgLine(points, colours.change, { dash: '4 4' }));
  }
  const columns = buckets.map(({ atMs, p99 }) => ({ x: x.at(atMs / 1_000) - 0.5, y: y.at(p99), width: 1, height: bottom - y.at(p99) }));
  out.push(svgColumns(columns, colours.p99));
  out.push(
    svgLine(
      buckets.map(({ atMs, p50 }) => [x.at(atMs / 1_000), y.at(p50)] as const),
      colours.p50,
      { width: 1.5 },
    ),
  );
  out.push(
    svgText(right + 10, bottom - 4, 'p50', { size: 12, fill: colours.p50 }),
    svgText(right + 10, bottom - 24, 'p99', { size: 12, fill: colours.p99 }),
  );
  return svgDocument(1_230, 440, out);
};
