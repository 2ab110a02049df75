/**
 * A signature that is begun anew because its session was lost may wait for a turn to open another: by then the deadline of its request, or
 * the period of its key, may be over. Such a stamp is given up, and its request answered from the start, with the time that it is then.
 */
import type { GuardedClock } from './clock.ts';
import type { TsuUnit } from './tsu-unit.ts';
import type { TsuUnits } from './tsu-units.ts';

/** Thrown through a signature that is not to be made any more; it says nothing of the token. */
export class StampOutdated extends Error {}

/** @returns a check for before each retry (see KeySession), which throws StampOutdated */
export const outdatedCheck =
  (isLate: () => boolean, clock: GuardedClock, units: TsuUnits, unit: TsuUnit): (() => void) =>
  () => {
    const reading = clock.read();
    if (isLate() || reading.kind === 'unavailable' || !units.mayStillStamp(unit, reading.unixMillis)) throw new StampOutdated();
  };
