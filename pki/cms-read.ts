/**
 * Reads the part of CMS that signatures of one document need (RFC 5652), as slices of the input: what was signed is checked
 * byte for byte, so nothing is encoded again. Only DER is taken, although RFC 5652 lets a sender use BER around the
 * attributes: RFC 3161 asks for DER, and one strict reader is easier to trust than a lenient one. Refusals are `DerError`.
 */
import { type Der, DerError, DerReader, dottedOid, tag } from './der.ts';

/** The longest identifier that occurs has about 20 octets; decoding one costs the square of its length. */
const oidOctetsMax = 64;

export interface AlgorithmIdentifier {
  readonly oid: string;
  readonly parameters: Der | undefined;
}

export interface Attribute {
  readonly oid: string;
  readonly values: readonly Der[];
}

/** How a SignerInfo names the certificate of its signer (RFC 5652, 5.3). */
export type SignerIdentifier =
  | { readonly kind: 'issuerAndSerialNumber'; readonly issuer: Der; readonly serialNumber: Uint8Array }
  | { readonly kind: 'subjectKeyIdentifier'; readonly keyIdentifier: Uint8Array };

export interface SignerInfo {
  readonly version: number;
  readonly sid: SignerIdentifier;
  readonly digestAlgorithm: AlgorithmIdentifier;
  /** The signed attributes as the SET OF that the signature covers (RFC 5652, 5.4), and read. */
  readonly signedAttributes: { readonly der: Der; readonly elements: readonly Der[]; readonly list: readonly Attribute[] } | undefined;
  readonly signatureAlgorithm: AlgorithmIdentifier;
  readonly signature: Uint8Array;
}

export interface SignedData {
  readonly version: number;
  readonly contentType: string;
  readonly content: Uint8Array | undefined;
  /** X.509 certificates; other kinds of the CertificateChoices are left out. */
  readonly certificates: readonly Der[];
  readonly signerInfos: readonly SignerInfo[];
}

/** The value ahead with its header, whatever it is. @throws DerError */
export const readAny = (reader: DerReader): Der => {
  const start = reader.offset;
  reader.next(reader.peek());
  return reader.bytes.subarray(start, reader.offset);
};

/** Dotted form of the OBJECT IDENTIFIER ahead. @throws DerError */
export const readOid = (reader: DerReader): string => {
  const start = reader.offset;
  const contents = reader.oid();
  if (contents.length > oidOctetsMax) throw new DerError('OBJECT IDENTIFIER too long', start);
  return dottedOid(contents);
};

/** A small non-negative INTEGER, such as a version. @throws DerError */
export const readSmallInteger = (reader: DerReader): number => {
  const start = reader.offset;
  return smallInteger(reader.integer(), start);
};

/** Value of the contents of a small non-negative INTEGER. @throws DerError */
export const smallInteger = (contents: Uint8Array, offset: number): number => {
  if (contents.length > 4 || contents.length === 0 || (contents[0] as number) >= 0x80) throw new DerError('INTEGER out of range', offset);
  return contents.reduce((value, octet) => value * 256 + octet, 0);
};

/** Contents of the value ahead, which must have this identifier. @throws DerError */
export const readContents = (reader: DerReader, identifier: number): Uint8Array => {
  reader.next(identifier);
  return reader.bytes.subarray(reader.contentStart, reader.contentEnd);
};

/** AlgorithmIdentifier (RFC 5280, 4.1.1.2). @throws DerError */
export const readAlgorithmIdentifier = (reader: DerReader): AlgorithmIdentifier => {
  const inner = reader.enter(tag.sequence);
  const oid = readOid(inner);
  const parameters = inner.peek() === -1 ? undefined : readAny(inner);
  inner.finish();
  return { oid, parameters };
};

const readAttribute = (element: Der): Attribute => {
  const reader = new DerReader(element).enter(tag.sequence);
  const oid = readOid(reader);
  const set = reader.enter(tag.set);
  reader.finish();
  const values: Der[] = [];
  while (set.peek() !== -1) values.push(readAny(set));
  return { oid, values };
};

const readSignedAttributes = (reader: DerReader): SignerInfo['signedAttributes'] => {
  const implicit = readAny(reader);
  const der = Uint8Array.from(implicit);
  der[0] = tag.set;
  const inner = new DerReader(der).enter(tag.set);
  const elements: Der[] = [];
  while (inner.peek() !== -1) elements.push(readAny(inner));
  return { der, elements, list: elements.map(readAttribute) };
};

const readSignerIdentifier = (reader: DerReader): SignerIdentifier => {
  if (reader.peek() === tag.context(0)) {
    return { kind: 'subjectKeyIdentifier', keyIdentifier: readContents(reader, tag.context(0)) };
  }
  const inner = reader.enter(tag.sequence);
  const issuer = readAny(inner);
  const serialNumber = inner.integer();
  inner.finish();
  return { kind: 'issuerAndSerialNumber', issuer, serialNumber };
};

const readSignerInfo = (reader: DerReader): SignerInfo => {
  const inner = reader.enter(tag.sequence);
  const version = readSmallInteger(inner);
  const sid = readSignerIdentifier(inner);
  const digestAlgorithm = readAlgorithmIdentifier(inner);
  const signedAttributes = inner.peek() === tag.contextConstructed(0) ? readSignedAttributes(inner) : undefined;
  const signatureAlgorithm = readAlgorithmIdentifier(inner);
  const signature = readContents(inner, tag.octetString);
  // Unsigned attributes vouch for nothing; archive timestamps live there.
  if (inner.peek() === tag.contextConstructed(1)) readAny(inner);
  inner.finish();
  return { version, sid, digestAlgorithm, signedAttributes, signatureAlgorithm, signature };
};

const readCertificates = (reader: DerReader): Der[] => {
  const inner = reader.enter(tag.contextConstructed(0));
  const certificates: Der[] = [];
  while (inner.peek() !== -1) {
    const isX509 = inner.peek() === tag.sequence;
    const value = readAny(inner);
    if (isX509) certificates.push(value);
  }
  return certificates;
};

/** A ContentInfo that holds SignedData (RFC 5652, 3 and 5.1). @throws DerError */
export const readSignedData = (bytes: Uint8Array): SignedData => {
  const outer = new DerReader(bytes);
  const contentInfo = outer.enter(tag.sequence);
  outer.finish();
  if (readOid(contentInfo) !== '1.2.840.113549.1.7.2') throw new DerError('signed-data expected', contentInfo.offset);
  const explicit = contentInfo.enter(tag.contextConstructed(0));
  contentInfo.finish();
  const signedData = explicit.enter(tag.sequence);
  explicit.finish();

  const version = readSmallInteger(signedData);
  signedData.next(tag.set); // digestAlgorithms: a hint for one-pass readers (RFC 5652, 5.1); the SignerInfo decides
  const encapsulated = signedData.enter(tag.sequence);
  const contentType = readOid(encapsulated);
  let content: Uint8Array | undefined;
  if (encapsulated.peek() === tag.contextConstructed(0)) {
    const wrapped = encapsulated.enter(tag.contextConstructed(0));
    content = readContents(wrapped, tag.octetString);
    wrapped.finish();
  }
  encapsulated.finish();
  const certificates = signedData.peek() === tag.contextConstructed(0) ? readCertificates(signedData) : [];
  if (signedData.peek() === tag.contextConstructed(1)) readAny(signedData); // crls
  const signers = signedData.enter(tag.set);
  signedData.finish();
  const signerInfos: SignerInfo[] = [];
  while (signers.peek() !== -1) signerInfos.push(readSignerInfo(signers));
  return { version, contentType, content, certificates, signerInfos };
};
