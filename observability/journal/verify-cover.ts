/**
 * Whether signatures reach far enough over what was verified. Chain and tree alone prove nothing against somebody who can write to the
 * store: all of it can be made anew from entry 0, and the checkpoints left out. So a journal that should have checkpoints, and of which
 * none covers anything that was read, is not valid; a tail that waits longer for one than it should is told.
 */
import { decodeEvent } from './event-encoding.ts';
import type { JournalReader } from './reader.ts';
import type { JournalValid } from './verify-run.ts';
import { asksForCheckpoint } from './writer-options.ts';

/** `journal.checkpoint` of the configuration that the journal is written with. */
export interface CheckpointInterval {
  readonly seconds: number;
  readonly events: number;
}

export interface CoverVerdict {
  /** `late`: more waits for a checkpoint than should; `unsigned`: none covers anything, although one should. */
  readonly kind: 'covered' | 'late' | 'unsigned';
  /** Entries that no checkpoint covers. */
  readonly entries: number;
  /** Between the first of these that is a reason for a checkpoint, and the last. */
  readonly seconds: number;
}

export interface CoverRules {
  readonly interval: CheckpointInterval;
  /** Unset for a copy, which does not say when it was taken: its age is not looked at, only how much time its entries span. */
  readonly now?: Date | undefined;
}

/**
 * A checkpoint that is due waits up to 5 seconds for its signature, as long for its stamp, and 2 seconds after a failure: with the default
 * interval of 10 seconds, what is older than three of them should have one. The least is the same for shorter intervals.
 */
const intervalsMax = 3;
const secondsLeast = 30;
/** While a checkpoint over one interval is signed and stamped, the events of the next come. */
const eventIntervalsMax = 2;

const microsPerSecond = 1_000_000;

/** When the first entry was made that is a reason for a checkpoint; undefined: there is none. The first of the journal always is. */
const firstReason = async (reader: JournalReader, from: number, to: number): Promise<number | undefined> => {
  for await (const place of reader.read(from, to)) {
    if (place.kind === 'expired') continue;
    const event = decodeEvent(place.octets);
    if (from === 0 || asksForCheckpoint(event)) return event.unixMicros;
  }
  return undefined;
};
const timeAt = async (reader: JournalReader, sequence: number): Promise<number | undefined> => {
  for await (const place of reader.read(sequence, sequence + 1)) if (place.kind === 'entry') return decodeEvent(place.octets).unixMicros;
  return undefined;
};

/**
 * Judges what a verification of the store found valid.
 *
 * @throws JOURNAL_STORE_UNAVAILABLE
 */
export const judgeCover = async (reader: JournalReader, valid: JournalValid, { interval, now }: CoverRules): Promise<CoverVerdict> => {
  const { from, to, unanchored: entries } = valid;
  if (entries === 0) return { kind: 'covered', entries, seconds: 0 };
  const first = await firstReason(reader, to - entries, to);
  const last = first === undefined ? undefined : await timeAt(reader, to - 1);
  const secondsTo = (micros: number | undefined): number =>
    first === undefined || micros === undefined ? 0 : Math.max(0, (micros - first) / microsPerSecond);
  const seconds = secondsTo(last);
  const age = Math.max(seconds, now === undefined ? 0 : secondsTo(now.getTime() * 1_000));
  const secondsMax = Math.max(intervalsMax * interval.seconds, secondsLeast);
  if (entries === to - from && (entries >= interval.events || age > secondsMax)) return { kind: 'unsigned', entries, seconds };
  const isLate = entries > eventIntervalsMax * interval.events || seconds > secondsMax;
  return { kind: isLate ? 'late' : 'covered', entries, seconds };
};
