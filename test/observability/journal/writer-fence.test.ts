/**
 * Writers of a journal in a server, which lives on when they die: what one has sent may arrive when another writes, and is to change
 * nothing, whatever partition it belongs to.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { type ChainHead, emptyChain, followChain, headBehind, sealEvent } from '../../../observability/journal/chain.ts';
import { embeddedClient, serverClient } from '../../../observability/journal/clickhouse.ts';
import type { EventDraft } from '../../../observability/journal/events.ts';
import { Fence } from '../../../observability/journal/fence.ts';
import { MerkleTree } from '../../../observability/journal/merkle.ts';
import { noOrigin } from '../../../observability/journal/origin.ts';
import { JournalReader } from '../../../observability/journal/reader.ts';
import { Spool } from '../../../observability/journal/spool.ts';
import { JournalStore, type StoredEvent } from '../../../observability/journal/store.ts';
import { JournalWriter } from '../../../observability/journal/writer.ts';
import { journalKeys } from '../../../queue/keys.ts';
import type { RedisClient } from '../../../queue/redis.ts';
import { ClickHouseProxy, noFault } from '../../support/clickhouse-proxy.ts';
import { clickhouseServerMissing, TestClickHouse } from '../../support/clickhouse-server.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../../support/redis-server.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { until } from '../../support/until.ts';
import { draftOf } from './fixtures.ts';

/** Events of three classes, and so of three partitions. */
const checkpoint = (): EventDraft => draftOf('journal.checkpoint', { optional: true });
const stamp = (): EventDraft => draftOf('timestamp.issued', { optional: true });
const started = (): EventDraft => draftOf('service.logStarted', { optional: true });

/** A writer on a host of its own. */
interface RunningWriter {
  readonly writer: JournalWriter;
  readonly store: JournalStore;
  /** As it knows by its own clock. */
  heldForMs: number;
  /** @returns why it had ended before, if it had */
  stop(): Promise<unknown>;
}

describe('writers of a journal in a server', { skip: redisServerMissing() || (await clickhouseServerMissing()) }, () => {
  const folder = temporaryFolder();
  let clickhouse: TestClickHouse;
  let proxy: ClickHouseProxy;
  let server: TestRedis;
  let redis: RedisClient;
  let database = '';
  let tests = 0;
  const running: RunningWriter[] = [];

  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    clickhouse = await TestClickHouse.create();
    await clickhouse.start();
  });
  beforeEach(async () => {
    tests += 1;
    database = `journal${tests}`;
    await clickhouse.ask(`CREATE DATABASE ${database}`);
    await redis.flushall();
    proxy = await ClickHouseProxy.start(clickhouse.port);
    proxy.deduplicates = true;
  });
  afterEach(async () => {
    for (const { stop, store } of running.splice(0)) {
      await stop();
      await store.close();
    }
    await proxy.close();
  });
  after(async () => {
    await clickhouse.close();
    await server.close();
    folder.remove();
  });

  const openStore = (): Promise<JournalStore> => {
    const client = serverClient({ url: proxy.url, database } as Parameters<typeof serverClient>[0]);
    return JournalStore.open(client, { kind: 'single' });
  };

  /** Takes the lease, from whoever has it, and writes. */
  const start = async (holder: string, kept?: JournalStore): Promise<RunningWriter> => {
    await redis.set(journalKeys.writer, holder);
    const store = kept ?? (await openStore());
    const it = { store, heldForMs: 60_000 } as { -readonly [key in keyof RunningWriter]: RunningWriter[key] };
    it.writer = await JournalWriter.open({
      redis,
      node: holder,
      holder,
      stateMayBeOld: false,
      heldForMs: () => it.heldForMs,
      openStore: async () => store,
      spool: await Spool.open(join(folder.path, `${database}-${holder}`), 1_000_000),
      block: { rowsMax: 50, ageMs: 5 },
      resumeTree: async () => new MerkleTree(),
      onStored: () => undefined,
      on: {
        sealed: () => undefined,
        quarantined: () => undefined,
        storeFailed: () => undefined,
        storeBack: () => undefined,
        spoolFull: () => undefined,
        strayBlocks: () => undefined,
      },
    });
    const stopping = new AbortController();
    const ended = it.writer.run(stopping.signal).catch((error: unknown) => error);
    it.stop = async () => {
      stopping.abort();
      return ended;
    };
    running.push(it);
    return it;
  };

  /** Everything that is stored, followed from the first entry; nothing has the number of another. */
  const journal = async (): Promise<string[]> => {
    const store = await openStore();
    const kinds: string[] = [];
    let head: ChainHead = emptyChain;
    for await (const place of new JournalReader(store.client).read(0, 1_000)) {
      assert.ok(place.kind === 'entry');
      const step = followChain(head, place.octets);
      assert.ok(step.kind === 'follows', JSON.stringify(step));
      head = headBehind(step.sealed);
      kinds.push(step.sealed.event.kind);
    }
    await store.close();
    const counted = (await clickhouse.ask(`SELECT count(), uniqExact(sequence) FROM ${database}.journal_events`)).trim();
    assert.equal(counted, `${kinds.length}\t${kinds.length}`, 'rows, and sequence numbers');
    return kinds;
  };

  /** Gives the writer an event; its insert is held back until `settled`. */
  const hold = async ({ writer }: RunningWriter, draft: EventDraft): Promise<void> => {
    const { held } = proxy.seen;
    await proxy.set({ kind: 'late', ms: 3_000 });
    writer.append(draft).catch(() => undefined); // whoever gave it is gone
    await until('an insert is under way', () => proxy.seen.held > held);
    await proxy.set(noFault);
  };

  test('an insert of a writer that lost the lease arrives when another one writes, for another partition', async () => {
    const first = await start('first');
    await first.writer.append(started());
    await hold(first, checkpoint());
    const second = await start('second');
    await second.writer.append(stamp());
    assert.equal(second.writer.head.size, 2);
    await proxy.settled();
    await second.writer.append(stamp());
    await second.stop();
    assert.deepEqual(await journal(), ['service.logStarted', 'timestamp.issued', 'timestamp.issued']);
    const why = await first.stop();
    assert.equal((why as { code?: string }).code, 'JOURNAL_LEASE_LOST');
  });

  test('one that writes again after another finds the end that the other has left, whatever that one had sent', async () => {
    const first = await start('first');
    await first.writer.append(started());
    await first.stop();
    const second = await start('second');
    await second.writer.append(stamp());
    await hold(second, checkpoint());
    // Its connection, and what it knows of the store, is of before.
    const again = await start('first', first.store);
    await again.writer.append(started());
    await proxy.settled();
    await again.writer.append(stamp());
    await again.stop();
    assert.deepEqual(await journal(), ['service.logStarted', 'timestamp.issued', 'service.logStarted', 'timestamp.issued']);
  });

  test('an insert that its own writer has given up arrives late: no token is needed to keep it out', async () => {
    proxy.deduplicates = false;
    const { writer, store } = await start('first');
    await writer.append(started());
    const { refused, held } = proxy.seen;
    await proxy.set({ kind: 'late', ms: 6_000 });
    const spooled = writer.append(checkpoint());
    await until('an insert is under way', () => proxy.seen.held > held);
    await proxy.set(noFault);
    await spooled;
    await writer.append(stamp());
    await until('the store has all', async () => (await store.head()).size === 3);
    await proxy.settled();
    assert.equal(proxy.seen.refused, refused + 1);
    await writer.append(stamp());
    await until('the store has all', async () => (await store.head()).size === 4);
    await running[0]?.stop();
    assert.deepEqual(await journal(), ['service.logStarted', 'journal.checkpoint', 'timestamp.issued', 'timestamp.issued']);
  });

  test('only who raised the newest fence inserts, and after an insert of unknown outcome nobody does', async () => {
    const [one, other] = [await openStore(), await openStore()];
    const block = (head: ChainHead): StoredEvent[] => [{ ...sealEvent(head, stamp()), origin: noOrigin }];
    const unavailable = { code: 'JOURNAL_STORE_UNAVAILABLE' };
    await assert.rejects(one.insert(block(emptyChain)), unavailable, 'none is raised');
    assert.equal(await one.fence(), true);
    assert.equal(await other.fence(), true);
    await assert.rejects(one.insert(block(emptyChain)), unavailable);
    await other.insert(block(await other.head()));
    // The one that was shut out may raise one again; whoever has the lease then does so too.
    assert.equal(await one.fence(), true);
    await assert.rejects(other.insert(block(await other.head())), unavailable);
    assert.equal(await other.fence(), true);
    await proxy.set({ kind: 'doneUnheard' });
    await assert.rejects(other.insert(block(await other.head().catch(() => emptyChain))), unavailable);
    await proxy.set(noFault);
    await assert.rejects(other.insert(block(await other.head())), unavailable);
    assert.equal(await other.fence(), true);
    await other.insert(block(await other.head()));
    assert.equal(await clickhouse.ask(`SELECT count() FROM ${database}.journal_fences`), '5\n');
    await one.close();
    await other.close();
  });

  test('the condition of an insert is one that the engine of today understands', async () => {
    const client = await embeddedClient(join(folder.path, 'embedded'));
    const store = await JournalStore.open(client);
    const fence = new Fence(client, { kind: 'single' });
    const insert = (condition: string): Promise<unknown> =>
      client.command({
        query: `INSERT INTO journal_events (sequence, octetsBase64) SELECT sequence, octetsBase64
          FROM format(TabSeparated, 'sequence UInt64, octetsBase64 String', '7\tYWJj') WHERE ${condition}`,
      });
    assert.equal(await fence.raise(), true);
    let passed = '';
    await fence.pass(async (condition) => {
      passed = condition;
      await insert(condition);
    });
    fence.lower();
    assert.equal(await fence.raise(), true);
    await assert.rejects(insert(passed), /throwIf/);
    const result = await client.query({ query: 'SELECT toString(sequence) AS n, octets FROM journal_events', format: 'JSONEachRow' });
    assert.deepEqual(await result.json(), [{ n: '7', octets: 'abc' }]);
    await store.close();
  });
});
