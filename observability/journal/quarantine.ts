/** What becomes of an entry that cannot be read, or whose events do not fit their kinds: an event that holds its octets, for people to look at. */
import type { EventDraft } from './events.ts';
import type { Origin } from './origin.ts';
import { draftOf, type TellClock } from './recorder.ts';

/** An event is 64 KiB at most. */
const partOctets = 48 * 1024;
const reasonCharacters = 500;

/** One event for each part of the entry. */
export const quarantineDrafts = (origin: Omit<Origin, 'index'>, block: Uint8Array, reason: string, clock?: TellClock): EventDraft[] => {
  const parts = Math.max(1, Math.ceil(block.length / partOctets));
  return Array.from({ length: parts }, (_, i) =>
    draftOf(
      {
        kind: 'journal.quarantined',
        subject: `${origin.source} ${origin.millis}-${origin.number}`,
        outcome: 'failure',
        detail: {
          reason: reason.slice(0, reasonCharacters),
          part: i + 1,
          parts,
          octets: block.subarray(i * partOctets, (i + 1) * partOctets),
        },
      },
      'journal',
      clock,
    ),
  );
};
