/** POST /tsa: connections that are shared, broken off, half closed and abused. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { readTimeStampResp, readTimeStampToken } from '../../pki/tsp-read.ts';
import type { LaneAnswer } from '../../queue/lane-requester.ts';
import { createGate } from '../support/lane-bench.ts';
import { head, hex, query, tsaWorld } from '../support/tsa-world.ts';
import { makeRequest } from '../support/tsp-requests.ts';
import { until } from '../support/until.ts';

const world = tsaWorld();
const { connections, open, send, serve } = world;

describe('POST /tsa: connections', () => {
  test('pipelined requests are answered in their order', async () => {
    await serve();
    const gate = createGate();
    const right = world.bench.script;
    world.bench.script = (request) => {
      const answer = right(request);
      const first = world.bench.asked.length === 1;
      return first ? gate.passed.then(() => answer as LaneAnswer) : answer;
    };
    const { socket, received } = await open();
    const requests = [1, 2, 3, 4].map((nonce) => makeRequest({ nonce: Uint8Array.of(0x10 + nonce) }));
    const headers = requests.map((bytes) => head({ ...query, 'Content-Length': bytes.length }));
    socket.write(Buffer.concat(requests.flatMap((bytes, i) => [Buffer.from(headers[i] as string), bytes])));
    await until('all reached the lane, or wait behind the first', () => world.bench.asked.length >= 1);
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
    await until('both are counted', async () => (await world.bench.outcomes())['disconnected'] === 2);
    assert.equal((await send(bytes)).status, 200);
    assert.deepEqual(await world.bench.outcomes(), { disconnected: 2, granted: 1 });
  });

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

  test('a client that goes away while its stamp is made: counted as disconnected, once, no error', async () => {
    await serve();
    const gate = createGate();
    const right = world.bench.script;
    world.bench.script = (request) => gate.passed.then(() => right(request) as LaneAnswer);
    const { socket } = await open();
    const bytes = makeRequest();
    socket.write(head({ ...query, 'Content-Length': bytes.length }));
    socket.write(bytes);
    await until('it reached the lane', () => world.bench.asked.length === 1);
    socket.destroy();
    await until('the connection is gone', async () => (await connections()) === 0);
    gate.open();
    await until('it is counted', async () => Object.keys(await world.bench.outcomes()).length > 0);
    assert.deepEqual(await world.bench.outcomes(), { disconnected: 1 });
    assert.equal((await send(bytes)).status, 200);
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
      assert.deepEqual(world.bench.asked, []);
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
