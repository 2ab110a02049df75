import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import type { SealedEvent } from '../../../observability/journal/chain.ts';
import type { JournalEvent } from '../../../observability/journal/events.ts';
import { publishedChains } from '../../../observability/journal/told-events.ts';
import { type VerifyOptions, verifyJournal } from '../../../observability/journal/verify.ts';
import type { JournalVerdict } from '../../../observability/journal/verify-run.ts';
import { type TokenVerifier, tokenVerifier } from '../../../observability/journal/verify-token.ts';
import { editedOctets, journalKey, noteOf, TestJournal } from './signed-journal.ts';
import { tamperedJournal } from './tampered-journal.ts';

const expiring = 'service-202701';
const retentionMonths = { certificate: 240, timestamp: 240, mail: 30, service: 6 };

/** What a verdict says, short enough to compare. */
const told = (verdict: JournalVerdict): string =>
  verdict.kind === 'valid' ? `valid ${verdict.from}-${verdict.to}` : `${verdict.fault} ${verdict.at}-${verdict.until}`;

describe('verification of the stored journal', () => {
  /** Checkpoints: size, and sequence number of the event. */
  const checkpoints: { size: number; at: number }[] = [];
  /** 3,000 entries; a checkpoint every 400, told 7 entries later, every second with a timestamp; January 2027 expired in August. */
  const world = tamperedJournal((journal, tsu) => {
    journal.append({ kind: 'tsu.published', subject: 'x', detail: { chain: tsu.chain } });
    let waiting: { from: number; event: ReturnType<TestJournal['checkpoint']> } | undefined;
    while (journal.size < 3_000) {
      if (journal.size === 1_500) {
        journal.unixMicros = Date.UTC(2027, 7, 2) * 1_000;
        journal.append(journal.expiry(expiring));
      }
      if (journal.size % 400 === 0) {
        const event = journal.checkpoint(checkpoints.length % 2 === 0 ? tsu.stamp : undefined);
        checkpoints.push({ size: journal.size, at: journal.size + 7 });
        waiting = { from: journal.size + 7, event };
      }
      if (waiting !== undefined && journal.size === waiting.from) {
        journal.append(waiting.event);
        waiting = undefined;
      } else if (journal.size % 5 === 2) journal.stopped(`reason ${journal.size}`);
      else journal.stamp();
    }
  }, expiring);
  const { key, journal } = world;
  let verifyToken: TokenVerifier;
  before(async () => {
    verifyToken = tokenVerifier(world.tsu.roots, (await publishedChains(world.tampered.client)).chains);
  });
  const at = (sequence: number): SealedEvent => journal.sealed[sequence] as SealedEvent;

  const verify = (options: Partial<VerifyOptions> = {}): Promise<JournalVerdict> =>
    verifyJournal(world.reader, { keys: [key], verifyToken, retentionMonths, now: new Date(journal.unixMicros / 1_000), ...options });
  const expectTold = async (expected: string, options: Partial<VerifyOptions> = {}): Promise<JournalVerdict> => {
    const verdict = await verify(options);
    assert.equal(told(verdict), expected, JSON.stringify(verdict));
    return verdict;
  };
  const anchorOf = (size: number): string => noteOf(key, size, rootOf(size));
  const rootOf = (size: number): Uint8Array => {
    const cut = new TestJournal(key);
    for (const { hash } of journal.sealed.slice(0, size)) cut.tree.append(hash);
    return cut.tree.root();
  };

  test('whole: what is counted', async () => {
    const progress: [number, number][] = [];
    const verdict = await expectTold('valid 0-3000', { onProgress: (count, total) => progress.push([count, total]) });
    assert.ok(verdict.kind === 'valid');
    const gone = journal.entriesOf(expiring).length;
    assert.ok(gone > 200);
    assert.deepEqual(
      { ...verdict, head: undefined, root: undefined, lastTimestamp: undefined },
      {
        kind: 'valid',
        from: 0,
        to: 3_000,
        head: undefined,
        root: undefined,
        entries: 3_000 - gone,
        expired: gone,
        checkpoints: 7,
        timestamped: 4,
        lastTimestamp: undefined,
        uncompared: 0,
        unanchored: 200,
        expiryUnproven: [],
      },
    );
    assert.equal(Buffer.compare(verdict.root, journal.tree.root()), 0);
    assert.equal(Buffer.compare(verdict.head.hash, journal.head.hash), 0);
    assert.ok((verdict.lastTimestamp?.getTime() ?? 0) > Date.UTC(2027, 7, 2));
    assert.deepEqual(progress.at(-1), [3_000, 3_000]);
  });

  describe('a range is widened to the checkpoints around it', () => {
    for (const [from, to, expected] of [
      [900, 1_000, '800-1200'],
      [100, 200, '0-400'],
      [800, 1_200, '800-1200'],
      [2_500, 2_600, '2400-2800'],
      [2_900, 2_950, '2800-3000'],
      [1_700, 9_999, '1600-3000'],
    ] as const) {
      test(`${from} to ${to}`, async () => {
        const verdict = await expectTold(`valid ${expected}`, { from, to });
        assert.deepEqual(verdict.kind === 'valid' && verdict.expiryUnproven, []);
      });
    }
    test('its expiry is proven by the event and all that stays of the partition, though both lie elsewhere', async () => {
      const event = journal.sealed.find(({ event: { kind } }) => kind === 'journal.expired') as SealedEvent;
      await world.tampered.put(3_000, event);
      await world.tampered.delete('sequence = 3000');
      const verdict = await verify({ from: 900, to: 1_000 });
      assert.ok(verdict.kind === 'valid' && verdict.expired > 0 && verdict.expiryUnproven.length === 0);
    });
    test('an event of expiry that no checkpoint covers proves nothing', async () => {
      // The event is gone where it was, and stands at the end.
      await world.tampered.delete('sequence >= 1500');
      const verdict = await verify({ from: 100, to: 200 });
      assert.equal(told(verdict), 'expiry-unexplained 2-398');
      await world.tampered.put(1_500, at(1_500));
      const unproven = await verify({ from: 100, to: 200 });
      assert.deepEqual(unproven.kind === 'valid' && unproven.expiryUnproven, [expiring]);
    });
    test('what is changed outside of it is not seen, inside of it it is', async () => {
      await world.tampered.replace(1_003, { ...at(1_003), octets: editedOctets(at(1_003).event) });
      await expectTold('valid 1600-2000', { from: 1_700, to: 1_800 });
      await expectTold('altered 1003-1004', { from: 1_003, to: 1_004 });
    });
    test('a stored tree that was changed is told from changed entries', async () => {
      await world.tampered.run(`ALTER TABLE journal_tree UPDATE hash = unhex('${'00'.repeat(32)}') WHERE level = 8 AND number = 1`);
      await expectTold('tree 0-1600', { from: 1_700, to: 1_800 });
      await expectTold('valid 0-3000');
    });
  });

  describe('tampering names the place', () => {
    for (const k of [3, 803, 1_600, 2_997, 2_998]) {
      test(`edit of entry ${k}`, async () => {
        await world.tampered.replace(k, { ...at(k), octets: editedOctets(at(k).event) });
        // Nothing behind the one behind it says which of the two it was.
        await expectTold(`altered ${k}-${k === 2_998 ? k + 2 : k + 1}`);
      });
    }
    test('edit of the newest entry: only a checkpoint that covers it tells', async () => {
      await world.tampered.replace(2_999, { ...at(2_999), octets: editedOctets(at(2_999).event) });
      const verdict = await expectTold('valid 0-3000');
      assert.equal(verdict.kind === 'valid' && verdict.unanchored, 200);
      await expectTold('rewritten 2800-3000', { anchors: [anchorOf(3_000)] });
    });
    test('octets that are no entry', async () => {
      await world.tampered.replace(801, { ...at(801), octets: at(801).octets.subarray(1) });
      await expectTold('malformed 801-802');
    });
    for (const k of [0, 801, 1_599, 2_998]) {
      test(`delete of entry ${k}`, async () => {
        await world.tampered.delete(`sequence = ${k}`);
        await expectTold(`missing ${k}-${k + 1}`);
      });
    }
    test('delete of what stays of an expired entry', async () => {
      const [{ event }] = journal.entriesOf(expiring) as [SealedEvent];
      await world.tampered.delete(`sequence = ${event.sequence}`, 'journal_expired');
      await expectTold(`missing ${event.sequence}-${event.sequence + 1}`);
    });
    test('insert of the same entry, of another with its number, and of one with another number', async () => {
      await world.tampered.put(801, at(801));
      await expectTold('repeated 801-802');
      await world.tampered.restore();
      await world.tampered.put(801, { ...at(801), octets: editedOctets(at(801).event) });
      await expectTold('repeated 801-802');
      await world.tampered.restore();
      await world.tampered.put(801, at(1_001));
      assert.match(told(await verify()), /^(missing|repeated|reordered) 80[12]-/);
    });
    test('insert with everything behind it made anew', async () => {
      const forged = new TestJournal(key);
      for (const { event } of journal.sealed) {
        if (event.sequence === 2_450) forged.stopped('never happened');
        forged.append(event);
      }
      await world.tampered.delete('sequence >= 2450');
      await world.tampered.insert(forged.sealed.slice(2_450));
      const verdict = await expectTold('rewritten 2400-2800');
      assert.match(verdict.kind === 'fault' ? verdict.why : '', /entry 2808/);
    });
    for (const k of [801, 2_997]) {
      test(`swap of entries ${k} and ${k + 1}`, async () => {
        await world.tampered.replace(k, { ...at(k + 1) });
        await world.tampered.replace(k + 1, { ...at(k) });
        await expectTold(`reordered ${k}-${k + 1}`);
      });
    }
    test("two entries with each other's content", async () => {
      const [a, b] = [at(1_801), at(1_804)];
      const event = (one: SealedEvent, other: SealedEvent): JournalEvent => ({
        ...other.event,
        sequence: one.event.sequence,
        previous: one.event.previous,
      });
      await world.tampered.replace(1_801, { ...a, octets: editedOctets(event(a, b)) });
      await world.tampered.replace(1_804, { ...b, octets: editedOctets(event(b, a)) });
      await expectTold('altered 1801-1802');
    });
    test('cut in the middle of the tail, and at the head', async () => {
      await world.tampered.delete('sequence >= 2900 AND sequence < 2950');
      await expectTold('missing 2900-2901');
      await world.tampered.restore();
      await world.tampered.delete('sequence >= 2900');
      await expectTold('valid 0-2900');
      await expectTold('valid 0-2900', { anchors: [anchorOf(2_900), anchorOf(2_800)] });
      await expectTold('truncated 2900-2901', { anchors: [anchorOf(2_800), anchorOf(2_950)] });
    });
    test('cut back to before a checkpoint that a client holds', async () => {
      await world.tampered.delete('sequence >= 2000');
      await expectTold('valid 0-2000');
      await expectTold('truncated 2000-2001', { anchors: [anchorOf(2_400)] });
    });
    test('an entry changed and everything behind it made anew', async () => {
      const changed = journal.rewriteFrom(2_401, (event) => ({ ...event, node: 'forged' }) as JournalEvent);
      await world.tampered.delete('sequence >= 2401');
      await world.tampered.insert(changed);
      await expectTold('rewritten 2400-2800');
      // A checkpoint that somebody holds says more.
      await expectTold('rewritten 2400-2500', { anchors: [anchorOf(2_500)] });
      await expectTold('rewritten 2401-2500', { anchors: [anchorOf(2_500), anchorOf(2_401)] });
    });
  });

  describe('checkpoints', () => {
    const { size, at: place } = { size: 2_000, at: 2_007 };
    const replaceNote = async (note: string): Promise<void> => {
      const event = { ...at(place).event, detail: { note } } as JournalEvent;
      const changed = journal.rewriteFrom(place, () => event);
      await world.tampered.delete(`sequence >= ${place}`);
      await world.tampered.insert(changed);
    };
    test('signed by another key', async () => {
      await replaceNote(noteOf(journalKey(), size, rootOf(size)));
      await expectTold(`checkpoint-signature ${place}-${place + 1}`);
    });
    test('of another root, signed by another key', async () => {
      await replaceNote(noteOf(journalKey(), size, rootOf(size - 1)));
      await expectTold(`checkpoint-signature ${place}-${place + 1}`);
    });
    test('of another root, signed by the key of the journal', async () => {
      await replaceNote(noteOf(key, size, rootOf(size - 1)));
      await expectTold(`rewritten 1600-${size}`);
    });
    test('of another size than the event says', async () => {
      await replaceNote(noteOf(key, size - 1, rootOf(size - 1)));
      await expectTold(`checkpoint-malformed ${place}-${place + 1}`);
    });
    test('changed in its place', async () => {
      const event = { ...at(place).event, detail: { note: 'no note' } } as JournalEvent;
      await world.tampered.replace(place, { event, octets: editedOctets(event) });
      await expectTold(`checkpoint-signature ${place}-${place + 1}`);
      await expectTold(`checkpoint-signature ${place}-${place + 1}`, { from: 1_900, to: 1_950 });
    });
    test('rows that lie about their size lead nobody astray', async () => {
      const lie = (size: string): Promise<void> =>
        world.tampered.run(`ALTER TABLE journal_events UPDATE subject = '${size}' WHERE sequence = ${place}`);
      await lie('999999');
      await expectTold('valid 1600-2000', { from: 1_900, to: 1_950 });
      await lie('x');
      await expectTold('valid 0-2400', { from: 1_900, to: 1_950 });
      await lie('1650');
      await expectTold('valid 0-2400', { from: 1_700, to: 1_950 });
    });
    test('another key is expected', async () => {
      await expectTold('checkpoint-signature 407-408', { keys: [journalKey()] });
      await expectTold('valid 0-3000', { keys: [journalKey(), key] });
      await expectTold('checkpoint-signature 407-408', { keys: [] });
    });
    test('a timestamp over something else', async () => {
      const { detail } = at(407).event as JournalEvent & { kind: 'journal.checkpoint' };
      const event = {
        ...at(407).event,
        detail: { ...detail, token: world.tsu.stamp(Buffer.from('other'), Date.UTC(2027, 5, 1)) },
      } as JournalEvent;
      await world.tampered.delete('sequence >= 407');
      await world.tampered.insert(journal.rewriteFrom(407, () => event));
      const verdict = await expectTold('checkpoint-timestamp 407-408');
      assert.match(verdict.kind === 'fault' ? verdict.why : '', /imprint-mismatch/);
    });
    test('a timestamp of a stranger, and of a TSU that nobody published', async () => {
      await expectTold('checkpoint-timestamp 407-408', { verifyToken: tokenVerifier([], [world.tsu.chain]) });
      const verdict = await expectTold('checkpoint-timestamp 407-408', { verifyToken: tokenVerifier(world.tsu.roots, []) });
      assert.match(verdict.kind === 'fault' ? verdict.why : '', /signer-certificate-missing/);
      await expectTold('valid 0-3000', { verifyToken: undefined });
    });
    test('held elsewhere: by another key, of another journal, of another root', async () => {
      await expectTold('anchor-signature 0-0', { anchors: [noteOf(journalKey(), 100, rootOf(100))] });
      await expectTold('anchor-signature 0-0', { anchors: [noteOf(journalKey('other.example.com'), 100, rootOf(100))] });
      await expectTold('rewritten 2000-2100', { anchors: [anchorOf(1_000), noteOf(key, 2_100, rootOf(2_099))] });
    });
  });

  describe('expired entries', () => {
    const first = (): number => (journal.entriesOf(expiring)[0] as SealedEvent).event.sequence;
    const last = (): number => (journal.entriesOf(expiring).at(-1) as SealedEvent).event.sequence;

    test('an entry that is only said to be expired: by no event', async () => {
      await world.tampered.delete('sequence = 1000');
      const hash = at(1_000).hash.toString('hex');
      await world.tampered.run(
        `INSERT INTO journal_expired (sequence, partition, hash) VALUES (1000, 'timestamp-202701', unhex('${hash}'))`,
      );
      await expectTold('expiry-unexplained 1000-1001');
      await expectTold('expiry-unexplained 1000-1001', { from: 900, to: 1_100 });
    });
    test('an entry that is only said to be expired: with the partition of others', async () => {
      await world.tampered.delete('sequence = 1000');
      const hash = at(1_000).hash.toString('hex');
      await world.tampered.run(`INSERT INTO journal_expired (sequence, partition, hash) VALUES (1000, '${expiring}', unhex('${hash}'))`);
      await expectTold(`expiry-altered ${first()}-${last() + 1}`);
      const verdict = await verify({ from: 900, to: 1_100 });
      assert.equal(verdict.kind === 'fault' && verdict.fault, 'expiry-altered');
    });
    test('another partition than it was', async () => {
      await world.tampered.run(`ALTER TABLE journal_expired UPDATE partition = 'service-202612' WHERE sequence = ${first()}`);
      const verdict = await verify();
      assert.ok(verdict.kind === 'fault' && verdict.fault.startsWith('expiry-') && verdict.at <= first() + 5);
    });
    test('another hash: the entry behind it, or the checkpoint, tells', async () => {
      await world.tampered.run(`ALTER TABLE journal_expired UPDATE hash = unhex('${'ab'.repeat(32)}') WHERE sequence = ${first()}`);
      await expectTold(`altered ${first()}-${first() + 1}`);
    });
    test('what is no hash', async () => {
      await world.tampered.run(`ALTER TABLE journal_expired UPDATE hash = 'short' WHERE sequence = ${first()}`);
      await expectTold(`malformed ${first()}-${first() + 1}`);
    });
    test('a moment at which both are there', async () => {
      await world.tampered.insert(journal.entriesOf(expiring).slice(0, 100));
      const verdict = await expectTold('valid 0-3000');
      assert.equal(verdict.kind === 'valid' && verdict.expired, journal.entriesOf(expiring).length - 100);
    });
    test('an expired place in the middle of a pair that is there twice', async () => {
      await world.tampered.put(first(), { ...at(first()), octets: editedOctets(at(first()).event) });
      await expectTold(`repeated ${first()}-${first() + 1}`);
    });
    for (const [what, change] of [
      ['digest', { hashesSha256: Buffer.alloc(32) }],
      ['last hash', { lastHash: Buffer.alloc(32) }],
      ['number', { entries: 7 }],
      ['first', { first: 0 }],
      ['class', { retention: 'mail' }],
    ] as const) {
      test(`the event says another ${what}`, async () => {
        const { event } = at(1_500) as { event: JournalEvent & { kind: 'journal.expired' } };
        const changed = journal.rewriteFrom(1_500, () => ({ ...event, detail: { ...event.detail, ...change } }) as JournalEvent);
        await world.tampered.delete('sequence >= 1500');
        // Only up to the next checkpoint: its root would tell.
        await world.tampered.insert(changed.slice(0, 50));
        await expectTold(`expiry-altered ${first()}-${last() + 1}`);
      });
    }
    test('before its time', async () => {
      await expectTold(`expiry-early ${first()}-${last() + 1}`, { retentionMonths: { ...retentionMonths, service: 7 } });
      await expectTold('valid 0-3000', { retentionMonths: { ...retentionMonths, service: 6 } });
      await expectTold(`expiry-early ${first()}-${last() + 1}`, { now: new Date(Date.UTC(2027, 7, 1)) });
    });
  });

  test('an empty journal, and one that holds less than a client knows', async () => {
    await world.tampered.run('TRUNCATE TABLE journal_events');
    await world.tampered.run('TRUNCATE TABLE journal_expired');
    await expectTold('valid 0-0');
    await expectTold('truncated 0-1', { anchors: [anchorOf(1)] });
  });

  test('a store that is away is an error, not a fault', async () => {
    await world.tampered.run('RENAME TABLE journal_events TO journal_away');
    await assert.rejects(verify(), { code: 'JOURNAL_STORE_UNAVAILABLE' });
    await world.tampered.run('RENAME TABLE journal_away TO journal_events');
  });
});
