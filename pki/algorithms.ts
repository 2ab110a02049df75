/** The algorithms of the field as object identifiers and ready-made AlgorithmIdentifiers; no key material, no I/O. */
import { type Der, derNull, encode, integer, octetString, oid, sequence, tag, unsignedInteger } from './der.ts';

/** Digests of messageImprints and of signatures. */
export interface DigestAlgorithm {
  /** Name that node:crypto understands. */
  readonly name: string;
  readonly oid: string;
  readonly octets: number;
}

const nist = '2.16.840.1.101.3.4.2';
export const digestAlgorithms = {
  sha256: { name: 'sha256', oid: `${nist}.1`, octets: 32 },
  sha384: { name: 'sha384', oid: `${nist}.2`, octets: 48 },
  sha512: { name: 'sha512', oid: `${nist}.3`, octets: 64 },
  'sha3-256': { name: 'sha3-256', oid: `${nist}.8`, octets: 32 },
  'sha3-384': { name: 'sha3-384', oid: `${nist}.9`, octets: 48 },
  'sha3-512': { name: 'sha3-512', oid: `${nist}.10`, octets: 64 },
} as const satisfies Record<string, DigestAlgorithm>;

export type SignatureDigest = 'sha256' | 'sha384' | 'sha512';

/** A key of the house: its type and size, and the scheme its signatures use. */
export type KeyScheme =
  | { readonly kind: 'ecdsa'; readonly curve: 'P-256' | 'P-384' }
  | { readonly kind: 'rsa-pkcs1'; readonly bits: number }
  | { readonly kind: 'rsa-pss'; readonly bits: number };

/** The scheme behind a configured name such as `ec-p256`, `rsa-3072` or `rsa-pss-2048`. */
export const keyScheme = (name: string): KeyScheme => {
  const match = /^(?:ec-p(256|384)|rsa-(pss-)?(2048|3072|4096))$/.exec(name);
  if (match === null) throw new RangeError(`no such key algorithm: ${name}`);
  if (match[1] !== undefined) return { kind: 'ecdsa', curve: match[1] === '256' ? 'P-256' : 'P-384' };
  return { kind: match[2] === undefined ? 'rsa-pkcs1' : 'rsa-pss', bits: Number(match[3]) };
};

/** The name by which a scheme is configured. */
export const algorithmName = (scheme: KeyScheme): string =>
  scheme.kind === 'ecdsa'
    ? `ec-${scheme.curve.replace('-', '').toLowerCase()}`
    : `${scheme.kind === 'rsa-pss' ? scheme.kind : 'rsa'}-${scheme.bits}`;

/** The digest that fits the strength of a key: SHA-384 for P-384, SHA-256 otherwise. */
export const defaultDigest = (scheme: KeyScheme): SignatureDigest =>
  scheme.kind === 'ecdsa' && scheme.curve === 'P-384' ? 'sha384' : 'sha256';

/** CMS DigestAlgorithmIdentifier with absent parameters (RFC 5754, section 2). */
export const digestAlgorithmIdentifier = (digest: SignatureDigest): Der => sequence(oid(digestAlgorithms[digest].oid));

const ecdsaOids = { sha256: '1.2.840.10045.4.3.2', sha384: '1.2.840.10045.4.3.3', sha512: '1.2.840.10045.4.3.4' } as const;
const rsaOids = { sha256: '1.2.840.113549.1.1.11', sha384: '1.2.840.113549.1.1.12', sha512: '1.2.840.113549.1.1.13' } as const;

/** RSASSA-PSS-params with the salt as long as the digest (RFC 4055, section 3.1; RFC 5756). */
const pssParameters = (digest: SignatureDigest): Der => {
  const hash = sequence(oid(digestAlgorithms[digest].oid), derNull);
  const mgf1 = sequence(oid('1.2.840.113549.1.1.8'), hash);
  return sequence(
    encode(tag.contextConstructed(0), hash),
    encode(tag.contextConstructed(1), mgf1),
    encode(tag.contextConstructed(2), integer(digestAlgorithms[digest].octets)),
  );
};

/** AlgorithmIdentifier of a signature, for certificates (RFC 5280, 4.1.1.2) and for CMS (RFC 5652, 5.3). */
export const signatureAlgorithmIdentifier = (scheme: KeyScheme, digest: SignatureDigest): Der => {
  switch (scheme.kind) {
    case 'ecdsa':
      return sequence(oid(ecdsaOids[digest]));
    case 'rsa-pkcs1':
      return sequence(oid(rsaOids[digest]), derNull);
    case 'rsa-pss':
      return sequence(oid('1.2.840.113549.1.1.10'), pssParameters(digest));
  }
};

/** DigestInfo up to the digest itself, which PKCS#1 v1.5 puts under its padding (RFC 8017, 9.2). */
export const digestInfoPrefix = (digest: SignatureDigest): Uint8Array => {
  const { octets } = digestAlgorithms[digest];
  const whole = sequence(sequence(oid(digestAlgorithms[digest].oid), derNull), octetString(new Uint8Array(octets)));
  return whole.slice(0, whole.length - octets);
};

/** ECDSA-Sig-Value from the r || s that PKCS#11 returns (RFC 3279, 2.2.3). */
export const ecdsaSignatureValue = (raw: Uint8Array): Der => {
  const half = raw.length / 2;
  return sequence(unsignedInteger(raw.subarray(0, half)), unsignedInteger(raw.subarray(half)));
};
