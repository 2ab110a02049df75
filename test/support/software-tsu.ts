/** A timestamping unit with its key in software: what a token does in production, with node:crypto and OpenSSL. */
import { execFileSync } from 'node:child_process';
import { constants, createHash, privateEncrypt, randomBytes } from 'node:crypto';
import { digestAlgorithms, digestInfoPrefix, type KeyScheme, keyScheme, type SignatureDigest } from '../../pki/algorithms.ts';
import { oid } from '../../pki/der.ts';
import { readSignerCertificate, type SignerCertificate } from '../../pki/signer-certificate.ts';
import { TokenTemplate, type TokenTemplateOptions } from '../../pki/token-template.ts';
import type { Identity, TestPki } from './timestamp-fixtures.ts';

export interface SoftwareTsu {
  readonly scheme: KeyScheme;
  readonly identity: Identity;
  readonly certificate: SignerCertificate;
  /** TSU first, then its authorities without the root. */
  readonly chain: readonly Uint8Array[];
  /** The signature value, as CMS carries it, over a hash. */
  sign(hash: Uint8Array, digest: SignatureDigest): Uint8Array;
}

export interface SoftwareHierarchy {
  readonly root: Identity;
  readonly authority: Identity;
  /** PEM file of the root. */
  readonly rootFile: string;
}

/** A root and a timestamp CA. */
export const makeHierarchy = (pki: TestPki): SoftwareHierarchy => {
  const root = pki.issue('root', {
    extensions: ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign,cRLSign', 'subjectKeyIdentifier=hash'],
  });
  const authority = pki.issue('timestamp-ca', {
    issuer: root,
    extensions: [
      'basicConstraints=critical,CA:TRUE,pathlen:0',
      'keyUsage=critical,keyCertSign,cRLSign',
      'subjectKeyIdentifier=hash',
      'authorityKeyIdentifier=keyid',
    ],
  });
  return { root, authority, rootFile: root.certificateFile };
};

const keyParameters = (scheme: KeyScheme): string[] =>
  scheme.kind === 'ecdsa'
    ? ['-algorithm', 'EC', '-pkeyopt', `ec_paramgen_curve:${scheme.curve}`]
    : ['-algorithm', 'RSA', '-pkeyopt', `rsa_keygen_bits:${scheme.bits}`];

const sha = (digest: SignatureDigest, ...parts: Uint8Array[]): Buffer => {
  const hash = createHash(digest);
  for (const part of parts) hash.update(part);
  return hash.digest();
};

/** MGF1 (RFC 8017, B.2.1). */
const mask = (digest: SignatureDigest, from: Uint8Array, octets: number): Buffer => {
  const blocks: Buffer[] = [];
  for (let counter = 0; counter * digestAlgorithms[digest].octets < octets; counter += 1) {
    const suffix = Buffer.alloc(4);
    suffix.writeUInt32BE(counter);
    blocks.push(sha(digest, from, suffix));
  }
  return Buffer.concat(blocks).subarray(0, octets);
};

/** EMSA-PSS-ENCODE with a salt as long as the digest (RFC 8017, 9.1.1), for a modulus of a multiple of 8 bits. */
const pssEncode = (digest: SignatureDigest, hash: Uint8Array, modulusBits: number): Buffer => {
  const { octets } = digestAlgorithms[digest];
  const length = modulusBits / 8;
  const salt = randomBytes(octets);
  const h = sha(digest, Buffer.alloc(8), hash, salt);
  const data = Buffer.concat([Buffer.alloc(length - 2 * octets - 2), Uint8Array.of(1), salt]);
  const masked = mask(digest, h, data.length);
  for (let i = 0; i < data.length; i += 1) masked[i] = (masked[i] as number) ^ (data[i] as number);
  masked[0] = (masked[0] as number) & 0x7f;
  return Buffer.concat([masked, h, Uint8Array.of(0xbc)]);
};

const signHash = (scheme: KeyScheme, { key, keyFile }: Identity, hash: Uint8Array, digest: SignatureDigest): Uint8Array => {
  switch (scheme.kind) {
    case 'ecdsa':
      // node:crypto has no signature over a hash that is made already.
      return execFileSync('openssl', ['pkeyutl', '-sign', '-inkey', keyFile], { input: hash, stdio: ['pipe', 'pipe', 'pipe'] });
    case 'rsa-pkcs1':
      return privateEncrypt({ key, padding: constants.RSA_PKCS1_PADDING }, Buffer.concat([digestInfoPrefix(digest), hash]));
    case 'rsa-pss':
      return privateEncrypt({ key, padding: constants.RSA_NO_PADDING }, pssEncode(digest, hash, scheme.bits));
  }
};

/** @param algorithm as in the configuration: `ec-p256`, `rsa-pss-2048` */
export const makeSoftwareTsu = (
  pki: TestPki,
  { authority }: SoftwareHierarchy,
  algorithm: string,
  name = `tsu-${algorithm}`,
): SoftwareTsu => {
  const scheme = keyScheme(algorithm);
  const identity = pki.issue(name, {
    issuer: authority,
    key: keyParameters(scheme),
    extensions: [
      'basicConstraints=critical,CA:FALSE',
      'keyUsage=critical,digitalSignature',
      'extendedKeyUsage=critical,timeStamping',
      'subjectKeyIdentifier=hash',
      'authorityKeyIdentifier=keyid',
    ],
  });
  return {
    scheme,
    identity,
    certificate: readSignerCertificate(identity.certificate.raw),
    chain: [identity.certificate.raw, authority.certificate.raw],
    sign: (hash, digest) => signHash(scheme, identity, hash, digest),
  };
};

export const testPolicy = '1.3.6.1.4.1.32473.1.1';

/** A template of this TSU; the options that a test does not give are those of a default configuration. */
export const makeTemplate = (
  tsu: Pick<SoftwareTsu, 'scheme' | 'certificate'>,
  options: Partial<TokenTemplateOptions> = {},
): TokenTemplate =>
  new TokenTemplate({
    policy: oid(testPolicy),
    scheme: tsu.scheme,
    signatureDigest: 'sha256',
    certificate: tsu.certificate,
    accuracyMicros: 1_000_000,
    tsaName: 'none',
    qualified: false,
    ...options,
  });

/** The token, without certificates, of the stamp that was prepared last; written into the middle of a buffer. */
export const tokenOf = (template: TokenTemplate, signature: Uint8Array): Buffer => {
  const margin = 16;
  const length = template.tokenLength(signature.length);
  const out = Buffer.alloc(length + 2 * margin, 0xee);
  const end = template.writeToken(out, margin, signature);
  if (end !== margin + length) throw new Error(`token of ${end - margin} octets, ${length} announced`);
  const around = Buffer.concat([out.subarray(0, margin), out.subarray(end)]);
  if (around.some((octet) => octet !== 0xee)) throw new Error('the token was written beyond its place');
  return out.subarray(margin, end);
};

export interface TestStamp {
  readonly messageImprint: Uint8Array;
  readonly nonce: Uint8Array | undefined;
  readonly serial: Uint8Array;
  readonly unixMillis: number;
}

/** Prepares, signs and writes one token, without certificates. */
export const stampWith = (tsu: SoftwareTsu, template: TokenTemplate, digest: SignatureDigest, stamp: TestStamp): Buffer =>
  tokenOf(template, tsu.sign(template.prepare(stamp, stamp.serial, stamp.unixMillis), digest));
