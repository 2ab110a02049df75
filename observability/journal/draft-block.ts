/**
 * Events on their way to the journal, as one entry of a stream in Redis holds them.
 *
 * Version 1: u8 version, then for each event u32 length and its octets: those of event-encoding.ts with sequence number 0 and
 * a `previous` of zeros, because an event has no place in the journal yet.
 */
import { SigilloError } from '../../config/errors.ts';
import { decodeEvent, encodeEvent, eventOctetsMax, hashOctets } from './event-encoding.ts';
import type { EventDraft } from './events.ts';

const version = 1;
const nowhere = { sequence: 0, previous: new Uint8Array(hashOctets) } as const;

/** @throws JOURNAL_MALFORMED when an event does not fit its kind */
export const encodeDrafts = (drafts: readonly EventDraft[]): Buffer => {
  const parts: Buffer[] = [Buffer.of(version)];
  for (const draft of drafts) {
    const octets = encodeEvent({ ...draft, ...nowhere });
    const length = Buffer.allocUnsafe(4);
    length.writeUInt32BE(octets.length);
    parts.push(length, octets);
  }
  return Buffer.concat(parts);
};

/** @throws JOURNAL_MALFORMED */
export const decodeDrafts = (block: Buffer): EventDraft[] => {
  if (block[0] !== version) throw new SigilloError('JOURNAL_MALFORMED', 'a block of events of another version');
  const drafts: EventDraft[] = [];
  for (let at = 1; at < block.length; ) {
    const length = at + 4 <= block.length ? block.readUInt32BE(at) : Number.POSITIVE_INFINITY;
    if (length > eventOctetsMax || at + 4 + length > block.length)
      throw new SigilloError('JOURNAL_MALFORMED', 'a block of events is cut off');
    drafts.push(decodeEvent(block.subarray(at + 4, at + 4 + length)));
    at += 4 + length;
  }
  return drafts;
};
