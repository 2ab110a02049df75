/** Rows that are no entries, where verification and export need what they should hold: named, also when they lie outside the range. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { describe, test } from 'node:test';
import { writeBundle } from '../../../observability/journal/bundle.ts';
import type { SealedEvent } from '../../../observability/journal/chain.ts';
import { encodeEvent } from '../../../observability/journal/event-encoding.ts';
import { publishedChains } from '../../../observability/journal/told-events.ts';
import { type VerifyOptions, verifyJournal } from '../../../observability/journal/verify.ts';
import { verifyBundle } from '../../../observability/journal/verify-bundle.ts';
import { tokenVerifier } from '../../../observability/journal/verify-token.ts';
import { tamperedJournal } from './tampered-journal.ts';

const expiring = 'service-202701';

describe('rows that cannot be read', () => {
  /** 700 entries: a chain at 10 and 400, stamped checkpoints of 128, 256, 384, 512 and 640, the expiry of January at 300. */
  const world = tamperedJournal((journal, tsu) => {
    while (journal.size < 700) {
      const { size } = journal;
      if (size === 300) {
        journal.unixMicros = Date.UTC(2027, 7, 2) * 1_000;
        journal.append(journal.expiry(expiring));
      } else if (size === 10 || size === 400) journal.append({ kind: 'tsu.published', detail: { chain: tsu.chain } });
      else if (size % 128 === 0 && size > 0) journal.append(journal.checkpoint(tsu.stamp));
      else if (size % 5 === 2) journal.stopped(`reason ${size}`);
      else journal.stamp();
    }
  }, expiring);
  const { key, journal } = world;
  const at = (sequence: number): SealedEvent => journal.sealed[sequence] as SealedEvent;

  /** As `sigillo journal verify` does it. */
  const told = async (options: Partial<VerifyOptions> = {}): Promise<string> => {
    const { chains, unreadable } = await publishedChains(world.tampered.client);
    const verifyToken = tokenVerifier(world.tsu.roots, chains);
    const verdict = await verifyJournal(world.reader, { keys: [key], verifyToken, unreadable, ...options });
    return verdict.kind === 'valid' ? `valid ${verdict.from}-${verdict.to}` : `${verdict.fault} ${verdict.at}-${verdict.until}`;
  };
  const spoil = (sequence: number, octets: Buffer = randomBytes(300)): Promise<void> =>
    world.tampered.replace(sequence, { ...at(sequence), octets });

  test('as it was written', async () => {
    assert.equal(await told(), 'valid 0-700');
    assert.equal(await told({ from: 200, to: 250 }), 'valid 128-256');
  });

  test('the chain of a TSU: in what is read, before it, and behind it', async () => {
    await spoil(400);
    assert.equal(await told(), 'malformed 400-401');
    // Another entry has the same chain.
    assert.equal(await told({ from: 513, to: 600 }), 'malformed 400-401');
    assert.equal(await told({ from: 20, to: 100 }), 'malformed 400-401');
    await spoil(10);
    assert.equal(await told(), 'malformed 10-11');
    // No timestamp has its certificates now, and that is not where the fault is.
    assert.equal(await told({ from: 513, to: 600 }), 'malformed 10-11');
  });

  test('what is wrong in the range comes first', async () => {
    await spoil(10);
    await spoil(530);
    assert.equal(await told({ from: 520, to: 600 }), 'malformed 530-531');
  });

  test('the event of an expiry: in what is read, and behind it', async () => {
    await spoil(300);
    assert.equal(await told(), 'malformed 300-301');
    assert.equal(await told({ from: 20, to: 100 }), 'malformed 300-301');
  });

  test('a row that pretends to be a later event of that expiry', async () => {
    await world.tampered.put(9_000, { ...at(300), octets: randomBytes(300) });
    assert.equal(await told({ from: 20, to: 100 }), 'malformed 9000-9001');
    assert.notEqual(await told(), 'valid 0-700');
  });

  test('an event of that expiry that claims a place in the range, and stands elsewhere, proves nothing', async () => {
    // Nobody has followed it in the chain, so somebody who can write to the store may have made it.
    const forged = encodeEvent({ ...at(300).event, sequence: 50 });
    await world.tampered.put(9_000, { ...at(300), octets: forged });
    const unproven = async (): Promise<unknown> => {
      const verdict = await verifyJournal(world.reader, { keys: [key], from: 20, to: 100 });
      return verdict.kind === 'valid' && verdict.expiryUnproven;
    };
    assert.deepEqual(await unproven(), [], 'the genuine one, which stands where it says, proves it');
    await world.tampered.delete('sequence = 300');
    assert.deepEqual(await unproven(), [expiring]);
  });

  test('longer than any entry, as the last before the range', async () => {
    // At 512 the stored tree is made of whole parts, so that entry 511 is needed for nothing but the chain.
    await spoil(511, randomBytes(70_000));
    assert.equal(await told({ from: 520, to: 600 }), 'malformed 511-512');
    assert.equal(await told(), 'malformed 511-512');
  });

  const exported = async (): Promise<string> => {
    const chunks: Buffer[] = [];
    for await (const chunk of writeBundle(world.reader, { from: 450, to: 500, key })) chunks.push(chunk);
    const verdict = await verifyBundle(Readable.from(chunks), { keys: [key], roots: world.tsu.roots });
    return verdict.kind === 'valid' ? `valid, stamped ${verdict.checkpointTime !== undefined}` : verdict.fault;
  };
  test('an export needs one chain, and not all of them', async () => {
    assert.equal(await exported(), 'valid, stamped true');
    await spoil(10);
    assert.equal(await exported(), 'valid, stamped true');
    await spoil(400);
    await assert.rejects(
      exported(),
      (error: Error & { code?: string }) => error.code === 'JOURNAL_MALFORMED' && /Entry 10 /.test(error.message),
    );
  });
});
