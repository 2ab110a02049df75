/** SubjectPublicKeyInfo from the parts of a key, and the comparison of two of them (RFC 5280, 4.1.2.7). */
import { type Der, DerReader, derNull, encode, oid, sequence, tag, unsignedInteger } from './der.ts';

export type EcCurve = 'P-256' | 'P-384';

const curves = {
  'P-256': { oid: oid('1.2.840.10045.3.1.7'), coordinateOctets: 32 },
  'P-384': { oid: oid('1.3.132.0.34'), coordinateOctets: 48 },
} as const;

/** ECParameters, always a namedCurve (RFC 5480, 2.1.1). */
export const ecParameters = (curve: EcCurve): Der => curves[curve].oid;

const bitString = (octets: Uint8Array): Der => encode(tag.bitString, Uint8Array.of(0), octets);

/**
 * SubjectPublicKeyInfo of an EC key (RFC 5480, section 2).
 * @param point the uncompressed point: 04 || X || Y
 * @throws RangeError when it is no such point
 */
export const ecPublicKeyInfo = (curve: EcCurve, point: Uint8Array): Der => {
  if (point.length !== 1 + 2 * curves[curve].coordinateOctets || point[0] !== 4)
    throw new RangeError(`not an uncompressed point on ${curve}`);
  return sequence(sequence(oid('1.2.840.10045.2.1'), ecParameters(curve)), bitString(point));
};

const rsaAlgorithms = {
  /** rsaEncryption: the key fits every padding. */
  'rsa-pkcs1': sequence(oid('1.2.840.113549.1.1.1'), derNull),
  /**
   * id-RSASSA-PSS without parameters: PSS alone, with any digest. It also tells verifiers that do not look at the signature's
   * own parameters (`openssl ts -verify` is one) which padding to expect.
   */
  'rsa-pss': sequence(oid('1.2.840.113549.1.1.10')),
} as const;

/** SubjectPublicKeyInfo of an RSA key, for the padding that it is used with (RFC 4055, 1.2). */
export const rsaPublicKeyInfo = (padding: keyof typeof rsaAlgorithms, modulus: Uint8Array, publicExponent: Uint8Array): Der =>
  sequence(rsaAlgorithms[padding], bitString(sequence(unsignedInteger(modulus), unsignedInteger(publicExponent))));

/** The subjectPublicKey: contents of the BIT STRING behind its first octet. @throws DerError */
export const subjectPublicKeyBits = (spki: Der): Uint8Array => {
  const reader = new DerReader(spki).enter(tag.sequence);
  reader.next(tag.sequence);
  reader.next(tag.bitString);
  reader.finish();
  return spki.subarray(reader.contentStart + 1, reader.contentEnd);
};

/**
 * True when both hold the same key. Only the key itself is compared: one RSA key may be told as rsaEncryption and as
 * id-RSASSA-PSS, and for the curves of the house the length of the point tells the curve.
 */
export const samePublicKey = (a: Der, b: Der): boolean => Buffer.compare(subjectPublicKeyBits(a), subjectPublicKeyBits(b)) === 0;

/** The modulus of an RSA key, without a sign octet. @throws DerError */
export const rsaModulus = (spki: Der): Uint8Array => {
  const bits = subjectPublicKeyBits(spki);
  const reader = new DerReader(bits).enter(tag.sequence);
  reader.next(tag.integer);
  return bits.subarray(reader.contentStart + (bits[reader.contentStart] === 0 ? 1 : 0), reader.contentEnd);
};
