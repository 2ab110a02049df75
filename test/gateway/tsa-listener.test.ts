import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request as httpRequest, type IncomingHttpHeaders, type Server, type ServerOptions } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { createTsaListener, tsaPath } from '../../gateway/tsa-listener.ts';
import { integer } from '../../pki/der.ts';
import { attachCertificates } from '../../pki/token-certificates.ts';
import { readTimeStampResp, readTimeStampToken } from '../../pki/tsp-read.ts';
import { refusalResponse } from '../../pki/tsp-refusal.ts';
import type { FailInfo } from '../../pki/tsp-request.ts';
import type { LaneAnswer } from '../../queue/lane-requester.ts';
import { createGate } from '../support/lane-bench.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareTsu } from '../support/software-tsu.ts';
import { createStampingBench, granting, type StampingBench, type StampingBenchOptions } from '../support/stamping-bench.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';
import { extensionDer, makeRequest } from '../support/tsp-requests.ts';
import { until } from '../support/until.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const query = { 'Content-Type': 'application/timestamp-query' };
const bodyBytesMax = 8_192;

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

let pki: TestPki;
let tsu: SoftwareTsu;
before(() => {
  pki = new TestPki();
  tsu = makeSoftwareTsu(pki, makeHierarchy(pki), 'ec-p256');
});
after(() => pki.close());

let bench: StampingBench;
let server: Server;
let port: number;
const sockets = new Set<Socket>();

const serve = async (options: StampingBenchOptions = {}, http: ServerOptions = {}): Promise<void> => {
  bench = createStampingBench(tsu, options);
  server = createServer(http, createTsaListener(bench.stamping, bodyBytesMax));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  port = (server.address() as AddressInfo).port;
};
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

interface SendOptions {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly path?: string;
  /** Sent piece by piece, without Content-Length. */
  readonly chunks?: readonly Uint8Array[];
}

const send = (body: Uint8Array, { method = 'POST', headers = query, path = tsaPath, chunks }: SendOptions = {}): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const length = chunks === undefined && method === 'POST' ? { 'Content-Length': String(body.length) } : {};
    const sent = httpRequest({ port, method, path, agent: false, headers: { ...length, ...headers } }, (response) => {
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(parts) }));
      response.on('error', reject);
    });
    sent.on('error', reject);
    for (const chunk of chunks ?? []) sent.write(chunk);
    sent.end(chunks === undefined && method === 'POST' ? body : undefined);
  });

/** A connection on which a test writes octets itself. */
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
const head = (headers: Readonly<Record<string, string | number>>, line = `POST ${tsaPath} HTTP/1.1`): string =>
  `${[line, 'Host: x', ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`)].join('\r\n')}\r\n\r\n`;

const assertLine = ({ status, headers, body }: Answer, expectedStatus: number, code: string): void => {
  assert.equal(status, expectedStatus);
  assert.match(headers['content-type'] ?? '', /^text\/plain/);
  assert.match(body.toString(), new RegExp(`^${code}: [^\\n\\r]+\\n$`), 'one line');
};
const assertRefused = ({ status, headers, body }: Answer, failInfo: FailInfo): void => {
  assert.equal(status, 200);
  assert.equal(headers['content-type'], 'application/timestamp-reply');
  assert.equal(headers['content-length'], String(body.length));
  assert.equal(hex(body), hex(refusalResponse(failInfo)));
};

describe('POST /tsa: answers of the protocol are HTTP 200', () => {
  beforeEach(() => serve());

  test('granted, with certificates if and only if they are asked for', async () => {
    for (const certReq of [true, false, undefined]) {
      const nonce = Uint8Array.of(0xff, 0x00, 0x11);
      const answer = await send(makeRequest({ nonce, ...(certReq === undefined ? {} : { certReq }) }));
      assert.equal(answer.status, 200);
      assert.equal(answer.headers['content-type'], 'application/timestamp-reply');
      assert.equal(answer.headers['content-length'], String(answer.body.length));
      const { status, statusString, timeStampToken } = readTimeStampResp(answer.body);
      assert.deepEqual([status, statusString], ['granted', []]);
      const { tstInfo, signedData } = readTimeStampToken(timeStampToken ?? new Uint8Array());
      assert.equal(hex(tstInfo.nonce ?? new Uint8Array()), hex(nonce));
      assert.equal(signedData.certificates.length, certReq ? 2 : 0);
    }
    assert.deepEqual(
      bench.asked.map(({ certReq, client }) => [certReq, client]),
      [
        [true, 'anonymous'],
        [false, 'anonymous'],
        [false, 'anonymous'],
      ],
    );
    assert.deepEqual(await bench.outcomes(), { granted: 3 });
  });

  test('the token is what the signer made, bit for bit', async () => {
    const fixed = granting(tsu)({ certReq: true, policy: integer(1), messageImprint: integer(2), client: 'x', nonce: undefined });
    assert.ok(fixed !== 'full' && !(fixed instanceof Promise) && fixed.kind === 'granted');
    bench.script = () => fixed;
    const bare = await send(makeRequest());
    const whole = await send(makeRequest({ certReq: true }));
    assert.equal(hex(readTimeStampResp(bare.body).timeStampToken ?? new Uint8Array()), hex(fixed.token));
    assert.equal(hex(readTimeStampResp(whole.body).timeStampToken ?? new Uint8Array()), hex(attachCertificates(fixed.token, tsu.chain)));
  });

  const refused: readonly (readonly [FailInfo, Uint8Array])[] = [
    ['badAlg', makeRequest({ algorithm: '1.3.14.3.2.26', hashedMessage: new Uint8Array(20) })],
    ['badRequest', makeRequest({ version: integer(2) })],
    ['badDataFormat', new Uint8Array()],
    ['badDataFormat', Buffer.from('hello')],
    ['badDataFormat', makeRequest().subarray(0, 20)],
    ['badDataFormat', makeRequest({ hashedMessage: new Uint8Array(31) })],
    ['unacceptedPolicy', makeRequest({ policy: '2.999' })],
    ['unacceptedExtension', makeRequest({ extensions: [extensionDer('1.2.3', new Uint8Array(1))] })],
  ];
  for (const [index, [failInfo, bytes]] of refused.entries()) {
    test(`${failInfo} (${index}): refused without a signer`, async () => {
      assertRefused(await send(bytes), failInfo);
      assert.deepEqual(bench.asked, []);
      assert.deepEqual(await bench.outcomes(), { [failInfo]: 1 });
    });
  }

  for (const failInfo of ['timeNotAvailable', 'systemFailure'] as const) {
    test(`${failInfo}: refused by the signer`, async () => {
      bench.script = () => ({ kind: 'refused', failInfo });
      assertRefused(await send(makeRequest()), failInfo);
      assert.deepEqual(await bench.outcomes(), { [failInfo]: 1 });
    });
  }

  test('an empty body without a length is no TSP request', async () => {
    assertRefused(await send(new Uint8Array(), { chunks: [] }), 'badDataFormat');
  });

  test('a body in pieces', async () => {
    const bytes = makeRequest({ nonce: new Uint8Array(3_000).fill(0x55) });
    const answer = await send(bytes, { chunks: [bytes.subarray(0, 1), bytes.subarray(1, 1_000), bytes.subarray(1_000)] });
    assert.equal(readTimeStampResp(answer.body).status, 'granted');
  });

  test('the longest body that is let in', async () => {
    const overhead = makeRequest({ nonce: new Uint8Array(8_000).fill(0x55) }).length - 8_000;
    const bytes = makeRequest({ nonce: new Uint8Array(bodyBytesMax - overhead).fill(0x55) });
    assert.equal(bytes.length, bodyBytesMax);
    for (const chunks of [undefined, [bytes]]) {
      const answer = await send(bytes, chunks === undefined ? {} : { chunks });
      assert.equal(readTimeStampResp(answer.body).status, 'granted');
    }
  });

  for (const type of ['application/timestamp-query; charset=binary', 'Application/Timestamp-Query', ' application/timestamp-query ;x=y']) {
    test(`media type "${type}"`, async () => {
      assert.equal((await send(makeRequest(), { headers: { 'Content-Type': type } })).status, 200);
    });
  }

  test('with a query part in the address', async () => {
    assert.equal((await send(makeRequest(), { path: `${tsaPath}?x=y` })).status, 200);
  });
});

describe('POST /tsa: what is no TSP request is an HTTP error with one line', () => {
  beforeEach(() => serve());

  for (const method of ['GET', 'PUT', 'DELETE', 'OPTIONS', 'PATCH']) {
    test(`405 for ${method}`, async () => {
      const answer = await send(new Uint8Array(), { method });
      assertLine(answer, 405, 'METHOD_NOT_ALLOWED');
      assert.equal(answer.headers.allow, 'POST');
      assert.deepEqual(await bench.outcomes(), { http: 1 });
    });
  }

  test('405 for HEAD has no body', async () => {
    const answer = await send(new Uint8Array(), { method: 'HEAD' });
    assert.deepEqual([answer.status, answer.body.length, answer.headers.allow], [405, 0, 'POST']);
  });

  for (const headers of [
    {},
    { 'Content-Type': '' },
    { 'Content-Type': 'application/timestamp-reply' },
    { 'Content-Type': 'text/plain' },
    { 'Content-Type': 'application/timestamp-query-x' },
  ]) {
    test(`415 for ${JSON.stringify(headers)}`, async () => {
      const answer = await send(makeRequest(), { headers });
      assertLine(answer, 415, 'MEDIA_TYPE_UNSUPPORTED');
      assert.equal(answer.headers.accept, 'application/timestamp-query');
      assert.deepEqual(bench.asked, []);
    });
  }

  test('413 with Content-Length, without waiting for the body', async () => {
    const { socket, received, closed } = await open();
    socket.write(head({ ...query, 'Content-Length': bodyBytesMax + 1 }));
    await until('the answer is there', () => received().endsWith('\n'));
    assert.match(received(), /^HTTP\/1\.1 413 /);
    assert.match(received(), /\r\nConnection: close\r\n/i);
    assert.match(received(), /\r\n\r\nBODY_TOO_LARGE: [^\n]+\n$/);
    await until('the connection is closed', closed);
    assert.deepEqual(await bench.outcomes(), { http: 1 });
  });

  test('413 for a chunked body as soon as it is over the limit', async () => {
    const { socket, received, closed } = await open();
    socket.write(head({ ...query, 'Transfer-Encoding': 'chunked' }));
    for (let i = 0; i < 3; i += 1) socket.write(`1000\r\n${'x'.repeat(0x1000)}\r\n`);
    await until('the answer is there', () => received().endsWith('\n'));
    assert.match(received(), /^HTTP\/1\.1 413 /);
    assert.match(received(), /\r\n\r\nBODY_TOO_LARGE: [^\n]+\n$/);
    await until('the connection is closed', closed);
    assert.deepEqual(await bench.outcomes(), { http: 1 });
    assert.deepEqual(bench.asked, []);
  });

  test('413 reaches a client that sends its long body before it reads', async () => {
    const body = new Uint8Array(4_000_000);
    for (let i = 0; i < 5; i += 1) {
      assertLine(await send(body), 413, 'BODY_TOO_LARGE');
      assertLine(await send(body, { chunks: [body] }), 413, 'BODY_TOO_LARGE');
    }
  });

  test('a connection stays in use after a refusal', async () => {
    const { socket, received } = await open();
    const bytes = makeRequest();
    socket.write(head({ 'Content-Type': 'text/plain', 'Content-Length': bytes.length }));
    socket.write(bytes);
    await until('the refusal is there', () => received().includes('MEDIA_TYPE_UNSUPPORTED'));
    socket.write(head({ ...query, 'Content-Length': bytes.length }));
    socket.write(bytes);
    await until('the stamp is there', () => received().includes('200 OK'));
  });
});

describe('POST /tsa: access of clients', () => {
  beforeEach(() => serve({ clients: { 'Basic right': 'bank.one' } }));

  test('401 with a challenge for no credential and for a wrong one; the name of a right one goes along', async () => {
    for (const headers of [query, { ...query, Authorization: 'Basic wrong' }]) {
      const answer = await send(makeRequest(), { headers });
      assertLine(answer, 401, 'UNAUTHENTICATED');
      assert.match(answer.headers['www-authenticate'] ?? '', /^Basic realm="[^"]+".*Bearer/);
    }
    assert.deepEqual(bench.asked, []);
    assert.equal((await send(makeRequest(), { headers: { ...query, Authorization: 'Basic right' } })).status, 200);
    assert.deepEqual(
      bench.asked.map(({ client }) => client),
      ['bank.one'],
    );
    assert.deepEqual(await bench.outcomes(), { granted: 1, unauthenticated: 2 });
  });

  test('who is not let in learns nothing about the request', async () => {
    assertLine(await send(new Uint8Array()), 401, 'UNAUTHENTICATED');
    assertLine(await send(makeRequest({ policy: '2.999' })), 401, 'UNAUTHENTICATED');
  });
});

describe('POST /tsa: an auditor stamps nothing', () => {
  test('403 without a challenge, and an event with name and address', async () => {
    await serve({ clients: { 'Bearer key': 'bank.one', 'Bearer eye': 'ms.rossi' }, auditors: ['ms.rossi'] });
    const answer = await send(makeRequest(), { headers: { ...query, Authorization: 'Bearer eye' } });
    assertLine(answer, 403, 'FORBIDDEN');
    assert.equal(answer.headers['www-authenticate'], undefined);
    assert.deepEqual(bench.asked, []);
    assert.deepEqual(await bench.outcomes(), { forbidden: 1 });
    const [event, ...more] = bench.failures;
    assert.equal(more.length, 0);
    assert.equal(event?.subject, 'ms.rossi');
    assert.equal(event?.outcome, 'refused');
    assert.deepEqual(event?.detail, { reason: 'role', address: '127.0.0.1', count: undefined });
  });

  test('a refusal that cannot be recorded is not told: 503, whatever was wrong; who is let in is served', async () => {
    await serve({ clients: { 'Bearer key': 'bank.one', 'Bearer eye': 'ms.rossi' }, auditors: ['ms.rossi'] });
    bench.eventsBacklogged = true;
    for (const Authorization of ['Bearer eye', 'Bearer other']) {
      const answer = await send(makeRequest(), { headers: { ...query, Authorization } });
      assertLine(answer, 503, 'JOURNAL_BACKLOG');
      assert.match(answer.headers['retry-after'] ?? '', /^[1-9]\d*$/);
    }
    assert.deepEqual(bench.failures, []);
    assert.equal((await send(makeRequest(), { headers: { ...query, Authorization: 'Bearer key' } })).status, 200);
    assert.deepEqual(await bench.outcomes(), { backlog: 2, granted: 1 });
  });

  test('every 401 is an event, too', async () => {
    await serve({ clients: { 'Bearer key': 'bank.one' } });
    await send(makeRequest());
    await send(makeRequest(), { headers: { ...query, Authorization: 'Bearer other' } });
    assert.deepEqual(
      bench.failures.map(({ detail }) => detail),
      [
        { reason: 'missing', address: '127.0.0.1', count: undefined },
        { reason: 'wrong', address: '127.0.0.1', count: undefined },
      ],
    );
  });
});

describe('POST /tsa: overload and outage are 503', () => {
  test('the journal is behind: systemFailure with Retry-After, and nothing reaches the lane', async () => {
    await serve();
    bench.backlogged = true;
    const answer = await send(makeRequest());
    assert.equal(answer.status, 503);
    assert.match(answer.headers['retry-after'] ?? '', /^[1-9]\d*$/);
    assert.equal(hex(answer.body), hex(refusalResponse('systemFailure')));
    assert.deepEqual(bench.asked, []);
    assert.deepEqual(await bench.outcomes(), { backlog: 1 });
    bench.backlogged = false;
    assert.equal((await send(makeRequest())).status, 200);
  });

  test('a request that is wrong in itself is told so also then', async () => {
    await serve();
    bench.backlogged = true;
    assertRefused(await send(makeRequest({ policy: '2.999' })), 'unacceptedPolicy');
  });

  const busy: readonly (readonly [string, () => LaneAnswer | 'full', string])[] = [
    ['no room in flight', () => 'full', 'overloaded'],
    ['Redis is away', () => ({ kind: 'unavailable' }), 'unavailable'],
    ['no signer answered by the deadline', () => ({ kind: 'expired' }), 'expired'],
  ];
  for (const [name, script, outcome] of busy) {
    test(`${name}: Retry-After, and systemFailure in a TimeStampResp`, async () => {
      await serve();
      bench.script = script;
      const answer = await send(makeRequest({ certReq: true }));
      assert.equal(answer.status, 503);
      assert.match(answer.headers['retry-after'] ?? '', /^[1-9]\d*$/);
      assert.equal(answer.headers['content-type'], 'application/timestamp-reply');
      assert.equal(hex(answer.body), hex(refusalResponse('systemFailure')));
      assert.deepEqual(await bench.outcomes(), { [outcome]: 1 });
    });
  }

  test('a TSU whose certificates are not known: no token without them when they are asked for', async () => {
    await serve({ unpublished: true });
    assert.equal((await send(makeRequest({ certReq: true }))).status, 503);
    assert.equal((await send(makeRequest())).status, 200);
  });

  test('a token that cannot be read is a 500 with one line, and the next request is served', async () => {
    await serve();
    const right = bench.script;
    bench.script = async (request) => {
      const answer = right(request);
      return answer !== 'full' && !(answer instanceof Promise) && answer.kind === 'granted'
        ? { ...answer, token: Buffer.from('junk') }
        : { kind: 'expired' };
    };
    assertLine(await send(makeRequest({ certReq: true })), 500, 'INTERNAL');
    bench.script = right;
    assert.equal((await send(makeRequest({ certReq: true }))).status, 200);
  });
});

describe('POST /tsa: connections', () => {
  test('pipelined requests are answered in their order', async () => {
    await serve();
    const gate = createGate();
    const right = bench.script;
    bench.script = (request) => {
      const answer = right(request);
      const first = bench.asked.length === 1;
      return first ? gate.passed.then(() => answer as LaneAnswer) : answer;
    };
    const { socket, received } = await open();
    const requests = [1, 2, 3, 4].map((nonce) => makeRequest({ nonce: Uint8Array.of(0x10 + nonce) }));
    const headers = requests.map((bytes) => head({ ...query, 'Content-Length': bytes.length }));
    socket.write(Buffer.concat(requests.flatMap((bytes, i) => [Buffer.from(headers[i] as string), bytes])));
    await until('all reached the lane, or wait behind the first', () => bench.asked.length >= 1);
    assert.equal(received(), '');
    gate.open();
    await until('all are answered', () => received().split('HTTP/1.1 200 OK').length === 5);
    const positions = [1, 2, 3, 4].map((nonce) => received().indexOf(`\x02\x01${String.fromCharCode(0x10 + nonce)}`));
    assert.ok(
      positions.every((at, i) => at > (positions[i - 1] ?? 0)),
      String(positions),
    );
  });

  test('an upload that is broken off is counted and disturbs nobody', async () => {
    await serve();
    const bytes = makeRequest();
    for (const headers of [
      { ...query, 'Content-Length': 500 },
      { ...query, 'Transfer-Encoding': 'chunked' },
    ]) {
      const { socket } = await open();
      socket.write(head(headers));
      if ('Content-Length' in headers) socket.write(bytes.subarray(0, 10));
      else socket.write(`a\r\n${'x'.repeat(10)}\r\n`);
      await until('the server has the connection', async () => (await connections()) > 0);
      socket.destroy();
    }
    await until('both are counted', async () => (await bench.outcomes())['disconnected'] === 2);
    assert.equal((await send(bytes)).status, 200);
    assert.deepEqual(await bench.outcomes(), { disconnected: 2, granted: 1 });
  });

  const connections = (): Promise<number> => new Promise((resolve) => server.getConnections((_, count) => resolve(count)));

  for (const [name, headers] of [
    ['a refused media type', { 'Content-Type': 'text/plain', 'Content-Length': 5_000 }],
    ['an over-long body', { ...query, 'Content-Length': 5_000_000 }],
  ] as const) {
    test(`an upload that is broken off behind ${name} disturbs nobody`, async () => {
      await serve();
      const { socket, received } = await open();
      socket.write(head(headers));
      await until('it is refused', () => received() !== '');
      socket.write('x'.repeat(100));
      socket.resetAndDestroy();
      await until('the connection is gone', async () => (await connections()) === 0);
      assert.equal((await send(makeRequest())).status, 200);
    });
  }

  test('a client that goes away while its stamp is made: counted as disconnected, no error', async () => {
    await serve();
    const gate = createGate();
    const right = bench.script;
    bench.script = (request) => gate.passed.then(() => right(request) as LaneAnswer);
    const { socket } = await open();
    const bytes = makeRequest();
    socket.write(head({ ...query, 'Content-Length': bytes.length }));
    socket.write(bytes);
    await until('it reached the lane', () => bench.asked.length === 1);
    socket.destroy();
    await until('the connection is gone', async () => (await connections()) === 0);
    gate.open();
    await until('it is counted', async () => (await bench.outcomes())['disconnected'] === 1);
    assert.equal((await send(bytes)).status, 200);
  });

  test('a stamp for a client that went away is counted once', async () => {
    await serve();
    const gate = createGate();
    const right = bench.script;
    bench.script = (request) => gate.passed.then(() => right(request) as LaneAnswer);
    const { socket } = await open();
    const bytes = makeRequest();
    socket.write(head({ ...query, 'Content-Length': bytes.length }));
    socket.write(bytes);
    await until('it reached the lane', () => bench.asked.length === 1);
    socket.destroy();
    await until('the connection is gone', async () => (await connections()) === 0);
    gate.open();
    await until('it is counted', async () => Object.keys(await bench.outcomes()).length > 0);
    const total = Object.values(await bench.outcomes()).reduce((sum, count) => sum + count, 0);
    assert.equal(total, 1, JSON.stringify(await bench.outcomes()));
  });

  test('a client that closes its half after the request still gets its answer', async () => {
    await serve();
    const { socket, received } = await open();
    const bytes = makeRequest();
    socket.write(head({ ...query, 'Content-Length': bytes.length, Connection: 'close' }));
    socket.end(bytes);
    await until('the answer is there', () => received().startsWith('HTTP/1.1 200 OK'));
  });

  test('Expect: 100-continue', async () => {
    await serve();
    const { socket, received } = await open();
    const bytes = makeRequest();
    socket.write(head({ ...query, 'Content-Length': bytes.length, Expect: '100-continue' }));
    await until('the client may go on', () => received().startsWith('HTTP/1.1 100 Continue'));
    socket.write(bytes);
    await until('the answer is there', () => received().includes('HTTP/1.1 200 OK'));
  });

  test('over-long headers are refused by the server, and the next client is served', async () => {
    await serve();
    const { socket, received, closed } = await open();
    socket.write(head({ ...query, 'X-Long': 'x'.repeat(100_000) }));
    await until('it is refused', () => received().startsWith('HTTP/1.1 431') || closed());
    assert.match(received(), /^HTTP\/1\.1 431 /);
    assert.equal((await send(makeRequest())).status, 200);
  });

  for (const [name, text] of [
    ['no HTTP', '\x16\x03\x01\x02\x00\x01\x00'],
    ['two lengths', head({ ...query, 'Content-Length': '5\r\nContent-Length: 6' })],
    ['length and chunks', head({ ...query, 'Content-Length': 5, 'Transfer-Encoding': 'chunked' })],
    ['a length that is no number', head({ ...query, 'Content-Length': '-1' })],
  ] as const) {
    test(`${name}: 400, nothing reaches the lane`, async () => {
      await serve();
      const { socket, received, closed } = await open();
      socket.write(text, 'latin1');
      await until('it is refused', () => received() !== '' || closed());
      assert.match(received(), /^HTTP\/1\.1 400 /);
      await until('the connection is closed', closed);
      assert.deepEqual(bench.asked, []);
      assert.equal((await send(makeRequest())).status, 200);
    });
  }

  test('many at once: each gets its own nonce back', async () => {
    await serve();
    const answers = await Promise.all(
      Array.from({ length: 200 }, async (_, i) => {
        const nonce = Uint8Array.of(0x20, i >> 8, i & 0xff);
        const { timeStampToken } = readTimeStampResp((await send(makeRequest({ nonce }))).body);
        return hex(readTimeStampToken(timeStampToken ?? new Uint8Array()).tstInfo.nonce ?? new Uint8Array()) === hex(nonce);
      }),
    );
    assert.ok(answers.every(Boolean));
  });
});
