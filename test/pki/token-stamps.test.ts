/** Any stamp: whatever is asked for, the template writes a token of its profile. */
import assert from 'node:assert/strict';
import { createHash, sign, verify } from 'node:crypto';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { derNull, encode, integer, tag } from '../../pki/der.ts';
import { attachCertificates } from '../../pki/token-certificates.ts';
import { serialOctets, type TokenTemplateOptions } from '../../pki/token-template.ts';
import type { ImprintDigest } from '../../pki/tsp-request.ts';
import { makeTemplate, type TestStamp, tokenOf } from '../support/software-tsu.ts';
import { anySerial, aStamp, checkProfile, hex, includes, parseToken, tokenWorld } from '../support/token-profile.ts';
import { messageImprint } from '../support/tsp-requests.ts';

const world = tokenWorld();
const digests = Object.keys(digestAlgorithms) as ImprintDigest[];

const integerContents = (minLength: number, maxLength: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength, maxLength }).map((octets) => {
    // Made minimal: the first nine bits must not all be the same.
    const out = octets.slice();
    if (out.length > 1 && (out[0] === 0 || out[0] === 0xff)) out[1] = (out[0] ?? 0) ^ 0x80;
    return out;
  });

const stamps: fc.Arbitrary<TestStamp> = fc.record({
  messageImprint: fc.tuple(fc.constantFrom(...digests), fc.nat(255), fc.boolean()).map(([digest, fill, withNull]) => {
    const { oid: algorithm, octets } = digestAlgorithms[digest];
    return messageImprint(algorithm, new Uint8Array(octets).fill(fill), withNull ? [derNull] : []);
  }),
  nonce: fc.option(
    fc
      .oneof(integerContents(1, 20), integerContents(120, 140), integerContents(7_900, 8_000))
      .map((contents) => encode(tag.integer, contents)),
    { nil: undefined },
  ),
  serial: fc
    .uint8Array({ minLength: serialOctets, maxLength: serialOctets })
    .map((octets) => Buffer.concat([Uint8Array.of(0x40 | ((octets[0] ?? 0) & 0x3f)), octets.subarray(1)])),
  unixMillis: fc.oneof(
    fc.integer({ min: 0, max: 4_102_444_800_000 }),
    fc.integer({ min: 0, max: 4_102_444_800 }).map((seconds) => seconds * 1_000),
    fc.integer({ min: 0, max: 41_024_448_000 }).map((tenths) => tenths * 100),
    fc.integer({ min: 0, max: 410_244_480_000 }).map((hundredths) => hundredths * 10),
  ),
});

describe('any stamp', () => {
  const optionSets: readonly Partial<TokenTemplateOptions>[] = [
    {},
    { accuracyMicros: 500_000 },
    { accuracyMicros: 1_500, tsaName: 'subject' },
    { accuracyMicros: 1_000, qualified: true },
    { accuracyMicros: 999_999, signatureDigest: 'sha384' },
    { accuracyMicros: 127_128, signatureDigest: 'sha512', tsaName: 'subject', qualified: true },
    { accuracyMicros: 128_255 },
  ];
  for (const options of optionSets) {
    test(`with ${JSON.stringify(options)}`, () => {
      const digest = options.signatureDigest ?? 'sha256';
      // One template for all: what an earlier stamp left must never show in a later one.
      const template = makeTemplate(world.ec, options);
      fc.assert(
        fc.property(stamps, fc.integer({ min: 1, max: 600 }), (stamp, signatureOctets) => {
          const hash = Buffer.from(template.prepare(stamp, stamp.serial, stamp.unixMillis));
          const signature = new Uint8Array(signatureOctets).fill(0x5a);
          const token = tokenOf(template, signature);
          const { attributes, signedData, certificates } = checkProfile(token, world.ec, stamp, options);
          assert.equal(certificates.length, 0);
          assert.equal(
            hex(hash),
            createHash(digest)
              .update(encode(tag.set, ...attributes))
              .digest('hex'),
            'the hash to sign is that of the attributes',
          );
          assert.equal(hex(signedData.signerInfos[0]?.signature.valueBlock.valueHexView ?? new Uint8Array()), hex(signature));
          assert.equal(hex(tokenOf(template, signature)), hex(token), 'writing twice gives the same');
          checkProfile(attachCertificates(token, world.ec.chain), world.ec, stamp, options);
        }),
        { numRuns: 30 },
      );
    });
  }

  test('a signature over the attributes verifies, stamp after stamp', () => {
    const template = makeTemplate(world.ec, { tsaName: 'subject' });
    fc.assert(
      fc.property(stamps, (stamp) => {
        template.prepare(stamp, stamp.serial, stamp.unixMillis);
        const { attributes } = parseToken(tokenOf(template, new Uint8Array(70)));
        const signature = sign('sha256', encode(tag.set, ...attributes), world.ec.identity.key);
        const parsed = parseToken(tokenOf(template, signature));
        const value = parsed.signedData.signerInfos[0]?.signature.valueBlock.valueHexView ?? new Uint8Array();
        assert.ok(verify('sha256', encode(tag.set, ...parsed.attributes), world.ec.identity.certificate.publicKey, value));
      }),
      { numRuns: 40 },
    );
  });

  test('genTime has the fraction it needs and no more', () => {
    const template = makeTemplate(world.ec);
    for (const [millis, text] of [
      [0, '20270115080000Z'],
      [100, '20270115080000.1Z'],
      [120, '20270115080000.12Z'],
      [123, '20270115080000.123Z'],
      [20, '20270115080000.02Z'],
      [3, '20270115080000.003Z'],
      [10, '20270115080000.01Z'],
      [999, '20270115080000.999Z'],
    ] as const) {
      const stamp = aStamp({ unixMillis: 1_800_000_000_000 + millis });
      template.prepare(stamp, stamp.serial, stamp.unixMillis);
      const { content } = parseToken(tokenOf(template, new Uint8Array(64)));
      assert.ok(includes(content, encode(tag.generalizedTime, Buffer.from(text))), text);
    }
  });

  test('serial numbers of another length and endless nonces are refused, not truncated', () => {
    const template = makeTemplate(world.ec);
    for (const octets of [0, 1, 19, 21]) assert.throws(() => template.prepare(aStamp(), new Uint8Array(octets), 0), RangeError);
    assert.throws(() => template.prepare(aStamp({ nonce: new Uint8Array(1_048_577) }), anySerial(), 0), RangeError);
    // And the template is as good as new.
    const stamp = aStamp({ nonce: integer(5) });
    template.prepare(stamp, stamp.serial, stamp.unixMillis);
    checkProfile(tokenOf(template, new Uint8Array(64)), world.ec, stamp, {});
  });

  test('the longest nonce that a body can hold', () => {
    const template = makeTemplate(world.ec);
    const stamp = aStamp({ nonce: encode(tag.integer, new Uint8Array(1_048_000).fill(0x7f)) });
    template.prepare(stamp, stamp.serial, stamp.unixMillis);
    const { content } = parseToken(tokenOf(template, new Uint8Array(64)));
    assert.ok(includes(content, stamp.nonce ?? new Uint8Array()));
  });
});
