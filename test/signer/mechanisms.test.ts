import assert from 'node:assert/strict';
import { hash } from 'node:crypto';
import { test } from 'node:test';
import pkcs11 from 'pkcs11js';
import { keyScheme, type SignatureDigest } from '../../pki/algorithms.ts';
import { createSignInput, rawSignatureOctets, signInput, signMechanism } from '../../signer/mechanisms.ts';

const digests: SignatureDigest[] = ['sha256', 'sha384', 'sha512'];

test('the same arguments give the same mechanism object', () => {
  for (const name of ['ec-p256', 'rsa-2048', 'rsa-pss-3072']) {
    for (const digest of digests) assert.equal(signMechanism(keyScheme(name), digest), signMechanism(keyScheme(name), digest));
  }
});

test('PSS names digest, mask and a salt as long as the digest', () => {
  assert.deepEqual(signMechanism(keyScheme('rsa-pss-2048'), 'sha384'), {
    mechanism: pkcs11.CKM_RSA_PKCS_PSS,
    parameter: { type: pkcs11.CK_PARAMS_RSA_PSS, hashAlg: pkcs11.CKM_SHA384, mgf: pkcs11.CKG_MGF1_SHA384, saltLen: 48 },
  });
});

test('ECDSA signs the leftmost octets of a hash longer than the order', () => {
  const long = hash('sha512', 'x', 'buffer');
  assert.deepEqual(signInput(keyScheme('ec-p256'), 'sha512', long), long.subarray(0, 32));
  assert.deepEqual(signInput(keyScheme('ec-p384'), 'sha512', long), long.subarray(0, 48));
  const short = hash('sha256', 'x', 'buffer');
  assert.deepEqual(signInput(keyScheme('ec-p384'), 'sha256', short), short);
});

test('PKCS#1 v1.5 signs DigestInfo (RFC 8017, 9.2, note 1)', () => {
  const digest = hash('sha256', 'x', 'buffer');
  const prefix = Buffer.from('3031300d060960864801650304020105000420', 'hex');
  assert.deepEqual(signInput(keyScheme('rsa-2048'), 'sha256', digest), Buffer.concat([prefix, digest]));
});

test('the hot function for DigestInfo uses one buffer again and again', () => {
  const input = createSignInput(keyScheme('rsa-2048'), 'sha256');
  const first = input(hash('sha256', 'a', 'buffer'));
  const copy = Buffer.from(first);
  const second = input(hash('sha256', 'b', 'buffer'));
  assert.equal(second, first);
  assert.notDeepEqual(second, copy);
});

test('raw signatures have the length of their kind', () => {
  assert.deepEqual(
    ['ec-p256', 'ec-p384', 'rsa-2048', 'rsa-pss-4096'].map((name) => rawSignatureOctets(keyScheme(name))),
    [64, 96, 256, 512],
  );
});
