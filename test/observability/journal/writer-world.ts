/**
 * A writer of the journal between a real Redis and an embedded ClickHouse. The test stands between the writer and the store: it scripts
 * outages, crashes and the loss of the lease, and says at the end whether everything is there, once.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach } from 'node:test';
import { SigilloError } from '../../../config/errors.ts';
import { type ChainHead, emptyChain, followChain, headBehind } from '../../../observability/journal/chain.ts';
import { embeddedClient } from '../../../observability/journal/clickhouse.ts';
import { encodeDrafts } from '../../../observability/journal/draft-block.ts';
import type { EventDraft, JournalEvent } from '../../../observability/journal/events.ts';
import { MerkleTree } from '../../../observability/journal/merkle.ts';
import { JournalReader } from '../../../observability/journal/reader.ts';
import { Spool } from '../../../observability/journal/spool.ts';
import { JournalStore, type StoredEvent } from '../../../observability/journal/store.ts';
import { JournalWriter } from '../../../observability/journal/writer.ts';
import type { DecodedStampAnswer, stampOutcomes } from '../../../queue/answer-block.ts';
import { journalKeys, laneKeys } from '../../../queue/keys.ts';
import type { RedisClient } from '../../../queue/redis.ts';
import { makeAnswerBlock } from '../../support/answer-blocks.ts';
import { startTestRedis, type TestRedis } from '../../support/redis-server.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { until } from '../../support/until.ts';
import { draftOf } from './fixtures.ts';

/** The stream that signers put their answers into. */
export const lane = laneKeys('timestamp').journal;
const node = 'node-1';
const holder = 'writer-1';
const heldMs = 60_000;
const spoolOctets = 10_000_000;
const blockAgeMs = 5;

export const answerOf = (serial: Buffer, outcome: (typeof stampOutcomes)[number] = 'granted'): DecodedStampAnswer => ({
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
/** An event that is no answer. */
export const serviceEvent = (): EventDraft => draftOf('service.logStarted', { optional: true });

/** What a store says that cannot be reached. */
export const away = (): never => {
  throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', 'away');
};

export class WriterWorld {
  readonly folder = temporaryFolder();
  readonly spoolFolder = join(this.folder.path, 'spool');
  server!: TestRedis;
  redis!: RedisClient;
  store!: JournalStore;
  /** What the writer told of, in its order. */
  readonly said: string[] = [];
  /** Serial numbers of all stamps that were given. */
  issued: string[] = [];
  /** Stands between the writer and the store. */
  insert!: (block: readonly StoredEvent[]) => Promise<void>;
  storeAway = false;
  resumeTree!: (size: number) => Promise<MerkleTree>;
  heldForMs = heldMs;
  spoolOctetsMax = spoolOctets;
  blockAgeMs = blockAgeMs;
  #running: { stop: AbortController; ended: Promise<unknown> } | undefined;

  async open(): Promise<void> {
    this.server = await startTestRedis();
    this.redis = this.server.connect();
    this.store = await JournalStore.open(await embeddedClient(join(this.folder.path, 'clickhouse')));
  }

  async close(): Promise<void> {
    await this.store.close();
    await this.server.close();
    this.folder.remove();
  }

  /** An empty journal, and nothing scripted. */
  async reset(): Promise<void> {
    await this.emptyRedis();
    await this.store.client.command({ query: 'TRUNCATE TABLE journal_events' });
    this.removeSpool();
    this.said.length = 0;
    this.issued = [];
    this.storeTakesAll();
    this.storeAway = false;
    this.resumeTree = (size) => this.treeOf(size);
    this.heldForMs = heldMs;
    this.spoolOctetsMax = spoolOctets;
    this.blockAgeMs = blockAgeMs;
  }

  /** But for the lease, which a running process would take again at once. */
  async emptyRedis(): Promise<void> {
    await this.redis.flushall();
    await this.takeLease();
  }

  async takeLease(): Promise<void> {
    await this.redis.set(journalKeys.writer, holder);
  }

  storeTakesAll(): void {
    this.insert = (block) => this.store.insert(block);
  }

  removeSpool(): void {
    rmSync(this.spoolFolder, { recursive: true, force: true });
  }

  async openWriter(other: { readonly node?: string } = {}): Promise<JournalWriter> {
    const between = {
      head: async () => (this.storeAway ? away() : this.store.head()),
      insert: async (block: readonly StoredEvent[], _signal: unknown, options?: { anew: boolean }) =>
        this.storeAway ? away() : options?.anew === true ? this.store.insert(block, undefined, options) : this.insert(block),
      fence: async () => true,
      insertsUnderWay: async () => 0,
      hashAt: (sequence: number) => this.store.hashAt(sequence),
      originsFrom: (sequence: number) => this.store.originsFrom(sequence),
    } as unknown as JournalStore;
    return JournalWriter.open({
      redis: this.redis,
      node: other.node ?? node,
      holder,
      stateMayBeOld: false,
      heldForMs: () => this.heldForMs,
      openStore: async () => (this.storeAway ? away() : between),
      spool: await Spool.open(this.spoolFolder, this.spoolOctetsMax),
      block: { rowsMax: 50, ageMs: this.blockAgeMs },
      resumeTree: (size) => this.resumeTree(size),
      onStored: () => undefined,
      on: {
        sealed: () => undefined,
        quarantined: (origin) => this.said.push(`quarantined ${origin.split(' ')[0]}`),
        storeFailed: () => this.said.push('store failed'),
        storeBack: (shipped) => this.said.push(`store back ${shipped}`),
        spoolFull: () => this.said.push('spool full'),
        strayBlocks: () => this.said.push('stray blocks'),
      },
    });
  }

  async start(): Promise<JournalWriter> {
    const writer = await this.openWriter();
    const stopping = new AbortController();
    this.#running = { stop: stopping, ended: writer.run(stopping.signal).catch((error: unknown) => error) };
    return writer;
  }

  /** Starts a writer that writes what is answered now, and waits until so much is stored. */
  async startAndStore(stamps: number, refusals = 0): Promise<JournalWriter> {
    const writer = await this.start();
    await this.answer(stamps, refusals);
    await this.untilStored(stamps + refusals);
    return writer;
  }

  /** Stops the writer. @returns why it had ended before, if it had */
  async stop(): Promise<unknown> {
    this.#running?.stop.abort();
    return this.ended();
  }

  /** Waits for a writer that ends by itself. @returns why */
  async ended(): Promise<unknown> {
    const ended = this.#running?.ended;
    this.#running = undefined;
    return ended;
  }

  /** As kill -9 would, when the writer gives its next block to the store: after what is `done`, nothing more happens. */
  crashAtInsert(done: (block: readonly StoredEvent[]) => Promise<void> = async () => undefined): void {
    this.insert = async (block) => {
      await done(block);
      await this.redis.quit();
      away();
    };
  }

  /** Waits for the crash, and makes ready for another writer: on this host, or on one whose spool is empty. */
  async crashed({ spool }: { spool: 'kept' | 'lost' }): Promise<void> {
    assert.ok((await this.ended()) instanceof Error);
    this.redis = this.server.connect();
    if (spool === 'lost') this.removeSpool();
    this.storeTakesAll();
  }

  /** As for one that stood still: by its own clock it has the lease, and Redis has given it to another. */
  loseLeaseAtInsert(): void {
    this.insert = async () => {
      await this.redis.set(journalKeys.writer, 'writer-2');
      away();
    };
  }

  async assertLeaseLost(): Promise<void> {
    const error = await this.ended();
    assert.equal(error instanceof SigilloError ? error.code : undefined, 'JOURNAL_LEASE_LOST');
  }

  /** Answers of a signer, in one block. */
  async answer(stamps: number, refusals = 0): Promise<void> {
    const serials = Array.from({ length: stamps }, () => randomBytes(16));
    await this.answerWith([
      ...serials.map((serial) => answerOf(serial)),
      ...Array.from({ length: refusals }, () => answerOf(Buffer.alloc(0), 'timeNotAvailable')),
    ]);
    this.issued.push(...serials.map((serial) => serial.toString('hex')));
  }

  async answerWith(answers: readonly DecodedStampAnswer[]): Promise<void> {
    await this.redis.xadd(lane, '*', 'b', makeAnswerBlock(node, Buffer.alloc(32, 7), answers));
  }

  async tell(draft: EventDraft): Promise<void> {
    await this.redis.xadd(journalKeys.events, '*', 'b', encodeDrafts([draft]));
  }

  /** Entries of Redis that no block has. */
  async waiting(): Promise<number> {
    return (await this.redis.xlen(lane)) + (await this.redis.xlen(journalKeys.events));
  }

  /** By names: to open the spool beside the writer that has it would clear away what is being written. */
  async spooledBlocks(): Promise<number> {
    return (await readdir(this.spoolFolder)).filter((name) => name.endsWith('.block')).length;
  }

  /** The writer's record in Redis of how far it is. */
  async record(): Promise<string> {
    return (await this.redis.get(journalKeys.state)) as string;
  }

  async setRecord(record: string): Promise<void> {
    await this.redis.set(journalKeys.state, record);
  }

  untilStored(entries: number): Promise<unknown> {
    return until('it is stored', async () => (await this.store.head()).size >= entries);
  }

  /** What is stored is recorded a moment later. */
  untilRecorded(entries: number): Promise<unknown> {
    return until('it is recorded', async () => JSON.parse(await this.record()).size === entries);
  }

  untilTaken(): Promise<unknown> {
    return until('all is taken out of Redis', async () => (await this.waiting()) === 0);
  }

  untilShipped(writer: JournalWriter): Promise<unknown> {
    return until('the store is back', () => !writer.storeDown && writer.unshipped === 0);
  }

  async treeOf(size: number): Promise<MerkleTree> {
    const tree = new MerkleTree();
    let head: ChainHead = emptyChain;
    for await (const place of new JournalReader(this.store.client).read(0, size)) {
      const step = followChain(head, (place as { octets: Buffer }).octets);
      assert.ok(step.kind === 'follows');
      head = headBehind(step.sealed);
      tree.append(step.sealed.hash);
    }
    return tree;
  }

  /** Everything that is stored, followed from the first entry. */
  async journal(): Promise<JournalEvent[]> {
    const events: JournalEvent[] = [];
    let head: ChainHead = emptyChain;
    for await (const place of new JournalReader(this.store.client).read(0, 1_000_000)) {
      assert.ok(place.kind === 'entry');
      const step = followChain(head, place.octets);
      assert.ok(step.kind === 'follows', JSON.stringify(step));
      head = headBehind(step.sealed);
      events.push(step.sealed.event);
    }
    return events;
  }

  async assertComplete({ others }: { others: number }): Promise<void> {
    const events = await this.journal();
    const stamps = events.filter(({ kind }) => kind === 'timestamp.issued').map(({ subject }) => subject);
    assert.deepEqual(stamps.toSorted(), this.issued.toSorted(), 'every stamp once');
    assert.equal(events.length - stamps.length, others);
  }

  /** The writer stores so many entries and stops: every stamp is there once, and so many others. */
  async finish(entries: number, { others }: { others: number } = { others: 0 }): Promise<void> {
    await this.untilStored(entries);
    await this.stop();
    await this.assertComplete({ others });
  }

  /** The writer's tree is that of so many stored entries. */
  async assertRoot(writer: JournalWriter, size: number): Promise<void> {
    assert.deepEqual(Buffer.from(writer.snapshot?.root as Uint8Array), Buffer.from((await this.treeOf(size)).root()));
  }
}

/** One world for the tests of a suite, empty before each. */
export const writerWorld = (): WriterWorld => {
  const world = new WriterWorld();
  before(() => world.open());
  after(() => world.close());
  beforeEach(() => world.reset());
  afterEach(async () => {
    await world.stop();
  });
  return world;
};
