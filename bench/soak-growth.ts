/** Whether anything in a soak grows that should not: rules on the samples, no I/O. */
import type { ByRole } from './process-tree.ts';
import { median, slope } from './statistics.ts';

export interface SoakSample {
  readonly second: number;
  readonly residentBytes: ByRole;
  /** Entries of each stream, by key. */
  readonly streams: Readonly<Record<string, number>>;
}

export interface Growth {
  readonly what: string;
  readonly early: number;
  readonly late: number;
  readonly max: number;
  readonly perMinute: number;
  readonly passed: boolean;
}

/** Bound for gateway and signer, each. */
export const residentBytesMax = 200e6;
/** ClickHouse is embedded in it: 230 MB of its program alone are resident. */
const journalResidentBytesMax = 600e6;
/**
 * A heap fills its young and old generation for a while and shows no leak by that. What leaks even 16 octets a stamp has 16 MB more
 * after a million; so much is let pass, and 5 % of the sampling noise of RSS.
 */
const growthBytesMax = 10e6;
const growthShareMax = 0.05;
/** A stream that is trimmed or read swings by what is in flight, at most. */
const streamSwing = 200;

/** Middle of the samples in a share of the run. */
const between = (values: readonly number[], from: number, to: number): number =>
  median(values.slice(Math.floor(values.length * from), Math.max(1, Math.ceil(values.length * to))));

/** Judges one series: the last fifth of the run against the third one, when everything has long been warm. */
const growthOf = (
  what: string,
  seconds: readonly number[],
  values: readonly number[],
  limit: { early: (early: number) => number; max: number },
): Growth => {
  const early = between(values, 0.4, 0.6);
  const late = between(values, 0.8, 1);
  const max = Math.max(...values);
  const half = values.length >> 1;
  const perMinute = slope(seconds.slice(half), values.slice(half)) * 60;
  return { what, early, late, max, perMinute, passed: late <= limit.early(early) && max <= limit.max };
};

/** What grew: memory of gateway, signer and journal, and the streams. */
export const judgeSoak = (samples: readonly SoakSample[]): Growth[] => {
  const seconds = samples.map(({ second }) => second);
  const memory = (['gateway', 'signer', 'journal'] as const).map((role) =>
    growthOf(
      `${role}, resident bytes`,
      seconds,
      samples.map(({ residentBytes }) => residentBytes[role]),
      {
        early: (early) => Math.max(early + growthBytesMax, early * (1 + growthShareMax)),
        max: role === 'journal' ? journalResidentBytesMax : residentBytesMax,
      },
    ),
  );
  const keys = [...new Set(samples.flatMap(({ streams }) => Object.keys(streams)))].toSorted();
  const streams = keys.map((key) =>
    growthOf(
      `${key}, entries`,
      seconds,
      samples.map((sample) => sample.streams[key] ?? 0),
      {
        early: (early) => early * (1 + growthShareMax) + streamSwing,
        max: Number.POSITIVE_INFINITY,
      },
    ),
  );
  return [...memory, ...streams];
};
