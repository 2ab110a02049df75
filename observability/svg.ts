/** The little SVG the pictures need, written by hand: text, lines, rectangles, and scales with round ticks. */

/** Text that may stand in SVG. */
export const escapeXml = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

/** One decimal is a tenth of a pixel. */
const n = (value: number): string => String(Math.round(value * 10) / 10);

export const ink = '#1f2933';
export const pale = '#6b7785';
export const grid = '#e4e8ec';

export interface TextOptions {
  readonly size?: number;
  readonly anchor?: 'start' | 'middle' | 'end';
  readonly fill?: string;
  readonly weight?: 400 | 600;
}

export const svgText = (x: number, y: number, content: string, options: TextOptions = {}): string =>
  `<text x="${n(x)}" y="${n(y)}" font-size="${options.size ?? 13}" text-anchor="${options.anchor ?? 'start'}" fill="${options.fill ?? ink}"` +
  ` font-weight="${options.weight ?? 400}">${escapeXml(content)}</text>`;

export interface LineOptions {
  readonly width?: number;
  readonly dash?: string;
}

export const svgLine = (points: readonly (readonly [number, number])[], stroke: string, options: LineOptions = {}): string =>
  `<polyline points="${points.map(([x, y]) => `${n(x)},${n(y)}`).join(' ')}" fill="none" stroke="${stroke}" stroke-width="${options.width ?? 1}"` +
  `${options.dash === undefined ? '' : ` stroke-dasharray="${options.dash}"`} stroke-linejoin="round" stroke-linecap="round"/>`;

export const svgRectangle = (x: number, y: number, width: number, height: number, fill: string): string =>
  `<rect x="${n(x)}" y="${n(y)}" width="${n(Math.max(0, width))}" height="${n(height)}" rx="2" fill="${fill}"/>`;

/** Columns of one colour, as one element. */
export const svgColumns = (
  columns: readonly { readonly x: number; readonly y: number; readonly width: number; readonly height: number }[],
  fill: string,
): string => {
  const path = columns.map(({ x, y, width, height }) => `M${n(x)},${n(y)}h${n(width)}v${n(height)}h${n(-width)}z`).join('');
  return path === '' ? '' : `<path d="${path}" fill="${fill}"/>`;
};

export const svgDot = (x: number, y: number, fill: string): string => `<circle cx="${n(x)}" cy="${n(y)}" r="3.5" fill="${fill}"/>`;

export const svgDocument = (width: number, height: number, elements: readonly string[]): string =>
  [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"` +
      ` font-family="Inter, 'Helvetica Neue', 'DejaVu Sans', Arial, sans-serif">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    ...elements,
    '</svg>',
    '',
  ].join('\n');

/** A linear map of [0, max] to [from, to], and its ticks: about five, at 1, 2 or 5 times a power of ten. */
export const linearScale = (max: number, from: number, to: number): { at: (value: number) => number; ticks: number[] } => {
  const rough = (max > 0 ? max : 1) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  const count = Math.max(1, Math.ceil(max / step - 1e-9));
  const top = count * step;
  return {
    at: (value) => from + (value / top) * (to - from),
    // The division undoes the noise of repeated multiplication (0.30000000000000004).
    ticks: Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(12))),
  };
};

/** A logarithmic map of the values' range, widened to whole decades or to 2 and 5 in them. */
export const logScale = (values: readonly number[], from: number, to: number): { at: (value: number) => number; ticks: number[] } => {
  const positive = values.filter((value) => Number.isFinite(value) && value > 0);
  const low = Math.min(...positive, Number.MAX_VALUE);
  const high = Math.max(...positive, Number.MIN_VALUE);
  if (positive.length === 0) return logScale([1, 10], from, to);
  const candidates: number[] = [];
  for (let decade = Math.floor(Math.log10(low)); decade <= Math.ceil(Math.log10(high)); decade += 1) {
    for (const factor of [1, 2, 5]) candidates.push(Number((factor * 10 ** decade).toPrecision(3)));
  }
  const bottom = candidates.findLast((candidate) => candidate <= low) ?? low;
  const top = candidates.find((candidate) => candidate >= high && candidate > bottom) ?? high;
  const span = Math.log(top / bottom);
  return {
    at: (value) => from + (Math.log(value / bottom) / span) * (to - from),
    ticks: candidates.filter((candidate) => candidate >= bottom && candidate <= top),
  };
};
