/**
 * Finds and checks a certification path from a certificate to a trusted root (RFC 5280, 6.1), for a given instant.
 *
 * Candidates come from strangers: how many are tried, how deep a path gets and how many signatures are verified is bounded,
 * and nothing here throws on what they hold. Name constraints, policy constraints and every other critical extension that
 * is not understood end the path. Revocation is asked elsewhere: it needs the network.
 */
import { type KeyObject, X509Certificate } from 'node:crypto';
import { BasicConstraints, Certificate, type Extension, ExtKeyUsage } from 'pkijs';
import { readAlgorithmIdentifier, readContents } from './cms-read.ts';
import { type Der, DerReader, tag } from './der.ts';
import { keyFitsScheme, type SignatureScheme, signatureScheme } from './signature-verify.ts';
import { readGeneralizedTime } from './tsp-read.ts';

/** Longest path with its ends; public hierarchies have three or four certificates. */
const pathLengthMax = 8;
/** Signatures verified for one path: at 0.1 ms each, a hostile set of certificates costs 6 ms. */
const signatureChecksMax = 64;

const extensionOids = {
  keyUsage: '2.5.29.15',
  privateKeyUsagePeriod: '2.5.29.16',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  certificatePolicies: '2.5.29.32',
  extKeyUsage: '2.5.29.37',
} as const;
/** certificatePolicies may be critical: without an initial policy set every policy is accepted (RFC 5280, 6.1.1). */
const understood = new Set<string>(Object.values(extensionOids));

/** A certificate with what path validation reads of it. */
export interface ParsedCertificate {
  readonly der: Der;
  readonly x509: X509Certificate;
  readonly publicKey: KeyObject;
  /** DER of the issuer's name, and contents of the serial number. */
  readonly issuer: Uint8Array;
  readonly serialNumber: Uint8Array;
  readonly selfIssued: boolean;
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** undefined: the signature algorithm is not supported. */
  readonly signatureScheme: SignatureScheme | undefined;
  readonly isCa: boolean;
  readonly pathLenMax: number;
  /** First octet of the bit string; undefined: the extension is absent. */
  readonly keyUsage: number | undefined;
  readonly extKeyUsage: { readonly critical: boolean; readonly purposes: readonly string[] } | undefined;
  readonly privateKeyUsagePeriod: { readonly notBefore: Date | undefined; readonly notAfter: Date | undefined } | undefined;
  readonly subjectKeyIdentifier: Uint8Array | undefined;
  /** Critical extensions that nobody here understands. */
  readonly criticalUnknown: readonly string[];
}

/** Bits of the first octet of KeyUsage (RFC 5280, 4.2.1.3). */
export const keyUsageBits = { digitalSignature: 0x80, nonRepudiation: 0x40, keyCertSign: 0x04 } as const;

const readSignatureScheme = (der: Der): SignatureScheme | undefined => {
  const certificate = new DerReader(der).enter(tag.sequence);
  certificate.next(tag.sequence);
  return signatureScheme(readAlgorithmIdentifier(certificate));
};

const parsedValue = <T>(extension: Extension | undefined, type: abstract new (...args: never[]) => T): T | undefined => {
  if (extension === undefined) return undefined;
  const value: unknown = extension.parsedValue;
  if (value instanceof type) return value;
  throw new RangeError(`extension ${extension.extnID} cannot be read`);
};

const readKeyUsage = (extension: Extension | undefined): number | undefined => {
  if (extension === undefined) return undefined;
  const reader = new DerReader(extension.extnValue.valueBlock.valueHexView);
  reader.next(tag.bitString);
  return reader.contentEnd - reader.contentStart > 1 ? (reader.bytes[reader.contentStart + 1] as number) : 0;
};

const readKeyIdentifier = (extension: Extension | undefined): Uint8Array | undefined => {
  if (extension === undefined) return undefined;
  const reader = new DerReader(extension.extnValue.valueBlock.valueHexView);
  reader.next(tag.octetString);
  return reader.bytes.subarray(reader.contentStart, reader.contentEnd);
};

/** PrivateKeyUsagePeriod (RFC 3280, 4.2.1.4); read strictly, because pkijs takes anything for an empty one. */
const readPrivateKeyUsagePeriod = (extension: Extension | undefined): ParsedCertificate['privateKeyUsagePeriod'] => {
  if (extension === undefined) return undefined;
  const reader = new DerReader(extension.extnValue.valueBlock.valueHexView).enter(tag.sequence);
  const [notBefore, notAfter] = [tag.context(0), tag.context(1)].map((end) =>
    reader.peek() === end ? readGeneralizedTime(readContents(reader, end), reader.offset).date : undefined,
  );
  reader.finish();
  return { notBefore, notAfter };
};

const read = (der: Der): ParsedCertificate => {
  const x509 = new X509Certificate(der);
  const { publicKey } = x509;
  const certificate = Certificate.fromBER(Uint8Array.from(der));
  const extensions = new Map<string, Extension>();
  for (const extension of certificate.extensions ?? []) {
    if (extensions.has(extension.extnID)) throw new RangeError(`extension ${extension.extnID} is there twice`);
    extensions.set(extension.extnID, extension);
  }
  const basicConstraints = parsedValue(extensions.get(extensionOids.basicConstraints), BasicConstraints);
  const extKeyUsage = parsedValue(extensions.get(extensionOids.extKeyUsage), ExtKeyUsage);
  const pathLen = basicConstraints?.pathLenConstraint;
  const issuer = new Uint8Array(certificate.issuer.valueBeforeDecode);
  return {
    der,
    x509,
    publicKey,
    issuer,
    serialNumber: certificate.serialNumber.valueBlock.valueHexView,
    selfIssued: Buffer.compare(issuer, new Uint8Array(certificate.subject.valueBeforeDecode)) === 0,
    notBefore: certificate.notBefore.value,
    notAfter: certificate.notAfter.value,
    signatureScheme: readSignatureScheme(der),
    isCa: basicConstraints?.cA === true,
    // Beyond a number the constraint is longer than any path that is followed.
    pathLenMax: typeof pathLen === 'number' ? pathLen : Number.POSITIVE_INFINITY,
    keyUsage: readKeyUsage(extensions.get(extensionOids.keyUsage)),
    extKeyUsage: extKeyUsage && {
      critical: extensions.get(extensionOids.extKeyUsage)?.critical === true,
      purposes: extKeyUsage.keyPurposes,
    },
    privateKeyUsagePeriod: readPrivateKeyUsagePeriod(extensions.get(extensionOids.privateKeyUsagePeriod)),
    subjectKeyIdentifier: readKeyIdentifier(extensions.get('2.5.29.14')),
    criticalUnknown: [...extensions.values()]
      .filter((extension) => extension.critical && !understood.has(extension.extnID))
      .map((extension) => extension.extnID),
  };
};

/** Reads a certificate; undefined when it is none, or when OpenSSL and pkijs do not both accept it. */
export const parseCertificate = (der: Uint8Array): ParsedCertificate | undefined => {
  try {
    return read(der);
  } catch {
    return undefined; // two foreign parsers with errors of their own; what they refuse is no certificate
  }
};

export type PathFault = 'chain-untrusted' | 'chain-not-valid-at-gentime' | 'chain-constraint' | 'chain-algorithm' | 'chain-signature';

export type PathResult =
  | { readonly kind: 'path'; readonly path: readonly ParsedCertificate[] }
  | { readonly kind: 'none'; readonly fault: PathFault; readonly detail: string };

interface Fault {
  readonly fault: PathFault;
  readonly detail: string;
}

const nameOf = (certificate: ParsedCertificate): string => certificate.x509.subject.replaceAll('\n', ', ');

const coversInstant = (certificate: ParsedCertificate, at: Date): boolean => certificate.notBefore <= at && at <= certificate.notAfter;

/** What keeps `issuer` from standing above `path` (leaf first), apart from the signature (RFC 5280, 6.1.4). */
const issuerFault = (issuer: ParsedCertificate, path: readonly ParsedCertificate[], at: Date): Fault | undefined => {
  const name = nameOf(issuer);
  if (!coversInstant(issuer, at)) return { fault: 'chain-not-valid-at-gentime', detail: name };
  if (!issuer.isCa) return { fault: 'chain-constraint', detail: `${name} is no CA` };
  if (issuer.keyUsage !== undefined && (issuer.keyUsage & keyUsageBits.keyCertSign) === 0) {
    return { fault: 'chain-constraint', detail: `${name} may not sign certificates` };
  }
  const below = path.slice(1).filter((certificate) => !certificate.selfIssued).length;
  if (below > issuer.pathLenMax)
    return { fault: 'chain-constraint', detail: `${name} allows ${issuer.pathLenMax} CA certificates below it` };
  if (issuer.criticalUnknown.length > 0) {
    return { fault: 'chain-constraint', detail: `${name} has the unknown critical extension ${issuer.criticalUnknown[0]}` };
  }
  const scheme = (path.at(-1) as ParsedCertificate).signatureScheme;
  if (scheme === undefined || !keyFitsScheme(issuer.publicKey, scheme)) return { fault: 'chain-algorithm', detail: name };
  return undefined;
};

const signedBy = (subject: ParsedCertificate, issuer: ParsedCertificate): boolean => {
  try {
    return subject.x509.verify(issuer.publicKey);
  } catch {
    return false; // OpenSSL cannot even try this key with this signature
  }
};

/**
 * A path from `leaf` to one of the `roots`, every certificate of it valid at `at` (RFC 5280, 6.1).
 * The caller judges the leaf's own extensions, which depend on its purpose.
 */
export const findPath = (
  leaf: ParsedCertificate,
  candidates: readonly ParsedCertificate[],
  roots: readonly ParsedCertificate[],
  at: Date,
): PathResult => {
  if (!coversInstant(leaf, at)) return { kind: 'none', fault: 'chain-not-valid-at-gentime', detail: nameOf(leaf) };
  const isRoot = (certificate: ParsedCertificate): boolean => roots.some((root) => Buffer.compare(root.der, certificate.der) === 0);
  const open: (readonly ParsedCertificate[])[] = [[leaf]];
  let checksLeft = signatureChecksMax;
  let worst: Fault = { fault: 'chain-untrusted', detail: `no trusted root above ${nameOf(leaf)}` };
  while (open.length > 0 && checksLeft > 0) {
    const path = open.pop() as readonly ParsedCertificate[];
    const tip = path.at(-1) as ParsedCertificate;
    if (isRoot(tip)) return { kind: 'path', path };
    if (path.length >= pathLengthMax) continue;
    // Roots last, so that they are popped first. checkIssued compares names and key identifiers, and also asks for keyCertSign.
    for (const issuer of [...candidates, ...roots]) {
      if (path.includes(issuer) || !tip.x509.checkIssued(issuer.x509)) continue;
      const fault = issuerFault(issuer, path, at);
      if (fault !== undefined) {
        worst = fault;
        continue;
      }
      if (checksLeft === 0) break;
      checksLeft -= 1;
      if (signedBy(tip, issuer)) open.push([...path, issuer]);
      else worst = { fault: 'chain-signature', detail: `${nameOf(tip)} is not signed by ${nameOf(issuer)}` };
    }
  }
  return { kind: 'none', ...worst };
};
