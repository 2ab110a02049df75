/**
 * When the clock is trusted, as a rule without clock and network: what a round of time servers says goes in, the verdict comes out.
 *
 *   starting --first good round--> trusted --step, offset, uncertain, noQuorum, leap--> that --`goodRounds` good ones--> trusted
 *
 * A round is good when a quorum agrees and the clock is within the bounds. One without a quorum takes no trust away: what was proved
 * holds until `holdoverMs` have passed, which every stamp looks at. One that is not good begins the count of good ones anew.
 */
import type { ClockVerdict } from './clock-memory.ts';

export interface TrustOptions {
  readonly offsetMsMax: number;
  readonly errorMsMax: number;
  readonly goodRounds: number;
}

export interface Trust {
  readonly verdict: ClockVerdict;
  /** Good rounds in a row since trust was lost. */
  readonly goodRounds: number;
}

/** What a round found of the system clock, milliseconds; undefined: no quorum. */
export interface RoundFinding {
  /** UTC less the system clock. */
  readonly offsetMs: number;
  readonly distanceMs: number;
}

/** How a round ended; the closed set of the metric's label. */
export const roundOutcomes = ['good', 'offset', 'uncertain', 'noQuorum'] as const;
export type RoundOutcome = (typeof roundOutcomes)[number];

export const startingTrust: Trust = { verdict: 'starting', goodRounds: 0 };

/** What a round says by itself. */
export const judgeRound = (finding: RoundFinding | undefined, { offsetMsMax, errorMsMax }: TrustOptions): RoundOutcome => {
  if (finding === undefined) return 'noQuorum';
  if (Math.abs(finding.offsetMs) > offsetMsMax) return 'offset';
  return Math.abs(finding.offsetMs) + finding.distanceMs > errorMsMax ? 'uncertain' : 'good';
};

/** Trust after a round. */
export const afterRound = (trust: Trust, outcome: RoundOutcome, options: TrustOptions): Trust => {
  switch (outcome) {
    case 'good': {
      if (trust.verdict === 'trusted') return trust;
      const goodRounds = trust.goodRounds + 1;
      // A start has lost no trust that would have to be won back.
      const trusted = trust.verdict === 'starting' || goodRounds >= options.goodRounds;
      return trusted ? { verdict: 'trusted', goodRounds: 0 } : { ...trust, goodRounds };
    }
    case 'noQuorum':
      return { ...trust, goodRounds: 0 };
    case 'offset':
    case 'uncertain':
      return { verdict: outcome, goodRounds: 0 };
  }
};

/** Trust after it was lost between two rounds: what a stamp was refused for stays until good rounds lift it. */
export const lostTrust = (verdict: Exclude<ClockVerdict, 'trusted' | 'starting'>): Trust => ({ verdict, goodRounds: 0 });
