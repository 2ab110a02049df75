/** POST /tsa: what the protocol answers, granted and refused, and what overload and outage look like in it. */
import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { tsaPath } from '../../gateway/tsa-listener.ts';
import { integer } from '../../pki/der.ts';
import { attachCertificates } from '../../pki/token-certificates.ts';
import { readTimeStampResp, readTimeStampToken } from '../../pki/tsp-read.ts';
import { refusalResponse } from '../../pki/tsp-refusal.ts';
import type { FailInfo } from '../../pki/tsp-request.ts';
import type { LaneAnswer } from '../../queue/lane-requester.ts';
import { granting } from '../support/stamping-bench.ts';
import { assertLine, assertRefused, bodyBytesMax, hex, tsaWorld } from '../support/tsa-world.ts';
import { extensionDer, makeRequest } from '../support/tsp-requests.ts';

const world = tsaWorld();
const { send, serve } = world;

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
      world.bench.asked.map(({ certReq, client }) => [certReq, client]),
      [
        [true, 'anonymous'],
        [false, 'anonymous'],
        [false, 'anonymous'],
      ],
    );
    assert.deepEqual(await world.bench.outcomes(), { granted: 3 });
  });

  test('the token is what the signer made, bit for bit', async () => {
    const fixed = granting(world.tsu)({ certReq: true, policy: integer(1), messageImprint: integer(2), client: 'x', nonce: undefined });
    assert.ok(fixed !== 'full' && !(fixed instanceof Promise) && fixed.kind === 'granted');
    world.bench.script = () => fixed;
    const bare = await send(makeRequest());
    const whole = await send(makeRequest({ certReq: true }));
    assert.equal(hex(readTimeStampResp(bare.body).timeStampToken ?? new Uint8Array()), hex(fixed.token));
    assert.equal(
      hex(readTimeStampResp(whole.body).timeStampToken ?? new Uint8Array()),
      hex(attachCertificates(fixed.token, world.tsu.chain)),
    );
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
      assert.deepEqual(world.bench.asked, []);
      assert.deepEqual(await world.bench.outcomes(), { [failInfo]: 1 });
    });
  }

  for (const failInfo of ['timeNotAvailable', 'systemFailure'] as const) {
    test(`${failInfo}: refused by the signer`, async () => {
      world.bench.script = () => ({ kind: 'refused', failInfo });
      assertRefused(await send(makeRequest()), failInfo);
      assert.deepEqual(await world.bench.outcomes(), { [failInfo]: 1 });
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

describe('POST /tsa: overload and outage are 503', () => {
  test('the journal is behind: systemFailure with Retry-After, and nothing reaches the lane', async () => {
    await serve();
    world.bench.backlogged = true;
    const answer = await send(makeRequest());
    assert.equal(answer.status, 503);
    assert.match(answer.headers['retry-after'] ?? '', /^[1-9]\d*$/);
    assert.equal(hex(answer.body), hex(refusalResponse('systemFailure')));
    assert.deepEqual(world.bench.asked, []);
    assert.deepEqual(await world.bench.outcomes(), { backlog: 1 });
    world.bench.backlogged = false;
    assert.equal((await send(makeRequest())).status, 200);
  });

  test('a request that is wrong in itself is told so also then', async () => {
    await serve();
    world.bench.backlogged = true;
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
      world.bench.script = script;
      const answer = await send(makeRequest({ certReq: true }));
      assert.equal(answer.status, 503);
      assert.match(answer.headers['retry-after'] ?? '', /^[1-9]\d*$/);
      assert.equal(answer.headers['content-type'], 'application/timestamp-reply');
      assert.equal(hex(answer.body), hex(refusalResponse('systemFailure')));
      assert.deepEqual(await world.bench.outcomes(), { [outcome]: 1 });
    });
  }

  test('a TSU whose certificates are not known: no token without them when they are asked for', async () => {
    await serve({ unpublished: true });
    assert.equal((await send(makeRequest({ certReq: true }))).status, 503);
    assert.equal((await send(makeRequest())).status, 200);
  });

  test('a token that cannot be read is a 500 with one line, and the next request is served', async () => {
    await serve();
    const right = world.bench.script;
    world.bench.script = async (request) => {
      const answer = right(request);
      return answer !== 'full' && !(answer instanceof Promise) && answer.kind === 'granted'
        ? { ...answer, token: Buffer.from('junk') }
        : { kind: 'expired' };
    };
    assertLine(await send(makeRequest({ certReq: true })), 500, 'INTERNAL');
    world.bench.script = right;
    assert.equal((await send(makeRequest({ certReq: true }))).status, 200);
  });
});
