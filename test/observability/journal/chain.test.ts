import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { decode, encode, rfc8949EncodeOptions } from 'cborg';
import { type ChainHead, emptyChain, followChain, headBehind, type SealedEvent, sealEvent } from '../../../observability/journal/chain.ts';
import { decodeEvent, encodeEvent, eventOctetsMax } from '../../../observability/journal/event-encoding.ts';
import { type EventDraft, eventCatalogue } from '../../../observability/journal/events.ts';
import { checkHostileBytes, isMalformedAs } from '../../support/malformed.ts';
import { allKinds, draftOf } from './fixtures.ts';

const isMalformed = isMalformedAs('JOURNAL_MALFORMED');

const sealAll = (drafts: readonly EventDraft[]): SealedEvent[] => {
  let head: ChainHead = emptyChain;
  return drafts.map((draft) => {
    const sealed = sealEvent(head, draft);
    head = headBehind(sealed);
    return sealed;
  });
};
const stopped = (reason: string): EventDraft => ({ ...draftOf('service.stopped', { optional: false }), detail: { reason } }) as EventDraft;

/** Follows entries from the start; undefined when all of them follow. */
const firstFault = (entries: readonly Buffer[]): { fault: string; at: number } | undefined => {
  let head: ChainHead = emptyChain;
  for (const octets of entries) {
    const step = followChain(head, octets);
    if (step.kind === 'fault') return { fault: step.fault, at: step.at };
    head = headBehind(step.sealed);
  }
  return undefined;
};

describe('the octets of an event', () => {
  for (const kind of allKinds) {
    for (const optional of [true, false]) {
      test(`${kind}, ${optional ? 'with' : 'without'} what is optional: canonical CBOR, and back`, () => {
        const { event, octets } = sealEvent({ size: 7, hash: Buffer.alloc(32, 0xab) }, draftOf(kind, { optional }));
        const value = decode(octets) as unknown[];
        assert.equal(octets.toString('hex'), Buffer.from(encode(value, rfc8949EncodeOptions)).toString('hex'), 'deterministic encoding');
        assert.deepEqual(value.slice(0, 4), [1, 7, event.unixMicros, 'unverified']);
        assert.equal(value[10], eventCatalogue[kind].retention);
        const read = decodeEvent(octets);
        assert.equal(encodeEvent(read).toString('hex'), octets.toString('hex'));
        assert.deepEqual({ ...read, detail: undefined, previous: undefined }, { ...event, detail: undefined, previous: undefined });
      });
    }
  }

  test('hostile octets are read or refused, never anything else', () => {
    const { octets } = sealEvent(emptyChain, draftOf('timestamp.issued', { optional: true }));
    checkHostileBytes(octets, decodeEvent, 'JOURNAL_MALFORMED');
  });

  test('a detail that does not fit its kind is not written', () => {
    const draft = draftOf('timestamp.issued', { optional: true });
    const bad = [{ ...draft.detail, token: 'text' }, { ...draft.detail, certReq: undefined }, {}];
    for (const detail of bad) assert.throws(() => sealEvent(emptyChain, { ...draft, detail } as EventDraft), isMalformed);
  });

  test('the longest event, and one octet more', () => {
    const around = sealEvent(emptyChain, stopped('')).octets.length;
    // Text of that length takes a head of three octets instead of one.
    const longest = eventOctetsMax - around - 2;
    assert.equal(sealEvent(emptyChain, stopped('x'.repeat(longest))).octets.length, eventOctetsMax);
    assert.throws(() => sealEvent(emptyChain, stopped('x'.repeat(longest + 1))), isMalformed);
    assert.throws(() => decodeEvent(Buffer.alloc(eventOctetsMax + 1)), isMalformed);
  });
});

describe('the chain', () => {
  const sealed = sealAll(Array.from({ length: 10 }, (_, i) => stopped(`reason ${i}`)));
  const entries = sealed.map(({ octets }) => octets);

  test('numbers without gap, each behind the hash of the one before', () => {
    assert.deepEqual(
      sealed.map(({ event }) => event.sequence),
      Array.from({ length: 10 }, (_, i) => i),
    );
    assert.equal(firstFault(entries), undefined);
  });

  test('an edited entry: the chain breaks at it', () => {
    const event = decodeEvent(entries[4] as Buffer);
    const edited = encodeEvent({ ...event, actor: 'somebody else' });
    assert.deepEqual(firstFault(entries.with(4, edited)), { fault: 'broken', at: 4 });
  });

  test('a deleted, inserted, swapped or cut entry is named', () => {
    assert.deepEqual(firstFault(entries.toSpliced(3, 1)), { fault: 'missing', at: 3 });
    assert.deepEqual(firstFault(entries.toSpliced(3, 0, entries[2] as Buffer)), { fault: 'repeated', at: 3 });
    assert.deepEqual(firstFault(entries.with(5, entries[6] as Buffer).with(6, entries[5] as Buffer)), { fault: 'missing', at: 5 });
    assert.deepEqual(firstFault(entries.with(8, (entries[8] as Buffer).subarray(1))), { fault: 'malformed', at: 8 });
    assert.deepEqual(firstFault(entries.slice(1)), { fault: 'missing', at: 0 });
  });

  test('an entry of another journal does not follow', () => {
    const other = sealAll([stopped('of another'), stopped('journal')]);
    assert.deepEqual(firstFault([entries[0] as Buffer, other[1]?.octets as Buffer]), { fault: 'broken', at: 0 });
  });
});
