/**
 * Certificate revocation lists (RFC 5280, 5) of the embedded timestamp CA. A list leaves here only after it was read back by another
 * parser and its signature verified. Every entry has its reason: without one, all that was signed with the key before is void too
 * (RFC 3161, section 4).
 */
import { createPublicKey, verify, type X509Certificate } from 'node:crypto';
import { type Enumerated, fromBER, type Integer } from 'asn1js';
import { CertificateRevocationList } from 'pkijs';
import { SigilloError } from '../config/errors.ts';
import { defaultDigest, signatureAlgorithmIdentifier } from '../pki/algorithms.ts';
import { type Der, DerReader, encode, integer, octetString, oid, sequence, tag, unsignedInteger } from '../pki/der.ts';
import type { CertificateSigner } from './issue.ts';
import { keyIdentifier } from './profiles.ts';

/** CRLReason (RFC 5280, 5.3.1). */
const reasonCodes = { unspecified: 0, keyCompromise: 1, affiliationChanged: 3, superseded: 4, cessationOfOperation: 5 } as const;
export type CrlReason = keyof typeof reasonCodes;

export interface RevokedCertificate {
  /** Serial number, lower-case hex. */
  readonly serial: string;
  readonly revokedAt: Date;
  readonly reason: CrlReason;
}

export interface Crl {
  /** cRLNumber: grows with every list. */
  readonly number: number;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  readonly revoked: readonly RevokedCertificate[];
}

export interface CrlRequest extends Crl {
  readonly signer: CertificateSigner;
  /** Certificate of the CA. */
  readonly issuer: X509Certificate;
}

const utcTimeTag = 0x17;
const enumeratedTag = 0x0a;
const two = (n: number): string => String(n).padStart(2, '0');

/** UTCTime through 2049 and GeneralizedTime from 2050 on, in whole seconds (RFC 5280, 5.1.2.4). */
const time = (at: Date): Der => {
  const year = at.getUTCFullYear();
  const rest = `${two(at.getUTCMonth() + 1)}${two(at.getUTCDate())}${two(at.getUTCHours())}${two(at.getUTCMinutes())}${two(at.getUTCSeconds())}Z`;
  return year < 2050
    ? encode(utcTimeTag, Buffer.from(`${two(year % 100)}${rest}`, 'latin1'))
    : encode(tag.generalizedTime, Buffer.from(`${year}${rest}`, 'latin1'));
};

const extension = (extnId: string, value: Der): Der => sequence(oid(extnId), octetString(value));

const entry = ({ serial, revokedAt, reason }: RevokedCertificate): Der => {
  const reasonCode = extension('2.5.29.21', encode(enumeratedTag, Uint8Array.of(reasonCodes[reason])));
  return sequence(
    unsignedInteger(Buffer.from(serial.padStart(serial.length + (serial.length % 2), '0'), 'hex')),
    time(revokedAt),
    sequence(reasonCode),
  );
};

/** The subject of a certificate, byte for byte. */
const subjectOf = (certificate: X509Certificate): Der => {
  const raw = new Uint8Array(certificate.raw);
  const tbs = new DerReader(raw).enter(tag.sequence).enter(tag.sequence);
  // version, serialNumber, signature, issuer, validity
  for (let i = 0; i < 5; i += 1) tbs.next(tbs.peek());
  const start = tbs.offset;
  tbs.next(tag.sequence);
  return raw.subarray(start, tbs.offset);
};

const fault = (detail: string, cause?: unknown): SigilloError =>
  new SigilloError('CERTIFICATE_INVALID', detail, cause === undefined ? {} : { cause });

const extensionValue = (
  extensions: readonly { extnID: string; parsedValue?: unknown }[] | undefined,
  extnId: string,
): number | undefined => {
  const found = extensions?.find(({ extnID }) => extnID === extnId)?.parsedValue as Integer | Enumerated | undefined;
  if (found === undefined) return undefined;
  return Number(BigInt(`0x${Buffer.from(found.valueBlock.valueHexView).toString('hex')}`));
};

/** Reads a list of this form. @throws CERTIFICATE_INVALID */
export const readCrl = (der: Uint8Array): Crl => {
  try {
    const list = CertificateRevocationList.fromBER(Uint8Array.from(der).buffer);
    const number = extensionValue(list.crlExtensions?.extensions, '2.5.29.20');
    if (number === undefined || list.nextUpdate === undefined) throw fault('a CRL without number or end');
    const revoked = (list.revokedCertificates ?? []).map((one): RevokedCertificate => {
      const code = extensionValue(one.crlEntryExtensions?.extensions, '2.5.29.21') ?? 0;
      const reason = (Object.keys(reasonCodes) as CrlReason[]).find((name) => reasonCodes[name] === code);
      if (reason === undefined) throw fault(`a CRL with the reason ${code}`);
      const serial = Buffer.from(one.userCertificate.valueBlock.valueHexView).toString('hex').replace(/^00/, '');
      return { serial, revokedAt: one.revocationDate.value, reason };
    });
    return { number, thisUpdate: list.thisUpdate.value, nextUpdate: list.nextUpdate.value, revoked };
  } catch (cause) {
    throw cause instanceof SigilloError ? cause : fault('not a CRL', cause);
  }
};

const checked = (der: Der, tbs: Der, signature: Uint8Array, { signer, revoked, number }: CrlRequest): Der => {
  const key = createPublicKey({ key: Buffer.from(signer.spki), format: 'der', type: 'spki' });
  if (!verify(defaultDigest(signer.scheme), tbs, key, signature))
    throw fault('the signature of the CRL that was just made does not verify');
  const read = readCrl(der);
  if (read.number !== number || read.revoked.length !== revoked.length) throw fault('the CRL that was just made says something else');
  return der;
};

/** Issues a list. @throws CERTIFICATE_INVALID when it does not pass its check; what the signer throws */
export const issueCrl = async (request: CrlRequest): Promise<Der> => {
  const { signer, issuer, number, thisUpdate, nextUpdate, revoked } = request;
  const algorithm = signatureAlgorithmIdentifier(signer.scheme, defaultDigest(signer.scheme));
  const authorityKey = sequence(encode(tag.context(0), keyIdentifier(signer.spki)));
  const extensions = sequence(extension('2.5.29.35', authorityKey), extension('2.5.29.20', integer(number)));
  const tbs = sequence(
    integer(1), // v2
    algorithm,
    subjectOf(issuer),
    time(thisUpdate),
    time(nextUpdate),
    // An empty list is left out (RFC 5280, 5.1.2.6).
    ...(revoked.length === 0 ? [] : [sequence(...revoked.map(entry))]),
    encode(tag.contextConstructed(0), extensions),
  );
  const signature = await signer.sign(tbs);
  const der = sequence(tbs, algorithm, encode(tag.bitString, Uint8Array.of(0), signature));
  // asn1js must find one value and nothing behind it.
  if (fromBER(Uint8Array.from(der).buffer).offset !== der.length) throw fault('the CRL that was just made cannot be read');
  return checked(der, tbs, signature, request);
};
