/** POST /v1/timestamps: requests that are refused as a whole. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { testPolicy } from '../support/software-tsu.ts';
import { assertError, type Imprint, imprintOf, imprintsMax, json, resultsOf, timestampsWorld } from '../support/timestamps-world.ts';

const world = timestampsWorld();
const { post, serve } = world;

describe('POST /v1/timestamps: refused as a whole', () => {
  describe('limits', () => {
    test('one imprint, and as many as are allowed', async () => {
      for (const count of [1, imprintsMax]) {
        const results = await resultsOf(await post({ hashes: Array.from({ length: count }, (_, i) => imprintOf(`${i}`)) }));
        assert.equal(results.length, count);
        assert.equal(new Set(results.map(({ serial }) => serial)).size, count);
      }
    });

    test('the longest imprints that are allowed fit into the body', async () => {
      const longest = { ...imprintOf('x', 'sha3-512'), nonce: `0x${'f'.repeat(128)}` };
      const body = JSON.stringify(
        { hashes: Array.from({ length: imprintsMax }, () => longest), policy: testPolicy, certReq: true },
        undefined,
        4,
      );
      assert.equal((await resultsOf(await post(body))).length, imprintsMax);
    });

    for (const count of [0, imprintsMax + 1, 10 * imprintsMax]) {
      test(`${count} imprints are refused`, async () => {
        await assertError(await post({ hashes: Array.from({ length: count }, () => imprintOf('x')) }), 400, 'REQUEST_INVALID', /hashes/);
        assert.deepEqual(world.bench.asked, []);
      });
    }

    test('413 for a body over the limit, with and without Content-Length', async () => {
      const body = `${JSON.stringify({ hashes: [imprintOf('x')] })}${' '.repeat(30_000)}`;
      const stream = new Blob([body]).stream();
      const chunked = await world.app.request(
        new Request('http://x/v1/timestamps', { method: 'POST', headers: json, body: stream, duplex: 'half' }),
      );
      const announced = await post(body, { ...json, 'Content-Length': String(body.length) });
      for (const response of [chunked, announced]) {
        assert.equal(response.headers.get('connection'), 'close');
        await assertError(response, 413, 'BODY_TOO_LARGE', /\d+ octets/);
      }
      assert.deepEqual(world.bench.asked, []);
      assert.deepEqual(await world.bench.outcomes(), { http: 2 });
    });
  });

  describe('requests that are none', () => {
    const one = imprintOf('x');
    for (const [name, body, message] of [
      ['nothing', '', /not JSON/],
      ['no JSON', 'hashes', /not JSON/],
      ['JSON cut off', JSON.stringify({ hashes: [one] }).slice(0, -1), /not JSON/],
      ['two values', '{}{}', /not JSON/],
      ['null', 'null', /top level/],
      ['a list', [one], /top level/],
      ['a string', '"x"', /top level/],
      ['no hashes', {}, /hashes/],
      ['hashes that are no list', { hashes: one }, /hashes/],
      ['an unknown key', { hashes: [one], nonce: '5' }, /nonce/],
      ['an unknown key of an imprint', { hashes: [{ ...one, policy: '1.2' }] }, /hashes\.0/],
      ['an imprint without hash', { hashes: [{ algorithm: 'sha256' }] }, /hashes\.0\.hash/],
      ['an imprint without algorithm', { hashes: [{ hash: one.hash }] }, /hashes\.0\.algorithm/],
      ['a hash that is no string', { hashes: [one, { ...one, hash: 5 }] }, /hashes\.1\.hash/],
      ['certReq that is no boolean', { hashes: [one], certReq: 'true' }, /certReq/],
      ['a policy that is no object identifier', { hashes: [one], policy: 'default' }, /policy/],
      ['a policy with a leading zero', { hashes: [one], policy: '1.02.3' }, /policy/],
      ['a policy of one arc', { hashes: [one], policy: '1' }, /policy/],
    ] as const) {
      test(`${name}: 400`, async () => {
        await assertError(await post(body), 400, 'REQUEST_INVALID', message);
        assert.deepEqual(world.bench.asked, []);
        assert.deepEqual(await world.bench.outcomes(), { http: 1 });
      });
    }

    test('text from the request comes back escaped, on one line, and not at any length', async () => {
      const body = { hashes: [one], ['a\nb"<script>'.padEnd(2_000, 'x')]: 1 };
      const response = await post(body);
      const text = await response.clone().text();
      await assertError(response, 400, 'REQUEST_INVALID');
      assert.ok(text.length < 4_000);
      assert.match(response.headers.get('content-type') ?? '', /^application\/json/);
    });

    test('prototype keys are unknown keys', async () => {
      await assertError(await post(`{"hashes":[${JSON.stringify(one)}],"__proto__":{"certReq":true}}`), 400, 'REQUEST_INVALID');
    });
  });

  test('405 for other methods, 415 for other media types', async () => {
    for (const method of ['GET', 'PUT', 'DELETE', 'OPTIONS']) {
      const response = await world.app.request('/v1/timestamps', { method });
      assert.equal(response.headers.get('allow'), 'POST');
      await assertError(response, 405, 'METHOD_NOT_ALLOWED');
    }
    for (const type of ['text/plain', 'application/timestamp-query', 'application/jsonx', 'application/x-www-form-urlencoded']) {
      const response = await post({ hashes: [imprintOf('x')] }, { 'Content-Type': type });
      assert.equal(response.headers.get('accept'), 'application/json');
      await assertError(response, 415, 'MEDIA_TYPE_UNSUPPORTED', /application\/json/);
    }
    assert.deepEqual(await world.bench.outcomes(), { http: 8 });
    for (const type of ['application/json; charset=utf-8', 'Application/JSON']) {
      assert.equal((await post({ hashes: [imprintOf('x')] }, { 'Content-Type': type })).status, 200);
    }
  });

  test('a client that has gone is counted as such, a defect as other', async () => {
    const init = { method: 'POST', headers: json, body: 'no JSON' };
    await world.app.request('/v1/timestamps', init, { outgoing: { destroyed: true } });
    assert.deepEqual(await world.bench.outcomes(), { disconnected: 1 });
    world.bench.script = () => {
      throw new Error('a defect');
    };
    assert.equal((await post({ hashes: [imprintOf('x')] })).status, 500);
    assert.deepEqual(await world.bench.outcomes(), { disconnected: 1, other: 1 });
  });

  test('401 with a challenge; the client of a right credential goes along', async () => {
    serve({ clients: { 'Bearer key': 'bank.one' } });
    for (const headers of [json, { ...json, Authorization: 'Bearer other' }]) {
      const response = await post({ hashes: [imprintOf('x')] }, headers);
      assert.match(response.headers.get('www-authenticate') ?? '', /^Basic realm="[^"]+".*Bearer/);
      await assertError(response, 401, 'UNAUTHENTICATED');
    }
    assert.deepEqual(world.bench.asked, []);
    await resultsOf(await post({ hashes: [imprintOf('x')] }, { ...json, Authorization: 'Bearer key' }));
    assert.deepEqual(
      world.bench.asked.map(({ client }) => client),
      ['bank.one'],
    );
  });

  test('403 for an auditor, without a challenge; every refusal is an event', async () => {
    serve({ clients: { 'Bearer key': 'bank.one', 'Bearer eye': 'ms.rossi' }, auditors: ['ms.rossi'] });
    const response = await post({ hashes: [imprintOf('x')] }, { ...json, Authorization: 'Bearer eye' });
    assert.equal(response.headers.get('www-authenticate'), null);
    await assertError(response, 403, 'FORBIDDEN');
    await assertError(await post({ hashes: [imprintOf('x')] }, { ...json, Authorization: 'Bearer other' }), 401, 'UNAUTHENTICATED');
    assert.deepEqual(world.bench.asked, []);
    assert.deepEqual(await world.bench.outcomes(), { forbidden: 1, unauthenticated: 1 });
    assert.deepEqual(
      world.bench.failures.map(({ kind, subject, outcome, detail }) => [kind, subject, outcome, detail.reason]),
      [
        ['authentication.failed', 'ms.rossi', 'refused', 'role'],
        ['authentication.failed', '', 'refused', 'wrong'],
      ],
    );
  });

  test('503 JOURNAL_BACKLOG with Retry-After while the journal is behind', async () => {
    world.bench.backlogged = true;
    const response = await post({ hashes: [imprintOf('x'), imprintOf('y')] });
    assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
    await assertError(response, 503, 'JOURNAL_BACKLOG');
    assert.deepEqual(world.bench.asked, []);
    assert.deepEqual(await world.bench.outcomes(), { backlog: 1 }, 'its body was not read, so nobody knows of how many imprints');
    world.bench.backlogged = false;
    await resultsOf(await post({ hashes: [imprintOf('x')] }));
  });

  test('503 with Retry-After when there is no room for all: then for none', async () => {
    world.bench.room = 3;
    const hashes = (count: number): Imprint[] => Array.from({ length: count }, () => imprintOf('x'));
    const response = await post({ hashes: hashes(4) });
    assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
    await assertError(response, 503, 'OVERLOADED');
    assert.deepEqual(world.bench.asked, []);
    assert.deepEqual(await world.bench.outcomes(), { overloaded: 4 }, 'each imprint counts, as granted ones do');
    assert.equal((await resultsOf(await post({ hashes: hashes(3) }))).length, 3);
  });

  for (const kind of ['expired', 'unavailable'] as const) {
    test(`503 with Retry-After when all are ${kind}`, async () => {
      world.bench.script = () => ({ kind });
      const response = await post({ hashes: [imprintOf('x'), imprintOf('y')] });
      assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
      await assertError(response, 503, kind === 'expired' ? 'DEADLINE_EXCEEDED' : 'REDIS_UNAVAILABLE');
    });
  }
});
