/** The picture of a run: throughput against raw C_Sign with the targets, and latency by connections. */

import { grid, ink, linearScale, logScale, pale, svgDocument, svgDot, svgLine, svgRectangle, svgText } from '../observability/svg.ts';
import type { Machine } from './machine.ts';
import type { Spread } from './statistics.ts';
import { type AlgorithmSummary, bestClosedLoop, bulkRatioTargets, ratioTargets, rowOf } from './summary.ts';

const width = 1_230;
const top = 118;
const bottom = 500;
/** Told apart also by those who see no red or no green (after Okabe and Ito). */
const colours = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00'];
const connections = [1, 16, 64, 256] as const;

interface Bar {
  readonly label: string;
  readonly ratio: Spread | undefined;
  readonly target: number | undefined;
  readonly colour: string;
}

const barsOf = (summary: AlgorithmSummary, colour: string): Bar[] => {
  const { algorithm } = summary;
  return [
    { label: `${algorithm}, best closed loop`, ratio: bestClosedLoop(summary).ratio, target: ratioTargets[algorithm], colour },
    { label: `${algorithm}, 100 imprints a request`, ratio: rowOf(summary, 'bulk').ratio, target: bulkRatioTargets[algorithm], colour },
  ];
};

const drawRatios = (bars: readonly Bar[]): string[] => {
  const [left, right] = [40, 545];
  const scale = linearScale(1, left, right);
  const out = [svgText(left, top - 22, 'Stamps per second, of raw C_Sign with the same threads', { size: 15, weight: 600 })];
  for (const tick of scale.ticks) {
    out.push(
      svgLine(
        [
          [scale.at(tick), top],
          [scale.at(tick), bottom],
        ],
        grid,
      ),
    );
    out.push(svgText(scale.at(tick), bottom + 20, tick.toFixed(1), { anchor: 'middle', size: 12, fill: pale }));
  }
  const pitch = (bottom - top) / Math.max(1, bars.length);
  const height = Math.min(24, pitch * 0.4);
  for (const [i, bar] of bars.entries()) {
    const y = top + pitch * i + (pitch - height) / 2 + 8;
    const value = bar.ratio?.median ?? 0;
    const missed = bar.target !== undefined && value < bar.target;
    out.push(svgText(left, y - 7, bar.label, { size: 13 }));
    out.push(svgRectangle(left, y, scale.at(Math.min(1, value)) - left, height, bar.colour));
    if (bar.ratio !== undefined) {
      const middle = y + height / 2;
      out.push(
        svgLine(
          [
            [scale.at(bar.ratio.min), middle],
            [scale.at(bar.ratio.max), middle],
          ],
          ink,
          { width: 1.5 },
        ),
      );
    }
    const verdict = bar.target === undefined ? '' : `  (target ${bar.target.toFixed(2)}${missed ? ', missed' : ''})`;
    out.push(svgText(right, y - 7, `${value.toFixed(3)}${verdict}`, { anchor: 'end', weight: 600, fill: missed ? '#b3261e' : ink }));
    if (bar.target !== undefined) {
      const x = scale.at(bar.target);
      out.push(
        svgLine(
          [
            [x, y - 1],
            [x, y + height + 4],
          ],
          ink,
          { width: 2.5 },
        ),
      );
    }
  }
  return out;
};

const latencyText = (ms: number): string => (ms >= 10 ? ms.toFixed(0) : ms >= 1 ? ms.toFixed(1) : ms.toFixed(2));

const drawLatencies = (summaries: readonly AlgorithmSummary[]): string[] => {
  const [left, right] = [665, 1_080];
  const rows = summaries.map((summary) => connections.map((count) => rowOf(summary, `closed-${count}`)));
  const scale = logScale(
    rows.flat().flatMap((row) => [row.p50.median, row.p99.median]),
    bottom,
    top,
  );
  const x = (i: number): number => left + 20 + (i * (right - left - 40)) / (connections.length - 1);
  const out = [svgText(left - 45, top - 22, 'Latency in ms by connections: p50 (full line), p99 (dashed)', { size: 15, weight: 600 })];
  for (const tick of scale.ticks) {
    out.push(
      svgLine(
        [
          [left, scale.at(tick)],
          [right, scale.at(tick)],
        ],
        grid,
      ),
    );
    out.push(svgText(left - 10, scale.at(tick) + 4, String(tick), { anchor: 'end', size: 12, fill: pale }));
  }
  for (const [i, count] of connections.entries()) {
    out.push(svgText(x(i), bottom + 20, String(count), { anchor: 'middle', size: 12, fill: pale }));
  }
  const ends: { y: number; label: string; colour: string }[] = [];
  for (const [at, row] of rows.entries()) {
    const colour = colours[at % colours.length] as string;
    for (const which of ['p50', 'p99'] as const) {
      const points = row.map((one, i) => [x(i), scale.at(one[which].median)] as const);
      out.push(svgLine(points, colour, { width: 2, ...(which === 'p99' ? { dash: '5 5' } : {}) }));
      out.push(...points.map(([px, py]) => svgDot(px, py, colour)));
      const last = row.at(-1);
      if (last !== undefined) {
        const label = `${summaries[at]?.algorithm} ${which} ${latencyText(last[which].median)}`;
        ends.push({ y: scale.at(last[which].median), label, colour });
      }
    }
  }
  // Labels at the ends of the lines keep a distance, from the top downwards.
  let free = top - 11;
  for (const { y, label, colour } of ends.toSorted((a, b) => a.y - b.y)) {
    free = Math.max(y + 4, free + 15);
    out.push(svgText(right - 8, free, label, { size: 12, fill: colour }));
  }
  return out;
};

/** One SVG for all algorithms of the run. */
export const drawRun = (summaries: readonly AlgorithmSummary[], machine: Machine, when: string): string => {
  const bars = summaries.flatMap((summary, i) => barsOf(summary, colours[i % colours.length] as string));
  const { versions } = machine;
  const subtitle = `${machine.cpu}, ${machine.cores} cores, everything on one machine · Node ${versions.node}, Redis ${versions.redis}, SoftHSM ${versions.softhsm} · Sigillo ${versions.sigillo} · ${when}`;
  return svgDocument(width, bottom + 60, [
    svgText(40, 40, 'Sigillo: timestamps, end to end', { size: 22, weight: 600 }),
    svgText(40, 63, subtitle, { size: 12, fill: pale }),
    ...drawRatios(bars),
    ...drawLatencies(summaries),
    svgText(40, bottom + 46, 'Bars: median of the rounds; thin line: their range; thick mark: the target.', { size: 12, fill: pale }),
  ]);
};
