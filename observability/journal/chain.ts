/** The order of the journal: each event gets the next number and the hash of the one before it. */
import { SigilloError } from '../../config/errors.ts';
import { decodeEvent, encodeEvent, hashEvent, hashOctets } from './event-encoding.ts';
import type { EventDraft, JournalEvent } from './events.ts';

/** Where the chain stands: behind the last event. */
export interface ChainHead {
  /** Number that the next event gets, which is the number of events so far. */
  readonly size: number;
  /** Hash of the last event; zeros when there is none. */
  readonly hash: Uint8Array;
}

export const emptyChain: ChainHead = { size: 0, hash: new Uint8Array(hashOctets) };

/** An event in its place, with its canonical octets. */
export interface SealedEvent {
  readonly event: JournalEvent;
  readonly octets: Buffer;
  readonly hash: Buffer;
}

/** Puts a draft behind the head. @throws JOURNAL_MALFORMED; the head is as it was */
export const sealEvent = (head: ChainHead, draft: EventDraft): SealedEvent => {
  const event: JournalEvent = { ...draft, sequence: head.size, previous: head.hash };
  const octets = encodeEvent(event);
  return { event, octets, hash: hashEvent(octets) };
};

/** Whether both are the same end of the same chain. */
export const isSameHead = (a: ChainHead, b: ChainHead): boolean => a.size === b.size && Buffer.compare(a.hash, b.hash) === 0;

/** The head behind an event that was just sealed or followed. */
export const headBehind = ({ event, hash }: SealedEvent): ChainHead => ({ size: event.sequence + 1, hash });

export type ChainFault = 'malformed' | 'missing' | 'repeated' | 'broken';

/** What following one entry found; `at` is the number of the first entry that is not what it was. */
export type ChainStep =
  | { readonly kind: 'follows'; readonly sealed: SealedEvent }
  | { readonly kind: 'fault'; readonly fault: ChainFault; readonly at: number; readonly why: string };

const fault = (kind: ChainFault, at: number, why: string): ChainStep => ({ kind: 'fault', fault: kind, at, why });

/**
 * Checks that an entry is the one that belongs behind the head.
 *
 * `missing` and `repeated` are told by its number, `broken` by its `previous`: then the entry before it, or an entry between
 * them, was replaced, or this one.
 */
export const followChain = (head: ChainHead, octets: Buffer): ChainStep => {
  let event: JournalEvent;
  try {
    event = decodeEvent(octets);
  } catch (error) {
    if (!(error instanceof SigilloError)) throw error;
    return fault('malformed', head.size, error.message);
  }
  if (event.sequence > head.size) return fault('missing', head.size, `entry ${event.sequence} stands where ${head.size} belongs`);
  if (event.sequence < head.size) return fault('repeated', head.size, `entry ${event.sequence} stands where ${head.size} belongs`);
  if (Buffer.compare(event.previous, head.hash) !== 0) {
    return fault('broken', Math.max(0, head.size - 1), `entry ${head.size} was made behind another entry ${head.size - 1}`);
  }
  return { kind: 'follows', sealed: { event, octets, hash: hashEvent(octets) } };
};
