/** POST /tsa: who is let in, and how it is told that somebody was not. */
import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { refusalResponse } from '../../pki/tsp-refusal.ts';
import { assertLine, hex, query, tsaWorld } from '../support/tsa-world.ts';
import { makeRequest } from '../support/tsp-requests.ts';

const world = tsaWorld();
const { send, serve } = world;

describe('POST /tsa: access of clients', () => {
  beforeEach(() => serve({ clients: { 'Basic right': 'bank.one' } }));

  test('401 with a challenge for no credential and for a wrong one; the name of a right one goes along', async () => {
    for (const headers of [query, { ...query, Authorization: 'Basic wrong' }]) {
      const answer = await send(makeRequest(), { headers });
      assertLine(answer, 401, 'UNAUTHENTICATED');
      assert.match(answer.headers['www-authenticate'] ?? '', /^Basic realm="[^"]+".*Bearer/);
    }
    assert.deepEqual(world.bench.asked, []);
    assert.equal((await send(makeRequest(), { headers: { ...query, Authorization: 'Basic right' } })).status, 200);
    assert.deepEqual(
      world.bench.asked.map(({ client }) => client),
      ['bank.one'],
    );
    assert.deepEqual(await world.bench.outcomes(), { granted: 1, unauthenticated: 2 });
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
    assert.deepEqual(world.bench.asked, []);
    assert.deepEqual(await world.bench.outcomes(), { forbidden: 1 });
    const [event, ...more] = world.bench.failures;
    assert.equal(more.length, 0);
    assert.equal(event?.subject, 'ms.rossi');
    assert.equal(event?.outcome, 'refused');
    assert.deepEqual(event?.detail, { reason: 'role', address: '127.0.0.1', count: undefined });
  });

  test('a refusal that cannot be recorded is not told: 503, whatever was wrong; who is let in is served', async () => {
    await serve({ clients: { 'Bearer key': 'bank.one', 'Bearer eye': 'ms.rossi' }, auditors: ['ms.rossi'] });
    world.bench.eventsBacklogged = true;
    for (const Authorization of ['Bearer eye', 'Bearer other']) {
      const answer = await send(makeRequest(), { headers: { ...query, Authorization } });
      assert.equal(answer.status, 503);
      assert.equal(answer.headers['content-type'], 'application/timestamp-reply');
      assert.equal(hex(answer.body), hex(refusalResponse('systemFailure')));
      assert.match(answer.headers['retry-after'] ?? '', /^[1-9]\d*$/);
    }
    assert.deepEqual(world.bench.failures, []);
    assert.equal((await send(makeRequest(), { headers: { ...query, Authorization: 'Bearer key' } })).status, 200);
    assert.deepEqual(await world.bench.outcomes(), { backlog: 2, granted: 1 });
  });

  test('every 401 is an event, too', async () => {
    await serve({ clients: { 'Bearer key': 'bank.one' } });
    await send(makeRequest());
    await send(makeRequest(), { headers: { ...query, Authorization: 'Bearer other' } });
    assert.deepEqual(
      world.bench.failures.map(({ detail }) => detail),
      [
        { reason: 'missing', address: '127.0.0.1', count: undefined },
        { reason: 'wrong', address: '127.0.0.1', count: undefined },
      ],
    );
  });
});
