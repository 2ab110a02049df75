/**
 * Which servers tell the truth, and what they prove together (RFC 5905, 11.2): Marzullo's intersection, then a weighted mean.
 * A server's correctness interval is its UTC plus and minus its distance. Where the most intervals meet says who agrees, and who lies.
 *
 * It does not say how good the agreement is: a liar that overlaps the honest ones narrows where all meet as much as it likes. With at
 * most f liars among n, all that is known is that the n - f honest intervals hold the truth; so the error reaches to the far end of
 * what n - f intervals hold, whoever they are.
 */

export interface TimeCandidate {
  readonly name: string;
  /** UTC less the monotonic clock, milliseconds. */
  readonly utcMs: number;
  /** Root distance now, milliseconds. */
  readonly distanceMs: number;
}

export interface Selection<T extends TimeCandidate> {
  /** Weighted mean of the truechimers: UTC less the monotonic clock. */
  readonly utcMs: number;
  /** Largest error of it, whichever `lyingMax` of the candidates lie. */
  readonly distanceMs: number;
  readonly truechimers: readonly T[];
  readonly falsetickers: readonly T[];
}

/**
 * Intervals are at least so wide when they are compared: servers of a network know each other to microseconds, claim as much, and are
 * a few more apart (MINDISP in practice: ntpd's `tos mindist`).
 */
const mindistMs = 1;

const widthMs = (candidate: TimeCandidate): number => Math.max(candidate.distanceMs, mindistMs);

interface Edge {
  readonly at: number;
  /** -1: an interval begins, +1: it ends. */
  readonly type: -1 | 1;
}

/** Scans from one side to the first point that lies in `wanted` intervals. */
const firstIn = (edges: readonly Edge[], wanted: number, begins: Edge['type']): number | undefined => {
  let inside = 0;
  for (const edge of edges) {
    inside += edge.type === begins ? 1 : -1;
    if (inside >= wanted) return edge.at;
  }
  return undefined;
};

interface Range {
  readonly low: number;
  readonly high: number;
}

/** The outermost points that lie in `wanted` intervals; undefined when there are none. */
const coveredBy = <T extends TimeCandidate>(candidates: readonly T[], wanted: number, width: (one: T) => number): Range | undefined => {
  const edges = candidates.flatMap((candidate): Edge[] => [
    { at: candidate.utcMs - width(candidate), type: -1 },
    { at: candidate.utcMs + width(candidate), type: 1 },
  ]);
  // Where one ends and another begins they touch: the beginning counts first, from either side.
  const low = firstIn(
    edges.toSorted((a, b) => a.at - b.at || a.type - b.type),
    wanted,
    -1,
  );
  const high = firstIn(
    edges.toSorted((a, b) => b.at - a.at || b.type - a.type),
    wanted,
    1,
  );
  return low === undefined || high === undefined ? undefined : { low, high };
};

/** The points in which all but the fewest intervals meet, fewer than half of them left out; undefined when there are none. */
const intersection = (candidates: readonly TimeCandidate[]): Range | undefined => {
  for (let lying = 0; 2 * lying < candidates.length; lying += 1) {
    // Midpoints are not counted, as in today's ntpd: a far server's interval may be wide and rightly hold the truth at its rim.
    const range = coveredBy(candidates, candidates.length - lying, widthMs);
    if (range !== undefined && range.low <= range.high) return range;
  }
  return undefined;
};

/** Most of so many servers that can lie while the others are more than half. */
export const largestMinority = (servers: number): number => Math.max(0, Math.floor((servers - 1) / 2));

/**
 * Where UTC must be, whichever `lyingMax` of them lie. By what they claim: `mindistMs` counts only when too few of them meet without it,
 * because it would cost every one of them a millisecond.
 */
const provedRange = (candidates: readonly TimeCandidate[], lyingMax: number): Range | undefined => {
  // All of those that have answered may be liars when so many are away; then one at least must be believed, or nobody be asked.
  const honestMin = Math.max(1, candidates.length - lyingMax);
  return coveredBy(candidates, honestMin, (one) => one.distanceMs) ?? coveredBy(candidates, honestMin, widthMs);
};

/**
 * Agrees the servers on a time.
 * @param lyingMax of those that were asked, so that the silence of honest ones makes no majority of liars
 * @returns undefined when no majority of the candidates agrees
 */
export const selectTruechimers = <T extends TimeCandidate>(
  candidates: readonly T[],
  lyingMax: number = largestMinority(candidates.length),
): Selection<T> | undefined => {
  const agreed = intersection(candidates);
  const proved = agreed && provedRange(candidates, lyingMax);
  if (agreed === undefined || proved === undefined) return undefined;
  const isTrue = (one: T): boolean => one.utcMs - widthMs(one) <= agreed.high && one.utcMs + widthMs(one) >= agreed.low;
  const truechimers = candidates.filter(isTrue);
  // No server counts for more than what they prove together: one that claims microseconds would else be the mean, and may be the liar.
  const countedMs = (one: T): number => Math.max(widthMs(one), (proved.high - proved.low) / 2);
  // Differences are averaged, not the values: those are too large to keep microseconds when they are multiplied.
  const base = (truechimers[0] as T).utcMs;
  let weights = 0;
  let weighted = 0;
  for (const one of truechimers) {
    weights += 1 / countedMs(one);
    weighted += (one.utcMs - base) / countedMs(one);
  }
  const utcMs = base + weighted / weights;
  const distanceMs = Math.max(proved.high - utcMs, utcMs - proved.low);
  return { utcMs, distanceMs, truechimers, falsetickers: candidates.filter((one) => !isTrue(one)) };
};
