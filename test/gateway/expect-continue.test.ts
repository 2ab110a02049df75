/** Expect: 100-continue: a client that asks first is refused by its head alone, or told to go on once. */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { createTimestampsApp } from '../../gateway/timestamps-app.ts';
import { createTsaListener } from '../../gateway/tsa-listener.ts';
import { publicServerWorld } from '../support/public-server-world.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareTsu } from '../support/software-tsu.ts';
import { createStampingBench } from '../support/stamping-bench.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';
import { imprintOf } from '../support/timestamps-world.ts';
import { head } from '../support/tsa-world.ts';
import { makeRequest } from '../support/tsp-requests.ts';
import { until } from '../support/until.ts';

const bodyBytesMax = 8_192;
const expect = { Expect: '100-continue' };
const credential = { Authorization: 'Bearer key' };
const query = { ...expect, ...credential, 'Content-Type': 'application/timestamp-query' };
const json = { ...expect, ...credential, 'Content-Type': 'application/json' };
const volume = 'POST /v1/timestamps HTTP/1.1';

describe('Expect: 100-continue', () => {
  const { open, serve } = publicServerWorld();
  let pki: TestPki;
  let tsu: SoftwareTsu;
  before(() => {
    pki = new TestPki();
    tsu = makeSoftwareTsu(pki, makeHierarchy(pki), 'ec-p256');
  });
  after(() => pki.close());
  beforeEach(async () => {
    const { stamping } = createStampingBench(tsu, { clients: { 'Bearer key': 'bank-1' } });
    await serve({ tsa: createTsaListener(stamping, bodyBytesMax), app: createTimestampsApp(stamping, 20) });
  });

  for (const [name, text, status] of [
    ['a wrong method', head(query, 'PUT /tsa HTTP/1.1'), 405],
    ['a wrong media type', head({ ...query, 'Content-Type': 'text/plain', 'Content-Length': 5 }), 415],
    ['an over-long body', head({ ...query, 'Content-Length': bodyBytesMax + 1 }), 413],
    ['a wrong credential', head({ ...query, Authorization: 'Bearer other', 'Content-Length': 5 }), 401],
    ['a wrong method for JSON', head(json, 'PUT /v1/timestamps HTTP/1.1'), 405],
    ['a wrong media type for JSON', head({ ...json, 'Content-Type': 'text/plain', 'Content-Length': 5 }, volume), 415],
    ['an over-long JSON body', head({ ...json, 'Content-Length': 1_000_000 }, volume), 413],
    ['a wrong credential for JSON', head({ ...json, Authorization: 'Bearer other', 'Content-Length': 5 }, volume), 401],
    ['a wrong address', head({ ...json, 'Content-Length': 5 }, 'POST /v2 HTTP/1.1'), 404],
  ] as const) {
    test(`${name}: ${status} and no more`, async () => {
      const { socket, received, closed } = await open();
      socket.write(text);
      await until('it is refused', () => received() !== '');
      assert.match(received(), new RegExp(`^HTTP/1\\.1 ${status} `));
      // Whether its body comes now, nobody knows.
      await until('the connection is closed', closed);
    });
  }

  const list = Buffer.from(JSON.stringify({ hashes: [imprintOf('x')] }));
  const chunk = (body: Uint8Array): Buffer =>
    Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from('\r\n0\r\n\r\n')]);
  for (const [name, text, body] of [
    ['a query', head({ ...query, 'Content-Length': makeRequest().length }), makeRequest()],
    ['a chunked query', head({ ...query, 'Transfer-Encoding': 'chunked' }), chunk(makeRequest())],
    ['a list', head({ ...json, 'Content-Length': list.length }, volume), list],
    ['a chunked list', head({ ...json, 'Transfer-Encoding': 'chunked' }, volume), chunk(list)],
  ] as const) {
    test(`${name}: told once to go on, then answered`, async () => {
      const { socket, received } = await open();
      socket.write(text);
      await until('the client may go on', () => received() !== '');
      assert.equal(received(), 'HTTP/1.1 100 Continue\r\n\r\n');
      socket.write(body);
      await until('the answer is there', () => received().includes('HTTP/1.1 200 OK'));
      assert.equal(received().split('100 Continue').length, 2);
    });
  }

  test('HTTP/1.0 has no such answer', async () => {
    const { socket, received } = await open();
    const body = makeRequest();
    socket.write(head({ ...query, 'Content-Length': body.length }, 'POST /tsa HTTP/1.0'));
    socket.write(body);
    await until('the answer is there', () => received() !== '');
    assert.match(received(), /^HTTP\/1\.1 200 /);
  });
});
