/**
 * The picture of the journal's statistics: one small chart for each kind of event, all over the same time. Each has a scale of its
 * own, because a million stamps and three starts of a service do not fit on one; a logarithmic one where a kind itself needs it.
 *
 * Bars are what happened, which is more than entries where one entry stands for many: a flood is seen as a flood.
 */
import { grid, ink, linearScale, pale, svgColumns, svgDocument, svgLine, svgRectangle, svgText } from '../svg.ts';
import { type EventOutcome, eventOutcomes } from './events.ts';
import { groupIntervals, type KindStatistics, type OutcomeCounts, type Statistics, sumOutcomes } from './statistics.ts';
import { entriesText, lastInstant, rangeText } from './statistics-text.ts';
import { timeTicks } from './time-ticks.ts';

const width = 1_230;
const margin = 40;
/** Room for the numbers of a chart on its left. */
const numbersWidth = 52;
const columnsGap = 30;
const chartsTop = 138;
/** Told apart also by those who see no red or no green (after Okabe and Ito). */
const colours: Readonly<Record<EventOutcome, string>> = { success: '#0072b2', refused: '#e69f00', failure: '#d55e00' };
/** Narrower bars cannot be told apart. */
const barPixels = 4;
const tickPixels = 72;
/** From so many times the least on, the least would be flat on a linear scale. */
const logFrom = 200;
/** Where a logarithmic scale begins, so that a single event is seen. */
const logBottom = 0.7;
const kindCharactersMax = 40;

interface Layout {
  readonly columns: number;
  readonly chartHeight: number;
}
interface Scale {
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
  readonly isLog: boolean;
}
interface Box {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

const layoutFor = (kinds: number): Layout => {
  if (kinds <= 3) return { columns: 1, chartHeight: 130 };
  return kinds <= 8 ? { columns: 2, chartHeight: 100 } : { columns: 3, chartHeight: 72 };
};

/** Kinds come out of rows, which may hold anything; XML cannot. */
const plain = (text: string): string => text.slice(0, kindCharactersMax).replace(/[^\x20-\x7e]/g, '?');

const short = (value: number): string => new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 }).format(value);

const logarithmic = (max: number, { top, bottom }: Box): Scale => {
  const decades = Math.ceil(Math.log10(max));
  const span = Math.log(10 ** decades / logBottom);
  // Three numbers at most, or they touch.
  const step = Math.max(1, Math.ceil(decades / 3));
  const ticks = Array.from({ length: decades + 1 }, (_, i) => 10 ** i).filter((_, i) => (decades - i) % step === 0);
  return { at: (value) => bottom - (Math.log(value / logBottom) / span) * (bottom - top), ticks, isLog: true };
};

const scaleFor = (values: readonly number[], box: Box): Scale => {
  const present = values.filter((value) => value > 0);
  const max = Math.max(...present);
  if (max / Math.min(...present) >= logFrom) return logarithmic(max, box);
  const { at, ticks } = linearScale(max, box.bottom, box.top);
  const top = ticks.at(-1) as number;
  return { at, ticks: top % 2 === 0 ? [0, top / 2, top] : [0, top], isLog: false };
};

/** From the bottom upwards: so that a few failures are seen under a million successes, on a log scale too. */
const stacking: readonly EventOutcome[] = ['failure', 'refused', 'success'];

/** Columns of each outcome, on top of each other. @param edges of the intervals, from left to right */
const columnsOf = (counts: OutcomeCounts, scale: Scale, box: Box, edges: readonly number[]): string[] => {
  const columns: Record<EventOutcome, { x: number; y: number; width: number; height: number }[]> = {
    success: [],
    refused: [],
    failure: [],
  };
  for (let i = 0; i + 1 < edges.length; i += 1) {
    const [x, next] = [edges[i] as number, edges[i + 1] as number];
    const columnWidth = Math.max(1, next - x - Math.min(2, (next - x) / 5));
    let below = 0;
    let y = box.bottom;
    for (const outcome of stacking) {
      const value = counts[outcome][i] as number;
      if (value === 0) continue;
      below += value;
      // What is there at all is seen.
      const top = Math.min(y - 1, scale.at(below));
      columns[outcome].push({ x, y: top, width: columnWidth, height: y - top });
      y = top;
    }
  }
  return stacking.map((outcome) => svgColumns(columns[outcome], colours[outcome])).filter((element) => element !== '');
};

const line = (x1: number, y1: number, x2: number, y2: number, stroke: string): string =>
  svgLine(
    [
      [x1, y1],
      [x2, y2],
    ],
    stroke,
  );

const drawKind = (one: KindStatistics, box: Box, intervals: readonly number[], end: number): string[] => {
  const { left, right, top, bottom } = box;
  const begin = intervals[0] as number;
  const x = (millis: number): number => left + ((millis - begin) / (end - begin)) * (right - left);
  const { counts, total } = one.occurrences;
  const scale = scaleFor(sumOutcomes(counts), box);
  const out = [
    svgText(left, top - 12, plain(one.kind), { size: 13, weight: 600 }),
    svgText(right, top - 12, `${total.toLocaleString('en')}${scale.isLog ? ', log scale' : ''}`, {
      size: 12,
      fill: pale,
      anchor: 'end',
    }),
  ];
  // Above the number, because beside it there is no room in a narrow chart.
  if (total !== one.total) out.push(svgText(right, top - 27, `${entriesText(one.total)} for`, { size: 11, fill: pale, anchor: 'end' }));
  for (const tick of scale.ticks) {
    out.push(line(left, scale.at(tick), right, scale.at(tick), grid));
    out.push(svgText(left - 8, scale.at(tick) + 4, short(tick), { size: 11, fill: pale, anchor: 'end' }));
  }
  for (const { millis, label } of timeTicks(begin, end, Math.floor((right - left) / tickPixels))) {
    out.push(line(x(millis), bottom, x(millis), bottom + 4, pale));
    // At the edges a label would stand over the next chart.
    const anchor = x(millis) < left + 20 ? 'start' : x(millis) > right - 20 ? 'end' : 'middle';
    out.push(svgText(x(millis), bottom + 17, label, { size: 11, fill: pale, anchor }));
  }
  const edges = [...intervals.map(x), right];
  return [...out, ...columnsOf(counts, scale, box, edges), line(left, bottom, right, bottom, pale)];
};

const drawLegend = ({ kinds }: Statistics): string[] => {
  let x = margin;
  return eventOutcomes.flatMap((outcome) => {
    const total = kinds.reduce((sum, { occurrences }) => sum + occurrences.counts[outcome].reduce((a, b) => a + b, 0), 0);
    const label = `${outcome} ${total.toLocaleString('en')}`;
    const at = x;
    x += 40 + 7.5 * label.length;
    return [svgRectangle(at, 75, 12, 12, colours[outcome]), svgText(at + 19, 85.5, label, { size: 13 })];
  });
};

const subtitleOf = ({ by, intervals, total, occurrences }: Statistics, length: number): string => {
  const [first, last] = [intervals[0] as number, intervals.at(-1) as number];
  const each = length === 1 ? `one ${by}` : `${length} ${by}s`;
  const told = occurrences === total ? '' : ` for ${occurrences.toLocaleString('en')} occurrences`;
  return `${entriesText(total)}${told}, ${rangeText(first, last, by)} (UTC); a bar is ${each}`;
};

/** An SVG of all kinds that are there. */
export const drawStatistics = (statistics: Statistics, { title }: { readonly title: string }): string => {
  const heading = svgText(margin, 40, title, { size: 22, weight: 600, fill: ink });
  const count = statistics.kinds.length;
  if (count === 0) return svgDocument(width, 110, [heading, svgText(margin, 70, 'There are no entries.', { fill: pale })]);
  const { columns, chartHeight } = layoutFor(count);
  const columnWidth = (width - 2 * margin - (columns - 1) * columnsGap) / columns;
  const { statistics: grouped, length } = groupIntervals(statistics, Math.floor((columnWidth - numbersWidth) / barPixels));
  const end = lastInstant(statistics);
  const rowHeight = chartHeight + 62;
  const charts = grouped.kinds.flatMap((one, i) => {
    const left = margin + (i % columns) * (columnWidth + columnsGap) + numbersWidth;
    const top = chartsTop + Math.floor(i / columns) * rowHeight;
    const box = { left, right: left + columnWidth - numbersWidth, top, bottom: top + chartHeight };
    return drawKind(one, box, grouped.intervals, end);
  });
  const bottom = chartsTop + Math.ceil(count / columns) * rowHeight;
  const note =
    'Bars are occurrences: an entry may stand for many. Each chart has its own scale. Outcomes stand on top of each other; on a log scale the tops of the bars are what counts.';
  return svgDocument(width, bottom + 20, [
    heading,
    svgText(margin, 62, subtitleOf(statistics, length), { size: 12, fill: pale }),
    ...drawLegend(statistics),
    ...charts,
    svgText(margin, bottom, note, { size: 12, fill: pale }),
  ]);
};
