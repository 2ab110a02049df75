/** Both ends of a timestamp lane on a real Redis, with a signer's work that a test scripts. */
import { parseConfig } from '../../config/load.ts';
import { laneKeys, signerGroup } from '../../queue/keys.ts';
import { type LaneAnswer, LaneRequester, type LaneRequesterOptions } from '../../queue/lane-requester.ts';
import { type LaneAnswerBatch, type LaneEntry, LaneResponder, type LaneResponderOptions } from '../../queue/lane-responder.ts';
import { type ConnectionRole, connectRedis, type RedisClient, whenReady } from '../../queue/redis.ts';
import { decodeStampRequests, type StampRequest } from '../../queue/stamp-messages.ts';
import { makeAnswerBlock } from './answer-blocks.ts';
import type { TestRedis } from './redis-server.ts';

export const keys = laneKeys('timestamp');
export const testTsu = Buffer.alloc(32, 0x7e);

/** The number in the imprint comes back as the token: what was answered belongs to what was asked. */
export const numbered = (number: number): Omit<StampRequest, 'id'> => {
  const messageImprint = Buffer.alloc(8);
  messageImprint.writeDoubleBE(number);
  return { certReq: false, policy: Buffer.from([0x06, 0x01, 0x2a]), messageImprint, client: 'anonymous', nonce: undefined };
};
export const numberOf = (answer: LaneAnswer): number => (answer.kind === 'granted' ? answer.token.readDoubleBE(0) : Number.NaN);

/** Grants everything. */
export const grantAll = (entry: LaneEntry): LaneAnswerBatch => {
  const requests = decodeStampRequests(entry.payload);
  const answers = requests.map(({ id, certReq, client, policy, messageImprint }) => ({
    id,
    outcome: 'granted' as const,
    clock: 'unverified' as const,
    certReq,
    unixMillis: 1_800_000_000_000,
    client,
    policy,
    messageImprint,
    serial: Buffer.alloc(20, 0x41),
    token: Buffer.from(messageImprint),
  }));
  return { block: makeAnswerBlock('node', testTsu, answers), stamps: new Map([['anonymous', requests.length]]) };
};

/** A door that work waits at. */
export interface Gate {
  readonly passed: Promise<void>;
  open(): void;
}
export const createGate = (): Gate => {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { passed: promise, open: resolve };
};

export interface BenchRequester {
  readonly lane: LaneRequester;
  readonly batches: number[];
  readonly readErrors: unknown[];
  /** Sends one numbered request; resolves with its answer and the time that it took. @throws when it is not taken */
  ask(number: number): Promise<{ readonly answer: LaneAnswer; readonly tookMs: number }>;
  /** Answers that came for a request that had one already. */
  readonly answeredTwice: number;
}

export interface BenchResponder {
  readonly lane: LaneResponder;
  readonly failures: string[];
  readonly claimed: number;
  readonly answeredBatches: number;
}

export class LaneBench {
  readonly #server: TestRedis;
  readonly #connections: { disconnect(): void }[] = [];
  readonly #lanes: (() => Promise<void>)[] = [];
  /** For looking at the keys. */
  readonly look;
  #count = 0;

  constructor(server: TestRedis) {
    this.#server = server;
    this.look = server.connect();
    this.#connections.push(this.look);
  }

  /** A connection as the product opens it. */
  connect(role: ConnectionRole): RedisClient {
    const config = parseConfig({ redis: { mode: 'url', url: `unix://${this.#server.socket}` } });
    const client = connectRedis(config, 'test', role);
    client.on('error', () => undefined); // the tests stop the server on purpose
    this.#connections.push(client);
    return client;
  }

  async requester(more: Partial<LaneRequesterOptions> = {}): Promise<BenchRequester> {
    const [command, blocking] = [this.connect('command'), this.connect('blocking')];
    await Promise.all([whenReady(command, 5_000), whenReady(blocking, 5_000)]);
    const batches: number[] = [];
    const readErrors: unknown[] = [];
    let answeredTwice = 0;
    this.#count += 1;
    const lane = new LaneRequester({
      command,
      blocking,
      lane: 'timestamp',
      gatewayId: `gateway-${this.#count}-${process.hrtime.bigint()}`,
      inFlightMax: 1_000,
      entriesOutstandingMax: 4,
      fullEntriesBesides: 0,
      batchMin: 1,
      batchMax: 16,
      deadlineMs: 3_000,
      onBatch: (requests) => batches.push(requests),
      onReadError: (error) => readErrors.push(error),
      ...more,
    });
    this.#lanes.push(() => lane.close());
    return {
      lane,
      batches,
      readErrors,
      get answeredTwice() {
        return answeredTwice;
      },
      ask: (number: number) =>
        new Promise<{ answer: LaneAnswer; tookMs: number }>((resolve, reject) => {
          const started = performance.now();
          let answers = 0;
          const taken = lane.submit(numbered(number), (answer) => {
            answers += 1;
            if (answers > 1) answeredTwice += 1;
            resolve({ answer, tookMs: performance.now() - started });
          });
          if (!taken) reject(new Error('not taken'));
        }),
    };
  }

  async responder(more: Partial<Omit<LaneResponderOptions, 'on'>> = {}): Promise<BenchResponder> {
    const command = more.command ?? this.connect('command');
    const blocking = more.blocking ?? this.connect('blocking');
    await Promise.all([whenReady(command, 5_000), whenReady(blocking, 5_000)]);
    const failures: string[] = [];
    let claimed = 0;
    let answeredBatches = 0;
    this.#count += 1;
    const lane = await LaneResponder.start({
      lane: 'timestamp',
      signerId: `signer-${this.#count}`,
      capacity: 4,
      requestsWanted: () => 0,
      deadAfterMs: 500,
      deadlineMs: 3_000,
      work: async (entry) => grantAll(entry),
      ...more,
      command,
      blocking,
      on: {
        claimed: (entries) => {
          claimed += entries;
        },
        answered: () => {
          answeredBatches += 1;
        },
        failed: (stage) => failures.push(stage),
      },
    });
    this.#lanes.push(() => {
      const closing = lane.close();
      // Its read would wait for the end of its BLOCK.
      blocking.disconnect();
      return closing;
    });
    return {
      lane,
      failures,
      get claimed() {
        return claimed;
      },
      get answeredBatches() {
        return answeredBatches;
      },
    };
  }

  /** Entries in the requests stream, and those that some signer has read and not answered. */
  async entries(): Promise<{ readonly stream: number; readonly pending: number }> {
    const stream = await this.look.xlen(keys.requests);
    const summary = (await this.look.xpending(keys.requests, signerGroup).catch(() => [0])) as [number, ...unknown[]];
    return { stream, pending: Number(summary[0]) };
  }

  /** Closes both ends of the lane, then the connections. */
  async close(): Promise<void> {
    await Promise.all(this.#lanes.map((close) => close()));
    for (const connection of this.#connections) connection.disconnect();
  }
}
