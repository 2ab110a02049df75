import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, beforeEach, describe, test } from 'node:test';
import fc from 'fast-check';
import type { Hono } from 'hono';
import { createTimestampsApp } from '../../gateway/timestamps-app.ts';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { derNull, oid } from '../../pki/der.ts';
import { readTimeStampToken } from '../../pki/tsp-read.ts';
import type { ImprintDigest } from '../../pki/tsp-request.ts';
import type { LaneAnswer } from '../../queue/lane-requester.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareTsu, testPolicy } from '../support/software-tsu.ts';
import { createStampingBench, type StampingBench, type StampingBenchOptions } from '../support/stamping-bench.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';
import { messageImprint } from '../support/tsp-requests.ts';

const digests = Object.keys(digestAlgorithms) as ImprintDigest[];
const hex = (bytes: Uint8Array | undefined): string | undefined => (bytes === undefined ? undefined : Buffer.from(bytes).toString('hex'));
const imprintsMax = 20;
const json = { 'Content-Type': 'application/json' };

let pki: TestPki;
let tsu: SoftwareTsu;
before(() => {
  pki = new TestPki();
  tsu = makeSoftwareTsu(pki, makeHierarchy(pki), 'ec-p256');
});
after(() => pki.close());

let bench: StampingBench;
let app: Hono;
const serve = (options: StampingBenchOptions = {}): void => {
  bench = createStampingBench(tsu, options);
  app = createTimestampsApp(bench.stamping, imprintsMax);
};
beforeEach(() => serve());

interface Imprint {
  readonly algorithm: string;
  readonly hash: string;
  readonly nonce?: string;
}
interface Result {
  readonly status: string;
  readonly failInfo?: string;
  readonly token?: string;
  readonly serial?: string;
  readonly genTime?: string;
}
const imprintOf = (text: string, digest: ImprintDigest = 'sha256'): Imprint => ({
  algorithm: digest,
  hash: createHash(digestAlgorithms[digest].name).update(text).digest('base64'),
});
const post = async (body: unknown, headers: Record<string, string> = json): Promise<Response> =>
  app.request('/v1/timestamps', { method: 'POST', headers, body: typeof body === 'string' ? body : JSON.stringify(body) });
const resultsOf = async (response: Response): Promise<Result[]> => {
  assert.equal(response.status, 200);
  assert.match(response.headers.get('content-type') ?? '', /^application\/json/);
  const { timestamps, ...rest } = (await response.json()) as { timestamps: Result[] };
  assert.deepEqual(rest, {});
  return timestamps;
};
const assertError = async (response: Response, status: number, error: string, message = /./): Promise<void> => {
  assert.equal(response.status, status);
  const text = await response.text();
  assert.ok(!text.includes('\n'), 'one line');
  const body = JSON.parse(text) as { error: string; message: string };
  assert.deepEqual(Object.keys(body).toSorted(), ['error', 'message']);
  assert.equal(body.error, error);
  assert.match(body.message, message);
};
const tokenOf = (result: Result | undefined) => readTimeStampToken(Buffer.from(result?.token ?? '', 'base64'));

describe('POST /v1/timestamps', () => {
  test('one imprint of each digest: a complete token, its serial number and its time', async () => {
    for (const digest of digests) {
      const [result, ...more] = await resultsOf(await post({ hashes: [imprintOf('x', digest)] }));
      assert.equal(more.length, 0);
      assert.equal(result?.status, 'granted');
      const { tstInfo, signedData } = tokenOf(result);
      assert.equal(tstInfo.messageImprint.algorithm, digestAlgorithms[digest].oid);
      assert.equal(Buffer.from(tstInfo.messageImprint.hashedMessage).toString('base64'), imprintOf('x', digest).hash);
      assert.equal(result?.serial, hex(tstInfo.serialNumber));
      assert.equal(result?.genTime, tstInfo.genTimeText);
      assert.equal(tstInfo.nonce, undefined);
      assert.equal(signedData.certificates.length, 0);
    }
  });

  test('the imprint is what a TimeStampReq would hold', async () => {
    await resultsOf(await post({ hashes: [imprintOf('x', 'sha3-512')] }));
    const hashedMessage = createHash('sha3-512').update('x').digest();
    assert.equal(hex(bench.asked[0]?.messageImprint), hex(messageImprint(digestAlgorithms['sha3-512'].oid, hashedMessage, [derNull])));
    assert.equal(hex(bench.asked[0]?.policy), hex(oid(testPolicy)));
  });

  test('many are answered in their order, however the lane answers', async () => {
    const right = bench.script;
    bench.script = async (request) => {
      const answer = await right(request);
      // Later ones first.
      for (let turns = imprintsMax - bench.asked.indexOf(request); turns > 0; turns -= 1) await new Promise(setImmediate);
      return answer as LaneAnswer;
    };
    const texts = Array.from({ length: imprintsMax }, (_, i) => `document ${i}`);
    const results = await resultsOf(await post({ hashes: texts.map((text) => imprintOf(text)) }));
    assert.deepEqual(
      results.map((result) => Buffer.from(tokenOf(result).tstInfo.messageImprint.hashedMessage).toString('base64')),
      texts.map((text) => imprintOf(text).hash),
    );
  });

  test('certReq and policy hold for all', async () => {
    const other = '1.3.6.1.4.1.32473.1.7';
    serve({ timestamp: { policies: [testPolicy, other] } });
    const results = await resultsOf(await post({ hashes: [imprintOf('a'), imprintOf('b')], certReq: true, policy: other }));
    for (const result of results) assert.equal(tokenOf(result).signedData.certificates.length, 2);
    for (const { policy, certReq } of bench.asked) assert.deepEqual([hex(policy), certReq], [hex(oid(other)), true]);
  });

  test('what is wrong with one has no effect on the others', async () => {
    serve({ timestamp: { digests: ['sha256', 'sha512'] } });
    const right = bench.script;
    bench.script = (request) => {
      const number = bench.asked.indexOf(request);
      if (number === 1) return { kind: 'refused', failInfo: 'timeNotAvailable' };
      if (number === 2) return { kind: 'expired' };
      if (number === 3) return { kind: 'unavailable' };
      if (number === 4) return 'full';
      return right(request);
    };
    const hashes = [
      imprintOf('granted'),
      { algorithm: 'sha1', hash: Buffer.alloc(20).toString('base64') },
      { algorithm: 'SHA256', hash: imprintOf('x').hash },
      { algorithm: 'toString', hash: imprintOf('x').hash },
      imprintOf('not allowed here', 'sha384'),
      { algorithm: 'sha256', hash: Buffer.alloc(31).toString('base64') },
      { algorithm: 'sha256', hash: '' },
      imprintOf('no time'),
      imprintOf('expired'),
      imprintOf('unavailable'),
      imprintOf('full'),
      imprintOf('granted too', 'sha512'),
    ];
    const results = await resultsOf(await post({ hashes }));
    assert.deepEqual(
      results.map(({ status, failInfo }) => failInfo ?? status),
      [
        'granted',
        'badAlg',
        'badAlg',
        'badAlg',
        'badAlg',
        'badDataFormat',
        'badDataFormat',
        'timeNotAvailable',
        'systemFailure',
        'systemFailure',
        'systemFailure',
        'granted',
      ],
    );
    assert.ok(results.every(({ status, token }) => (status === 'granted') === (token !== undefined)));
    assert.ok(results.every(({ status, failInfo }) => (status === 'rejection') === (failInfo !== undefined)));
    assert.deepEqual(await bench.outcomes(), {
      granted: 2,
      badAlg: 4,
      badDataFormat: 2,
      timeNotAvailable: 1,
      expired: 1,
      unavailable: 1,
      overloaded: 1,
    });
  });

  test('a policy that is not served', async () => {
    const results = await resultsOf(await post({ hashes: [imprintOf('a'), imprintOf('b')], policy: '2.999.1' }));
    assert.deepEqual(results, [
      { status: 'rejection', failInfo: 'unacceptedPolicy' },
      { status: 'rejection', failInfo: 'unacceptedPolicy' },
    ]);
    assert.deepEqual(bench.asked, []);
  });

  describe('nonce', () => {
    for (const [text, contents] of [
      ['0', '00'],
      ['1', '01'],
      ['-1', 'ff'],
      ['127', '7f'],
      ['128', '0080'],
      ['-128', '80'],
      ['-129', 'ff7f'],
      ['007', '07'],
      ['18446744073709551616', '010000000000000000'],
      ['-9223372036854775808', '8000000000000000'],
      ['0x0', '00'],
      ['0x80', '0080'],
      ['0xFFff', '00ffff'],
      ['0x00000001', '01'],
      [`0x${'f'.repeat(128)}`, `00${'f'.repeat(128)}`],
    ] as const) {
      test(`${text.slice(0, 30)} is ${contents.slice(0, 30)}`, async () => {
        const [result] = await resultsOf(await post({ hashes: [{ ...imprintOf('x'), nonce: text }] }));
        assert.equal(hex(tokenOf(result).tstInfo.nonce), contents);
      });
    }

    test('any number, decimal, comes back', async () => {
      await fc.assert(
        fc.asyncProperty(fc.bigInt({ min: -(10n ** 154n), max: 10n ** 154n }), async (value) => {
          const [result] = await resultsOf(await post({ hashes: [{ ...imprintOf('x'), nonce: String(value) }] }));
          const contents = tokenOf(result).tstInfo.nonce ?? new Uint8Array();
          assert.equal(BigInt.asIntN(8 * contents.length, BigInt(`0x${hex(contents)}`)), value);
        }),
        { numRuns: 50 },
      );
    });

    for (const nonce of [
      '',
      ' 1',
      '1 ',
      '+1',
      '1.5',
      '1e3',
      '0x',
      '-0x1',
      '0b1',
      'abc',
      '--1',
      '1n',
      '٣',
      '9'.repeat(156),
      `0x${'1'.repeat(129)}`,
      5,
      null,
      true,
      ['1'],
    ]) {
      test(`${JSON.stringify(nonce).slice(0, 30)} is refused`, async () => {
        await assertError(await post({ hashes: [{ ...imprintOf('x'), nonce }] }), 400, 'REQUEST_INVALID', /hashes\.0\.nonce/);
      });
    }
  });

  describe('base64', () => {
    const right = imprintOf('x').hash;
    const wrong = [
      right.slice(0, -1),
      `${right}=`,
      `${right}\n`,
      ` ${right}`,
      right.replace(/.$/, ''),
      right.replace(/^./, '-'),
      right.replace(/^./, '_'),
      right.replace(/^./, '='),
      right.replace(/^..../, '===='),
      right.replace(/^./, '\u00e9'),
      Buffer.alloc(32, 0xfb).toString('base64url'),
      createHash('sha256').update('x').digest('hex'),
      'A'.repeat(43),
      'A'.repeat(44),
    ];
    for (const hash of wrong) {
      test(`${JSON.stringify(hash)} is badDataFormat`, async () => {
        const [result] = await resultsOf(await post({ hashes: [{ algorithm: 'sha256', hash }] }));
        assert.deepEqual(result, { status: 'rejection', failInfo: 'badDataFormat' });
      });
    }

    test('bits behind the last octet must be zero (RFC 4648, 3.5): one hash, one text', async () => {
      const [result] = await resultsOf(await post({ hashes: [{ algorithm: 'sha256', hash: `${'A'.repeat(42)}B=` }] }));
      assert.deepEqual(result, { status: 'rejection', failInfo: 'badDataFormat' });
    });
  });

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
        assert.deepEqual(bench.asked, []);
      });
    }

    test('413 for a body over the limit, with and without Content-Length', async () => {
      const body = `${JSON.stringify({ hashes: [imprintOf('x')] })}${' '.repeat(30_000)}`;
      const stream = new Blob([body]).stream();
      const chunked = await app.request(
        new Request('http://x/v1/timestamps', { method: 'POST', headers: json, body: stream, duplex: 'half' }),
      );
      const announced = await post(body, { ...json, 'Content-Length': String(body.length) });
      for (const response of [chunked, announced]) {
        assert.equal(response.headers.get('connection'), 'close');
        await assertError(response, 413, 'BODY_TOO_LARGE', /\d+ octets/);
      }
      assert.deepEqual(bench.asked, []);
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
      ['a hash of a thousand letters', { hashes: [{ ...one, hash: 'A'.repeat(1_000) }] }, /hashes\.0\.hash/],
      ['certReq that is no boolean', { hashes: [one], certReq: 'true' }, /certReq/],
      ['a policy that is no object identifier', { hashes: [one], policy: 'default' }, /policy/],
      ['a policy with a leading zero', { hashes: [one], policy: '1.02.3' }, /policy/],
      ['a policy of one arc', { hashes: [one], policy: '1' }, /policy/],
    ] as const) {
      test(`${name}: 400`, async () => {
        await assertError(await post(body), 400, 'REQUEST_INVALID', message);
        assert.deepEqual(bench.asked, []);
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
      const response = await app.request('/v1/timestamps', { method });
      assert.equal(response.headers.get('allow'), 'POST');
      await assertError(response, 405, 'METHOD_NOT_ALLOWED');
    }
    for (const type of ['text/plain', 'application/timestamp-query', 'application/jsonx', 'application/x-www-form-urlencoded']) {
      const response = await post({ hashes: [imprintOf('x')] }, { 'Content-Type': type });
      assert.equal(response.headers.get('accept'), 'application/json');
      await assertError(response, 415, 'MEDIA_TYPE_UNSUPPORTED', /application\/json/);
    }
    for (const type of ['application/json; charset=utf-8', 'Application/JSON']) {
      assert.equal((await post({ hashes: [imprintOf('x')] }, { 'Content-Type': type })).status, 200);
    }
  });

  test('401 with a challenge; the client of a right credential goes along', async () => {
    serve({ clients: { 'Bearer key': 'bank.one' } });
    for (const headers of [json, { ...json, Authorization: 'Bearer other' }]) {
      const response = await post({ hashes: [imprintOf('x')] }, headers);
      assert.match(response.headers.get('www-authenticate') ?? '', /^Basic realm="[^"]+".*Bearer/);
      await assertError(response, 401, 'UNAUTHENTICATED');
    }
    assert.deepEqual(bench.asked, []);
    await resultsOf(await post({ hashes: [imprintOf('x')] }, { ...json, Authorization: 'Bearer key' }));
    assert.deepEqual(
      bench.asked.map(({ client }) => client),
      ['bank.one'],
    );
  });

  test('403 for an auditor, without a challenge; every refusal is an event', async () => {
    serve({ clients: { 'Bearer key': 'bank.one', 'Bearer eye': 'ms.rossi' }, auditors: ['ms.rossi'] });
    const response = await post({ hashes: [imprintOf('x')] }, { ...json, Authorization: 'Bearer eye' });
    assert.equal(response.headers.get('www-authenticate'), null);
    await assertError(response, 403, 'FORBIDDEN');
    await assertError(await post({ hashes: [imprintOf('x')] }, { ...json, Authorization: 'Bearer other' }), 401, 'UNAUTHENTICATED');
    assert.deepEqual(bench.asked, []);
    assert.deepEqual(await bench.outcomes(), { forbidden: 1, unauthenticated: 1 });
    assert.deepEqual(
      bench.failures.map(({ kind, subject, outcome, detail }) => [kind, subject, outcome, detail.reason]),
      [
        ['authentication.failed', 'ms.rossi', 'refused', 'role'],
        ['authentication.failed', '', 'refused', 'wrong'],
      ],
    );
  });

  test('503 JOURNAL_BACKLOG with Retry-After while the journal is behind', async () => {
    bench.backlogged = true;
    const response = await post({ hashes: [imprintOf('x')] });
    assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
    await assertError(response, 503, 'JOURNAL_BACKLOG');
    assert.deepEqual(bench.asked, []);
    assert.deepEqual(await bench.outcomes(), { backlog: 1 });
    bench.backlogged = false;
    await resultsOf(await post({ hashes: [imprintOf('x')] }));
  });

  test('503 with Retry-After when there is no room for all: then for none', async () => {
    bench.room = 3;
    const hashes = (count: number): Imprint[] => Array.from({ length: count }, () => imprintOf('x'));
    const response = await post({ hashes: hashes(4) });
    assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
    await assertError(response, 503, 'OVERLOADED');
    assert.deepEqual(bench.asked, []);
    assert.equal((await resultsOf(await post({ hashes: hashes(3) }))).length, 3);
  });

  for (const kind of ['expired', 'unavailable'] as const) {
    test(`503 with Retry-After when all are ${kind}`, async () => {
      bench.script = () => ({ kind });
      const response = await post({ hashes: [imprintOf('x'), imprintOf('y')] });
      assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
      await assertError(response, 503, kind === 'expired' ? 'DEADLINE_EXCEEDED' : 'REDIS_UNAVAILABLE');
    });
  }
});
