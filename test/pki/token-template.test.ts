import assert from 'node:assert/strict';
import { createHash, randomBytes, sign, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import * as asn1js from 'asn1js';
import fc from 'fast-check';
import { Certificate, ContentInfo, GeneralName, SignedData, TimeStampResp, TSTInfo } from 'pkijs';
import { digestAlgorithms, type SignatureDigest } from '../../pki/algorithms.ts';
import { type Der, derNull, encode, integer, oid, tag } from '../../pki/der.ts';
import { readSignerCertificate } from '../../pki/signer-certificate.ts';
import { attachCertificates, certificateSet } from '../../pki/token-certificates.ts';
import { serialOctets, type TokenTemplateOptions } from '../../pki/token-template.ts';
import { grantedResponse } from '../../pki/tsp-granted.ts';
import { type ImprintDigest, parseTimeStampReq } from '../../pki/tsp-request.ts';
import {
  makeHierarchy,
  makeSoftwareTsu,
  makeTemplate,
  type SoftwareHierarchy,
  type SoftwareTsu,
  stampWith,
  type TestStamp,
  testPolicy,
  tokenOf,
} from '../support/software-tsu.ts';
import { canonicalDer, parseAs } from '../support/strict-der.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';
import { messageImprint } from '../support/tsp-requests.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const digests = Object.keys(digestAlgorithms) as ImprintDigest[];
const sha256Imprint = messageImprint(digestAlgorithms.sha256.oid, createHash('sha256').update('document').digest());
const anySerial = (): Buffer => Buffer.concat([Uint8Array.of(0x51), randomBytes(serialOctets - 1)]);
const aStamp = (more: Partial<TestStamp> = {}): TestStamp => ({
  messageImprint: sha256Imprint,
  nonce: undefined,
  serial: anySerial(),
  unixMillis: 1_800_000_000_123,
  ...more,
});

let pki: TestPki;
let hierarchy: SoftwareHierarchy;
let ec: SoftwareTsu;
before(() => {
  pki = new TestPki();
  hierarchy = makeHierarchy(pki);
  ec = makeSoftwareTsu(pki, hierarchy, 'ec-p256');
});
after(() => pki.close());

const made = new Map<string, SoftwareTsu>();
/** Keys take long to make: one for all digests. */
const tsuOf = (algorithm: string): SoftwareTsu => {
  const tsu = made.get(algorithm) ?? (algorithm === 'ec-p256' ? ec : makeSoftwareTsu(pki, hierarchy, algorithm));
  made.set(algorithm, tsu);
  return tsu;
};

interface Parsed {
  readonly signedData: SignedData;
  readonly tstInfo: TSTInfo;
  /** Contents of the eContent. */
  readonly content: Uint8Array;
  /** Elements of signedAttrs, encoded, in their order. */
  readonly attributes: Uint8Array[];
  readonly certificates: Uint8Array[];
}

const includes = (bytes: Uint8Array, part: Uint8Array): boolean => Buffer.from(bytes).includes(Buffer.from(part));

const schemaBer = (name: GeneralName): Uint8Array => new Uint8Array((name.toSchema() as asn1js.Constructed).toBER());

const berOf = (block: asn1js.BaseBlock): Uint8Array => new Uint8Array(block.valueBeforeDecodeView);

/** What pkijs and asn1js see in a token, after the strictness of its DER was shown. */
const parseToken = (token: Uint8Array): Parsed => {
  assert.equal(hex(canonicalDer(token)), hex(token), 'not DER');
  const contentInfo = ContentInfo.fromBER(Uint8Array.from(token));
  assert.equal(contentInfo.contentType, '1.2.840.113549.1.7.2');
  const signedData = new SignedData({ schema: contentInfo.content as asn1js.Sequence });
  const content = signedData.encapContentInfo.eContent?.valueBlock.valueHexView ?? new Uint8Array();
  assert.equal(hex(canonicalDer(content)), hex(content), 'TSTInfo not DER');
  const root = parseAs(token, asn1js.Sequence).valueBlock.value[1] as asn1js.Constructed;
  const parts = (root.valueBlock.value[0] as asn1js.Sequence).valueBlock.value;
  const certificates = parts[3] instanceof asn1js.Set ? [] : (parts[3] as asn1js.Constructed).valueBlock.value.map(berOf);
  const signerInfo = (parts.at(-1) as asn1js.Set).valueBlock.value[0] as asn1js.Sequence;
  const attributes = (signerInfo.valueBlock.value[3] as asn1js.Constructed).valueBlock.value.map(berOf);
  for (const set of [attributes, certificates]) {
    assert.deepEqual(set.map(hex), set.toSorted(Buffer.compare).map(hex), 'SET OF not in order');
  }
  return { signedData, tstInfo: TSTInfo.fromBER(Uint8Array.from(content)), content, attributes, certificates };
};

/** Every rule of RFC 3161, RFC 5816 and EN 319 422 that holds for any token of this TSU. */
const checkProfile = (token: Uint8Array, tsu: SoftwareTsu, stamp: TestStamp, options: Partial<TokenTemplateOptions>): Parsed => {
  const parsed = parseToken(token);
  const { signedData, tstInfo, content, attributes } = parsed;
  assert.equal(signedData.version, 3);
  assert.equal(signedData.encapContentInfo.eContentType, '1.2.840.113549.1.9.16.1.4');
  assert.equal(signedData.crls, undefined);
  assert.equal(signedData.signerInfos.length, 1);
  const digest = options.signatureDigest ?? 'sha256';
  assert.deepEqual(
    signedData.digestAlgorithms.map(({ algorithmId }) => algorithmId),
    [digestAlgorithms[digest].oid],
  );

  assert.equal(tstInfo.version, 1);
  assert.equal(tstInfo.policy, testPolicy);
  assert.ok(hex(stamp.messageImprint).endsWith(hex(tstInfo.messageImprint.hashedMessage.valueBlock.valueHexView)));
  assert.ok(includes(content, stamp.messageImprint), 'messageImprint echoed');
  assert.equal(hex(tstInfo.serialNumber.valueBlock.valueHexView), hex(stamp.serial));
  assert.equal(tstInfo.genTime.getTime(), stamp.unixMillis);
  assert.equal(tstInfo.ordering, undefined, 'ordering is absent');
  assert.equal(tstInfo.nonce === undefined, stamp.nonce === undefined);
  if (stamp.nonce !== undefined) assert.ok(includes(content, stamp.nonce), 'nonce echoed');
  const { accuracy } = tstInfo;
  const micros = (accuracy?.seconds ?? 0) * 1_000_000 + (accuracy?.millis ?? 0) * 1_000 + (accuracy?.micros ?? 0);
  assert.equal(micros, options.accuracyMicros ?? 1_000_000);
  assert.equal(tstInfo.tsa !== undefined, options.tsaName === 'subject');
  if (tstInfo.tsa !== undefined) {
    assert.equal(tstInfo.tsa.type, 4);
    const name = new GeneralName({ type: 4, value: Certificate.fromBER(tsu.identity.certificate.raw).subject });
    assert.equal(hex(schemaBer(tstInfo.tsa)), hex(schemaBer(name)));
  }
  assert.deepEqual(
    (tstInfo.extensions ?? []).map(({ extnID }) => extnID),
    options.qualified ? ['1.3.6.1.5.5.7.1.3'] : [],
  );
  if (options.qualified) {
    const [extension] = tstInfo.extensions ?? [];
    assert.equal(extension?.critical, false);
    // SEQUENCE OF QCStatement with esi4-qtstStatement-1 and no statementInfo.
    const statement = new asn1js.Sequence({ value: [new asn1js.ObjectIdentifier({ value: '0.4.0.19422.1.1' })] });
    const statements = new asn1js.Sequence({ value: [statement] });
    assert.equal(hex(extension?.extnValue.valueBlock.valueHexView ?? new Uint8Array()), hex(new Uint8Array(statements.toBER())));
  }

  const [signer] = signedData.signerInfos;
  assert.ok(signer !== undefined);
  assert.equal(signer.version, 1);
  assert.equal(signer.digestAlgorithm.algorithmId, digestAlgorithms[digest].oid);
  assert.equal(signer.unsignedAttrs, undefined);
  const types = attributes.map((der) => (parseAs(der, asn1js.Sequence).valueBlock.value[0] as asn1js.ObjectIdentifier).getValue());
  assert.deepEqual(types.toSorted(), ['1.2.840.113549.1.9.16.2.47', '1.2.840.113549.1.9.3', '1.2.840.113549.1.9.4'], 'each attribute once');
  const onlyValueOf = (type: string): asn1js.BaseBlock => {
    const values = (parseAs(attributes[types.indexOf(type)] as Uint8Array, asn1js.Sequence).valueBlock.value[1] as asn1js.Set).valueBlock
      .value;
    assert.equal(values.length, 1);
    return values[0] as asn1js.BaseBlock;
  };
  assert.equal((onlyValueOf('1.2.840.113549.1.9.3') as asn1js.ObjectIdentifier).getValue(), '1.2.840.113549.1.9.16.1.4');
  const messageDigest = (onlyValueOf('1.2.840.113549.1.9.4') as asn1js.OctetString).valueBlock.valueHexView;
  assert.equal(hex(messageDigest), createHash(digest).update(content).digest('hex'));
  checkEssCertId(onlyValueOf('1.2.840.113549.1.9.16.2.47') as asn1js.Sequence, tsu);
  return parsed;
};

/** SigningCertificateV2 with exactly one ESSCertIDv2, for SHA-256 (RFC 5035). */
const checkEssCertId = (signingCertificate: asn1js.Sequence, tsu: SoftwareTsu): void => {
  const certificate = Certificate.fromBER(tsu.identity.certificate.raw);
  assert.equal(signingCertificate.valueBlock.value.length, 1, 'no policies');
  const list = signingCertificate.valueBlock.value[0] as asn1js.Sequence;
  assert.equal(list.valueBlock.value.length, 1, 'exactly one ESSCertIDv2');
  const [certHash, issuerSerial, ...more] = (list.valueBlock.value[0] as asn1js.Sequence).valueBlock.value;
  assert.equal(more.length, 0);
  assert.ok(certHash instanceof asn1js.OctetString, 'SHA-256 is the DEFAULT and left out');
  assert.equal(hex(certHash.valueBlock.valueHexView), createHash('sha256').update(tsu.identity.certificate.raw).digest('hex'));
  const [names, serial] = (issuerSerial as asn1js.Sequence).valueBlock.value;
  assert.equal(hex(berOf(serial as asn1js.BaseBlock)), hex(new Uint8Array(certificate.serialNumber.toBER())));
  const [directoryName] = (names as asn1js.Sequence).valueBlock.value;
  assert.equal(directoryName?.idBlock.tagNumber, 4);
  assert.equal(
    hex(berOf((directoryName as asn1js.Constructed).valueBlock.value[0] as asn1js.BaseBlock)),
    hex(new Uint8Array(certificate.issuer.toSchema().toBER())),
  );
};

const signatureOptions = (tsu: SoftwareTsu, digest: SignatureDigest) =>
  tsu.scheme.kind === 'rsa-pss' ? { padding: 6, saltLength: digestAlgorithms[digest].octets } : {};

describe('tokens of every key and digest', () => {
  for (const algorithm of ['ec-p256', 'ec-p384', 'rsa-2048', 'rsa-pss-2048']) {
    for (const digest of ['sha256', 'sha384', 'sha512'] as const) {
      test(`${algorithm} with ${digest}: node, pkijs and openssl verify`, () => {
        const name = `${algorithm}-${digest}`;
        const tsu = tsuOf(algorithm);
        const options = { signatureDigest: digest, tsaName: 'subject', qualified: true } as const;
        const template = makeTemplate(tsu, options);
        const queryFile = `${name}.tsq`;
        for (const [certReq, nonce] of [
          [true, true],
          [false, false],
        ] as const) {
          pki.openssl(
            'ts',
            '-query',
            '-digest',
            'ab'.repeat(32),
            '-sha256',
            '-tspolicy',
            testPolicy,
            ...(certReq ? ['-cert'] : []),
            ...(nonce ? [] : ['-no_nonce']),
            '-out',
            queryFile,
          );
          const parsed = parseTimeStampReq(readFileSync(join(pki.folder, queryFile)));
          assert.equal(parsed.kind, 'request');
          if (parsed.kind !== 'request') return;
          const stamp = aStamp({ messageImprint: parsed.request.messageImprint, nonce: parsed.request.nonce, unixMillis: Date.now() });
          const bare = stampWith(tsu, template, digest, stamp);
          const token = certReq ? attachCertificates(bare, tsu.chain) : bare;
          const { attributes, signedData, certificates } = checkProfile(token, tsu, stamp, options);
          assert.equal(certificates.length, certReq ? 2 : 0);

          const signature = signedData.signerInfos[0]?.signature.valueBlock.valueHexView ?? new Uint8Array();
          const signed = encode(tag.set, ...attributes);
          assert.ok(verify(digest, signed, { key: tsu.identity.certificate.publicKey, ...signatureOptions(tsu, digest) }, signature));

          const response = grantedResponse(token);
          assert.equal(hex(canonicalDer(response)), hex(response));
          const { status, timeStampToken } = TimeStampResp.fromBER(Uint8Array.from(response));
          assert.deepEqual([status.status, status.statusStrings, status.failInfo], [0, undefined, undefined]);
          assert.ok(timeStampToken !== undefined);

          const others = certReq
            ? undefined
            : pki.file(`${name}.chain`, tsu.identity.certificate.toString() + hierarchy.authority.certificate.toString());
          if (tsu.scheme.kind === 'rsa-pss') {
            // `openssl ts` knows no PSS in a token: it verifies with the older PKCS #7 code. `openssl cms` does.
            const tokenFile = pki.file(`${name}.token`, token);
            // It takes authorities from -CAfile or the token, not from -certfile.
            const anchors = pki.file(`${name}.anchors`, hierarchy.root.certificate.toString() + hierarchy.authority.certificate.toString());
            const files = ['-in', tokenFile, '-CAfile', certReq ? hierarchy.rootFile : anchors, '-out', `${name}.content`];
            const more = others === undefined ? [] : ['-certfile', others];
            pki.openssl('cms', '-verify', '-binary', '-inform', 'DER', '-purpose', 'timestampsign', ...files, ...more);
            assert.equal(hex(readFileSync(join(pki.folder, `${name}.content`))), hex(checkProfile(token, tsu, stamp, options).content));
          } else {
            const responseFile = pki.file(`${name}.tsr`, response);
            const more = others === undefined ? [] : ['-untrusted', others];
            const verdict = pki.openssl(
              'ts',
              '-verify',
              '-queryfile',
              queryFile,
              '-in',
              responseFile,
              '-CAfile',
              hierarchy.rootFile,
              ...more,
            );
            assert.match(verdict.toString(), /Verification: OK/);
          }
        }
      });
    }
  }

  test('openssl refuses the token when one bit of it is another', () => {
    const stamp = aStamp();
    const token = attachCertificates(stampWith(ec, makeTemplate(ec), 'sha256', stamp), ec.chain);
    token[token.indexOf(0x51, 60) + 3]! ^= 1;
    const response = pki.file('broken.tsr', grantedResponse(token));
    const hash = createHash('sha256').update('document').digest('hex');
    assert.throws(() => pki.openssl('ts', '-verify', '-digest', hash, '-in', response, '-CAfile', hierarchy.rootFile));
  });
});

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
      const template = makeTemplate(ec, options);
      fc.assert(
        fc.property(stamps, fc.integer({ min: 1, max: 600 }), (stamp, signatureOctets) => {
          const hash = Buffer.from(template.prepare(stamp, stamp.serial, stamp.unixMillis));
          const signature = new Uint8Array(signatureOctets).fill(0x5a);
          const token = tokenOf(template, signature);
          const { attributes, signedData, certificates } = checkProfile(token, ec, stamp, options);
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
          checkProfile(attachCertificates(token, ec.chain), ec, stamp, options);
        }),
        { numRuns: 30 },
      );
    });
  }

  test('a signature over the attributes verifies, stamp after stamp', () => {
    const template = makeTemplate(ec, { tsaName: 'subject' });
    fc.assert(
      fc.property(stamps, (stamp) => {
        template.prepare(stamp, stamp.serial, stamp.unixMillis);
        const { attributes } = parseToken(tokenOf(template, new Uint8Array(70)));
        const signature = sign('sha256', encode(tag.set, ...attributes), ec.identity.key);
        const parsed = parseToken(tokenOf(template, signature));
        const value = parsed.signedData.signerInfos[0]?.signature.valueBlock.valueHexView ?? new Uint8Array();
        assert.ok(verify('sha256', encode(tag.set, ...parsed.attributes), ec.identity.certificate.publicKey, value));
      }),
      { numRuns: 40 },
    );
  });

  test('genTime has the fraction it needs and no more', () => {
    const template = makeTemplate(ec);
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
    const template = makeTemplate(ec);
    for (const octets of [0, 1, 19, 21]) assert.throws(() => template.prepare(aStamp(), new Uint8Array(octets), 0), RangeError);
    assert.throws(() => template.prepare(aStamp({ nonce: new Uint8Array(1_048_577) }), anySerial(), 0), RangeError);
    // And the template is as good as new.
    const stamp = aStamp({ nonce: integer(5) });
    template.prepare(stamp, stamp.serial, stamp.unixMillis);
    checkProfile(tokenOf(template, new Uint8Array(64)), ec, stamp, {});
  });

  test('the longest nonce that a body can hold', () => {
    const template = makeTemplate(ec);
    const stamp = aStamp({ nonce: encode(tag.integer, new Uint8Array(1_048_000).fill(0x7f)) });
    template.prepare(stamp, stamp.serial, stamp.unixMillis);
    const { content } = parseToken(tokenOf(template, new Uint8Array(64)));
    assert.ok(includes(content, stamp.nonce ?? new Uint8Array()));
  });
});

describe('the attributes stay in order whatever the names in the certificate', () => {
  test('issuer names of 1 to 300 octets', () => {
    for (const letters of [...Array.from({ length: 60 }, (_, i) => i + 1), 100, 128, 200, 255, 256, 300]) {
      const name = encode(
        tag.sequence,
        encode(tag.set, encode(tag.sequence, oid('2.5.4.3'), encode(tag.utf8String, new Uint8Array(letters).fill(0x61)))),
      );
      const certificate = { ...ec.certificate, issuer: name, subject: name };
      for (const signatureDigest of ['sha256', 'sha384', 'sha512'] as const) {
        const template = makeTemplate({ ...ec, certificate }, { signatureDigest, tsaName: 'subject' });
        for (const fill of [0x00, 0xff]) {
          const stamp = aStamp({ serial: Buffer.alloc(serialOctets, 0x40 | (fill & 0x3f)) });
          template.prepare(stamp, stamp.serial, stamp.unixMillis);
          parseToken(tokenOf(template, new Uint8Array(64)));
        }
      }
    }
  });
});

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
    const token = stampWith(ec, makeTemplate(ec), 'sha256', aStamp({ nonce: integer(2 ** 40) }));
    const [leaf, authority] = ec.chain as [Uint8Array, Uint8Array];
    const root = hierarchy.root.certificate.raw;
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
    const template = makeTemplate(ec);
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 66_000 }), (nonceOctets) => {
        const stamp = aStamp({ nonce: encode(tag.integer, new Uint8Array(nonceOctets).fill(0x33)) });
        template.prepare(stamp, stamp.serial, stamp.unixMillis);
        const token = tokenOf(template, new Uint8Array(70).fill(1));
        const attached = attachCertificates(token, ec.chain);
        assert.equal(Buffer.compare(attached, attachedByOracle(token, ec.chain)), 0);
      }),
      { numRuns: 40 },
    );
  });

  test('refuses what is no token, and what has certificates already', () => {
    const token = stampWith(ec, makeTemplate(ec), 'sha256', aStamp());
    const attached = attachCertificates(token, ec.chain);
    const strange: Der[] = [
      new Uint8Array(),
      Uint8Array.of(0x30, 0),
      integer(1),
      attached,
      Buffer.concat([token, Uint8Array.of(0)]),
      token.subarray(0, -1),
    ];
    for (const bytes of strange) assert.throws(() => attachCertificates(bytes, ec.chain), { name: 'DerError' });
  });
});

test('the certificate that the template names is the one it was made for', () => {
  const certificate = readSignerCertificate(ec.identity.certificate.raw);
  assert.equal(hex(certificate.der), hex(ec.identity.certificate.raw));
});
