import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import type { ClickHouseClient } from '@clickhouse/client';
import { type ChainHead, emptyChain, followChain, headBehind, sealEvent } from '../../../observability/journal/chain.ts';
import { embeddedClient } from '../../../observability/journal/clickhouse.ts';
import type { EventDraft } from '../../../observability/journal/events.ts';
import { knownMigrations, migrate, statementFor } from '../../../observability/journal/migrations.ts';
import { noOrigin } from '../../../observability/journal/origin.ts';
import { JournalReader } from '../../../observability/journal/reader.ts';
import { imprintTail, JournalStore, type StoredEvent } from '../../../observability/journal/store.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { allKinds, draftOf } from './fixtures.ts';

const sealAll = (head: ChainHead, drafts: readonly EventDraft[]): StoredEvent[] => {
  let at = head;
  return drafts.map((draft) => {
    const sealed = sealEvent(at, draft);
    at = headBehind(sealed);
    return { ...sealed, origin: noOrigin };
  });
};
const stampWith = (messageImprint: Buffer): EventDraft => {
  const draft = draftOf('timestamp.issued', { optional: true });
  return { ...draft, detail: { ...draft.detail, messageImprint, token: randomBytes(600) } } as EventDraft;
};

describe('the store of the journal, embedded', () => {
  const folder = temporaryFolder();
  let client: ClickHouseClient;
  let store: JournalStore;
  before(async () => {
    client = await embeddedClient(folder.path);
    store = await JournalStore.open(client);
  });
  after(async () => {
    await store?.close();
    folder.remove();
  });

  const rows = async <T>(query: string): Promise<T[]> => (await client.query({ query, format: 'JSONEachRow' })).json<T>();
  const stored = async (from: number, to: number): Promise<Buffer[]> => {
    const entries: Buffer[] = [];
    for await (const place of new JournalReader(client).read(from, to)) if (place.kind === 'entry') entries.push(place.octets);
    return entries;
  };

  test('is empty at first', async () => {
    assert.deepEqual(await store.head(), emptyChain);
    assert.deepEqual(await stored(0, 10), []);
  });

  test('every kind of event comes back bit for bit, and follows', async () => {
    const sealed = sealAll(await store.head(), [
      ...allKinds.map((kind) => draftOf(kind, { optional: true })),
      ...allKinds.map((kind) => draftOf(kind, { optional: false })),
    ]);
    await store.insert(sealed);
    let head = emptyChain;
    for (const octets of await stored(0, sealed.length + 10)) {
      const step = followChain(head, octets);
      assert.ok(step.kind === 'follows', JSON.stringify(step));
      head = headBehind(step.sealed);
    }
    assert.equal(head.size, sealed.length);
    assert.deepEqual(await store.head(), head);
    assert.deepEqual(
      (await stored(3, 5)).map((octets) => octets.toString('hex')),
      sealed.slice(3, 5).map(({ octets }) => octets.toString('hex')),
    );
  });

  test('a block that is sent twice is stored once, and another one behind the same entry is not', async () => {
    const head = await store.head();
    const block = sealAll(
      head,
      Array.from({ length: 300 }, () => stampWith(randomBytes(51))),
    );
    for (let i = 0; i < 3; i += 1) await store.insert(block);
    await store.insert(sealAll(head, [stampWith(randomBytes(51))]));
    assert.deepEqual(
      (await stored(head.size, head.size + 1_000)).map((octets) => octets.toString('base64')),
      block.map(({ octets }) => octets.toString('base64')),
    );
    assert.equal((await store.head()).size, head.size + 300);
  });

  test('the longest block is one for the engine too: a shorter one behind the same entry is not stored', async () => {
    const head = await store.head();
    const draft = draftOf('service.logStarted', { optional: true });
    // The engine reads 65,409 rows at a time, if nobody tells it otherwise.
    const block = sealAll(head, Array(70_000).fill(draft));
    await store.insert(block);
    await store.insert(sealAll(head, [draft, draft]));
    await store.insert(block);
    const [count] = await rows<{ n: number }>(`SELECT toUInt32(count()) AS n FROM journal_events WHERE sequence >= ${head.size}`);
    assert.deepEqual([count?.n, (await store.head()).size], [70_000, head.size + 70_000]);
  });

  test('pages do not show in what is read', async () => {
    const head = await store.head();
    const drafts = Array.from({ length: 11_000 }, () => draftOf('service.logStarted', { optional: true }));
    const sealed = sealAll(head, drafts);
    for (let i = 0; i < sealed.length; i += 4_000) await store.insert(sealed.slice(i, i + 4_000));
    const read = await stored(head.size, head.size + sealed.length);
    assert.deepEqual(
      read.map((octets) => octets.toString('base64')),
      sealed.map(({ octets }) => octets.toString('base64')),
    );
  });

  test('the columns to search by say what the entry says', async () => {
    const head = await store.head();
    const imprint = Buffer.concat([Buffer.alloc(43), Buffer.from('fedcba9876543210', 'hex')]);
    await store.insert(sealAll(head, [stampWith(imprint)]));
    assert.equal(imprintTail(imprint), BigInt('0xfedcba9876543210').toString());
    const query = `SELECT toString(sequence) AS sequence, kind, actor, subject, retention, toString(unixMicros) AS unixMicros
      FROM journal_events WHERE imprintTail = ${imprintTail(imprint)}`;
    assert.deepEqual(await rows(query), [
      {
        sequence: String(head.size),
        kind: 'timestamp.issued',
        actor: 'signer',
        subject: 'größe',
        retention: 'timestamp',
        unixMicros: '1795000000123456',
      },
    ]);
  });

  test('partitions are by class and month', async () => {
    const partitions = await rows<{ partition: string }>(
      "SELECT DISTINCT partition FROM system.parts WHERE table = 'journal_events' AND active ORDER BY partition",
    );
    assert.deepEqual(
      partitions.map(({ partition }) => partition),
      ["('certificate',202611)", "('service',202611)", "('timestamp',202611)"],
    );
  });

  describe('the schema', () => {
    test('is applied once, and recorded', async () => {
      await migrate(client);
      const known = knownMigrations();
      assert.deepEqual(
        known.map(({ version }) => version),
        known.map((_, i) => i + 1),
        'numbered without gap',
      );
      assert.deepEqual(
        await rows('SELECT version, name, sha256 FROM journal_migrations ORDER BY version'),
        known.map(({ version, name, sha256 }) => ({ version, name, sha256 })),
      );
    });

    test('for a cluster its tables are replicated ones, and everything is made on all of it', () => {
      const engine = { kind: 'replicated', cluster: 'journal' } as const;
      const statements = knownMigrations().flatMap((migration) => migration.statements.map((statement) => statementFor(statement, engine)));
      for (const statement of statements) {
        assert.match(statement, /CREATE (TABLE|VIEW) IF NOT EXISTS \w+ ON CLUSTER 'journal'/);
        if (statement.includes('CREATE TABLE')) assert.match(statement, /ENGINE = Replicated(Replacing)?MergeTree/);
      }
      assert.ok(statements.some((statement) => /[^_]replicated_deduplication_window = 10000/.test(statement)));
      assert.ok(!statements.some((statement) => statement.includes('non_replicated')));
      const [same] = knownMigrations()[0]?.statements ?? [];
      assert.equal(statementFor(same as string, { kind: 'single' }), same);
    });

    test('one that was interrupted before it was recorded is applied again', async () => {
      await client.command({ query: 'ALTER TABLE journal_migrations DELETE WHERE version = 1 SETTINGS mutations_sync = 1' });
      await migrate(client);
      assert.equal((await rows('SELECT version FROM journal_migrations')).length, knownMigrations().length);
    });

    test('a later one is applied behind it', async () => {
      const later = {
        version: knownMigrations().length + 1,
        name: '999-x.sql',
        sha256: 'x',
        statements: ['CREATE TABLE journal_x (a UInt8) ENGINE = MergeTree ORDER BY a'],
      };
      await migrate(client, { migrations: [...knownMigrations(), later] });
      await migrate(client, { migrations: [...knownMigrations(), later] });
      await assert.rejects(migrate(client), { code: 'JOURNAL_SCHEMA' }, 'the store of a newer release is refused');
      await assert.rejects(JournalStore.open(client), { code: 'JOURNAL_SCHEMA' });
      const changed = knownMigrations().map((migration) => ({ ...migration, sha256: 'changed' }));
      await assert.rejects(migrate(client, { migrations: [...changed, later] }), { code: 'JOURNAL_SCHEMA' });
    });
  });

  test('what the engine refuses is an error with its reason, and nothing of it is stored', async () => {
    const { size } = await store.head();
    await client.command({ query: 'RENAME TABLE journal_events TO journal_away' });
    const block = sealAll(emptyChain, [stampWith(randomBytes(51))]);
    await assert.rejects(store.insert(block), { code: 'JOURNAL_STORE_UNAVAILABLE', message: /journal_events/ });
    await assert.rejects(store.head(), { code: 'JOURNAL_STORE_UNAVAILABLE' });
    await client.command({ query: 'RENAME TABLE journal_away TO journal_events' });
    assert.equal((await store.head()).size, size);
  });
});
