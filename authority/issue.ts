/**
 * Issues the certificates of the demonstration PKI.
 *
 * The CA's key is a value that signs: this room knows no token. A certificate leaves here only after it was read back by
 * another parser, its signature verified with the issuer's key, and its key, issuer and validity found to be what was asked.
 */
import { createPublicKey, type KeyObject, randomBytes, X509Certificate } from 'node:crypto';
import { BitString, fromBER, Integer } from 'asn1js';
import { AlgorithmIdentifier, Certificate, PublicKeyInfo, Time, TimeType } from 'pkijs';
import { SigilloError } from '../config/errors.ts';
import { defaultDigest, type KeyScheme, signatureAlgorithmIdentifier } from '../pki/algorithms.ts';
import type { Der } from '../pki/der.ts';
import { samePublicKey } from '../pki/public-key.ts';
import { type CertificateKind, keyIdentifier, profiles } from './profiles.ts';

/** The issuing key, wherever it is. */
export interface CertificateSigner {
  readonly scheme: KeyScheme;
  readonly spki: Der;
  /** The signature over `tbs` with `defaultDigest(scheme)`, in its X.509 form. */
  sign(tbs: Uint8Array): Uint8Array | Promise<Uint8Array>;
}

export interface IssueRequest {
  readonly kind: CertificateKind;
  /** SubjectPublicKeyInfo of the certificate's own key. */
  readonly spki: Der;
  /** The CA with its certificate; undefined signs the certificate with its own key. */
  readonly issuer:
    | { readonly signer: CertificateSigner; readonly certificate: X509Certificate }
    | { readonly signer: CertificateSigner; readonly certificate: undefined };
  readonly now: Date;
  /** When the key of a TSU may be used. @defaultValue from now to the limit */
  readonly use?: { readonly activateAt: Date; readonly usableUntil: Date };
  /** Instead of that of the profile, in calendar years. */
  readonly validityYears?: number;
}

const asn1 = (der: Uint8Array): ReturnType<typeof fromBER>['result'] => fromBER(Uint8Array.from(der).buffer).result;

/**
 * 16 octets, 126 bits of them random (RFC 5280, 4.1.2.2; CA/Browser Forum asks for 64): positive, and of one length
 * always, because the top bit is clear and the next one set.
 */
const randomSerial = (): Buffer => {
  const serial = randomBytes(16);
  serial[0] = ((serial[0] as number) & 0x3f) | 0x40;
  return serial;
};

/** UTCTime through 2049 and GeneralizedTime from 2050 on (RFC 5280, 4.1.2.5). */
const time = (value: Date): Time => new Time({ type: value.getUTCFullYear() < 2050 ? TimeType.UTCTime : TimeType.GeneralizedTime, value });

const wholeSeconds = (at: Date): Date => new Date(Math.floor(at.getTime() / 1_000) * 1_000);

/** 29 February plus years that are no leap years becomes 1 March. */
const addYears = (start: Date, years: number): Date => {
  const end = new Date(start);
  end.setUTCFullYear(end.getUTCFullYear() + years);
  return end;
};

const fault = (detail: string, cause?: unknown): SigilloError =>
  new SigilloError('CERTIFICATE_INVALID', detail, cause === undefined ? {} : { cause });

const validity = (notBefore: Date, years: number, issuer: X509Certificate | undefined): { notBefore: Date; notAfter: Date } => {
  const wanted = addYears(notBefore, years);
  if (issuer === undefined) return { notBefore, notAfter: wanted };
  const issuerFrom = issuer.validFromDate;
  const issuerTo = issuer.validToDate;
  if (notBefore < issuerFrom) {
    throw fault(`its issuer is valid from ${issuerFrom.toISOString()}, and the clock says ${notBefore.toISOString()}; check the clock`);
  }
  if (notBefore >= issuerTo) throw fault(`its issuer expired at ${issuerTo.toISOString()}`);
  return { notBefore, notAfter: new Date(Math.min(wanted.getTime(), issuerTo.getTime())) };
};

/** Reads the certificate back and compares it with what was asked for. */
const checked = (der: Uint8Array, request: IssueRequest, issuerKey: KeyObject, at: Date): X509Certificate => {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(der);
  } catch (cause) {
    throw fault('the certificate that was just made cannot be read', cause);
  }
  const authority = request.issuer.certificate ?? certificate;
  if (!certificate.verify(issuerKey)) throw fault('the signature of the certificate that was just made does not verify');
  if (!certificate.checkIssued(authority)) throw fault('the certificate that was just made does not name its issuer');
  if (!samePublicKey(certificate.publicKey.export({ format: 'der', type: 'spki' }), request.spki))
    throw fault('the certificate that was just made has another key');
  if (certificate.ca !== (request.kind !== 'tsu')) throw fault('the certificate that was just made has the wrong basic constraints');
  if (certificate.validFromDate > at || certificate.validToDate <= at) throw fault('the certificate that was just made is not valid now');
  return certificate;
};

/** The issuer's name, byte for byte as it stands in the issuer's certificate: comparing names is comparing bytes for many. */
const issuerName = (certificate: X509Certificate): Certificate['subject'] => Certificate.fromBER(Uint8Array.from(certificate.raw)).subject;

/**
 * Issues one certificate, valid from now (in whole seconds).
 * @throws CERTIFICATE_INVALID when the issuer cannot issue now, or when the result does not pass its check
 */
export const issueCertificate = async (request: IssueRequest): Promise<X509Certificate> => {
  const { signer, certificate: authority } = request.issuer;
  const issuerKey = createPublicKey({ key: Buffer.from(signer.spki), format: 'der', type: 'spki' });
  if (authority !== undefined && !samePublicKey(authority.publicKey.export({ format: 'der', type: 'spki' }), signer.spki)) {
    throw new SigilloError('HSM_KEY_MISMATCH', `issuing with ${authority.subject.replaceAll('\n', ', ')}`);
  }
  const serial = randomSerial();
  const start = wholeSeconds(request.now);
  const profile = profiles[request.kind]({
    spki: request.spki,
    issuerKeyIdentifier: authority === undefined ? undefined : keyIdentifier(signer.spki),
    serialHex: serial.toString('hex'),
    notBefore: start,
    ...(request.use !== undefined && { use: request.use }),
  });
  const { notBefore, notAfter } = validity(start, request.validityYears ?? profile.validityYears, authority);
  const algorithm = signatureAlgorithmIdentifier(signer.scheme, defaultDigest(signer.scheme));
  const certificate = new Certificate({
    version: 2, // v3
    serialNumber: new Integer({ valueHex: Uint8Array.from(serial).buffer }),
    signature: new AlgorithmIdentifier({ schema: asn1(algorithm) }),
    signatureAlgorithm: new AlgorithmIdentifier({ schema: asn1(algorithm) }),
    issuer: authority === undefined ? profile.subject : issuerName(authority),
    notBefore: time(notBefore),
    notAfter: time(notAfter),
    subject: profile.subject,
    subjectPublicKeyInfo: new PublicKeyInfo({ schema: asn1(request.spki) }),
    extensions: [...profile.extensions],
  });
  // pkijs signs with WebCrypto only, so the signature goes in by hand: over the very bytes that it will write.
  const tbs = certificate.encodeTBS().toBER();
  certificate.tbsView = new Uint8Array(tbs);
  certificate.signatureValue = new BitString({ valueHex: Uint8Array.from(await signer.sign(new Uint8Array(tbs))).buffer });
  return checked(new Uint8Array(certificate.toSchema().toBER()), request, issuerKey, start);
};
