/**
 * Key pairs in a token: made there, found by label, and proven before they are used.
 *
 * A pair is whole when its private half is there and can be told to be finished. What an interrupted generation leaves
 * behind is never found, and removed by the next generation; a whole key is never removed here.
 */
import { constants, createPublicKey, hash, randomBytes, verify, type X509Certificate } from 'node:crypto';
import { endianness } from 'node:os';
import { type ITemplate, KeyGenMechanism, ObjectClass, type Session, type SessionObject } from 'graphene-pk11';
import pkcs11 from 'pkcs11js';
import { invariant, SigilloError } from '../config/errors.ts';
import { defaultDigest, type KeyScheme, type SignatureDigest } from '../pki/algorithms.ts';
import type { Der } from '../pki/der.ts';
import { ecParameters, ecPublicKeyInfo, rsaModulus, rsaPublicKeyInfo, samePublicKey, subjectPublicKeyBits } from '../pki/public-key.ts';
import { allowedMechanism, createSignInput, rawSignatureOctets, signatureValue, signMechanism } from './mechanisms.ts';
import { callingHsm, classifyPkcs11Error } from './pkcs11-errors.ts';
import { requireLogin } from './token-login.ts';

/** A private key in a token with its public half. */
export interface TokenKey {
  readonly label: string;
  /** CKA_ID. */
  readonly id: Uint8Array;
  readonly scheme: KeyScheme;
  /** SubjectPublicKeyInfo, built from the attributes in the token. */
  readonly spki: Der;
  /** Good for every session of the process on this token. */
  readonly privateHandle: Buffer;
  /** Signs synchronously on the session the key was found with; the result is as X.509 and CMS carry it. */
  sign(tbs: Uint8Array, digest?: SignatureDigest): Uint8Array;
}

/** `unfinished`: a half of a pair, or a half without its values, as an interrupted generation leaves it. */
export type KeyState = 'absent' | 'unfinished' | 'whole';

interface Pair {
  readonly privateKey?: SessionObject;
  readonly publicKey?: SessionObject;
}

/** Value of a CKA type; one that the token lacks, leaves empty or does not tell is undefined, every other failure is thrown. */
export const attributeOf = (object: SessionObject | undefined, type: number): Buffer | undefined => {
  try {
    const value: unknown = object?.getAttribute(type);
    return Buffer.isBuffer(value) && value.length > 0 ? value : undefined;
  } catch (error) {
    if (classifyPkcs11Error(error) === 'request') return undefined;
    throw error;
  }
};

/** CKA_LOCAL: made in this token. A token sets it when the key has its values. */
const isLocal = (object: SessionObject): boolean | undefined => {
  const value = attributeOf(object, pkcs11.CKA_LOCAL);
  return value === undefined ? undefined : value[0] === 1;
};

/** Objects of a token that fit. */
export const findObjects = (session: Session, template: ITemplate): SessionObject[] => {
  const found = session.find(template);
  return Array.from({ length: found.length }, (_, i) => found.items(i));
};

const findPair = (session: Session, label: string): Pair => {
  const [privateKey, another] = findObjects(session, { class: ObjectClass.PRIVATE_KEY, label });
  if (another !== undefined) throw new SigilloError('HSM_KEY_MISMATCH', `the label "${label}" names more than one private key`);
  // Tools label the public half as they like, but the CKA_ID is common to both (PKCS#11 v3.1, 4.7.2).
  const id = attributeOf(privateKey, pkcs11.CKA_ID);
  const byId = id === undefined ? [] : findObjects(session, { class: ObjectClass.PUBLIC_KEY, id });
  const publicKey = byId[0] ?? findObjects(session, { class: ObjectClass.PUBLIC_KEY, label })[0];
  return { ...(privateKey && { privateKey }), ...(publicKey && { publicKey }) };
};

const stateOfPair = ({ privateKey, publicKey }: Pair): KeyState => {
  if (privateKey === undefined) return publicKey === undefined ? 'absent' : 'unfinished';
  // A token makes the objects first and fills them afterwards, CKA_LOCAL last: a public half that was generated beside
  // a private half that was not is a generation that ended in between. Imported pairs say false on both halves.
  // A lone private half is whole only where it tells the public values itself (RSA).
  if (publicKey === undefined)
    return attributeOf(privateKey, pkcs11.CKA_MODULUS) === undefined || isLocal(privateKey) === false ? 'unfinished' : 'whole';
  if (attributeOf(publicKey, pkcs11.CKA_EC_POINT) === undefined && attributeOf(publicKey, pkcs11.CKA_MODULUS) === undefined)
    return 'unfinished';
  return isLocal(publicKey) === true && isLocal(privateKey) === false ? 'unfinished' : 'whole';
};

/** What is in the token under a label. */
export const keyState = (session: Session, label: string): KeyState =>
  callingHsm(`look for the key "${label}"`, () => stateOfPair(findPair(session, label)));

/** CKA_EC_POINT is a DER OCTET STRING around the point (PKCS#11 v3.1, 6.3.3); some tokens give the bare point. */
const ecPoint = (value: Buffer): Buffer => (value[0] === 0x04 && value[1] === value.length - 2 ? value.subarray(2) : value);

/** Type and size of a key, for people. */
export const describeScheme = (scheme: KeyScheme): string => (scheme.kind === 'ecdsa' ? `EC ${scheme.curve}` : `RSA ${scheme.bits}`);

const publicKeyInfo = ({ privateKey, publicKey }: Pair, label: string, scheme: KeyScheme): Der => {
  const wrong = (): never => {
    throw new SigilloError(
      'HSM_KEY_MISMATCH',
      `the key "${label}" in the token is not ${describeScheme(scheme)}, which the configuration names`,
    );
  };
  if (scheme.kind === 'ecdsa') {
    const point = attributeOf(publicKey, pkcs11.CKA_EC_POINT);
    const parameters = attributeOf(publicKey, pkcs11.CKA_EC_PARAMS);
    if (point === undefined || parameters === undefined || !parameters.equals(ecParameters(scheme.curve))) return wrong();
    return ecPublicKeyInfo(scheme.curve, ecPoint(point));
  }
  // An RSA private key tells its public values itself, so a token without public objects will do.
  const modulus = attributeOf(publicKey, pkcs11.CKA_MODULUS) ?? attributeOf(privateKey, pkcs11.CKA_MODULUS);
  const exponent = attributeOf(publicKey, pkcs11.CKA_PUBLIC_EXPONENT) ?? attributeOf(privateKey, pkcs11.CKA_PUBLIC_EXPONENT);
  if (modulus === undefined || exponent === undefined) return wrong();
  const significant = modulus.subarray(modulus.findIndex((octet) => octet !== 0));
  if (significant.length * 8 !== scheme.bits) return wrong();
  return rsaPublicKeyInfo(scheme.kind, significant, exponent);
};

const signer = (session: Session, privateHandle: Buffer, label: string, scheme: KeyScheme): TokenKey['sign'] =>
  function signWithToken(tbs, digest = defaultDigest(scheme)) {
    const input = createSignInput(scheme, digest)(hash(digest, tbs, 'buffer'));
    const raw = callingHsm(`sign with the key "${label}"`, () => {
      session.lib.C_SignInit(session.handle, signMechanism(scheme, digest), privateHandle);
      return session.lib.C_Sign(session.handle, input, Buffer.alloc(rawSignatureOctets(scheme)));
    });
    return signatureValue(scheme, raw);
  };

/**
 * The whole key pair of this label, or undefined.
 *
 * @param scheme what the key must be; a token cannot say which padding an RSA key is meant for
 * @throws HSM_KEY_MISMATCH when type or size differ, or when the label names two private keys
 */
export const findKey = (session: Session, label: string, scheme: KeyScheme): TokenKey | undefined =>
  callingHsm(`look for the key "${label}"`, () => {
    const pair = findPair(session, label);
    if (pair.privateKey === undefined || stateOfPair(pair) !== 'whole') return undefined;
    const privateHandle = pair.privateKey.handle;
    const spki = publicKeyInfo(pair, label, scheme);
    const id = attributeOf(pair.privateKey, pkcs11.CKA_ID) ?? Buffer.alloc(0);
    return { label, id, scheme, spki, privateHandle, sign: signer(session, privateHandle, label, scheme) };
  });

/** Private halves of a public key. With an EC key only the public half tells the point, and the CKA_ID is common to both. */
const privateHalves = (session: Session, spki: Der, scheme: KeyScheme): SessionObject[] => {
  if (scheme.kind !== 'ecdsa') return findObjects(session, { class: ObjectClass.PRIVATE_KEY, modulus: Buffer.from(rsaModulus(spki)) });
  const point = subjectPublicKeyBits(spki);
  const pointEC = Buffer.concat([Buffer.of(0x04, point.length), point]);
  return findObjects(session, { class: ObjectClass.PUBLIC_KEY, pointEC }).flatMap((half) => {
    const id = attributeOf(half, pkcs11.CKA_ID);
    return id === undefined ? [] : findObjects(session, { class: ObjectClass.PRIVATE_KEY, id });
  });
};

/** The same; none where the token does not look for keys by their public values. */
const privateHalvesIfTold = (session: Session, spki: Der, scheme: KeyScheme): SessionObject[] => {
  try {
    return privateHalves(session, spki, scheme);
  } catch (error) {
    if (classifyPkcs11Error(error) === 'request') return [];
    throw error;
  }
};

/**
 * This very key under another label, as a copy in another token may have: a key is what its public half says, not what it is called.
 * Of a private half without a label of its own nothing is known.
 * @throws HSM_KEY_MISMATCH when the label names two private keys
 */
export const findKeyCopy = (session: Session, spki: Der, scheme: KeyScheme): TokenKey | undefined => {
  const labels = callingHsm('look for a copy of a key', () =>
    privateHalvesIfTold(session, spki, scheme).flatMap((half) => attributeOf(half, pkcs11.CKA_LABEL)?.toString('utf8') ?? []),
  );
  for (const label of labels) {
    const key = findKey(session, label, scheme);
    if (key !== undefined && samePublicKey(key.spki, spki)) return key;
  }
  return undefined;
};

const ulongOctets = process.platform === 'win32' || process.arch === 'arm' || process.arch === 'ia32' ? 4 : 8;

/** A CK_MECHANISM_TYPE as the token has it in memory: a CK_ULONG of this platform. */
const mechanismList = (mechanism: number): Buffer => {
  const list = Buffer.alloc(ulongOctets);
  if (endianness() === 'LE') list.writeUInt32LE(mechanism, 0);
  else list.writeUInt32BE(mechanism, ulongOctets - 4);
  return list;
};

const generateInToken = (session: Session, label: string, scheme: KeyScheme): void => {
  const id = randomBytes(16);
  const publicTemplate: ITemplate = { token: true, private: false, label, id, verify: true, encrypt: false, wrap: false };
  // Said in full: where a template is silent, some tokens allow everything.
  const privateTemplate: ITemplate = {
    token: true,
    private: true,
    sensitive: true,
    extractable: false,
    label,
    id,
    sign: true,
    decrypt: false,
    unwrap: false,
    derive: false,
  };
  if (scheme.kind === 'ecdsa') Object.assign(publicTemplate, { paramsEC: Buffer.from(ecParameters(scheme.curve)), derive: false });
  else Object.assign(publicTemplate, { modulusBits: scheme.bits, publicExponent: Buffer.from([1, 0, 1]) });
  const mechanism = scheme.kind === 'ecdsa' ? KeyGenMechanism.ECDSA : KeyGenMechanism.RSA;
  const restricted: ITemplate = { ...privateTemplate, signRecover: false, allowedMechanisms: mechanismList(allowedMechanism(scheme)) };
  try {
    session.generateKeyPair(mechanism, { ...publicTemplate }, restricted);
  } catch (error) {
    if (classifyPkcs11Error(error) !== 'request') throw error;
    // Older tokens know neither attribute; whatever else they refuse, they will refuse again.
    session.generateKeyPair(mechanism, { ...publicTemplate }, { ...privateTemplate });
  }
};

/**
 * Makes a key pair in the token: it never leaves it, and it only signs. What an interrupted generation left under the
 * label is removed first.
 *
 * @param session read-write and logged in
 * @throws HSM_LOGIN_LOST, HSM_REQUEST when the token cannot do the scheme, INTERNAL when a whole key of this label exists
 */
export const generateKeyPair = (session: Session, options: { label: string; scheme: KeyScheme }): TokenKey => {
  const { label, scheme } = options;
  return callingHsm(`generate the key "${label}" (${describeScheme(scheme)})`, () => {
    // Else the public half of a whole key would look like what an interruption has left.
    requireLogin(session);
    const pair = findPair(session, label);
    const state = stateOfPair(pair);
    invariant(state !== 'whole', `a key with the label "${label}" exists`);
    for (const half of [pair.privateKey, pair.publicKey]) half?.destroy();
    generateInToken(session, label, scheme);
    const key = findKey(session, label, scheme);
    invariant(key !== undefined, `the key "${label}" was generated and is not there`);
    return key;
  });
};

const verifies = (scheme: KeyScheme, digest: SignatureDigest, spki: Der, tbs: Uint8Array, signature: Uint8Array): boolean => {
  const key = createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' });
  if (scheme.kind !== 'rsa-pss') return verify(digest, tbs, key, signature);
  return verify(digest, tbs, { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST }, signature);
};

/**
 * No self-test, no service: the key signs a random challenge, the signature verifies outside the token, and the
 * certificate holds this very key.
 *
 * @throws HSM_SELFTEST_FAILED, HSM_KEY_MISMATCH
 */
export const selfTest = (key: TokenKey, certificate?: X509Certificate, digest: SignatureDigest = defaultDigest(key.scheme)): void => {
  if (certificate !== undefined && !samePublicKey(certificate.publicKey.export({ format: 'der', type: 'spki' }), key.spki)) {
    throw new SigilloError('HSM_KEY_MISMATCH', `key "${key.label}", certificate of ${certificate.subject.replaceAll('\n', ', ')}`);
  }
  const challenge = randomBytes(64);
  if (!verifies(key.scheme, digest, key.spki, challenge, key.sign(challenge, digest))) {
    throw new SigilloError('HSM_SELFTEST_FAILED', `key "${key.label}"`);
  }
};
