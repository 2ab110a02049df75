import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { embeddedClient } from '../../../observability/journal/clickhouse.ts';
import type { JournalEvent } from '../../../observability/journal/events.ts';
import { JournalReader } from '../../../observability/journal/reader.ts';
import { resumeTree } from '../../../observability/journal/tree-store.ts';
import { type VerifyOptions, verifyJournal } from '../../../observability/journal/verify.ts';
import { type CoverRules, judgeCover } from '../../../observability/journal/verify-cover.ts';
import { journalClient } from '../../../observability/journal/writer-options.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { journalKey, TamperedStore, TestJournal } from './signed-journal.ts';

const interval = { seconds: 10, events: 1_000 };

describe('how far signatures reach', () => {
  const folder = temporaryFolder();
  const key = journalKey();
  let tampered: TamperedStore;
  let reader: JournalReader;

  before(async () => {
    tampered = await TamperedStore.open(await embeddedClient(folder.path));
    reader = new JournalReader(tampered.client);
    await tampered.save();
  });
  after(async () => {
    await tampered?.store.close();
    folder.remove();
  });
  afterEach(() => tampered.restore());

  /** An event a millisecond. */
  const stops = (journal: TestJournal, count: number): void => {
    for (let i = 0; i < count; i += 1) journal.stopped('x');
  };
  const wait = (journal: TestJournal, seconds: number): void => {
    journal.unixMicros += seconds * 1_000_000;
  };
  const store = (journal: TestJournal): Promise<void> => tampered.insert(journal.sealed);
  const judge = async (rules: Partial<CoverRules> = {}, options: Partial<VerifyOptions> = {}): Promise<string> => {
    const verdict = await verifyJournal(reader, { keys: [key], ...options });
    assert.ok(verdict.kind === 'valid', JSON.stringify(verdict));
    const { kind, entries } = await judgeCover(reader, verdict, { interval, ...rules });
    return `${kind} ${entries}`;
  };
  const secondsBehind = (journal: TestJournal, seconds: number): Date => new Date(journal.unixMicros / 1_000 + seconds * 1_000);

  test('nothing is there', async () => {
    assert.equal(await judge({ now: new Date() }), 'covered 0');
  });

  test('a journal that has just begun is no fault; one that is older or larger than that is', async () => {
    const journal = new TestJournal(key);
    stops(journal, 500);
    await store(journal);
    assert.equal(await judge(), 'covered 500');
    assert.equal(await judge({ now: secondsBehind(journal, 20) }), 'covered 500');
    assert.equal(await judge({ now: secondsBehind(journal, 31) }), 'unsigned 500');
    assert.equal(await judge({ now: secondsBehind(journal, 31), interval: { seconds: 20, events: 1_000 } }), 'covered 500');
    assert.equal(await judge({ interval: { seconds: 10, events: 501 } }), 'covered 500');
    assert.equal(await judge({ interval: { seconds: 10, events: 500 } }), 'unsigned 500');
    // A checkpoint that somebody holds is as good.
    assert.equal(await judge({ now: secondsBehind(journal, 31) }, { anchors: [noteOfAll(journal)] }), 'covered 0');
  });

  const noteOfAll = (journal: TestJournal): string => (journal.checkpoint().detail as { note: string }).note;

  test('what its entries span counts, also in a copy', async () => {
    const journal = new TestJournal(key);
    stops(journal, 2);
    wait(journal, 29);
    stops(journal, 1);
    await store(journal);
    assert.equal(await judge(), 'covered 3');
    wait(journal, 2);
    stops(journal, 1);
    await tampered.insert(journal.sealed.slice(3));
    assert.equal(await judge(), 'unsigned 4');
  });

  test('a chain that was made anew from its first entry, without the checkpoints', async () => {
    const journal = new TestJournal(key);
    stops(journal, 40);
    wait(journal, 60);
    journal.append(journal.checkpoint());
    stops(journal, 40);
    await store(journal);
    assert.equal(await judge({ now: secondsBehind(journal, 5) }), 'covered 41');
    const forged = new TestJournal(key);
    // Also when all of it pretends to be the journal's own.
    for (const { event } of journal.sealed) {
      if (event.kind !== 'journal.checkpoint') forged.append({ ...event, actor: journalClient } as JournalEvent);
    }
    await tampered.run('TRUNCATE TABLE journal_events');
    await store(forged);
    assert.equal(await judge({ now: secondsBehind(journal, 5) }), 'unsigned 80');
    assert.equal(await judge(), 'unsigned 80');
  });

  test('a tail that is longer than it should be is told, in events and in time', async () => {
    const journal = new TestJournal(key);
    stops(journal, 100);
    journal.append(journal.checkpoint());
    stops(journal, 99);
    await store(journal);
    assert.equal(await judge(), 'covered 100');
    assert.equal(await judge({ interval: { seconds: 10, events: 50 } }), 'covered 100');
    assert.equal(await judge({ interval: { seconds: 10, events: 49 } }), 'late 100');
    // How long ago that was is no matter: its checkpoint may be on its way.
    assert.equal(await judge({ now: secondsBehind(journal, 3_600) }), 'covered 100');
    wait(journal, 31);
    stops(journal, 1);
    await tampered.insert(journal.sealed.slice(200));
    assert.equal(await judge(), 'late 101');
    assert.equal(await judge({ interval: { seconds: 11, events: 1_000 } }), 'covered 101');
  });

  test('a journal at rest has none made: what it tells of itself does not make a tail late', async () => {
    const journal = new TestJournal(key);
    stops(journal, 10);
    journal.append(journal.checkpoint());
    journal.append({ kind: 'service.stopped', actor: journalClient, detail: { reason: 'as the stamp of a checkpoint' } });
    wait(journal, 86_400);
    journal.append({ kind: 'journal.read', detail: { query: 'x', entries: 1 } });
    await store(journal);
    assert.equal(await judge({ now: secondsBehind(journal, 86_400) }), 'covered 3');
    stops(journal, 1);
    wait(journal, 40);
    journal.append({ kind: 'journal.read', detail: { query: 'x', entries: 1 } });
    await tampered.insert(journal.sealed.slice(13));
    assert.equal(await judge(), 'late 5');
  });

  test('a range of which nothing is covered', async () => {
    const journal = new TestJournal(key);
    stops(journal, 100);
    journal.append(journal.checkpoint());
    stops(journal, 50);
    await store(journal);
    await resumeTree(reader, journal.size);
    assert.equal(await judge({}, { from: 120 }), 'covered 51');
    assert.equal(await judge({ now: secondsBehind(journal, 31) }, { from: 120 }), 'unsigned 51');
    assert.equal(await judge({ now: secondsBehind(journal, 31) }), 'covered 51');
    assert.equal(await judge({ now: secondsBehind(journal, 31) }, { from: 20, to: 60 }), 'covered 0');
  });
});
