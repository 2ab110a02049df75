/**
 * Verification of timestamps as a pure function (RFC 3161, RFC 5816): bytes and trusted roots in, a verdict out.
 *
 * The token, its certificates and the given intermediate certificates may come from anyone; nothing they hold makes this
 * throw. Certificates are judged at genTime, not now: a timestamp outlives the certificate of its TSU. Revocation is not
 * asked, because that needs the network; the caller who needs it takes the path from the verdict.
 */
import { createHash } from 'node:crypto';
import { digestAlgorithms } from './algorithms.ts';
import { findPath, keyUsageBits, type ParsedCertificate, type PathFault, parseCertificate } from './certificate-path.ts';
import { type Attribute, readAlgorithmIdentifier, readAny, readContents, readOid, type SignedData, type SignerInfo } from './cms-read.ts';
import { type Der, DerError, DerReader, tag } from './der.ts';
import { signatureDigest, signatureScheme, verifySignature } from './signature-verify.ts';
import { readTimeStampResp, readTimeStampToken, type TimeStampToken } from './tsp-read.ts';

/** Larger than any answer with a chain of post-quantum size; keeps the work on hostile input small. */
const tokenOctetsMax = 1_048_576;
/** Certificates that are looked at, from the token and from the caller each. */
const certificatesMax = 64;

const contentTypeOid = '1.2.840.113549.1.9.3';
const messageDigestOid = '1.2.840.113549.1.9.4';
const signingCertificateV2Oid = '1.2.840.113549.1.9.16.2.47';
const tstInfoOid = '1.2.840.113549.1.9.16.1.4';
const timeStampingOid = '1.3.6.1.5.5.7.3.8';

export type InvalidReason =
  | 'malformed'
  | 'refused'
  | 'version'
  | 'imprint-mismatch'
  | 'nonce-mismatch'
  | 'critical-extension'
  | 'signer-count'
  | 'signed-attributes-missing'
  | 'signed-attributes-order'
  | 'content-type'
  | 'message-digest'
  | 'signing-certificate'
  | 'signer-certificate-missing'
  | 'algorithm-unsupported'
  | 'signature'
  | 'key-usage'
  | 'extended-key-usage'
  | 'private-key-usage-period'
  | PathFault;

export interface TimestampInvalid {
  readonly kind: 'invalid';
  readonly reason: InvalidReason;
  readonly detail: string;
}

export interface TimestampValid {
  readonly kind: 'valid';
  /** genTime cut to milliseconds, and with every digit. */
  readonly genTime: Date;
  readonly genTimeText: string;
  readonly accuracyMicros: number | undefined;
  readonly ordering: boolean;
  readonly policy: string;
  /** Contents of the serial number in hexadecimal. */
  readonly serialNumber: string;
  /** Name of the digest of the imprint. */
  readonly digest: string;
  /** Subject of the TSU's certificate. */
  readonly tsu: string;
  /** From the TSU's certificate to the root. */
  readonly path: readonly Der[];
}

export interface TimestampTrust {
  /** Trusted certificates, DER. */
  readonly roots: readonly Uint8Array[];
  /** Certificates that may help to find a path, DER; trusted for nothing. */
  readonly untrusted?: readonly Uint8Array[];
}

export interface TimestampExpectation extends TimestampTrust {
  /** The digest that must have been stamped, and its object identifier. */
  readonly messageImprint: { readonly algorithm: string; readonly hashedMessage: Uint8Array };
  /** Contents of the INTEGER that was sent; unset: not compared. */
  readonly nonce?: Uint8Array;
}

/** Carries a verdict out of nested checks; never leaves this file. */
class Verdict extends Error {
  readonly invalid: TimestampInvalid;
  constructor(reason: InvalidReason, detail: string) {
    super(detail);
    this.invalid = { kind: 'invalid', reason, detail };
  }
}

function check(condition: boolean, reason: InvalidReason, detail: string): asserts condition {
  if (!condition) throw new Verdict(reason, detail);
}

const sameOctets = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

const attempt = <T>(action: () => T): T | TimestampInvalid => {
  try {
    return action();
  } catch (error) {
    if (error instanceof Verdict) return error.invalid;
    if (error instanceof DerError) return { kind: 'invalid', reason: 'malformed', detail: error.message };
    throw error;
  }
};

/** What a TimeStampResp, or a bare TimeStampToken, says; nothing of it is verified. */
export type TimestampReading = { readonly kind: 'read'; readonly token: TimeStampToken; readonly tokenDer: Der } | TimestampInvalid;

/** Reads a TimeStampResp or a bare TimeStampToken (RFC 3161, 2.4.2), without verifying it. */
export const readTimestamp = (bytes: Uint8Array): TimestampReading =>
  attempt((): TimestampReading => {
    check(bytes.length <= tokenOctetsMax, 'malformed', `longer than ${tokenOctetsMax} octets`);
    const outer = new DerReader(bytes).enter(tag.sequence);
    // A ContentInfo begins with an OBJECT IDENTIFIER, a TimeStampResp with the SEQUENCE of its PKIStatusInfo.
    if (outer.peek() === tag.oid) return { kind: 'read', token: readTimeStampToken(bytes), tokenDer: bytes };
    const response = readTimeStampResp(bytes);
    const granted = response.status === 'granted' || response.status === 'grantedWithMods';
    check(granted, 'refused', [response.status, ...response.failInfo, ...response.statusString].join(' '));
    check(response.timeStampToken !== undefined, 'malformed', 'granted without a token');
    return { kind: 'read', token: readTimeStampToken(response.timeStampToken), tokenDer: response.timeStampToken };
  });

/** The value of a signed attribute that must be there once, with one value (RFC 5652, 11). */
const singleValue = (attributes: readonly Attribute[], oid: string, reason: InvalidReason): Der => {
  const found = attributes.filter((attribute) => attribute.oid === oid);
  check(found.length === 1, reason, `attribute ${oid} is there ${found.length} times`);
  const { values } = found[0] as Attribute;
  check(values.length === 1, reason, `attribute ${oid} has ${values.length} values`);
  return values[0] as Der;
};

const checkSignedAttributes = (signer: SignerInfo, content: Uint8Array): readonly Attribute[] => {
  const { signedAttributes } = signer;
  // RFC 5652, 5.3: mandatory, because the content is not id-data.
  check(signedAttributes !== undefined, 'signed-attributes-missing', 'no signed attributes');
  const sorted = signedAttributes.elements.every((element, i, all) => i === 0 || Buffer.compare(all[i - 1] as Der, element) < 0);
  check(sorted, 'signed-attributes-order', 'the signed attributes are not in DER order');
  const contentType = new DerReader(singleValue(signedAttributes.list, contentTypeOid, 'content-type'));
  check(contentType.peek() === tag.oid && readOid(contentType) === tstInfoOid, 'content-type', 'content-type is not id-ct-TSTInfo');
  const digest = signatureDigest(signer.digestAlgorithm.oid);
  check(digest !== undefined, 'algorithm-unsupported', `digest ${signer.digestAlgorithm.oid}`);
  const messageDigest = readContents(
    new DerReader(singleValue(signedAttributes.list, messageDigestOid, 'message-digest')),
    tag.octetString,
  );
  check(
    sameOctets(messageDigest, createHash(digest).update(content).digest()),
    'message-digest',
    'message-digest is not the digest of the TSTInfo',
  );
  return signedAttributes.list;
};

const findSigner = (signedData: SignedData, signer: SignerInfo, certificates: readonly ParsedCertificate[]): ParsedCertificate => {
  const { sid } = signer;
  // RFC 5652, 5.1 and 5.3: the version follows from the form of sid; a content other than id-data makes SignedData v3.
  check(signedData.version === 3, 'version', `SignedData is version ${signedData.version}`);
  check(signer.version === (sid.kind === 'issuerAndSerialNumber' ? 1 : 3), 'version', `SignerInfo is version ${signer.version}`);
  const found = certificates.find((certificate) =>
    sid.kind === 'issuerAndSerialNumber'
      ? sameOctets(certificate.issuer, sid.issuer) && sameOctets(certificate.serialNumber, sid.serialNumber)
      : certificate.subjectKeyIdentifier !== undefined && sameOctets(certificate.subjectKeyIdentifier, sid.keyIdentifier),
  );
  check(found !== undefined, 'signer-certificate-missing', 'the certificate of the signer is neither in the token nor given');
  return found;
};

/** SigningCertificateV2 with exactly one ESSCertIDv2, the signer's (RFC 5035, 3; RFC 5816, 2.2.1). */
const checkSigningCertificate = (attributes: readonly Attribute[], signer: ParsedCertificate): void => {
  const reason = 'signing-certificate';
  const certs = new DerReader(singleValue(attributes, signingCertificateV2Oid, reason)).enter(tag.sequence).enter(tag.sequence);
  const essCertId = certs.enter(tag.sequence);
  check(certs.peek() === -1, reason, 'more than one ESSCertIDv2');
  const algorithm = essCertId.peek() === tag.sequence ? readAlgorithmIdentifier(essCertId).oid : digestAlgorithms.sha256.oid;
  const digest = signatureDigest(algorithm);
  check(digest !== undefined, 'algorithm-unsupported', `digest ${algorithm} of ESSCertIDv2`);
  const certHash = readContents(essCertId, tag.octetString);
  check(sameOctets(certHash, createHash(digest).update(signer.der).digest()), reason, 'ESSCertIDv2 names another certificate');
  if (essCertId.peek() === -1) return;
  const issuerSerial = essCertId.enter(tag.sequence);
  const generalNames = issuerSerial.enter(tag.sequence);
  const directoryName =
    generalNames.peek() === tag.contextConstructed(4) ? readAny(generalNames.enter(tag.contextConstructed(4))) : new Uint8Array();
  const same = sameOctets(directoryName, signer.issuer) && sameOctets(issuerSerial.integer(), signer.serialNumber);
  check(same, reason, 'issuerSerial of ESSCertIDv2 names another certificate');
};

const checkSignature = (signer: SignerInfo, certificate: ParsedCertificate): void => {
  const scheme = signatureScheme(signer.signatureAlgorithm, signer.digestAlgorithm.oid);
  check(scheme !== undefined, 'algorithm-unsupported', `signature ${signer.signatureAlgorithm.oid}`);
  const sameDigest = scheme.digest === signatureDigest(signer.digestAlgorithm.oid);
  check(sameDigest, 'algorithm-unsupported', 'digestAlgorithm and signatureAlgorithm name different digests');
  const der = signer.signedAttributes?.der ?? new Uint8Array();
  check(verifySignature(scheme, certificate.publicKey, der, signer.signature), 'signature', 'the signature does not verify');
};

/** A TSU's certificate may be used for timestamps and nothing else (RFC 3161, 2.3; ETSI EN 319 422, 6). */
const checkTsuCertificate = (certificate: ParsedCertificate, genTime: Date): void => {
  const { extKeyUsage, keyUsage, privateKeyUsagePeriod: period } = certificate;
  const onlyTimeStamping = extKeyUsage?.purposes.length === 1 && extKeyUsage.purposes[0] === timeStampingOid;
  check(
    extKeyUsage?.critical === true && onlyTimeStamping,
    'extended-key-usage',
    'the TSU certificate is not critically for timeStamping alone',
  );
  const signing = keyUsageBits.digitalSignature | keyUsageBits.nonRepudiation;
  const mayOnlySign = keyUsage === undefined || ((keyUsage & signing) !== 0 && (keyUsage & ~signing) === 0);
  check(mayOnlySign, 'key-usage', 'the key of the TSU is not for signatures alone');
  const unknown = certificate.criticalUnknown[0];
  check(unknown === undefined, 'chain-constraint', `the TSU certificate has the unknown critical extension ${unknown}`);
  const started = period?.notBefore === undefined || period.notBefore <= genTime;
  const ended = period?.notAfter !== undefined && genTime > period.notAfter;
  check(started && !ended, 'private-key-usage-period', 'genTime lies outside the private key usage period');
};

const parseAll = (ders: readonly Uint8Array[]): ParsedCertificate[] =>
  ders.slice(0, certificatesMax).flatMap((der) => parseCertificate(der) ?? []);

const checkTstInfo = ({ tstInfo }: TimeStampToken, expected: TimestampExpectation): void => {
  check(tstInfo.version === 1, 'version', `TSTInfo is version ${tstInfo.version}`);
  const { algorithm, hashedMessage } = tstInfo.messageImprint;
  check(algorithm === expected.messageImprint.algorithm, 'imprint-mismatch', `the imprint is by ${algorithm}`);
  check(sameOctets(hashedMessage, expected.messageImprint.hashedMessage), 'imprint-mismatch', 'the timestamp is for other data');
  if (expected.nonce !== undefined) {
    check(
      tstInfo.nonce !== undefined && sameOctets(tstInfo.nonce, expected.nonce),
      'nonce-mismatch',
      'the nonce is not the one that was sent',
    );
  }
  const unknown = tstInfo.criticalExtensions[0];
  check(unknown === undefined, 'critical-extension', `unknown critical extension ${unknown}`);
};

const judge = (token: TimeStampToken, expected: TimestampExpectation): TimestampValid => {
  const { tstInfo, signedData } = token;
  checkTstInfo(token, expected);
  check(signedData.signerInfos.length === 1, 'signer-count', `${signedData.signerInfos.length} signers`);
  const signer = signedData.signerInfos[0] as SignerInfo;
  const attributes = checkSignedAttributes(signer, token.content);
  const roots = parseAll(expected.roots);
  const candidates = [...parseAll(signedData.certificates), ...parseAll(expected.untrusted ?? [])];
  const certificate = findSigner(signedData, signer, [...candidates, ...roots]);
  checkSigningCertificate(attributes, certificate);
  checkSignature(signer, certificate);
  checkTsuCertificate(certificate, tstInfo.genTime);
  const found = findPath(certificate, candidates, roots, tstInfo.genTime);
  if (found.kind === 'none') throw new Verdict(found.fault, found.detail);
  return {
    kind: 'valid',
    genTime: tstInfo.genTime,
    genTimeText: tstInfo.genTimeText,
    accuracyMicros: tstInfo.accuracyMicros,
    ordering: tstInfo.ordering,
    policy: tstInfo.policy,
    serialNumber: Buffer.from(tstInfo.serialNumber).toString('hex'),
    digest:
      Object.values(digestAlgorithms).find(({ oid }) => oid === tstInfo.messageImprint.algorithm)?.name ?? tstInfo.messageImprint.algorithm,
    tsu: certificate.x509.subject.replaceAll('\n', ', '),
    path: found.path.map(({ der }) => der),
  };
};

/** Verifies a TimeStampResp or a bare TimeStampToken (RFC 3161, 2.2 to 2.4; RFC 5816; RFC 5280, 6.1). Never throws on its input. */
export const verifyTimestamp = (bytes: Uint8Array, expected: TimestampExpectation): TimestampValid | TimestampInvalid => {
  const reading = readTimestamp(bytes);
  return reading.kind === 'read' ? attempt(() => judge(reading.token, expected)) : reading;
};

/** What an answer must hold before it is worth keeping: the right imprint and nonce (RFC 3161, 2.2). No signature is verified. */
export const checkTimestampAnswer = (
  bytes: Uint8Array,
  expected: Pick<TimestampExpectation, 'messageImprint' | 'nonce'>,
): TimestampReading => {
  const reading = readTimestamp(bytes);
  if (reading.kind === 'invalid') return reading;
  return attempt((): TimestampReading => {
    checkTstInfo(reading.token, { ...expected, roots: [] });
    return reading;
  });
};
