/** POST /tsa: what is no request of the protocol. */
import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { assertLine, bodyBytesMax, head, query, tsaWorld } from '../support/tsa-world.ts';
import { makeRequest } from '../support/tsp-requests.ts';
import { until } from '../support/until.ts';

const world = tsaWorld();
const { open, send, serve } = world;

describe('POST /tsa: what is no TSP request is an HTTP error with one line', () => {
  beforeEach(() => serve());

  for (const method of ['GET', 'PUT', 'DELETE', 'OPTIONS', 'PATCH']) {
    test(`405 for ${method}`, async () => {
      const answer = await send(new Uint8Array(), { method });
      assertLine(answer, 405, 'METHOD_NOT_ALLOWED');
      assert.equal(answer.headers.allow, 'POST');
      assert.deepEqual(await world.bench.outcomes(), { http: 1 });
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
      assert.deepEqual(world.bench.asked, []);
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
    assert.deepEqual(await world.bench.outcomes(), { http: 1 });
  });

  test('413 for a chunked body as soon as it is over the limit', async () => {
    const { socket, received, closed } = await open();
    socket.write(head({ ...query, 'Transfer-Encoding': 'chunked' }));
    for (let i = 0; i < 3; i += 1) socket.write(`1000\r\n${'x'.repeat(0x1000)}\r\n`);
    await until('the answer is there', () => received().endsWith('\n'));
    assert.match(received(), /^HTTP\/1\.1 413 /);
    assert.match(received(), /\r\n\r\nBODY_TOO_LARGE: [^\n]+\n$/);
    await until('the connection is closed', closed);
    assert.deepEqual(await world.bench.outcomes(), { http: 1 });
    assert.deepEqual(world.bench.asked, []);
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
