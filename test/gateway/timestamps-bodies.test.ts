/** POST /v1/timestamps: the bodies that are being read at once have one bound. */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { createOctetBudget, type OctetBudget } from '../../gateway/octet-budget.ts';
import { createTimestampsApp } from '../../gateway/timestamps-app.ts';
import type { LaneAnswer } from '../../queue/lane-requester.ts';
import { createGate } from '../support/lane-bench.ts';
import { publicServerWorld, type RawClient } from '../support/public-server-world.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareTsu } from '../support/software-tsu.ts';
import { createStampingBench, type StampingBench } from '../support/stamping-bench.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';
import { imprintOf } from '../support/timestamps-world.ts';
import { head } from '../support/tsa-world.ts';
import { until } from '../support/until.ts';

const imprintsMax = 20;
/** As long as a body may be with so many imprints. */
const longest = 4_096 + 800 * imprintsMax;
const volume = 'POST /v1/timestamps HTTP/1.1';
const json = { 'Content-Type': 'application/json' };
const list = JSON.stringify({ hashes: [imprintOf('x')] });
const padded = (octets: number): string => list.padEnd(octets, ' ');

describe('bodies of POST /v1/timestamps that are being read', () => {
  const world = publicServerWorld();
  let pki: TestPki;
  let tsu: SoftwareTsu;
  let bench: StampingBench;
  let budget: OctetBudget;
  before(() => {
    pki = new TestPki();
    tsu = makeSoftwareTsu(pki, makeHierarchy(pki), 'ec-p256');
  });
  after(() => pki.close());

  /** Room for two of the longest, less one octet. */
  const octetsMax = 2 * longest - 1;
  beforeEach(async () => {
    bench = createStampingBench(tsu);
    budget = createOctetBudget(octetsMax);
    await world.serve({ app: createTimestampsApp(bench.stamping, imprintsMax, budget) }, { requestTimeoutMs: 60_000 });
  });

  /** A client that has sent no more than the head of its request. */
  const begin = async (headers: Record<string, string | number>): Promise<RawClient> => {
    const client = await world.open();
    client.socket.write(head({ ...json, ...headers }, volume));
    return client;
  };
  const assertOverloaded = async (client: RawClient): Promise<void> => {
    await until('it is refused', () => client.received().includes('OVERLOADED'));
    assert.match(client.received(), /^HTTP\/1\.1 503 /);
    assert.match(client.received(), /\r\nRetry-After: 1\r\n/i);
    assert.match(client.received(), /\r\nConnection: close\r\n/i);
    await until('the connection is closed', client.closed);
  };
  const assertGranted = (client: RawClient): Promise<number> =>
    until('it is granted', () => client.received().startsWith('HTTP/1.1 200 OK') && client.received().includes('"granted"'));

  test('the announced length is taken at once, and given back with the answer', async () => {
    const first = await begin({ 'Content-Length': longest });
    await until('it is taken', () => budget.taken === longest);
    await assertOverloaded(await begin({ 'Content-Length': longest }));
    const second = await begin({ 'Content-Length': longest - 1 });
    await until('the last octet is taken', () => budget.taken === octetsMax);
    await assertOverloaded(await begin({ 'Content-Length': 1 }));
    assert.deepEqual(await bench.outcomes(), { overloaded: 2 });
    for (const [client, octets] of [
      [first, longest],
      [second, longest - 1],
    ] as const) {
      client.socket.write(padded(octets));
      await assertGranted(client);
    }
    assert.equal(budget.taken, 0);
  });

  test('a body in chunks is taken for the longest', async () => {
    const client = await begin({ 'Transfer-Encoding': 'chunked' });
    await until('it is taken', () => budget.taken === longest);
    await assertOverloaded(await begin({ 'Transfer-Encoding': 'chunked' }));
    client.socket.write(`${list.length.toString(16)}\r\n${list}\r\n0\r\n\r\n`);
    await assertGranted(client);
    assert.equal(budget.taken, 0);
  });

  test('it is given back when the stamps are asked for, not when they are made', async () => {
    const gate = createGate();
    const right = bench.script;
    bench.script = (request) => gate.passed.then(() => right(request) as LaneAnswer);
    const client = await begin({ 'Content-Length': list.length });
    client.socket.write(list);
    await until('it reached the lane', () => bench.asked.length === 1);
    assert.equal(budget.taken, 0);
    gate.open();
    await assertGranted(client);
  });

  for (const [name, headers] of [
    ['with its length', { 'Content-Length': longest }],
    ['in chunks', { 'Transfer-Encoding': 'chunked' }],
  ] as const) {
    test(`it is given back when a body ${name} is broken off`, async () => {
      const client = await begin(headers);
      await until('it is taken', () => budget.taken === longest);
      client.socket.resetAndDestroy();
      await until('it is given back', () => budget.taken === 0);
    });
  }

  test('it is given back when a body is no JSON, or too long in chunks', async () => {
    const invalid = await begin({ 'Content-Length': 4 });
    invalid.socket.write('{{{{');
    await until('it is refused', () => invalid.received().includes('REQUEST_INVALID'));
    const long = await begin({ 'Transfer-Encoding': 'chunked' });
    long.socket.write(`${(longest + 1).toString(16)}\r\n${padded(longest + 1)}\r\n`);
    await until('it is refused', () => long.received().includes('BODY_TOO_LARGE'));
    assert.equal(budget.taken, 0);
  });

  test('a refusal reaches a client that sends its whole body before it reads', async () => {
    await begin({ 'Content-Length': longest });
    await until('it is taken', () => budget.taken === longest);
    const client = await begin({ 'Content-Length': longest });
    client.socket.write(padded(longest));
    await assertOverloaded(client);
  });

  for (const [name, refuse, code] of [
    ['the lane is full', () => (bench.room = 0), 'OVERLOADED'],
    ['the journal is behind', () => (bench.backlogged = true), 'JOURNAL_BACKLOG'],
  ] as const) {
    test(`nothing is read while ${name}`, async () => {
      refuse();
      const client = await begin({ 'Content-Length': longest });
      await until('it is refused', () => client.received().includes(code));
      assert.match(client.received(), /^HTTP\/1\.1 503 .*\r\nRetry-After: 1\r\n/is);
      assert.equal(budget.taken, 0);
      assert.deepEqual(bench.asked, []);
    });
  }
});
