/** Verification of signatures by their AlgorithmIdentifiers: ECDSA, RSASSA-PKCS1-v1_5 and RSASSA-PSS with SHA-2. Older digests count as unknown. */
import { constants, type KeyObject, verify } from 'node:crypto';
import { digestAlgorithms, type SignatureDigest } from './algorithms.ts';
import { type AlgorithmIdentifier, readAlgorithmIdentifier, readSmallInteger } from './cms-read.ts';
import { type Der, DerReader, tag } from './der.ts';

export type SignatureScheme =
  | { readonly kind: 'ecdsa' | 'rsa-pkcs1'; readonly digest: SignatureDigest }
  | { readonly kind: 'rsa-pss'; readonly digest: SignatureDigest; readonly saltOctets: number };

const curves = new Set(['prime256v1', 'secp384r1', 'secp521r1']);
/** NIST SP 800-57 part 1: less than 112 bits of strength below this. */
const rsaBitsMin = 2_048;
/** Verifying with a key of 16,384 bits takes about a millisecond; hostile ones are longer. */
const rsaBitsMax = 16_384;

const schemes: Readonly<Record<string, SignatureScheme>> = {
  '1.2.840.10045.4.3.2': { kind: 'ecdsa', digest: 'sha256' },
  '1.2.840.10045.4.3.3': { kind: 'ecdsa', digest: 'sha384' },
  '1.2.840.10045.4.3.4': { kind: 'ecdsa', digest: 'sha512' },
  '1.2.840.113549.1.1.11': { kind: 'rsa-pkcs1', digest: 'sha256' },
  '1.2.840.113549.1.1.12': { kind: 'rsa-pkcs1', digest: 'sha384' },
  '1.2.840.113549.1.1.13': { kind: 'rsa-pkcs1', digest: 'sha512' },
};
const oids = { rsaEncryption: '1.2.840.113549.1.1.1', rsassaPss: '1.2.840.113549.1.1.10', mgf1: '1.2.840.113549.1.1.8' } as const;

/** The digest of signatures behind an object identifier; undefined for all others. */
export const signatureDigest = (oid: string): SignatureDigest | undefined =>
  (['sha256', 'sha384', 'sha512'] as const).find((name) => digestAlgorithms[name].oid === oid);

/** RSASSA-PSS-params (RFC 4055, 3.1). The defaults mean SHA-1, so hash and mask function must be there. @throws DerError */
const pssScheme = (parameters: Der | undefined): SignatureScheme | undefined => {
  if (parameters === undefined) return undefined;
  const reader = new DerReader(parameters).enter(tag.sequence);
  if (reader.peek() !== tag.contextConstructed(0)) return undefined;
  const digest = signatureDigest(readAlgorithmIdentifier(reader.enter(tag.contextConstructed(0))).oid);
  if (reader.peek() !== tag.contextConstructed(1)) return undefined;
  const mask = readAlgorithmIdentifier(reader.enter(tag.contextConstructed(1)));
  const saltOctets = reader.peek() === tag.contextConstructed(2) ? readSmallInteger(reader.enter(tag.contextConstructed(2))) : 20;
  const trailer = reader.peek() === tag.contextConstructed(3) ? readSmallInteger(reader.enter(tag.contextConstructed(3))) : 1;
  reader.finish();
  if (digest === undefined || mask.oid !== oids.mgf1 || mask.parameters === undefined || trailer !== 1 || saltOctets > 512)
    return undefined;
  if (readAlgorithmIdentifier(new DerReader(mask.parameters)).oid !== digestAlgorithms[digest].oid) return undefined;
  return { kind: 'rsa-pss', digest, saltOctets };
};

/**
 * The scheme that an AlgorithmIdentifier names, undefined when it is not supported.
 * @param digestOid digest of the SignerInfo, which completes plain rsaEncryption (RFC 3370, 3.2)
 * @throws DerError
 */
export const signatureScheme = (algorithm: AlgorithmIdentifier, digestOid?: string): SignatureScheme | undefined => {
  if (algorithm.oid === oids.rsassaPss) return pssScheme(algorithm.parameters);
  if (algorithm.oid === oids.rsaEncryption && digestOid !== undefined) {
    const digest = signatureDigest(digestOid);
    return digest === undefined ? undefined : { kind: 'rsa-pkcs1', digest };
  }
  return Object.hasOwn(schemes, algorithm.oid) ? schemes[algorithm.oid] : undefined;
};

/** True when a key of this type, size and curve may make signatures of this scheme. */
export const keyFitsScheme = (key: KeyObject, scheme: SignatureScheme): boolean => {
  const details = key.asymmetricKeyDetails;
  if (scheme.kind === 'ecdsa') return key.asymmetricKeyType === 'ec' && curves.has(details?.namedCurve ?? '');
  const bits = details?.modulusLength ?? 0;
  if (bits < rsaBitsMin || bits > rsaBitsMax) return false;
  return key.asymmetricKeyType === 'rsa' || (key.asymmetricKeyType === 'rsa-pss' && scheme.kind === 'rsa-pss');
};

/** Verifies one signature; a signature that cannot even be read is a wrong one. */
export const verifySignature = (scheme: SignatureScheme, key: KeyObject, data: Uint8Array, signature: Uint8Array): boolean => {
  if (!keyFitsScheme(key, scheme)) return false;
  try {
    switch (scheme.kind) {
      case 'ecdsa':
        return verify(scheme.digest, data, { key, dsaEncoding: 'der' }, signature);
      case 'rsa-pkcs1':
        return verify(scheme.digest, data, { key, padding: constants.RSA_PKCS1_PADDING }, signature);
      case 'rsa-pss':
        return verify(scheme.digest, data, { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: scheme.saltOctets }, signature);
    }
  } catch {
    return false; // the key restricts itself to other PSS parameters, or OpenSSL refuses the signature's form
  }
};
