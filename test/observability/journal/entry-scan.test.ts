import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { SigilloError } from '../../../config/errors.ts';
import { sealEvent } from '../../../observability/journal/chain.ts';
import { scanEntry } from '../../../observability/journal/entry-scan.ts';
import { decodeEvent } from '../../../observability/journal/event-encoding.ts';
import type { EventDraft } from '../../../observability/journal/events.ts';
import { allKinds, draftOf } from './fixtures.ts';

const sealed = allKinds.flatMap((kind) =>
  [true, false].map((optional) => sealEvent({ size: 70_000, hash: Buffer.alloc(32, 0xab) }, draftOf(kind, { optional }))),
);

/** What a reader says: what it read, or that it refused. */
const outcomeOf = (read: () => { sequence: number; kind: string }): string => {
  try {
    const { sequence, kind } = read();
    return `${sequence} ${kind}`;
  } catch (error) {
    assert.ok(error instanceof SigilloError && error.code === 'JOURNAL_MALFORMED', String(error));
    return 'refused';
  }
};
const compare = (octets: Buffer): void => {
  assert.equal(
    outcomeOf(() => scanEntry(octets)),
    outcomeOf(() => decodeEvent(octets)),
    octets.toString('hex'),
  );
};

describe('the scan of an entry', () => {
  test('reads of every kind what decodeEvent reads', () => {
    for (const { event, octets } of sealed) {
      const { sequence, kind, previousAt } = scanEntry(octets);
      assert.deepEqual({ sequence, kind }, { sequence: event.sequence, kind: event.kind });
      assert.equal(octets.subarray(previousAt).toString('hex'), Buffer.from(event.previous).toString('hex'));
    }
  });

  test('sequence numbers of every length', () => {
    for (const size of [0, 23, 24, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER])
      compare(sealEvent({ size, hash: Buffer.alloc(32) }, draftOf('service.stopped', { optional: false })).octets);
  });

  test('refuses what decodeEvent refuses: every truncation, and every change of one octet', () => {
    for (const { octets } of sealed) {
      for (let length = 0; length < octets.length; length += 1) compare(octets.subarray(0, length));
      compare(Buffer.concat([octets, Buffer.of(0)]));
      for (let at = 0; at < octets.length; at += 1) {
        for (const mask of [0x01, 0x20, 0x80, 0xff]) {
          const changed = Buffer.from(octets);
          changed[at] = (changed[at] as number) ^ mask;
          compare(changed);
        }
      }
    }
  });

  test('refuses what decodeEvent refuses: any octets', () => {
    fc.assert(
      fc.property(
        fc.nat(sealed.length - 1),
        fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        fc.uint8Array({ maxLength: 40 }),
        fc.nat(),
        (which, edits, noise, where) => {
          const octets = (sealed[which] as (typeof sealed)[number]).octets;
          const changed = Buffer.from(octets);
          for (const [at, value] of edits) changed[at % changed.length] = value;
          compare(changed);
          const cut = where % octets.length;
          compare(Buffer.concat([octets.subarray(0, cut), noise, octets.subarray(cut)]));
          compare(Buffer.concat([octets.subarray(0, cut), noise, octets.subarray(cut + noise.length)]));
        },
      ),
      { numRuns: 20_000 },
    );
  });

  test('text in any script, and text that is none', () => {
    for (const subject of ['', 'ä', '日本語', '\u{1f512}', '\ufeffx', 'x'.repeat(300)]) {
      const draft = { ...draftOf('service.stopped', { optional: false }), subject } as EventDraft;
      const { octets } = sealEvent({ size: 1, hash: Buffer.alloc(32) }, draft);
      compare(octets);
      assert.equal(scanEntry(octets).sequence, 1);
    }
  });
});
