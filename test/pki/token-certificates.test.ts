/** Certificates that are put into tokens: every octet as another encoder has it. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as asn1js from 'asn1js';
import fc from 'fast-check';
import { type Der, encode, integer, tag } from '../../pki/der.ts';
import { attachCertificates, certificateSet } from '../../pki/token-certificates.ts';
import { makeTemplate, stampWith, tokenOf } from '../support/software-tsu.ts';
import { parseAs } from '../support/strict-der.ts';
import { aStamp, hex, parseToken, tokenWorld } from '../support/token-profile.ts';

const world = tokenWorld();

/** What `attachCertificates` must come to, by asn1js. */
const attachedByOracle = (token: Uint8Array, certificates: readonly Uint8Array[]): Uint8Array => {
  const contentInfo = parseAs(token, asn1js.Sequence);
  const signedData = (contentInfo.valueBlock.value[1] as asn1js.Constructed).valueBlock.value[0] as asn1js.Sequence;
  const sorted = certificates.toSorted(Buffer.compare).map((der) => parseAs(der, asn1js.Sequence));
  signedData.valueBlock.value.splice(3, 0, new asn1js.Constructed({ idBlock: { tagClass: 3, tagNumber: 0 }, value: sorted }));
  return new Uint8Array(contentInfo.toBER());
};

describe('attachCertificates', () => {
  test('puts any number of certificates in, in DER order, bit for bit', () => {
    const token = stampWith(world.ec, makeTemplate(world.ec), 'sha256', aStamp({ nonce: integer(2 ** 40) }));
    const [leaf, authority] = world.ec.chain as [Uint8Array, Uint8Array];
    const root = world.hierarchy.root.certificate.raw;
    const chains: (readonly Uint8Array[])[] = [
      [leaf],
      [leaf, authority],
      [authority, leaf],
      [leaf, authority, root],
      [root, authority, leaf],
    ];
    for (const chain of chains) {
      const attached = attachCertificates(token, chain);
      assert.equal(hex(attached), hex(attachedByOracle(token, chain)));
      assert.equal(hex(attached), hex(attachCertificates(token, chain.toReversed())));
      assert.equal(parseToken(attached).certificates.length, chain.length);
    }
    assert.equal(hex(certificateSet([leaf, authority])), hex(certificateSet([authority, leaf])));
  });

  test('any token, also where the lengths of the wrappers grow by an octet', () => {
    const template = makeTemplate(world.ec);
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 66_000 }), (nonceOctets) => {
        const stamp = aStamp({ nonce: encode(tag.integer, new Uint8Array(nonceOctets).fill(0x33)) });
        template.prepare(stamp, stamp.serial, stamp.unixMillis);
        const token = tokenOf(template, new Uint8Array(70).fill(1));
        const attached = attachCertificates(token, world.ec.chain);
        assert.equal(Buffer.compare(attached, attachedByOracle(token, world.ec.chain)), 0);
      }),
      { numRuns: 40 },
    );
  });

  test('refuses what is no token, and what has certificates already', () => {
    const token = stampWith(world.ec, makeTemplate(world.ec), 'sha256', aStamp());
    const attached = attachCertificates(token, world.ec.chain);
    const strange: Der[] = [
      new Uint8Array(),
      Uint8Array.of(0x30, 0),
      integer(1),
      attached,
      Buffer.concat([token, Uint8Array.of(0)]),
      token.subarray(0, -1),
    ];
    for (const bytes of strange) assert.throws(() => attachCertificates(bytes, world.ec.chain), { name: 'DerError' });
  });
});
