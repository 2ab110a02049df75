import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { SigilloError } from '../../../config/errors.ts';
import { type ChainHead, emptyChain, followChain, headBehind, sealEvent } from '../../../observability/journal/chain.ts';
import { embeddedClient } from '../../../observability/journal/clickhouse.ts';
import { encodeDrafts } from '../../../observability/journal/draft-block.ts';
import type { EventDraft, JournalEvent } from '../../../observability/journal/events.ts';
import { MerkleTree } from '../../../observability/journal/merkle.ts';
import { noOrigin } from '../../../observability/journal/origin.ts';
import { JournalReader } from '../../../observability/journal/reader.ts';
import { Spool } from '../../../observability/journal/spool.ts';
import { JournalStore, type StoredEvent } from '../../../observability/journal/store.ts';
import { JournalWriter } from '../../../observability/journal/writer.ts';
import type { DecodedStampAnswer, stampOutcomes } from '../../../queue/answer-block.ts';
import { journalKeys, laneKeys } from '../../../queue/keys.ts';
import type { RedisClient } from '../../../queue/redis.ts';
import { makeAnswerBlock } from '../../support/answer-blocks.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../../support/redis-server.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { until } from '../../support/until.ts';
import { draftOf } from './fixtures.ts';

const lane = laneKeys('timestamp').journal;
const codeOf = (error: unknown): string | undefined => (error instanceof SigilloError ? error.code : undefined);
const node = 'node-1';
const holder = 'writer-1';

const answerOf = (serial: Buffer, outcome: (typeof stampOutcomes)[number] = 'granted'): DecodedStampAnswer => ({
  id: 1,
  outcome,
  clock: 'trusted',
  certReq: false,
  unixMillis: 1_795_000_000_123,
  client: 'bank-1',
  policy: Buffer.from('0603550401', 'hex'),
  messageImprint: randomBytes(51),
  serial: outcome === 'granted' ? serial : Buffer.alloc(0),
  token: outcome === 'granted' ? randomBytes(700) : Buffer.alloc(0),
});

describe('the writer of the journal', { skip: redisServerMissing() }, () => {
  const folder = temporaryFolder();
  const spoolFolder = join(folder.path, 'spool');
  let server: TestRedis;
  let redis: RedisClient;
  let store: JournalStore;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    store = await JournalStore.open(await embeddedClient(join(folder.path, 'clickhouse')));
  });
  after(async () => {
    await store.close();
    await server.close();
    folder.remove();
  });

  const said: string[] = [];
  let issued: string[] = [];
  let running: { stop: AbortController; ended: Promise<unknown> } | undefined;
  /** Stands between the writer and the store. */
  let insert: (block: readonly StoredEvent[]) => Promise<void>;
  let storeAway = false;
  let resumeTree: (size: number) => Promise<MerkleTree>;
  let heldForMs = 60_000;
  let spoolOctetsMax = 10_000_000;

  /** But for the lease, which a running process would take again at once. */
  const emptyRedis = async (): Promise<void> => {
    await redis.flushall();
    await redis.set(journalKeys.writer, holder);
  };

  beforeEach(async () => {
    await emptyRedis();
    await store.client.command({ query: 'TRUNCATE TABLE journal_events' });
    rmSync(spoolFolder, { recursive: true, force: true });
    said.length = 0;
    issued = [];
    insert = (block) => store.insert(block);
    storeAway = false;
    resumeTree = treeOf;
    heldForMs = 60_000;
    spoolOctetsMax = 10_000_000;
  });
  afterEach(async () => {
    await stop();
  });

  const away = (): never => {
    throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', 'away');
  };
  const storeBetween = {
    head: async () => (storeAway ? away() : store.head()),
    insert: async (block: readonly StoredEvent[], _signal: unknown, options?: { anew: boolean }) =>
      storeAway ? away() : options?.anew === true ? store.insert(block, undefined, options) : insert(block),
    insertsUnderWay: async () => 0,
    hashAt: (sequence: number) => store.hashAt(sequence),
    originsFrom: (sequence: number) => store.originsFrom(sequence),
  } as unknown as JournalStore;
  const treeOf = async (size: number): Promise<MerkleTree> => {
    const tree = new MerkleTree();
    let head: ChainHead = emptyChain;
    for await (const place of new JournalReader(store.client).read(0, size)) {
      const step = followChain(head, (place as { octets: Buffer }).octets);
      assert.ok(step.kind === 'follows');
      head = headBehind(step.sealed);
      tree.append(step.sealed.hash);
    }
    return tree;
  };
  const open = async (): Promise<JournalWriter> =>
    JournalWriter.open({
      redis,
      node,
      holder,
      stateMayBeOld: false,
      storeOutlivesWriters: false,
      heldForMs: () => heldForMs,
      openStore: async () => (storeAway ? away() : storeBetween),
      spool: await Spool.open(spoolFolder, spoolOctetsMax),
      block: { rowsMax: 50, ageMs: 5 },
      resumeTree: (size) => resumeTree(size),
      onStored: () => undefined,
      on: {
        sealed: () => undefined,
        quarantined: (origin) => said.push(`quarantined ${origin.split(' ')[0]}`),
        storeFailed: () => said.push('store failed'),
        storeBack: (shipped) => said.push(`store back ${shipped}`),
        spoolFull: () => said.push('spool full'),
        strayBlocks: () => said.push('stray blocks'),
      },
    });
  const start = async (): Promise<JournalWriter> => {
    const writer = await open();
    const stopping = new AbortController();
    running = { stop: stopping, ended: writer.run(stopping.signal).catch((error: unknown) => error) };
    return writer;
  };
  const sizeOf = (writer: JournalWriter): number | undefined => writer.snapshot?.size;
  const stop = async (): Promise<unknown> => {
    const { stop: stopping, ended } = running ?? {};
    running = undefined;
    stopping?.abort();
    return ended;
  };
  const answer = async (stamps: number, refusals = 0): Promise<void> => {
    const serials = Array.from({ length: stamps }, () => randomBytes(16));
    const answers = [
      ...serials.map((serial) => answerOf(serial)),
      ...Array.from({ length: refusals }, () => answerOf(Buffer.alloc(0), 'timeNotAvailable')),
    ];
    await redis.xadd(lane, '*', 'b', makeAnswerBlock(node, Buffer.alloc(32, 7), answers));
    issued.push(...serials.map((serial) => serial.toString('hex')));
  };
  const tell = async (draft: EventDraft = draftOf('service.logStarted', { optional: true })): Promise<void> => {
    await redis.xadd(journalKeys.events, '*', 'b', encodeDrafts([draft]));
  };
  /** Everything that is stored, followed from the first entry. */
  const journal = async (): Promise<JournalEvent[]> => {
    const events: JournalEvent[] = [];
    let head: ChainHead = emptyChain;
    for await (const place of new JournalReader(store.client).read(0, 1_000_000)) {
      assert.ok(place.kind === 'entry');
      const step = followChain(head, place.octets);
      assert.ok(step.kind === 'follows', JSON.stringify(step));
      head = headBehind(step.sealed);
      events.push(step.sealed.event);
    }
    return events;
  };
  const assertComplete = async (others: number): Promise<void> => {
    const events = await journal();
    const stamps = events.filter(({ kind }) => kind === 'timestamp.issued').map(({ subject }) => subject);
    assert.deepEqual(stamps.toSorted(), issued.toSorted(), 'every stamp once');
    assert.equal(events.length - stamps.length, others);
  };
  const untilStored = (entries: number): Promise<unknown> => until('it is stored', async () => (await store.head()).size >= entries);
  const waiting = async (): Promise<number> => (await redis.xlen(lane)) + (await redis.xlen(journalKeys.events));

  test('events of all streams come into the store, in order and once, and leave Redis', async () => {
    for (let i = 0; i < 30; i += 1) await answer(7, i % 3);
    await tell();
    const writer = await start();
    await untilStored(241);
    await until('it happens', async () => (await waiting()) === 0);
    await answer(1);
    await untilStored(242);
    await stop();
    await assertComplete(31);
    assert.equal(writer.head.size, 242);
    assert.deepEqual(Buffer.from(writer.snapshot?.root as Uint8Array), Buffer.from((await treeOf(242)).root()));
  });

  test('a writer that ends is followed by another, behind the same entry; a stop writes what is there', async () => {
    const first = await start();
    await answer(5);
    await answer(5);
    await stop();
    assert.equal(first.head.size, 10);
    await answer(3);
    const second = await start();
    assert.deepEqual([second.head.size, second.snapshot?.size], [10, 10]);
    await untilStored(13);
    await stop();
    assert.deepEqual(Buffer.from(second.snapshot?.root as Uint8Array), Buffer.from((await treeOf(13)).root()));
    await assertComplete(0);
  });

  test('Redis lost its record: the store tells where to go on', async () => {
    await start();
    await answer(5, 1);
    await untilStored(6);
    await stop();
    await emptyRedis();
    await answer(2);
    await start();
    await untilStored(8);
    await stop();
    await assertComplete(1);
  });

  test('a crash after one run of a block: the rest is taken from Redis, and nothing twice', async () => {
    for (let i = 0; i < 4; i += 1) await answer(3, 2);
    const runs: number[] = [];
    insert = async (block) => {
      const first = block.filter(({ event }) => event.kind === 'timestamp.issued');
      runs.push(first.length);
      await store.insert(first);
      // As kill -9 would: nothing after this happens.
      await redis.quit();
      away();
    };
    await start();
    await until('it happens', () => runs.length > 0);
    assert.ok((await stop()) instanceof Error);
    redis = server.connect();
    rmSync(spoolFolder, { recursive: true, force: true });
    insert = (block) => store.insert(block);
    assert.equal((await store.head()).size, 12);
    await start();
    await untilStored(20);
    await answer(1);
    await untilStored(21);
    await stop();
    await assertComplete(8);
  });

  test('the store goes away and comes back: blocks wait in the spool, go in order, and none is lost or there twice', async () => {
    const writer = await start();
    await answer(5);
    await untilStored(5);
    storeAway = true;
    for (let i = 0; i < 6; i += 1) {
      await answer(4, 1);
      await until('it happens', async () => (await waiting()) === 0);
    }
    await until('it happens', () => writer.head.size === 35);
    assert.deepEqual([writer.storeDown, writer.unshipped, (await store.head()).size], [true, 30, 5]);
    assert.ok(said.includes('store failed'));
    storeAway = false;
    await untilStored(35);
    await until('it happens', () => !writer.storeDown);
    assert.ok(said.includes('store back 30'), said.join());
    await answer(3);
    await untilStored(38);
    await until('it happens', async () => (await Spool.open(spoolFolder, 1_000_000)).blocks.length === 0);
    await stop();
    await assertComplete(6);
  });

  test('a writer starts while the store is away, after one that spooled', async () => {
    await start();
    await answer(5);
    await untilStored(5);
    storeAway = true;
    await answer(4);
    await until('it happens', async () => (await waiting()) === 0);
    await stop();
    await answer(4);
    const second = await start();
    await until('it happens', () => second.head.size === 13);
    assert.equal(second.snapshot?.size, 13, 'the tree is known without the store');
    storeAway = false;
    await untilStored(13);
    await stop();
    assert.deepEqual(Buffer.from(second.snapshot?.root as Uint8Array), Buffer.from((await treeOf(13)).root()));
    await assertComplete(0);
  });

  test('the store takes a block and dies before it says so: stored once', async () => {
    let failures = 0;
    insert = async (block) => {
      await store.insert(block);
      failures += 1;
      if (failures <= 3) away();
    };
    const writer = await start();
    let rounds = 0;
    for (; failures < 4; rounds += 1) {
      await answer(3, 1);
      await until('it is shipped', async () => (await waiting()) === 0 && writer.unshipped === 0);
    }
    await until('the store is back', () => !writer.storeDown && writer.unshipped === 0);
    await stop();
    await assertComplete(rounds);
  });

  test('the spool is full: nothing more is taken from Redis, nothing is lost, and it goes on when there is room', async () => {
    spoolOctetsMax = 100_000;
    storeAway = true;
    await redis.set(
      journalKeys.state,
      JSON.stringify({ version: 1, size: 0, hash: '0'.repeat(64), node: '', positions: {}, inserting: 0, subtrees: [] }),
    );
    const writer = await start();
    for (let i = 0; i < 40; i += 1) await answer(5);
    await until('it happens', () => said.includes('spool full'));
    const { size } = writer.head;
    assert.ok(size > 0 && size < 200, `${size}`);
    await answer(5);
    assert.ok((await waiting()) >= 1);
    storeAway = false;
    await untilStored(205);
    await stop();
    await assertComplete(0);
  });

  test('an entry that cannot be read goes into quarantine, whole, and stops nothing', async () => {
    const poison = randomBytes(100_000);
    await answer(2);
    await redis.xadd(lane, '*', 'b', poison);
    await redis.xadd(journalKeys.events, '*', 'x', '');
    await answer(2);
    await start();
    await untilStored(4 + 3 + 1);
    await stop();
    await assertComplete(4);
    const parts = (await journal()).filter((event) => event.kind === 'journal.quarantined');
    const ofLane = parts.filter(({ subject }) => subject.startsWith(lane));
    assert.deepEqual(
      ofLane.map(({ detail }) => [detail.part, detail.parts]),
      [
        [1, 3],
        [2, 3],
        [3, 3],
      ],
    );
    assert.deepEqual(Buffer.concat(ofLane.map(({ detail }) => detail.octets)), poison);
    assert.deepEqual(said.toSorted(), [`quarantined ${journalKeys.events}`, `quarantined ${lane}`]);
    const table = await store.client.query({ query: 'SELECT count() AS n FROM journal_quarantine', format: 'JSONEachRow' });
    assert.deepEqual(await table.json(), [{ n: 4 }]);
  });

  test('an answer that is too long for an event goes into quarantine; its neighbours do not', async () => {
    const long = { ...answerOf(randomBytes(16)), token: randomBytes(70_000) };
    const good = answerOf(randomBytes(16));
    issued.push(Buffer.from(good.serial).toString('hex'));
    await redis.xadd(lane, '*', 'b', makeAnswerBlock(node, Buffer.alloc(32, 7), [long, good]));
    await start();
    await untilStored(3);
    await stop();
    await assertComplete(2);
  });

  test('the lease is lost: the writer ends, and nothing was written without it', async () => {
    const writer = await start();
    await answer(2);
    await untilStored(2);
    heldForMs = 10;
    await answer(2);
    assert.equal(codeOf(await running?.ended), 'JOURNAL_LEASE_LOST');
    assert.equal(writer.head.size, 2);
    assert.equal((await store.head()).size, 2);
    heldForMs = 60_000;
    await start();
    await untilStored(4);
    await stop();
    await assertComplete(0);
  });

  test('an event of the journal itself is durable when it is said to be', async () => {
    const writer = await start();
    const sealed = await writer.append(draftOf('service.logStarted', { optional: true }));
    assert.equal(sealed.event.sequence, 0);
    assert.equal((await store.head()).size, 1);
    await stop();
    await assert.rejects(writer.append(draftOf('service.logStarted', { optional: true })), { code: 'JOURNAL_LEASE_LOST' });
  });

  test('who waits for an event of a block that fails is told', async () => {
    insert = async () => {
      await redis.set(journalKeys.writer, 'writer-2');
      away();
    };
    const writer = await start();
    const waiting = writer.append(draftOf('service.logStarted', { optional: true }));
    await assert.rejects(waiting, { code: 'JOURNAL_LEASE_LOST' });
    assert.equal(codeOf(await running?.ended), 'JOURNAL_LEASE_LOST');
  });

  test('a writer that lost the lease while it waited for the store changes nothing that another one needs', async () => {
    await start();
    await answer(2);
    await untilStored(2);
    const recorded = await redis.get(journalKeys.state);
    // As one that stood still: by its own clock it has the lease, and Redis has given it to another.
    insert = async () => {
      await redis.set(journalKeys.writer, 'writer-2');
      away();
    };
    await answer(3);
    assert.equal(codeOf(await running?.ended), 'JOURNAL_LEASE_LOST');
    running = undefined;
    assert.equal((await Spool.open(spoolFolder, 1_000_000)).blocks.length, 0, 'what it spooled is taken back');
    const { inserting, ...state } = JSON.parse((await redis.get(journalKeys.state)) as string);
    assert.deepEqual(state, (({ inserting: _, ...rest }) => rest)(JSON.parse(recorded as string)));
    assert.equal(inserting, 5);
    assert.equal(await waiting(), 1, 'what it had read is still in Redis');
    await redis.set(journalKeys.writer, holder);
    insert = (block) => store.insert(block);
    await start();
    await untilStored(5);
    await stop();
    await assertComplete(0);
  });

  test('blocks that a writer without the lease left in the spool are set aside, not shipped', async () => {
    await start();
    await answer(2);
    await untilStored(2);
    await stop();
    const spool = await Spool.open(spoolFolder, 1_000_000);
    const stray = sealEvent({ size: 1, hash: Buffer.alloc(32, 9) }, draftOf('service.logStarted', { optional: true }));
    await spool.append(1, [{ octets: stray.octets, origin: noOrigin }], {});
    await start();
    await answer(2);
    await untilStored(4);
    await stop();
    assert.deepEqual(said, ['stray blocks']);
    await assertComplete(0);
    rmSync(`${spoolFolder}-stray`, { recursive: true });
  });

  test('a block that an outage left in the spool does not stand in the way of the next outage', async () => {
    const first = await start();
    await answer(2);
    await untilStored(2);
    storeAway = true;
    await answer(2);
    await until('it is spooled', () => first.head.size === 4);
    storeAway = false;
    await untilStored(4);
    await stop();
    // Written by another host meanwhile: this one's spool is of long ago.
    const behind = join(folder.path, 'spool-kept');
    cpSync(spoolFolder, behind, { recursive: true });
    await start();
    await answer(2);
    await untilStored(6);
    await stop();
    cpSync(behind, spoolFolder, { recursive: true });
    const second = await start();
    storeAway = true;
    await answer(2);
    await until('it is spooled again', () => second.head.size === 8);
    storeAway = false;
    await untilStored(8);
    await stop();
    await assertComplete(0);
  });

  test('a crash between store and record, after a block of many entries: nothing is there twice', async () => {
    for (let i = 0; i < 16; i += 1) await answer(60);
    insert = async (block) => {
      await store.insert(block);
      // As kill -9 would: the record in Redis is of before.
      await redis.quit();
      away();
    };
    await start();
    await until('a block is stored', async () => (await store.head()).size > 0);
    assert.ok((await stop()) instanceof Error);
    redis = server.connect();
    rmSync(spoolFolder, { recursive: true, force: true });
    insert = (block) => store.insert(block);
    await start();
    await answer(1);
    await untilStored(961);
    await stop();
    await assertComplete(0);
  });

  test('a crash between spool and record, and another before anything is recorded: nothing is there twice', async () => {
    await start();
    await answer(2);
    await untilStored(2);
    // As kill -9 would: the block is in the spool, the record in Redis is of before.
    insert = async () => {
      await redis.quit();
      away();
    };
    await answer(3);
    assert.ok((await running?.ended) instanceof Error);
    running = undefined;
    redis = server.connect();
    insert = (block) => store.insert(block);
    await start();
    await untilStored(5);
    await stop();
    assert.equal((await open()).head.size, 5);
    await start();
    await answer(1);
    await untilStored(6);
    await stop();
    await assertComplete(0);
  });

  test('Redis falls back to before an outage of the store: what came in by way of the spool is known there', async () => {
    await start();
    await answer(2);
    await untilStored(2);
    await stop();
    const record = (await redis.get(journalKeys.state)) as string;
    await answer(3);
    const [[, fields] = []] = await redis.xrangeBuffer(lane, '-', '+');
    const [[id] = []] = await redis.xrange(lane, '-', '+');
    storeAway = true;
    const writer = await start();
    await until('it is spooled', () => writer.head.size === 5);
    storeAway = false;
    await until('the store is back', () => !writer.storeDown && writer.unshipped === 0);
    await answer(1);
    await untilStored(6);
    await until('the spool is empty', async () => (await Spool.open(spoolFolder, 1_000_000)).blocks.length === 0);
    await stop();
    await redis.del(lane);
    await redis.xadd(lane, id as string, 'b', fields?.[1] as Buffer);
    await redis.set(journalKeys.state, record);
    await start();
    await answer(1);
    await untilStored(7);
    await stop();
    await assertComplete(0);
  });

  test('a block that ClickHouse takes for stored, and has not, is stored after all', async () => {
    await start();
    await answer(2);
    await untilStored(2);
    // Killed after it had noted the block, and before it had it.
    insert = async () => {
      await redis.quit();
      away();
    };
    await answer(3);
    assert.ok((await running?.ended) instanceof Error);
    running = undefined;
    redis = server.connect();
    rmSync(spoolFolder, { recursive: true, force: true });
    let swallowed = 0;
    insert = async (block) => {
      swallowed += 1;
      if (swallowed > 1) await store.insert(block);
    };
    await start();
    await untilStored(5);
    await answer(1);
    await untilStored(6);
    await stop();
    assert.ok(swallowed > 1);
    await assertComplete(0);
  });

  test('a part of a run came first: what follows is not put behind a gap', async () => {
    await start();
    await answer(2, 1);
    await untilStored(3);
    let lost: readonly StoredEvent[] = [];
    insert = async (block) => {
      if (lost.length === 0) lost = block;
      away();
    };
    await answer(3);
    await until('it is spooled', async () => (await waiting()) === 0);
    await answer(3, 2);
    await until('it is spooled as well', async () => (await waiting()) === 0);
    // The first insert comes after all, just before that of the spool, which is of both blocks and behind the same entry.
    let landed = false;
    insert = async (block) => {
      if (!landed) await store.insert(lost);
      landed = true;
      await store.insert(block);
    };
    await untilStored(11);
    await stop();
    await assertComplete(3);
  });

  test('the tree is read from the store while blocks are written, and is the right one', async () => {
    await start();
    await answer(5);
    await untilStored(5);
    storeAway = true;
    await answer(5);
    await until('it is spooled', async () => (await waiting()) === 0);
    await stop();
    const record = JSON.parse((await redis.get(journalKeys.state)) as string);
    await redis.set(journalKeys.state, JSON.stringify({ ...record, subtrees: [] }));
    let slow = Promise.withResolvers<void>();
    resumeTree = async (size) => {
      await slow.promise;
      return treeOf(size);
    };
    const writer = await start();
    assert.equal(sizeOf(writer), undefined);
    storeAway = false;
    await untilStored(10);
    await answer(3);
    await untilStored(13);
    slow.resolve();
    await until('the tree is known', () => writer.snapshot?.size === 13);
    await stop();
    slow = Promise.withResolvers();
    assert.deepEqual(Buffer.from(writer.snapshot?.root as Uint8Array), Buffer.from((await treeOf(13)).root()));
  });

  test('work that needs the store for itself runs between blocks, when the store has all', async () => {
    const writer = await start();
    storeAway = true;
    await answer(2);
    await until('it is spooled', () => writer.head.size === 2);
    let stored = -1;
    const done = writer.exclusively(async () => {
      stored = (await store.head()).size;
    });
    await answer(2);
    await until('it is spooled', () => writer.head.size === 4);
    assert.equal(stored, -1);
    storeAway = false;
    await done;
    assert.equal(stored, 4);
    await stop();
    await assert.rejects(
      writer.exclusively(async () => undefined),
      { code: 'JOURNAL_LEASE_LOST' },
    );
  });

  test('a store that lost entries, and one with another entry: nothing is written', async () => {
    await start();
    await answer(5);
    await untilStored(5);
    await stop();
    await store.client.command({ query: 'ALTER TABLE journal_events DELETE WHERE sequence >= 3 SETTINGS mutations_sync = 1' });
    await assert.rejects(open(), { code: 'JOURNAL_SHORTENED' });
    await emptyRedis();
    const writer = await open();
    assert.equal(writer.head.size, 3, 'who empties the record accepts the loss');
  });
});
