import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { TimestampArchive } from '../../../observability/journal/archive.ts';
import { type EntrySearch, searchEntries } from '../../../observability/journal/search.ts';
import { lookedThrough, StampLookup } from '../../../observability/journal/stamp-lookup.ts';
import { digestAlgorithms } from '../../../pki/algorithms.ts';
import { createSigner, laneRequest, type SignedStamp } from '../../support/archived-stamps.ts';
import { EmbeddedJournal, publishedEvent } from '../../support/embedded-journal.ts';
import { makeHierarchy, makeSoftwareTsu } from '../../support/software-tsu.ts';
import { TestPki } from '../../support/timestamp-fixtures.ts';
import { messageImprint } from '../../support/tsp-requests.ts';
import { draftOf } from './fixtures.ts';

const start = Date.UTC(2026, 10, 22);
const segmentEntries = 16;
const hashOf = (text: string): Buffer => createHash('sha256').update(text).digest();

describe('the table that stamps are found by', () => {
  let pki: TestPki;
  let journal: EmbeddedJournal;
  let archive: TimestampArchive;
  const stamps: SignedStamp[] = [];
  let stored = 0;

  const number = async (query: string): Promise<number> => {
    const result = await journal.client.query({ query, format: 'JSONEachRow' });
    return Number((await result.json<{ n: string }>())[0]?.n);
  };
  const serials = async (search: object): Promise<string[]> => {
    const found: string[] = [];
    for await (const { serial } of archive.find({ limit: 100, ...search })) found.push(serial);
    return found;
  };
  const sequences = async (search: Partial<EntrySearch>): Promise<number[]> => {
    const found: number[] = [];
    for await (const one of searchEntries(journal.client, { limit: 100, ...search }))
      found.push(one.kind === 'entry' ? one.event.sequence : -1);
    return found;
  };
  /** Everything that can be asked, with all that is found. */
  const answers = async (): Promise<unknown[]> => {
    const all: unknown[] = [];
    for (const { serial } of stamps) all.push(await serials({ serial }), await sequences({ subject: serial }));
    for (const client of ['bank-0', 'bank-1', 'bank-2', 'nobody']) {
      all.push(
        await serials({ client }),
        await sequences({ actor: client }),
        await sequences({ actor: client, first: 'oldest', limit: 3 }),
      );
      all.push(
        await sequences({ actor: client, kinds: ['timestamp.issued'] }),
        await sequences({ actor: client, kinds: ['client.added'] }),
      );
    }
    const imprints = ['document 1', 'document 30', 'same'].map((text) => ({ digest: 'sha256', hash: hashOf(text) }) as const);
    all.push(await serials({ imprints }), await serials({ imprints, client: 'bank-1' }), await serials({ serial: 'ff'.repeat(20) }));
    all.push(await sequences({ subject: 'bank-1' }), await sequences({ subject: 'no such' }));
    return all;
  };

  before(async () => {
    pki = new TestPki();
    const tsu = makeSoftwareTsu(pki, makeHierarchy(pki), 'ec-p256');
    const sign = createSigner(tsu);
    journal = await EmbeddedJournal.open();
    archive = new TimestampArchive(journal.client);
    await journal.append(publishedEvent(tsu));
    for (let i = 0; i < 45; i += 1) {
      const imprint = messageImprint(digestAlgorithms.sha256.oid, hashOf(i % 5 === 0 ? 'same' : `document ${i}`));
      stamps.push(sign(laneRequest(imprint, `bank-${i % 3}`, false), start + i * 1_000));
    }
    for (const [i, { event }] of stamps.entries()) {
      await journal.append(event);
      if (i % 9 === 0) await journal.append({ ...draftOf('client.added', { optional: false }), subject: 'bank-1', actor: 'bank-1' });
    }
    stored = journal.entries.length;
  });
  after(async () => {
    await journal?.close();
    pki.close();
  });

  test('it takes in whole segments, and finds the same before, meanwhile and after', async () => {
    const lookup = new StampLookup({ client: journal.client, segmentEntries });
    const expected = await answers();
    assert.ok(expected.flat().length > 150);
    assert.equal(await lookup.extend(segmentEntries - 1), false);
    assert.equal(await lookedThrough(journal.client), 0);
    for (let through = segmentEntries; through <= stored; through += segmentEntries) {
      assert.equal(await lookup.extend(stored), true);
      assert.equal(await lookedThrough(journal.client), through);
      assert.deepEqual(await answers(), expected);
    }
    assert.equal(await lookup.extend(stored), false);
    // Of segments that are in the table, only what it leads to is read.
    const issued = await number(
      `SELECT count() AS n FROM journal_events WHERE kind = 'timestamp.issued' AND sequence < ${segmentEntries * 3}`,
    );
    assert.equal(await number("SELECT count() AS n FROM journal_lookup WHERE field = 'subject'"), issued);
    assert.equal(await number("SELECT count() AS n FROM journal_lookup WHERE field = 'imprint'"), issued);
  });

  test('it is what a search goes by: what is not in it is not found', async () => {
    const [first] = stamps as [SignedStamp];
    await journal.client.command({
      query: `ALTER TABLE journal_lookup DELETE WHERE field = 'subject' AND place < ${segmentEntries} SETTINGS mutations_sync = 1`,
    });
    assert.deepEqual(await serials({ serial: first.serial }), []);
    assert.deepEqual(await sequences({ subject: first.serial }), []);
  });

  test('what is missing in it makes it begin anew', async () => {
    const lookup = new StampLookup({ client: journal.client, segmentEntries });
    assert.ok((await lookup.mend()) > 0);
    assert.equal(await lookedThrough(journal.client), 0);
    const expected = await answers();
    while (await lookup.extend(stored));
    assert.equal(await lookup.mend(), 0);
    assert.deepEqual(await answers(), expected);
  });

  test('a segment of which nobody heard whether it was taken in is taken in again, and counts once', async () => {
    await journal.client.command({ query: 'TRUNCATE TABLE journal_lookup' });
    const [one, two] = [1, 2].map(() => new StampLookup({ client: journal.client, segmentEntries })) as [StampLookup, StampLookup];
    assert.deepEqual(await Promise.all([one.extend(stored), two.extend(stored)]), [true, true]);
    assert.equal(await lookedThrough(journal.client), segmentEntries);
    const query = "SELECT count() AS n FROM journal_lookup FINAL WHERE field = 'subject'";
    const issued = await number(`SELECT count() AS n FROM journal_events WHERE kind = 'timestamp.issued' AND sequence < ${segmentEntries}`);
    assert.equal(await number(query), issued);
    assert.equal(await one.mend(), 0);
  });

  test('entries that expired are not missing', async () => {
    const lookup = new StampLookup({ client: journal.client, segmentEntries });
    while (await lookup.extend(stored));
    await journal.client.command({
      query: `ALTER TABLE journal_events DELETE WHERE retention = 'timestamp' AND sequence < ${segmentEntries} SETTINGS mutations_sync = 1`,
    });
    assert.equal(await lookup.mend(), 0);
    assert.deepEqual(await serials({ serial: (stamps[0] as SignedStamp).serial }), []);
    assert.equal((await serials({ serial: (stamps[30] as SignedStamp).serial })).length, 1);
  });
});
