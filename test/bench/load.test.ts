/** Both load generators against a server that grants, refuses or breaks as told. */
import assert from 'node:assert/strict';
import { createServer, type Server } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import { after, before, test } from 'node:test';
import { runClosedLoop } from '../../bench/closed-loop.ts';
import { runFixedRate } from '../../bench/fixed-rate.ts';
import { bulkTemplate, queryTemplate } from '../../bench/requests.ts';

const granted = Buffer.concat([Buffer.from('308203803003020100', 'hex'), Buffer.alloc(900, 0xc8)]);
const refused = Buffer.from('3009300702010203020780', 'hex');
const answers: Record<string, { status: number; body: Buffer }> = {
  '/granted': { status: 200, body: granted },
  '/refused': { status: 200, body: refused },
  '/overload': { status: 503, body: refused },
  '/bulk': { status: 200, body: Buffer.from(JSON.stringify({ timestamps: [{ status: 'granted' }, { status: 'granted' }] })) },
};
const imprintsSeen = new Set<string>();
let server: Server;
let origin = '';

before(async () => {
  server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const body = Buffer.concat(chunks);
      if (request.url === '/granted') imprintsSeen.add(body.subarray(22, 54).toString('hex'));
      const answer = answers[request.url ?? ''] ?? { status: 404, body: Buffer.alloc(0) };
      response.writeHead(answer.status, { 'content-length': answer.body.length }).end(answer.body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
});
after(() => {
  server.closeAllConnections();
  server.close();
});

const job = (path: string, over: object = {}) => ({
  origin,
  template: { ...queryTemplate({ certReq: false }), path },
  connections: 4,
  warmupMs: 50,
  durationMs: 300,
  answerBytesMin: 500,
  watchPid: process.pid,
  ...over,
});

test('closed loop: granted answers are counted with latencies below a millisecond told apart', async () => {
  imprintsSeen.clear();
  const result = await runClosedLoop({ kind: 'closed-loop', ...job('/granted') });
  assert.equal(result.errors, 0);
  assert.ok(result.requests > 50, `${result.requests} requests`);
  assert.equal(result.stamps, result.requests);
  assert.equal(result.latencyMs.samples, result.requests);
  assert.ok(!Number.isInteger(result.latencyMs.p50) && result.latencyMs.p50 > 0);
  assert.ok(result.seconds > 0.25 && result.seconds < 2);
  assert.ok(imprintsSeen.size >= result.requests, 'every request has an imprint of its own');
  assert.ok(result.generatorCpuMicros > 0 && result.cpuMicros.other > 0);
});

test('closed loop: stops at answersMax', async () => {
  const result = await runClosedLoop({ kind: 'closed-loop', ...job('/granted', { durationMs: 60_000, answersMax: 200 }) });
  assert.ok(result.requests >= 200 && result.requests < 210, `${result.requests} requests`);
});

test('closed loop: every stamp of a bulk answer counts', async () => {
  const template = { ...bulkTemplate(2), path: '/bulk' };
  const result = await runClosedLoop({ kind: 'closed-loop', ...job('/bulk', { template, answerBytesMin: 10 }) });
  assert.equal(result.errors, 0);
  assert.equal(result.stamps, result.requests * 2);
});

for (const [path, why] of [
  ['/refused', /0 of 1 stamps granted/],
  ['/overload', /HTTP status 503/],
] as const) {
  test(`${path}: no answer is taken for a stamp, by either generator`, async () => {
    await assert.rejects(runClosedLoop({ kind: 'closed-loop', ...job(path) }), why);
    await assert.rejects(runFixedRate({ kind: 'fixed-rate', requestsPerSecond: 100, ...job(path) }), why);
  });
}

test('an answer that is too short is an error even when it says granted', async () => {
  await assert.rejects(runClosedLoop({ kind: 'closed-loop', ...job('/granted', { answerBytesMin: 5_000 }) }), /an answer of only/);
});

test('fixed rate: keeps the rate, and counts latencies', async () => {
  const result = await runFixedRate({ kind: 'fixed-rate', requestsPerSecond: 400, ...job('/granted', { durationMs: 1_000 }) });
  assert.equal(result.errors, 0);
  assert.ok(Math.abs(result.stampsPerSecond - 400) < 60, `${result.stampsPerSecond} a second`);
  assert.ok(result.latencyMs.p50 > 0 && result.latencyMs.p50 < 100);
});

for (const [what, answer, why] of [
  ['no length', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', /Content-Length/],
  ['too much', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab', /more than one answer/],
  ['a cut answer', 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab', /closed the connection/],
  ['nothing', '', /closed the connection/],
] as const) {
  test(`fixed rate: ${what} is an error that is told, and nothing hangs`, async () => {
    const broken = createTcpServer((socket) => {
      socket.on('error', () => undefined);
      socket.once('data', () => socket.end(answer));
    });
    await new Promise<void>((resolve) => broken.listen(0, '127.0.0.1', resolve));
    const { port } = broken.address() as { port: number };
    try {
      const over = { origin: `http://127.0.0.1:${port}`, connections: 2 };
      await assert.rejects(runFixedRate({ kind: 'fixed-rate', requestsPerSecond: 200, ...job('/granted', over) }), why);
    } finally {
      broken.close();
    }
  });
}

test('fixed rate: a server that stalls makes the requests behind it late, too', async () => {
  const stalling = createServer((_request, response) => {
    // Blocks the only thread: what arrives meanwhile waits.
    const end = Date.now() + 20;
    while (Date.now() < end);
    response.end(granted);
  });
  await new Promise<void>((resolve) => stalling.listen(0, '127.0.0.1', resolve));
  const { port } = stalling.address() as { port: number };
  try {
    const over = { origin: `http://127.0.0.1:${port}`, connections: 1, durationMs: 500 };
    const result = await runFixedRate({ kind: 'fixed-rate', requestsPerSecond: 100, ...job('/granted', over) });
    assert.ok(result.latencyMs.p99 > 60, `p99 ${result.latencyMs.p99} ms must show the queue, not only the 20 ms of service`);
  } finally {
    stalling.closeAllConnections();
    stalling.close();
  }
});
