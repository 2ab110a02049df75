import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { ClickHouseClient } from '@clickhouse/client';
import { embeddedClient } from '../../../observability/journal/clickhouse.ts';
import type { EventDraft } from '../../../observability/journal/events.ts';
import { noOrigin } from '../../../observability/journal/origin.ts';
import { JournalReader } from '../../../observability/journal/reader.ts';
import { expirePartitions } from '../../../observability/journal/retention.ts';
import { missingEntries, PartScrubber } from '../../../observability/journal/scrub.ts';
import { JournalStore } from '../../../observability/journal/store.ts';
import { verifyJournal } from '../../../observability/journal/verify.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { journalKey, TestJournal } from './signed-journal.ts';

const months = { certificate: 240, timestamp: 240, mail: 30, service: 6 };
const started = new Date('2026-01-31T23:00:00Z');

describe('expiry', () => {
  const folder = temporaryFolder();
  let client: ClickHouseClient;
  let store: JournalStore;
  let journal: TestJournal;
  before(async () => {
    client = await embeddedClient(folder.path);
    store = await JournalStore.open(client);
  });
  after(async () => {
    await store.close();
    folder.remove();
  });

  const storeFrom = (from: number): Promise<void> => store.insert(journal.sealed.slice(from).map((one) => ({ ...one, origin: noOrigin })));
  /** The clock of the test instead of that of the machine. */
  const append = async ({ unixMicros: _, ...draft }: EventDraft): Promise<void> => {
    journal.append(draft as EventDraft);
    await storeFrom(journal.size - 1);
  };
  const expire = (now: string, appending = append): Promise<string[]> => {
    journal.unixMicros = Date.parse(now) * 1_000;
    return expirePartitions({ client, months, now: () => new Date(now), append: appending, exclusively: (work) => work() });
  };
  const rows = async (where: string): Promise<number> => {
    const result = await client.query({ query: `SELECT count() AS n FROM journal_events WHERE ${where}`, format: 'JSONEachRow' });
    return Number((await result.json<{ n: string }>())[0]?.n);
  };
  const verify = (now: string) =>
    verifyJournal(new JournalReader(client), { keys: [journal.key], retentionMonths: months, now: new Date(now) });

  beforeEach(async () => {
    for (const table of ['journal_events', 'journal_expired', 'journal_tree']) await client.command({ query: `TRUNCATE TABLE ${table}` });
    journal = new TestJournal(journalKey(), started.getTime());
    // Two months of service logs, with stamps in between, which stay for 20 years.
    for (let i = 0; i < 300; i += 1) {
      if (i === 150) journal.unixMicros = Date.UTC(2026, 1, 3) * 1_000;
      if (i % 3 === 0) journal.stamp();
      else journal.stopped(`reason ${i}`);
    }
    journal.append(journal.checkpoint());
    await storeFrom(0);
  });

  test('nothing goes before its time, to the millisecond', async () => {
    assert.deepEqual(await expire('2026-07-31T23:59:59.999Z'), []);
    assert.deepEqual(await expire('2026-08-01T00:00:00.000Z'), ['service-202601']);
    assert.equal(await rows("retention = 'service'"), 100);
    assert.equal(await rows("retention = 'timestamp'"), 100);
  });

  test('what went is told, once, and verification holds across it', async () => {
    assert.deepEqual(await expire('2026-09-02T00:00:00Z'), ['service-202601', 'service-202602']);
    assert.deepEqual(await expire('2026-09-03T00:00:00Z'), []);
    assert.equal(await rows("kind = 'journal.expired'"), 2);
    assert.equal(await rows("retention = 'service'"), 0);
    journal.append(journal.checkpoint());
    await storeFrom(journal.size - 1);
    const verdict = await verify('2027-01-20T00:00:00Z');
    assert.equal(verdict.kind, 'valid', JSON.stringify(verdict));
    assert.ok(verdict.kind === 'valid' && verdict.expired === 200);
  });

  test('a crash after the event, or after the hashes, is finished by the next run without a second event', async () => {
    const crash = async (): Promise<void> => {
      throw new Error('killed');
    };
    await assert.rejects(expire('2026-08-01T00:00:00Z', crash), /killed/);
    assert.equal(await rows("retention = 'service'"), 200, 'nothing goes without its event');
    await assert.rejects(
      expire('2026-08-01T00:00:00Z', async (draft) => {
        await append(draft);
        await crash();
      }),
      /killed/,
    );
    assert.equal(await rows("retention = 'service'"), 200);
    assert.deepEqual(await expire('2026-08-01T00:00:00Z'), ['service-202601']);
    assert.equal(await rows("kind = 'journal.expired'"), 1);
    assert.equal(await missingEntries(client, journal.size), 0);
  });

  test('an event that came late for its month expires behind it, with another event over all of it', async () => {
    await expire('2026-08-01T00:00:00Z');
    const micros = journal.unixMicros;
    journal.append({ kind: 'service.stopped', detail: { reason: 'late' }, unixMicros: started.getTime() * 1_000 } as never);
    journal.unixMicros = micros;
    journal.append(journal.checkpoint());
    await storeFrom(journal.size - 2);
    assert.deepEqual(await expire('2026-08-02T00:00:00Z'), ['service-202601']);
    assert.equal(await rows("kind = 'journal.expired'"), 2);
    journal.append(journal.checkpoint());
    await storeFrom(journal.size - 1);
    assert.equal((await verify('2027-01-20T00:00:00Z')).kind, 'valid');
  });

  test('an event of that month that comes between its event and its end is not lost', async () => {
    const late = async (draft: EventDraft): Promise<void> => {
      await append(draft);
      const micros = journal.unixMicros;
      journal.append({ kind: 'service.stopped', detail: { reason: 'late' }, unixMicros: started.getTime() * 1_000 } as never);
      journal.unixMicros = micros;
      journal.stopped('the newest');
      await storeFrom(journal.size - 2);
    };
    assert.deepEqual(await expire('2026-08-01T00:00:00Z', late), []);
    assert.equal(await missingEntries(client, journal.size), 0);
    assert.deepEqual(await expire('2026-08-01T00:00:00Z'), ['service-202601']);
    assert.equal(await missingEntries(client, journal.size), 0);
    assert.equal(await rows("kind = 'journal.expired'"), 2);
  });

  test('the newest entry stays, however old: it says where the journal ends', async () => {
    journal.stopped('the last');
    await storeFrom(journal.size - 1);
    assert.deepEqual(await expire('2026-09-02T00:00:00Z'), ['service-202601']);
    assert.equal((await store.head()).size, journal.size);
  });

  test('the scrubber finds what is missing, and passes over what expired', async () => {
    assert.equal(await missingEntries(client, journal.size), 0);
    await expire('2026-08-01T00:00:00Z');
    assert.equal(await missingEntries(client, journal.size), 0);
    await client.command({ query: 'ALTER TABLE journal_events DELETE WHERE sequence IN (0, 299) SETTINGS mutations_sync = 1' });
    assert.equal(await missingEntries(client, journal.size), 2);
    const scrubber = new PartScrubber(client);
    while (await scrubber.next());
    assert.deepEqual([...scrubber.damaged], []);
  });
});
