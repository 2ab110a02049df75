/**
 * The whole service with its journal in a real ClickHouse server, behind a proxy that fails on demand: what it answers meanwhile is
 * kept, and in the end held against what the server has.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type ChainHead, emptyChain, followChain, headBehind } from '../../observability/journal/chain.ts';
import { serverClient } from '../../observability/journal/clickhouse.ts';
import { JournalReader } from '../../observability/journal/reader.ts';
import { journalClient } from '../../observability/journal/writer-options.ts';
import { readTimeStampResp } from '../../pki/tsp-read.ts';
import { ClickHouseProxy, noFault } from './clickhouse-proxy.ts';
import { TestClickHouse } from './clickhouse-server.ts';
import { type Service, ServiceFolder, type StartOptions, until } from './service.ts';
import { describeLoad, type LoadResult, type RunningLoad, startLoad } from './stamp-load.ts';

const database = 'sealed';
const connections = 64;
/** A store that takes a second for each request ships 12,000 entries in a dozen of them; the long run leaves it 40,000. */
const patienceMs = process.env['TEST_LONG'] === undefined ? 60_000 : 240_000;
const sampleMs = 150;

/** What the operations address says at one instant. */
export interface Sample {
  readonly ready: number | undefined;
  /** 1 while a process writes the journal. */
  readonly active: number;
  readonly storeUp: number;
  readonly size: number;
  readonly unshipped: number;
  readonly spoolBytes: number;
  /** Entries of all streams that the journal has not taken. */
  readonly waiting: number;
}

const valuesOf = (metrics: string, name: string): number[] =>
  [...metrics.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'gm'))].map(([, value]) => Number(value));
const sumOf = (metrics: string, name: string): number => valuesOf(metrics, name).reduce((sum, value) => sum + value, 0);

/** Entries in all streams; gateway and journal both count them. */
const waitingOf = (metrics: string): number => {
  const streams = new Map<string, number>();
  for (const [, stream = '', value] of metrics.matchAll(/^journal_waiting_entries\{[^}]*stream="([^"]*)"[^}]*\} (\S+)$/gm)) {
    streams.set(stream, Math.max(streams.get(stream) ?? 0, Number(value)));
  }
  return [...streams.values()].reduce((sum, value) => sum + value, 0);
};

const sampleOf = async (service: Service): Promise<Sample> => {
  // An address that does not answer is what a sample is to show.
  const [readiness, metrics] = await Promise.all([service.readiness(), service.metrics().catch(() => '')]);
  return {
    ready: readiness?.status,
    active: sumOf(metrics, 'journal_active'),
    storeUp: sumOf(metrics, 'journal_store_up'),
    size: sumOf(metrics, 'journal_size'),
    unshipped: sumOf(metrics, 'journal_unshipped'),
    spoolBytes: sumOf(metrics, 'journal_spool_bytes'),
    waiting: waitingOf(metrics),
  };
};

const fingerprint = (octets: Uint8Array): string => createHash('sha256').update(octets).digest('base64');

/** A service under load, watched. */
export class Drill {
  readonly service: Service;
  readonly load: RunningLoad;
  readonly samples: Sample[] = [];
  #watching: Promise<void>;
  #ended = false;

  private constructor(service: Service, load: RunningLoad, everyMs: number) {
    this.service = service;
    this.load = load;
    this.#watching = this.#watch(everyMs);
  }

  static async start(
    service: Service,
    options: { readonly keep: boolean; readonly sampleMs: number } = { keep: true, sampleMs },
  ): Promise<Drill> {
    const load = await startLoad({ port: service.port, connections, keep: options.keep, hangMs: patienceMs });
    return new Drill(service, load, options.sampleMs);
  }

  /** So many stamps more. */
  async granted(more: number): Promise<void> {
    await this.load.untilGranted(this.load.granted() + more, patienceMs);
  }

  /** Waits for a sample that was taken from now on. */
  async untilSample(what: string, condition: (sample: Sample) => boolean, deadlineMs = patienceMs): Promise<Sample> {
    const from = this.samples.length + 1;
    return until(
      () => `${what}; last: ${JSON.stringify(this.samples.at(-1))}`,
      () => this.samples.slice(from).find(condition),
      deadlineMs,
    );
  }

  /** ClickHouse is known to be away, and blocks go into the spool. */
  untilSpooling(): Promise<Sample> {
    return this.untilSample('the journal spools', ({ storeUp, spoolBytes }) => storeUp === 0 && spoolBytes > 0);
  }

  /** ClickHouse has everything that is durable, and the spool is empty. */
  untilShipped(): Promise<Sample> {
    return this.untilSample(
      'all is in ClickHouse',
      ({ active, storeUp, unshipped, spoolBytes }) => active === 1 && storeUp === 1 && unshipped === 0 && spoolBytes === 0,
    );
  }

  /** Ends the load, and waits until the journal has everything. */
  async finish(): Promise<LoadResult> {
    const result = await this.load.stop();
    await this.untilSample(
      'nothing waits',
      ({ active, storeUp, unshipped, waiting }) => active === 1 && storeUp === 1 && unshipped === 0 && waiting === 0,
    );
    await this.end();
    return result;
  }

  /** Ends everything at once, if it still runs: for `finally`. */
  async end(): Promise<void> {
    this.load.abort();
    this.#ended = true;
    await this.#watching;
  }

  async #watch(everyMs: number): Promise<void> {
    while (!this.#ended) {
      this.samples.push(await sampleOf(this.service));
      await delay(everyMs);
    }
  }
}

/** What a whole test file shares: keys are made once, and one journal grows from test to test. */
export class ClickHouseRange {
  readonly folder = new ServiceFolder();
  readonly clickhouse: TestClickHouse;
  readonly proxy: ClickHouseProxy;
  /** As far as the chain was followed. */
  #head: ChainHead = emptyChain;
  /** A drill was given up: there are stamps behind the head that nobody holds answers of. */
  #hasRemains = false;

  private constructor(clickhouse: TestClickHouse, proxy: ClickHouseProxy) {
    this.clickhouse = clickhouse;
    this.proxy = proxy;
  }

  /** The server is not started, and has no database yet. */
  static async create(): Promise<ClickHouseRange> {
    const clickhouse = await TestClickHouse.create();
    return new ClickHouseRange(clickhouse, await ClickHouseProxy.start(clickhouse.port));
  }

  get options(): StartOptions {
    const { url } = this.proxy;
    return { settings: { journal: { url, database, block: { ageMs: 100, rowsMax: 500 }, checkpoint: { seconds: 1 } } } };
  }

  /** Number of entries that were followed. */
  get entries(): number {
    return this.#head.size;
  }

  /** Starts ClickHouse; it is made ready for the journal when it is new. */
  async startClickHouse(): Promise<void> {
    await this.clickhouse.start();
    await this.clickhouse.ask(`CREATE DATABASE IF NOT EXISTS ${database}`);
  }

  /** ClickHouse is there, and well. */
  async repairClickHouse(): Promise<void> {
    await this.proxy.set(noFault);
    if (!this.clickhouse.isRunning) await this.startClickHouse();
  }

  /** Takes away what a failed test has left, so that it does not fail the next one as well. */
  async repair(): Promise<void> {
    this.folder.killAll();
    await this.repairClickHouse();
  }

  /** Runs a service, and a load on it, over what `act` does to ClickHouse; then holds the answers against the journal. */
  async drill(
    act: (drill: Drill) => Promise<void>,
    start: () => Promise<Service> = () => this.folder.start(this.options),
  ): Promise<{ readonly drill: Drill; readonly result: LoadResult }> {
    const hasRemains = this.#hasRemains;
    this.#hasRemains = true;
    const service = await start();
    const drill = await Drill.start(service);
    try {
      await drill.granted(300);
      await act(drill);
      const result = await drill.finish();
      assert.equal(await service.stop(), 0, service.lastOutput);
      await this.proxy.settled();
      const journalled = await this.#assertComplete(result);
      if (!hasRemains) assert.equal(journalled, result.kept.length, 'stamps in the journal, and answers');
      this.#hasRemains = false;
      return { drill, result };
    } catch (error) {
      (error as Error).message += service.lastOutput;
      throw error;
    } finally {
      await drill.end();
    }
  }

  async close(): Promise<void> {
    await this.folder.remove();
    await this.proxy.close();
    await this.clickhouse.close();
  }

  /**
   * Every answer is in the journal once, octet for octet; its chain has neither gap nor repetition.
   * @returns number of stamps that came into the journal since the last time
   */
  async #assertComplete(result: LoadResult): Promise<number> {
    const message = describeLoad(result);
    const client = serverClient({ url: this.proxy.url, database } as Parameters<typeof serverClient>[0]);
    try {
      const reader = new JournalReader(client);
      const size = await reader.size();
      const journalled = new Map<string, number>();
      for await (const place of reader.read(this.#head.size, size)) {
        assert.ok(place.kind === 'entry');
        const step = followChain(this.#head, place.octets);
        assert.ok(step.kind === 'follows', `${JSON.stringify(step)}: ${message}`);
        const { event } = step.sealed;
        this.#head = headBehind(step.sealed);
        if (event.kind !== 'timestamp.issued' || event.actor === journalClient) continue;
        const token = fingerprint(event.detail.token);
        journalled.set(token, (journalled.get(token) ?? 0) + 1);
      }
      assert.equal(this.#head.size, size);
      // What was followed in an earlier test as well: a block may come late.
      const counted = (await this.clickhouse.ask(`SELECT count(), uniqExact(sequence) FROM ${database}.journal_events`)).trim();
      assert.equal(counted, `${size}\t${size}`, 'rows, and sequence numbers');

      assert.equal(result.kept.length, result.counts['granted']);
      for (const { response } of result.kept) {
        const token = readTimeStampResp(response).timeStampToken;
        assert.ok(token !== undefined);
        assert.equal(journalled.get(fingerprint(token)), 1, `times that a granted stamp is in the journal: ${message}`);
      }
      return journalled.size;
    } finally {
      await client.close();
    }
  }
}
