/** POST /v1/timestamps: what is answered for each imprint. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { derNull, oid } from '../../pki/der.ts';
import { applyRules, type ImprintDigest, parseTimeStampReq } from '../../pki/tsp-request.ts';
import type { LaneAnswer } from '../../queue/lane-requester.ts';
import { testPolicy } from '../support/software-tsu.ts';
import { imprintOf, imprintsMax, resultsOf, timestampsWorld, tokenOf } from '../support/timestamps-world.ts';
import { makeRequest, messageImprint } from '../support/tsp-requests.ts';

const digests = Object.keys(digestAlgorithms) as ImprintDigest[];
const hex = (bytes: Uint8Array | undefined): string | undefined => (bytes === undefined ? undefined : Buffer.from(bytes).toString('hex'));

const world = timestampsWorld();
const { post, serve } = world;

describe('POST /v1/timestamps: one answer for each imprint', () => {
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
    assert.equal(
      hex(world.bench.asked[0]?.messageImprint),
      hex(messageImprint(digestAlgorithms['sha3-512'].oid, hashedMessage, [derNull])),
    );
    assert.equal(hex(world.bench.asked[0]?.policy), hex(oid(testPolicy)));
  });

  test('many are answered in their order, however the lane answers', async () => {
    const right = world.bench.script;
    world.bench.script = async (request) => {
      const answer = await right(request);
      // Later ones first.
      for (let turns = imprintsMax - world.bench.asked.indexOf(request); turns > 0; turns -= 1) await new Promise(setImmediate);
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
    for (const { policy, certReq } of world.bench.asked) assert.deepEqual([hex(policy), certReq], [hex(oid(other)), true]);
  });

  test('more is wrong than one thing: the same reason as from /tsa', async () => {
    serve({ timestamp: { digests: ['sha256'] } });
    const other = '1.3.6.1.4.1.32473.1.7';
    const zeros = (octets: number): string => Buffer.alloc(octets).toString('base64');
    const cases = [
      { algorithm: 'sha1', oid: '1.3.14.3.2.26', octets: 20 },
      { algorithm: 'sha1', oid: '1.3.14.3.2.26', octets: 5 },
      { algorithm: 'sha384', oid: digestAlgorithms.sha384.oid, octets: 48 },
      { algorithm: 'sha256', oid: digestAlgorithms.sha256.oid, octets: 32 },
      { algorithm: 'sha256', oid: digestAlgorithms.sha256.oid, octets: 31 },
    ];
    for (const policy of [undefined, testPolicy, other]) {
      const hashes = cases.map(({ algorithm, octets }) => ({ algorithm, hash: zeros(octets) }));
      const bulk = await resultsOf(await post({ hashes, ...(policy === undefined ? {} : { policy }) }));
      const rules = { policies: [oid(testPolicy)], digests: new Set<ImprintDigest>(['sha256']) } as const;
      const single = cases.map((one) => {
        const imprint = messageImprint(one.oid, Buffer.alloc(one.octets), [derNull]);
        const parsed = parseTimeStampReq(makeRequest({ imprint, ...(policy === undefined ? {} : { policy }) }));
        const decision = parsed.kind === 'refused' ? parsed : applyRules(parsed.request, rules);
        return decision.kind === 'refused' ? decision.failInfo : 'granted';
      });
      assert.deepEqual(
        bulk.map(({ status, failInfo }) => failInfo ?? status),
        single,
        policy,
      );
    }
    assert.equal(world.bench.refusals.filter(({ detail }) => detail.reason === 'unacceptedPolicy').length, 4);
  });

  test('an algorithm or a hash of any length is wrong for its imprint alone', async () => {
    const results = await resultsOf(
      await post({
        hashes: [
          { algorithm: 'x'.repeat(5_000), hash: imprintOf('x').hash },
          { algorithm: 'sha256', hash: 'A'.repeat(4_000) },
          { algorithm: 'sha256', hash: 'not Base64'.repeat(200) },
          imprintOf('granted'),
        ],
      }),
    );
    assert.deepEqual(
      results.map(({ status, failInfo }) => failInfo ?? status),
      ['badAlg', 'badDataFormat', 'badDataFormat', 'granted'],
    );
    assert.ok(
      world.bench.refusals.every(({ detail }) => detail.messageImprint === undefined),
      'what would fill the journal is not told',
    );
  });

  test('what is wrong with one has no effect on the others', async () => {
    serve({ timestamp: { digests: ['sha256', 'sha512'] } });
    const right = world.bench.script;
    world.bench.script = (request) => {
      const number = world.bench.asked.indexOf(request);
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
    assert.deepEqual(await world.bench.outcomes(), {
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
    assert.deepEqual(world.bench.asked, []);
  });
});
