/**
 * How a scheme and a digest of ours are said to a token: mechanism, input and output of C_Sign.
 *
 * All objects are made once, when this module is loaded: the hot path looks them up and allocates nothing.
 */
import pkcs11 from 'pkcs11js';
import { digestAlgorithms, digestInfoPrefix, ecdsaSignatureValue, type KeyScheme, type SignatureDigest } from '../pki/algorithms.ts';

type ByDigest<T> = Readonly<Record<SignatureDigest, T>>;

const byDigest = <T>(make: (digest: SignatureDigest) => T): ByDigest<T> => ({
  sha256: make('sha256'),
  sha384: make('sha384'),
  sha512: make('sha512'),
});

// The salt is as long as the digest, which is what pki/algorithms.ts writes into the AlgorithmIdentifier.
const pss = (digest: SignatureDigest, hashAlg: number, mgf: number): pkcs11.Mechanism => ({
  mechanism: pkcs11.CKM_RSA_PKCS_PSS,
  parameter: { type: pkcs11.CK_PARAMS_RSA_PSS, hashAlg, mgf, saltLen: digestAlgorithms[digest].octets } as pkcs11.RsaPSS,
});

const ecdsa: pkcs11.Mechanism = { mechanism: pkcs11.CKM_ECDSA };
const rsaPkcs1: pkcs11.Mechanism = { mechanism: pkcs11.CKM_RSA_PKCS };

const mechanisms: Readonly<Record<KeyScheme['kind'], ByDigest<pkcs11.Mechanism>>> = {
  ecdsa: byDigest(() => ecdsa),
  'rsa-pkcs1': byDigest(() => rsaPkcs1),
  'rsa-pss': {
    sha256: pss('sha256', pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256),
    sha384: pss('sha384', pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384),
    sha512: pss('sha512', pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512),
  },
};

/** Mechanism for C_SignInit; the same object for the same arguments, not to be changed. */
export const signMechanism = (scheme: KeyScheme, digest: SignatureDigest): pkcs11.Mechanism => mechanisms[scheme.kind][digest];

/** The one mechanism a key of this scheme is meant for, for CKA_ALLOWED_MECHANISMS. */
export const allowedMechanism = (scheme: KeyScheme): number => mechanisms[scheme.kind].sha256.mechanism;

/** Octets that C_Sign returns (PKCS#11 v3.1, 6.3.1 and 6.1.5): r || s, or as long as the modulus. */
export const rawSignatureOctets = (scheme: KeyScheme): number =>
  scheme.kind === 'ecdsa' ? (scheme.curve === 'P-256' ? 64 : 96) : scheme.bits / 8;

const prefixes = byDigest((digest) => Buffer.from(digestInfoPrefix(digest)));

/**
 * A function from the hash of what is signed to the input of C_Sign.
 *
 * It returns the hash itself, a part of it, or a scratch buffer of its own that the next call overwrites: hand the result
 * to a synchronous C_Sign and forget it. One function for each thread and key.
 */
export const createSignInput = (scheme: KeyScheme, digest: SignatureDigest): ((hash: Buffer) => Buffer) => {
  if (scheme.kind === 'rsa-pss')
    return function pssInput(hash) {
      return hash;
    };
  if (scheme.kind === 'ecdsa') {
    // ECDSA signs the leftmost bits of a hash longer than the order (FIPS 186-5, 6.4.1); not every token cuts by itself.
    const octets = rawSignatureOctets(scheme) / 2;
    return function ecdsaInput(hash) {
      return hash.length > octets ? hash.subarray(0, octets) : hash;
    };
  }
  const prefix = prefixes[digest];
  const scratch = Buffer.concat([prefix, Buffer.alloc(digestAlgorithms[digest].octets)]);
  return function digestInfoInput(hash) {
    scratch.set(hash, prefix.length);
    return scratch;
  };
};

/** Input of C_Sign for the hash of what is signed, in a buffer of its own. */
export const signInput = (scheme: KeyScheme, digest: SignatureDigest, hash: Uint8Array): Buffer =>
  createSignInput(scheme, digest)(Buffer.from(hash));

/** The signature as X.509 and CMS carry it, from what C_Sign returned. */
export const signatureValue = (scheme: KeyScheme, raw: Uint8Array): Uint8Array =>
  scheme.kind === 'ecdsa' ? ecdsaSignatureValue(raw) : raw;
