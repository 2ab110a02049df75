/**
 * Which servers tell the truth, and what they prove together (RFC 5905, 11.2): Marzullo's intersection, then a weighted mean.
 * A server's correctness interval is its UTC plus and minus its distance. As long as fewer than half of them lie, the truth is
 * where the most intervals meet.
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
  /** Largest error of it, when one truechimer at least knows how good it is. */
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

/** The points in which all but the fewest intervals meet, fewer than half of them left out; undefined when there are none. */
const intersection = (candidates: readonly TimeCandidate[]): { low: number; high: number } | undefined => {
  const edges = candidates.flatMap((candidate): Edge[] => [
    { at: candidate.utcMs - widthMs(candidate), type: -1 },
    { at: candidate.utcMs + widthMs(candidate), type: 1 },
  ]);
  // Where one ends and another begins they touch: the beginning counts first, from either side.
  const ascending = edges.toSorted((a, b) => a.at - b.at || a.type - b.type);
  const descending = edges.toSorted((a, b) => b.at - a.at || b.type - a.type);
  for (let lying = 0; 2 * lying < candidates.length; lying += 1) {
    const low = firstIn(ascending, candidates.length - lying, -1);
    const high = firstIn(descending, candidates.length - lying, 1);
    // Midpoints are not counted, as in today's ntpd: a far server's interval may be wide and rightly hold the truth at its rim.
    if (low !== undefined && high !== undefined && low <= high) return { low, high };
  }
  return undefined;
};

/** Agrees the servers on a time. @returns undefined when no majority of them agrees */
export const selectTruechimers = <T extends TimeCandidate>(candidates: readonly T[]): Selection<T> | undefined => {
  const agreed = intersection(candidates);
  if (agreed === undefined) return undefined;
  const isTrue = (one: T): boolean => one.utcMs - widthMs(one) <= agreed.high && one.utcMs + widthMs(one) >= agreed.low;
  const truechimers = candidates.filter(isTrue);
  // Differences are averaged, not the values: those are too large to keep microseconds when they are multiplied.
  const base = (truechimers[0] as T).utcMs;
  let weights = 0;
  let weighted = 0;
  for (const one of truechimers) {
    weights += 1 / widthMs(one);
    weighted += (one.utcMs - base) / widthMs(one);
  }
  const utcMs = base + weighted / weights;
  const distanceMs = Math.min(...truechimers.map((one) => one.distanceMs + Math.abs(one.utcMs - utcMs)));
  return { utcMs, distanceMs, truechimers, falsetickers: candidates.filter((one) => !isTrue(one)) };
};
