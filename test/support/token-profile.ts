/** What every token must be, whatever it stamps: read by pkijs and asn1js, and held against RFC 3161, RFC 5816 and EN 319 422. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { after, before } from 'node:test';
import * as asn1js from 'asn1js';
import { Certificate, ContentInfo, GeneralName, SignedData, TSTInfo } from 'pkijs';
import { digestAlgorithms, type SignatureDigest } from '../../pki/algorithms.ts';
import { serialOctets, type TokenTemplateOptions } from '../../pki/token-template.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareHierarchy, type SoftwareTsu, type TestStamp, testPolicy } from './software-tsu.ts';
import { canonicalDer, parseAs } from './strict-der.ts';
import { TestPki } from './timestamp-fixtures.ts';
import { messageImprint } from './tsp-requests.ts';

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const sha256Imprint = messageImprint(digestAlgorithms.sha256.oid, createHash('sha256').update('document').digest());
export const anySerial = (): Buffer => Buffer.concat([Uint8Array.of(0x51), randomBytes(serialOctets - 1)]);
export const aStamp = (more: Partial<TestStamp> = {}): TestStamp => ({
  messageImprint: sha256Imprint,
  nonce: undefined,
  serial: anySerial(),
  unixMillis: 1_800_000_000_123,
  ...more,
});

export interface Parsed {
  readonly signedData: SignedData;
  readonly tstInfo: TSTInfo;
  /** Contents of the eContent. */
  readonly content: Uint8Array;
  /** Elements of signedAttrs, encoded, in their order. */
  readonly attributes: Uint8Array[];
  readonly certificates: Uint8Array[];
}

export const includes = (bytes: Uint8Array, part: Uint8Array): boolean => Buffer.from(bytes).includes(Buffer.from(part));

const schemaBer = (name: GeneralName): Uint8Array => new Uint8Array((name.toSchema() as asn1js.Constructed).toBER());

const berOf = (block: asn1js.BaseBlock): Uint8Array => new Uint8Array(block.valueBeforeDecodeView);

/** What pkijs and asn1js see in a token, after the strictness of its DER was shown. */
export const parseToken = (token: Uint8Array): Parsed => {
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
export const checkProfile = (token: Uint8Array, tsu: SoftwareTsu, stamp: TestStamp, options: Partial<TokenTemplateOptions>): Parsed => {
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

export const signatureOptions = (tsu: SoftwareTsu, digest: SignatureDigest) =>
  tsu.scheme.kind === 'rsa-pss' ? { padding: 6, saltLength: digestAlgorithms[digest].octets } : {};

export interface TokenWorld {
  readonly pki: TestPki;
  readonly hierarchy: SoftwareHierarchy;
  readonly ec: SoftwareTsu;
  /** Keys take long to make: one for all digests. */
  tsuOf(algorithm: string): SoftwareTsu;
}

/** TSUs for the tests of a file. */
export const tokenWorld = (): TokenWorld => {
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
  const tsuOf = (algorithm: string): SoftwareTsu => {
    const tsu = made.get(algorithm) ?? (algorithm === 'ec-p256' ? ec : makeSoftwareTsu(pki, hierarchy, algorithm));
    made.set(algorithm, tsu);
    return tsu;
  };
  return {
    get pki() {
      return pki;
    },
    get hierarchy() {
      return hierarchy;
    },
    get ec() {
      return ec;
    },
    tsuOf,
  };
};
