/**
 * Rounds of looking through what is stored, a part at a time, for as long as the journal is written. What cannot be checked, for want of
 * time or of a right, is tried again later and later, and holds up nothing else: a round goes on where it was.
 */
import type { PartScrubber } from './scrub.ts';

export interface ScrubRounds {
  /** Begins a round with what reads all of the store. @throws when the store cannot be asked */
  readonly begin: () => Promise<Pick<PartScrubber, 'next' | 'damaged' | 'untried'>>;
  /** The store is away: nothing is asked of it. */
  readonly isDown: () => boolean;
  readonly onDamage: (damaged: ReadonlyMap<string, string>) => void;
  readonly onFailure: (error: unknown) => void;
  /** Waits; at once when the signal comes. */
  readonly pause: (ms: number) => Promise<void>;
  readonly signal: AbortSignal;
}

/** A part a second disturbs nobody; a round a day finds what a disk has lost. */
export const scrubPauseMs = 1_000;
export const scrubRoundMs = 24 * 3_600_000;
/** After a failure a second, then twice as long each time: a right that is missing stays so for hours. */
const retryMsMin = 1_000;
export const scrubRetryMsMax = 3_600_000;
/** With parts that never can be checked a round ends after so many failures in a row: 12 on the way to an hour, then about a day. */
export const scrubFailuresMax = 12 + scrubRoundMs / scrubRetryMsMax;

/** Goes through the store round after round, until the signal. */
export const runScrubRounds = async ({ begin, isDown, onDamage, onFailure, pause, signal }: ScrubRounds): Promise<void> => {
  let round: Awaited<ReturnType<ScrubRounds['begin']>> | undefined;
  let failures = 0;
  while (!signal.aborted) {
    if (isDown()) {
      await pause(scrubPauseMs);
      continue;
    }
    try {
      round ??= await begin();
      const known = round.damaged.size;
      const isChecked = await round.next();
      failures = 0;
      if (round.damaged.size > known) onDamage(round.damaged);
      if (!isChecked) round = undefined;
      await pause(isChecked ? scrubPauseMs : scrubRoundMs);
    } catch (error) {
      if (!signal.aborted) onFailure(error);
      await pause(Math.min(retryMsMin * 2 ** failures, scrubRetryMsMax));
      failures += 1;
      // The others were all checked: it is time to see what became of them.
      if (failures >= scrubFailuresMax && round?.untried === 0) {
        round = undefined;
        failures = 0;
      }
    }
  }
};
