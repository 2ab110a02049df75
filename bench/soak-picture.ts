/** The picture of a soak: resident memory by process, and the length of each stream, over time. */

import { grid, linearScale, pale, svgDocument, svgLine, svgText } from '../observability/svg.ts';
import type { SoakSample } from './soak-growth.ts';

interface Series {
  readonly label: string;
  readonly colour: string;
  readonly values: readonly number[];
}

interface Panel {
  readonly title: string;
  readonly top: number;
  readonly bottom: number;
  readonly seconds: readonly number[];
  readonly series: readonly Series[];
  readonly limit?: { readonly value: number; readonly label: string };
}

const left = 80;
const right = 900;
const width = 1_230;
const colours = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00'];

const drawPanel = ({ title, top, bottom, seconds, series, limit }: Panel): string[] => {
  const x = linearScale(Math.max(1, ...seconds), left, right);
  const y = linearScale(Math.max(1, limit?.value ?? 0, ...series.flatMap(({ values }) => values)), bottom, top);
  const out = [svgText(40, top - 18, title, { size: 15, weight: 600 })];
  for (const tick of y.ticks) {
    out.push(
      svgLine(
        [
          [left, y.at(tick)],
          [right, y.at(tick)],
        ],
        grid,
      ),
    );
    out.push(svgText(left - 10, y.at(tick) + 4, tick.toLocaleString('en'), { anchor: 'end', size: 12, fill: pale }));
  }
  for (const tick of x.ticks) out.push(svgText(x.at(tick), bottom + 18, `${tick} s`, { anchor: 'middle', size: 12, fill: pale }));
  if (limit !== undefined) {
    out.push(
      svgLine(
        [
          [left, y.at(limit.value)],
          [right, y.at(limit.value)],
        ],
        '#b3261e',
        { dash: '5 5', width: 1.5 },
      ),
    );
    out.push(svgText(right + 12, y.at(limit.value) + 4, limit.label, { size: 12, fill: '#b3261e' }));
  }
  // Labels at the ends of the lines keep a distance, from the bottom upwards.
  let free = Number.POSITIVE_INFINITY;
  for (const { label, colour, values } of series.toSorted((a, b) => (a.values.at(-1) ?? 0) - (b.values.at(-1) ?? 0))) {
    out.push(
      svgLine(
        values.map((value, i) => [x.at(seconds[i] ?? 0), y.at(value)] as const),
        colour,
        { width: 2 },
      ),
    );
    free = Math.min(y.at(values.at(-1) ?? 0) + 4, free - 15);
    out.push(svgText(right + 12, free, label, { size: 12, fill: colour }));
  }
  return out;
};

const colourAt = (i: number): string => colours[i % colours.length] as string;

export const drawSoak = (
  samples: readonly SoakSample[],
  { algorithm, stamps, residentBytesMax }: { algorithm: string; stamps: number; residentBytesMax: number },
): string => {
  const seconds = samples.map(({ second }) => second);
  const memory = (['gateway', 'signer', 'redis'] as const).map((role, i): Series => {
    const values = samples.map(({ residentBytes }) => residentBytes[role] / 1e6);
    return { label: `${role} ${(values.at(-1) ?? 0).toFixed(0)} MB`, colour: colourAt(i), values };
  });
  const keys = [...new Set(samples.flatMap(({ streams }) => Object.keys(streams)))].toSorted();
  const streams = keys.map((key, i): Series => {
    const values = samples.map((sample) => sample.streams[key] ?? 0);
    // A gateway's stream carries its identity; its purpose is what matters here.
    const name = key.replace(/^lane:\{timestamp\}:/, '').replace(/:[^:]{9,}$/, '');
    return { label: `${name} ${(values.at(-1) ?? 0).toLocaleString('en')}`, colour: colourAt(i), values };
  });
  return svgDocument(width, 700, [
    svgText(40, 40, `Sigillo: ${stamps.toLocaleString('en')} stamps, ${algorithm}`, { size: 22, weight: 600 }),
    ...drawPanel({
      title: 'Resident memory, MB',
      top: 105,
      bottom: 370,
      seconds,
      series: memory,
      limit: { value: residentBytesMax / 1e6, label: 'bound for gateway and signer' },
    }),
    ...drawPanel({ title: 'Entries in the streams of Redis', top: 455, bottom: 650, seconds, series: streams }),
  ]);
};
