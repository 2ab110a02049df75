/** The few statistics a benchmark on a noisy machine may quote: medians over rounds, and percentiles of every sample of a round. */

/** What the rounds of one measurement say: the middle, and how far they lay apart. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly rounds: readonly number[];
}

/** Latencies of one round in milliseconds. */
export interface LatencySummary {
  readonly samples: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** Middle value; the mean of the two middle ones when their number is even. NaN without values. */
export const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  const upper = sorted[half] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[half - 1] ?? Number.NaN) + upper) / 2;
};

export const spread = (rounds: readonly number[]): Spread => ({
  median: median(rounds),
  min: rounds.length === 0 ? Number.NaN : Math.min(...rounds),
  max: rounds.length === 0 ? Number.NaN : Math.max(...rounds),
  rounds: [...rounds],
});

/** Half the distance between the extremes, as a share of the median: the "±" of the tables. */
export const relativeSpread = ({ median: middle, min, max }: Spread): number => (max - min) / 2 / middle;

/** Nearest-rank percentile of ascending values: an observed value, never an interpolated one. NaN without values. */
export const percentile = (ascending: ArrayLike<number>, share: number): number =>
  ascending[Math.min(ascending.length, Math.max(1, Math.ceil(ascending.length * share))) - 1] ?? Number.NaN;

/** Sorts the samples in place. */
export const summarizeLatencies = (samples: Float64Array): LatencySummary => {
  samples.sort();
  return {
    samples: samples.length,
    p50: percentile(samples, 0.5),
    p99: percentile(samples, 0.99),
    p999: percentile(samples, 0.999),
    max: percentile(samples, 1),
  };
};

/** Slope of the least-squares line through the points, in units of y per unit of x. */
export const slope = (xs: readonly number[], ys: readonly number[]): number => {
  const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
  const meanX = mean(xs);
  const meanY = mean(ys);
  let covariance = 0;
  let variance = 0;
  for (const [i, x] of xs.entries()) {
    covariance += (x - meanX) * ((ys[i] ?? Number.NaN) - meanY);
    variance += (x - meanX) ** 2;
  }
  return covariance / variance;
};

/** Keeps every sample in one array that doubles: a percentile of percentiles, or of buckets of whole milliseconds, would say nothing. */
export class SampleRecorder {
  #samples = new Float64Array(1 << 16);
  #length = 0;

  record(value: number): void {
    if (this.#length === this.#samples.length) {
      const larger = new Float64Array(this.#samples.length * 2);
      larger.set(this.#samples);
      this.#samples = larger;
    }
    this.#samples[this.#length] = value;
    this.#length += 1;
  }

  /** A copy of what was recorded. */
  samples(): Float64Array {
    return this.#samples.slice(0, this.#length);
  }
}
