/** What clients see of changes of keys: their waiting around the changes, beside that at all other times of the same run. */

const switchesMin = 10;
/**
 * Ten changes of 0.2 s at 1,500 requests a second are 3,000 answers, and their p99 is the thirtieth slowest: one pause of a process that falls
 * there by chance is as many. Half as much again as elsewhere, and 5 ms, is what such a pause makes of it, and less than anybody sees.
 */
const nearFactorMax = 1.5;
const nearMoreMsMax = 5;
const nearMs = 100;

/** For the report. */
export const rotationsWanted = `${switchesMin} changes, and a p99 near them of at most ${nearFactorMax} times that elsewhere and ${nearMoreMsMax} ms`;

interface Quantiles {
  readonly p50: number;
  readonly p99: number;
}

/** Median and p99 of the answers around the changes, and of all others. */
export const aroundSwitches = (
  timeline: readonly (readonly [number, number])[],
  switchesMs: readonly number[],
): { readonly near: Quantiles; readonly others: Quantiles } => {
  const isNear = (atMs: number): boolean => switchesMs.some((switchMs) => Math.abs(atMs - switchMs) <= nearMs);
  const quantiles = (values: number[]): Quantiles => {
    const sorted = values.toSorted((a, b) => a - b);
    const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
    return { p50: at(0.5), p99: at(0.99) };
  };
  return {
    near: quantiles(timeline.filter(([atMs]) => isNear(atMs)).map(([, latencyMs]) => latencyMs)),
    others: quantiles(timeline.filter(([atMs]) => !isNear(atMs)).map(([, latencyMs]) => latencyMs)),
  };
};

interface Rotations {
  readonly switches: number;
  readonly errors: number;
  readonly near: Quantiles;
  readonly others: Quantiles;
}

/** Enough changes were seen, no request failed, and clients cannot tell by their waiting when a key was changed. */
export const rotationsPass = ({ switches, errors, near, others }: Rotations): boolean =>
  switches >= switchesMin && errors === 0 && near.p99 <= nearFactorMax * others.p99 + nearMoreMsMax;
