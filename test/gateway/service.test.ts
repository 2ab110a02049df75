import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Agent, request as httpRequest } from 'node:http';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { parseConfig } from '../../config/load.ts';
import { type GatewayService, startGateway } from '../../gateway/service.ts';
import { createLogger } from '../../observability/log.ts';
import { oid } from '../../pki/der.ts';
import { readTimeStampResp } from '../../pki/tsp-read.ts';
import { refusalResponse } from '../../pki/tsp-refusal.ts';
import { journalKeys } from '../../queue/keys.ts';
import type { LaneAnswerBatch, LaneEntry } from '../../queue/lane-responder.ts';
import { decodeStampRequests } from '../../queue/stamp-messages.ts';
import { makeAnswerBlock } from '../support/answer-blocks.ts';
import { addClient, waitingEvents } from '../support/clients.ts';
import { createGate, keys, LaneBench } from '../support/lane-bench.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import {
  makeHierarchy,
  makeSoftwareTsu,
  makeTemplate,
  type SoftwareHierarchy,
  type SoftwareTsu,
  tokenOf,
} from '../support/software-tsu.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';
import { makeRequest } from '../support/tsp-requests.ts';
import { until } from '../support/until.ts';

const query = { 'Content-Type': 'application/timestamp-query' };

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
};

describe('the gateway', { skip: redisServerMissing() }, () => {
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

  interface Answer {
    readonly status: number;
    readonly body: Buffer;
    readonly connection: string | undefined;
  }
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

  const open = async (): Promise<{ socket: Socket; received: () => string; closed: () => boolean }> => {
    const socket = connect(port, '127.0.0.1');
    sockets.add(socket);
    let text = '';
    let closed = false;
    socket.on('data', (data: Buffer) => {
      text += data.toString('latin1');
    });
    socket.on('error', () => undefined); // a reset counts as closed
    socket.on('close', () => {
      closed = true;
    });
    await once(socket, 'connect');
    return { socket, received: () => text, closed: () => closed };
  };

  test('a stamp, a batch of stamps, the repository and nothing else', async () => {
    await start();
    await startSigner();
    const answer = await stamp();
    assert.equal(answer.status, 200);
    assert.equal(readTimeStampResp(answer.body).status, 'granted');
    const hash = Buffer.alloc(32, 1).toString('base64');
    const many = await send(
      '/v1/timestamps',
      { 'Content-Type': 'application/json' },
      JSON.stringify({ hashes: [{ algorithm: 'sha256', hash }] }),
    );
    assert.equal(many.status, 200);
    const chain = await fetch(`http://127.0.0.1:${port}/repository/tsa-chain.pem`);
    assert.equal((await chain.text()).split('BEGIN').length, 3);
    for (const path of ['/', '/ts', '/tsa/', '/tsax', '/v1', '/v1/timestamps/', '/healthz', '/metrics']) {
      const other = await fetch(`http://127.0.0.1:${port}${path}`);
      assert.equal(other.status, 404, path);
      assert.match(await other.text(), /^NOT_FOUND: [^\n]+\n$/, path);
    }
  });

  test('a target in absolute form, as RFC 9112, 3.2.2 obliges a server to take it', async () => {
    await start();
    await startSigner();
    assert.equal((await send(`http://127.0.0.1:${port}/tsa`, query, makeRequest())).status, 200);
  });

  for (const [name, path, type] of [
    ['/tsa', '/tsa', 'application/timestamp-query'],
    ['/v1/timestamps', '/v1/timestamps', 'application/json'],
  ] as const) {
    test(`${name}: a body that comes too slowly is given up soon after requestTimeoutMs`, { timeout: 10_000 }, async () => {
      await start({ public: { requestTimeoutMs: 500 } });
      const { socket, closed } = await open();
      socket.write(`POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: ${type}\r\nContent-Length: 100\r\n\r\n`);
      const drip = setInterval(() => socket.write('x'), 100);
      try {
        await until('the connection is closed', closed, 4_000);
      } finally {
        clearInterval(drip);
      }
    });
  }

  test('headers that never end are given up soon after requestTimeoutMs', { timeout: 10_000 }, async () => {
    await start({ public: { requestTimeoutMs: 500 } });
    const { socket, closed } = await open();
    socket.write('POST /tsa HTTP/1.1\r\nHost: x\r\n');
    await until('the connection is closed', closed, 4_000);
  });

  test('more connections than the bound are closed, and the others served', async () => {
    await start({ public: { connectionsMax: 3 } });
    await startSigner();
    const held = await Promise.all([open(), open(), open()]);
    const fourth = await open();
    await until('the fourth is closed', fourth.closed);
    held[0].socket.destroy();
    await until('there is room again', async () =>
      stamp().then(
        ({ status }) => status === 200,
        () => false,
      ),
    );
  });

  test('no room in flight: 503 at once with a TimeStampResp, and all is well afterwards', async () => {
    await start({ timestamp: { inFlightMax: 4, imprintsMax: 4 } });
    const gate = createGate();
    const signer = await startSigner(gate.passed);
    const taken = Promise.all([stamp(), stamp(), stamp(), stamp()]);
    await until('they are at work', () => signer.lane.busy > 0);
    await until('all are in flight', async () => /"tsp_in_flight".*?"value":4/s.test(JSON.stringify(await gateway?.metrics())));
    const started = performance.now();
    const refused = await stamp();
    assert.equal(refused.status, 503);
    assert.equal(refused.body.toString('hex'), Buffer.from(refusalResponse('systemFailure')).toString('hex'));
    assert.ok(performance.now() - started < 500);
    gate.open();
    assert.deepEqual(
      (await taken).map(({ status }) => status),
      [200, 200, 200, 200],
    );
    assert.equal((await stamp()).status, 200);
  });

  test('a chain that does not lead to a configured root: no token with it, and it is said', async () => {
    await start();
    await startSigner();
    await bench.look.del(keys.certificates);
    assert.equal((await stamp()).status, 503);
    assert.equal((await send('/tsa', query, makeRequest())).status, 200);
  });

  test('stop answers what was accepted, and takes nothing new', { timeout: 10_000 }, async () => {
    await start();
    const gate = createGate();
    const signer = await startSigner(gate.passed);
    const agent = new Agent({ keepAlive: true });
    const accepted = stamp(agent);
    await until('it is at work', () => signer.lane.busy === 1);
    const stopping = gateway?.stop('test');
    gateway = undefined;
    await until('nobody is let in', async () =>
      open().then(
        ({ closed }) => until('refused', closed, 500).then(() => true),
        () => true,
      ),
    );
    gate.open();
    const answer = await accepted;
    assert.equal(answer.status, 200);
    await stopping;
    agent.destroy();
    assert.deepEqual(
      logged.filter((line) => /"level":(50|60)/.test(line)),
      [],
    );
  });

  test('a connection on which nothing was ever sent does not hold the stop up', { timeout: 10_000 }, async () => {
    await start({ public: { requestTimeoutMs: 500 } });
    const { closed } = await open();
    await until('the server has it', async () => /"http_connections".*?"value":1/s.test(JSON.stringify(await gateway?.metrics())));
    const stopping = gateway?.stop('test');
    gateway = undefined;
    await stopping;
    await until('the connection is closed', closed);
  });

  test('a client that sends half a request does not hold the stop up for longer than requestTimeoutMs', { timeout: 10_000 }, async () => {
    await start({ public: { requestTimeoutMs: 500 } });
    const { socket } = await open();
    socket.write('POST /tsa HTTP/1.1\r\nHost: x\r\nContent-Type: application/timestamp-query\r\nContent-Length: 100\r\n\r\nabc');
    await until('the server has it', async () => /"http_connections".*?"value":1/s.test(JSON.stringify(await gateway?.metrics())));
    const started = performance.now();
    const stopping = gateway?.stop('test');
    gateway = undefined;
    await stopping;
    assert.ok(performance.now() - started < 4_000, `${performance.now() - started} ms`);
  });

  test('without Redis: health says so, stamps are refused at once, and it recovers by itself', async () => {
    await start();
    await startSigner();
    assert.equal((await stamp()).status, 200);
    await redis.stop('SIGKILL');
    const refused = await stamp();
    assert.equal(refused.status, 503);
    assert.deepEqual(
      (await gateway?.health())?.map(({ ok }) => ok),
      [false, false, true],
    );
    await redis.start();
    const started = performance.now();
    await until('stamps are granted again', async () => (await stamp()).status === 200);
    assert.ok(performance.now() - started < 5_000);
    assert.deepEqual(
      (await gateway?.health())?.map(({ ok }) => ok),
      [true, true, true],
    );
  });

  test('it tells the journal that it starts and stops, and whom it did not let in', async () => {
    await start({ timestamp: { access: 'clients' } });
    const { secret } = await addClient(bench.look, 'ms-rossi', 'auditor');
    const authorization = (credential: string) => ({ Authorization: `Basic ${Buffer.from(credential).toString('base64')}` });
    await until('the auditor is known', async () => {
      const { status } = await send('/tsa', { ...query, ...authorization(`ms-rossi:${secret}`) }, makeRequest());
      return status === 403;
    });
    assert.equal((await send('/tsa', { ...query, ...authorization('bank-1:guess') }, makeRequest())).status, 401);
    assert.equal((await send('/v1/timestamps', { 'Content-Type': 'application/json' }, '{}')).status, 401);
    assert.equal((await send('/tsa', { ...query, ...authorization(`ms-rossi:${secret}`) }, makeRequest())).status, 403);
    const stopping = gateway?.stop('SIGTERM');
    gateway = undefined;
    await stopping;
    const all = await waitingEvents(bench.look, journalKeys.events);
    const events = all.slice(all.findIndex(({ subject }) => subject === 'bank-1'));
    assert.deepEqual(
      events.map(({ kind, actor, subject, detail }) => [kind, actor, subject, 'reason' in detail ? detail.reason : undefined]),
      [
        ['authentication.failed', 'gateway', 'bank-1', 'unknown'],
        ['authentication.failed', 'gateway', '', 'missing'],
        ['authentication.failed', 'gateway', 'ms-rossi', 'role'],
        ['service.stopped', 'gateway', 'gateway', 'SIGTERM'],
        ['service.logStopped', 'gateway', 'gateway', 'SIGTERM'],
      ],
    );
    for (const event of events.slice(0, 3)) assert.match(JSON.stringify(event.detail), /"address":"(::ffff:)?127\.0\.0\.1"/);
  });

  test('its start is an event with release and configuration', async () => {
    await bench.look.del(journalKeys.events);
    await start();
    await until('it is told', async () => (await waitingEvents(bench.look, journalKeys.events)).length >= 2);
    const [started] = await waitingEvents(bench.look, journalKeys.events);
    assert.equal(started?.kind, 'service.started');
    assert.deepEqual([started?.subject, started?.actor], ['gateway', 'gateway']);
  });

  test('while Redis is away nobody is told that a credential is wrong: 503; and 401 when it is back and has the event', async () => {
    await start({ timestamp: { access: 'clients' } });
    await bench.look.del(journalKeys.events);
    await redis.stop('SIGKILL');
    const refused = await stamp();
    assert.equal(refused.status, 503);
    assert.match(refused.body.toString(), /^REDIS_UNAVAILABLE: /);
    await redis.start();
    await until('credentials are refused again', async () => (await stamp()).status === 401);
    const events = await waitingEvents(bench.look, journalKeys.events);
    assert.deepEqual(
      events.map(({ kind }) => kind).filter((kind) => kind === 'authentication.failed'),
      ['authentication.failed'],
    );
    assert.match(JSON.stringify(await gateway?.metrics()), /"journal_events_lost_total".*?"value":0/s);
  });

  test('the journal too far behind: new stamps are refused with 503, health says why, and it resumes', async () => {
    await bench.look.del(keys.journal);
    await start();
    await startSigner();
    assert.equal((await stamp()).status, 200);
    // The default bound is 20,000 entries.
    for (let i = 0; i < 21; i += 1) {
      const pipeline = bench.look.pipeline();
      for (let k = 0; k < 1_000; k += 1) pipeline.xadd(keys.journal, '*', 'b', 'x');
      await pipeline.exec();
    }
    await until('stamps are refused', async () => (await stamp()).status === 503);
    const many = await send(
      '/v1/timestamps',
      { 'Content-Type': 'application/json' },
      JSON.stringify({ hashes: [{ algorithm: 'sha256', hash: Buffer.alloc(32).toString('base64') }] }),
    );
    assert.equal(many.status, 503);
    assert.match(many.body.toString(), /JOURNAL_BACKLOG/);
    const item = (await gateway?.health())?.find(({ name }) => name === 'journal backlog');
    assert.equal(item?.ok, false);
    await bench.look.del(keys.journal);
    await until('stamps are granted again', async () => (await stamp()).status === 200);
    assert.equal((await gateway?.health())?.find(({ name }) => name === 'journal backlog')?.ok, true);
  });

  test('the archive and the proofs are there; without a journal they say so', async () => {
    await start();
    const at = (path: string): Promise<Response> => fetch(`http://127.0.0.1:${port}${path}`);
    for (const [path, status, code] of [
      [`/v1/timestamps/${'41'.repeat(20)}`, 503, 'JOURNAL_STORE_UNAVAILABLE'],
      ['/v1/timestamps/xyz', 400, 'REQUEST_INVALID'],
      ['/journal/checkpoint', 503, 'JOURNAL_UNCHECKPOINTED'],
      ['/journal/proof/inclusion?sequence=0', 503, 'JOURNAL_UNCHECKPOINTED'],
    ] as const) {
      const response = await at(path);
      assert.equal(response.status, status, path);
      assert.equal(((await response.json()) as { error: string }).error, code, path);
    }
  });

  test('the policy of the token is the configured one', async () => {
    const policy = '1.3.6.1.4.1.32473.9';
    await start({ timestamp: { policies: [policy] } });
    let seen = '';
    await bench.responder({
      work: async (entry) => {
        seen = decodeStampRequests(entry.payload)[0]?.policy.toString('hex') ?? '';
        throw new Error('scripted');
      },
    });
    await stamp();
    assert.equal(seen, Buffer.from(oid(policy)).toString('hex'));
  });
});
