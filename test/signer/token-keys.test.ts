import assert from 'node:assert/strict';
import { constants, createPublicKey, generateKeyPairSync, verify, X509Certificate } from 'node:crypto';
import { after, before, test } from 'node:test';
import { ObjectClass, type Session } from 'graphene-pk11';
import pkcs11 from 'pkcs11js';
import { issueCertificate } from '../../authority/issue.ts';
import type { SigilloError } from '../../config/errors.ts';
import { tsuAlgorithms } from '../../config/schema.ts';
import { keyScheme, type SignatureDigest } from '../../pki/algorithms.ts';
import { ensureEmbeddedTokens } from '../../signer/embedded-token.ts';
import { embeddedModule, type HsmModule, openModule, resolveHsm, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { findKey, findKeyCopy, generateKeyPair, keyState, selfTest, type TokenKey } from '../../signer/token-keys.ts';
import { configOf, temporaryFolder, withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm;
const folder = temporaryFolder();
let module: HsmModule;
let session: Session;

before(() => {
  if (skip !== false) return;
  const config = configOf(folder.path);
  ensureEmbeddedTokens(config);
  const hsm = resolveHsm(config);
  module = openModule(embeddedModule(config));
  const slot = slotForPurpose(hsm, 'timestamp');
  module.login(slot);
  session = module.openSession(slot.label, { readWrite: true });
});
after(() => {
  module?.close();
  folder.remove();
});

const code =
  (expected: string, message = /./) =>
  (error: SigilloError) =>
    error.code === expected && message.test(error.message);
const p256 = keyScheme('ec-p256');
const privateKeys = (label: string): number => session.find({ class: ObjectClass.PRIVATE_KEY, label }).length;
const publicKeys = (label: string): number => session.find({ class: ObjectClass.PUBLIC_KEY, label }).length;
const attributeOf = (handle: Buffer, type: number): Buffer => module.lib.C_GetAttributeValue(session.handle, handle, [{ type }])[0]!.value;

const verifies = (key: TokenKey, digest: SignatureDigest, data: Buffer, signature: Uint8Array): boolean => {
  const publicKey = createPublicKey({ key: Buffer.from(key.spki), format: 'der', type: 'spki' });
  const pss = { key: publicKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST };
  return verify(digest, data, key.scheme.kind === 'rsa-pss' ? pss : publicKey, signature);
};

for (const algorithm of tsuAlgorithms) {
  test(`${algorithm}: made in the token, never leaves it, only signs, and signs with every digest`, { skip }, () => {
    const label = `key-${algorithm}`;
    const key = generateKeyPair(session, { label, scheme: keyScheme(algorithm) });
    assert.equal(key.id.length, 16);
    const value = (type: number): number => attributeOf(key.privateHandle, type)[0]!;
    for (const type of [
      pkcs11.CKA_TOKEN,
      pkcs11.CKA_PRIVATE,
      pkcs11.CKA_SENSITIVE,
      pkcs11.CKA_ALWAYS_SENSITIVE,
      pkcs11.CKA_NEVER_EXTRACTABLE,
      pkcs11.CKA_SIGN,
      pkcs11.CKA_LOCAL,
    ]) {
      assert.equal(value(type), 1, `attribute ${type}`);
    }
    for (const type of [pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE, pkcs11.CKA_SIGN_RECOVER]) {
      assert.equal(value(type), 0, `attribute ${type}`);
    }
    for (const type of key.scheme.kind === 'ecdsa' ? [pkcs11.CKA_VALUE] : [pkcs11.CKA_PRIVATE_EXPONENT, pkcs11.CKA_PRIME_1]) {
      assert.throws(() => attributeOf(key.privateHandle, type), { code: pkcs11.CKR_ATTRIBUTE_SENSITIVE });
    }
    assert.equal(attributeOf(key.privateHandle, pkcs11.CKA_ALLOWED_MECHANISMS).length, 8);
    for (const digest of ['sha256', 'sha384', 'sha512'] as const) {
      const data = Buffer.from(`signed with ${digest}`);
      assert.ok(verifies(key, digest, data, key.sign(data, digest)), digest);
      selfTest(key, undefined, digest);
    }
    const found = findKey(session, label, keyScheme(algorithm));
    assert.deepEqual([found?.id, found?.spki], [key.id, key.spki]);
    assert.equal(keyState(session, label), 'whole');
  });
}

test("the token itself refuses a mechanism that is not the key's", { skip }, () => {
  const key = generateKeyPair(session, { label: 'only-pss', scheme: keyScheme('rsa-pss-2048') });
  assert.throws(() => module.lib.C_SignInit(session.handle, { mechanism: pkcs11.CKM_SHA256_RSA_PKCS }, key.privateHandle));
});

test('a key that is not there, is of another type or size, or is there twice', { skip }, () => {
  assert.equal(findKey(session, 'nothing', p256), undefined);
  assert.equal(keyState(session, 'nothing'), 'absent');
  generateKeyPair(session, { label: 'typed', scheme: p256 });
  assert.throws(() => findKey(session, 'typed', keyScheme('ec-p384')), code('HSM_KEY_MISMATCH', /EC P-384/));
  assert.throws(() => findKey(session, 'typed', keyScheme('rsa-2048')), code('HSM_KEY_MISMATCH', /RSA 2048/));
  assert.throws(() => generateKeyPair(session, { label: 'typed', scheme: p256 }), code('INTERNAL', /exists/));
  const other = generateKeyPair(session, { label: 'typed-2', scheme: p256 });
  module.lib.C_SetAttributeValue(session.handle, other.privateHandle, [{ type: pkcs11.CKA_LABEL, value: Buffer.from('typed') }]);
  assert.throws(() => findKey(session, 'typed', p256), code('HSM_KEY_MISMATCH', /more than one/));
});

test('a key is found by its public half, whatever its label is, and another key is not', { skip }, () => {
  for (const algorithm of ['ec-p256', 'ec-p384', 'rsa-2048', 'rsa-pss-2048'] as const) {
    const scheme = keyScheme(algorithm);
    const { spki } = generateKeyPair(session, { label: `copy-${algorithm}`, scheme });
    const copy = findKeyCopy(session, spki, scheme);
    assert.equal(copy?.label, `copy-${algorithm}`);
    selfTest(copy);
    module.lib.C_DestroyObject(session.handle, copy.privateHandle);
    assert.equal(findKeyCopy(session, spki, scheme), undefined);
  }
});

test('half a pair is not found, and made again', { skip }, () => {
  for (const half of [ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY]) {
    const label = `half-${half}`;
    generateKeyPair(session, { label, scheme: p256 });
    session.find({ class: half, label }).items(0).destroy();
    assert.equal(keyState(session, label), 'unfinished');
    assert.equal(findKey(session, label, p256), undefined);
    const key = generateKeyPair(session, { label, scheme: p256 });
    selfTest(key);
    assert.deepEqual([privateKeys(label), publicKeys(label)], [1, 1]);
  }
});

test('a private half without its values is not found, and made again', { skip }, () => {
  const label = 'unfilled';
  generateKeyPair(session, { label, scheme: p256 });
  const { id } = findKey(session, label, p256)!;
  session.find({ class: ObjectClass.PRIVATE_KEY, label }).items(0).destroy();
  // What a kill between the two writes of a generation leaves: an object with its template and nothing else.
  session.create({
    class: ObjectClass.PRIVATE_KEY,
    keyType: pkcs11.CKK_EC,
    token: true,
    private: true,
    label,
    id: Buffer.from(id),
    sign: true,
    paramsEC: Buffer.from('06082a8648ce3d030107', 'hex'),
    value: Buffer.alloc(0),
  });
  assert.equal(keyState(session, label), 'unfinished');
  assert.equal(findKey(session, label, p256), undefined);
  selfTest(generateKeyPair(session, { label, scheme: p256 }));
  assert.equal(privateKeys(label), 1);
});

test('an imported pair, which is not local, is whole', { skip }, () => {
  const label = 'imported';
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const jwk = privateKey.export({ format: 'jwk' });
  const point = Buffer.concat([Buffer.from([4, 65, 4]), Buffer.from(jwk.x!, 'base64url'), Buffer.from(jwk.y!, 'base64url')]);
  const common = { token: true, label, id: Buffer.from([9]), keyType: pkcs11.CKK_EC, paramsEC: Buffer.from('06082a8648ce3d030107', 'hex') };
  session.create({ ...common, class: ObjectClass.PRIVATE_KEY, private: true, sign: true, value: Buffer.from(jwk.d!, 'base64url') });
  session.create({ ...common, class: ObjectClass.PUBLIC_KEY, private: false, verify: true, pointEC: point });
  const key = findKey(session, label, p256);
  assert.deepEqual(Buffer.from(key!.spki), publicKey.export({ format: 'der', type: 'spki' }));
  selfTest(key!);
});

test('the self-test refuses a certificate for another key, and a signature that does not verify', { skip }, async () => {
  const key = generateKeyPair(session, { label: 'tested', scheme: keyScheme('ec-p384') });
  const another = generateKeyPair(session, { label: 'tested-2', scheme: keyScheme('ec-p384') });
  const certificate = await issueCertificate({
    kind: 'root-ca',
    spki: key.spki,
    issuer: { signer: key, certificate: undefined },
    now: new Date(),
  });
  assert.ok(certificate instanceof X509Certificate);
  selfTest(key, certificate);
  assert.throws(() => selfTest(another, certificate), code('HSM_KEY_MISMATCH', /tested-2/));
  const lying: TokenKey = { ...key, sign: another.sign };
  assert.throws(() => selfTest(lying), code('HSM_SELFTEST_FAILED'));
});

test('an error of the token while signing is classified', { skip }, () => {
  const key = generateKeyPair(session, { label: 'destroyed', scheme: p256 });
  module.lib.C_DestroyObject(session.handle, key.privateHandle);
  assert.throws(() => key.sign(Buffer.from('x')), code('HSM_DEVICE', /CKR_(KEY|OBJECT)_HANDLE_INVALID/));
});
