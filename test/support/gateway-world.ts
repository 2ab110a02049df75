/** A gateway on a Redis of its own, with signers that a test scripts, and clients that send whole requests, or octet by octet. */
import { type Agent, request as httpRequest } from 'node:http';
import type { Socket } from 'node:net';
import { after, afterEach, before, beforeEach } from 'node:test';
import { parseConfig } from '../../config/load.ts';
import { type GatewayService, startGateway } from '../../gateway/service.ts';
import { createLogger } from '../../observability/log.ts';
import type { LaneAnswerBatch, LaneEntry } from '../../queue/lane-responder.ts';
import { decodeStampRequests } from '../../queue/stamp-messages.ts';
import { makeAnswerBlock } from './answer-blocks.ts';
import { type BenchResponder, keys, LaneBench } from './lane-bench.ts';
import { type OpenConnection, openConnection } from './open-connection.ts';
import { startTestRedis, type TestRedis } from './redis-server.ts';
import { freePort } from './service.ts';
import { makeHierarchy, makeSoftwareTsu, makeTemplate, type SoftwareHierarchy, type SoftwareTsu, tokenOf } from './software-tsu.ts';
import { TestPki } from './timestamp-fixtures.ts';
import { makeRequest } from './tsp-requests.ts';
import { until } from './until.ts';

export const query = { 'Content-Type': 'application/timestamp-query' };

export interface Answer {
  readonly status: number;
  readonly body: Buffer;
  readonly connection: string | undefined;
}

/** A connection on which a test writes octets itself. */
export interface GatewayWorld {
  readonly redis: TestRedis;
  /** The other end of the lane, and a look at Redis. */
  readonly bench: LaneBench;
  readonly gateway: GatewayService | undefined;
  readonly port: number;
  readonly logged: readonly string[];
  /** Starts a gateway of this configuration; it is stopped with the test. */
  start(more?: { public?: Record<string, unknown>; timestamp?: Record<string, unknown> }): Promise<void>;
  /** Begins to stop the gateway. */
  stop(reason: string): Promise<void>;
  startSigner(passed?: Promise<void>): Promise<BenchResponder>;
  send(path: string, headers: Record<string, string>, body: Uint8Array | string, agent?: Agent): Promise<Answer>;
  stamp(agent?: Agent): Promise<Answer>;
  open(): Promise<OpenConnection>;
}

/** For the tests of a suite. */
export const gatewayWorld = (): GatewayWorld => {
  let pki: TestPki;
  let hierarchy: SoftwareHierarchy;
  let tsu: SoftwareTsu;
  let redis: TestRedis;
  let bench: LaneBench;
  let gateway: GatewayService | undefined;
  let port: number;
  let logged: string[];
  const sockets = new Set<Socket>();

  before(async () => {
    pki = new TestPki();
    hierarchy = makeHierarchy(pki);
    tsu = makeSoftwareTsu(pki, hierarchy, 'ec-p256');
    redis = await startTestRedis({ appendOnly: true });
  });
  after(async () => {
    await redis.close();
    pki.close();
  });
  beforeEach(() => {
    bench = new LaneBench(redis);
  });
  afterEach(async () => {
    for (const socket of sockets) socket.destroy();
    sockets.clear();
    await gateway?.stop('test');
    gateway = undefined;
    await bench.close();
  });

  const start = async (more: { public?: Record<string, unknown>; timestamp?: Record<string, unknown> } = {}): Promise<void> => {
    port = await freePort();
    logged = [];
    const config = parseConfig({
      public: { port, ...more.public },
      redis: { mode: 'url', url: `unix://${redis.socket}` },
      trust: { rootsFile: hierarchy.rootFile },
      timestamp: { deadlineMs: 2_000, ...more.timestamp },
    });
    const log = createLogger({ ...config.log, level: 'info', format: 'json' }, 'gateway', { write: (line) => logged.push(line) });
    gateway = await startGateway(config, log);
    await until('the gateway has Redis', async () => (await gateway?.health())?.[0]?.ok === true);
  };

  const tsuId = (): Buffer => Buffer.from(tsu.identity.certificate.fingerprint256.replaceAll(':', ''), 'hex');
  /** A signer with the certificates of the TSU and placeholder signatures. */
  const startSigner = async (passed: Promise<void> = Promise.resolve()) => {
    for (const der of tsu.chain)
      await bench.look.hset(
        keys.certificates,
        String(der.length),
        `-----BEGIN CERTIFICATE-----\n${Buffer.from(der).toString('base64')}\n-----END CERTIFICATE-----\n`,
      );
    const template = makeTemplate(tsu);
    let count = 0;
    const work = async (entry: LaneEntry): Promise<LaneAnswerBatch> => {
      await passed;
      const answers = decodeStampRequests(entry.payload).map((request) => {
        count += 1;
        const serial = Buffer.alloc(20, 0x41);
        serial.writeUInt32BE(count, 16);
        template.prepare(request, serial, Date.now());
        const { id, certReq, client, policy, messageImprint } = request;
        return {
          id,
          outcome: 'granted',
          clock: 'unverified',
          certReq,
          unixMillis: 0,
          client,
          policy,
          messageImprint,
          serial,
          token: tokenOf(template, new Uint8Array(70)),
        } as const;
      });
      return { block: makeAnswerBlock('node', tsuId(), answers), stamps: new Map([['anonymous', answers.length]]) };
    };
    return bench.responder({ work });
  };

  const send = (path: string, headers: Record<string, string>, body: Uint8Array | string, agent?: Agent): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const sent = httpRequest(
        { port, method: 'POST', path, agent: agent ?? false, headers: { ...headers, 'Content-Length': Buffer.byteLength(body) } },
        (response) => {
          const parts: Buffer[] = [];
          response.on('data', (part: Buffer) => parts.push(part));
          response.on('end', () =>
            resolve({ status: response.statusCode ?? 0, body: Buffer.concat(parts), connection: response.headers.connection }),
          );
        },
      );
      sent.on('error', reject);
      sent.end(body);
    });
  const stamp = (agent?: Agent): Promise<Answer> => send('/tsa', query, makeRequest({ certReq: true }), agent);

  const open = (): Promise<OpenConnection> => openConnection(port, sockets);

  return {
    get redis() {
      return redis;
    },
    get bench() {
      return bench;
    },
    get gateway() {
      return gateway;
    },
    get port() {
      return port;
    },
    get logged() {
      return logged;
    },
    start,
    stop(reason) {
      const stopping = gateway?.stop(reason);
      gateway = undefined;
      return stopping ?? Promise.resolve();
    },
    startSigner,
    send,
    stamp,
    open,
  };
};
