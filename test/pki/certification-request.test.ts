import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { constants, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { defaultDigest, keyScheme } from '../../pki/algorithms.ts';
import {
  certificationRequest,
  certificationRequestInfo,
  certificationRequestPem,
  parseSubject,
  type SubjectAttribute,
} from '../../pki/certification-request.ts';
import { rsaPublicKeyInfo } from '../../pki/public-key.ts';
import { openssl, temporaryFolder } from '../support/token-home.ts';

const folder = temporaryFolder();
after(folder.remove);

const subject = parseSubject(
  'C=IT,O=Esempio S.p.A.\\, Arezzo,organizationIdentifier=VATIT-01234567890,CN=Unità di marcatura 1',
) as SubjectAttribute[];

const keys = (algorithm: string): { publicKey: KeyObject; privateKey: KeyObject } =>
  algorithm.startsWith('ec')
    ? generateKeyPairSync('ec', { namedCurve: algorithm === 'ec-p256' ? 'P-256' : 'P-384' })
    : generateKeyPairSync('rsa', { modulusLength: 2_048 });

for (const algorithm of ['ec-p256', 'ec-p384', 'rsa-2048', 'rsa-pss-2048']) {
  test(`OpenSSL verifies a request of ${algorithm}, and reads what it asks for`, () => {
    const { publicKey, privateKey } = keys(algorithm);
    const scheme = keyScheme(algorithm);
    const digest = defaultDigest(scheme);
    const { n, e } = publicKey.export({ format: 'jwk' });
    const spki =
      scheme.kind === 'rsa-pss'
        ? rsaPublicKeyInfo('rsa-pss', Buffer.from(n as string, 'base64url'), Buffer.from(e as string, 'base64url'))
        : publicKey.export({ format: 'der', type: 'spki' });
    const info = certificationRequestInfo(subject, spki);
    const pss = { key: privateKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST };
    const signature = sign(digest, info, scheme.kind === 'rsa-pss' ? pss : privateKey);
    const file = join(folder.path, `${algorithm}.csr`);
    writeFileSync(file, certificationRequestPem(certificationRequest(info, scheme, digest, signature)));
    const text = openssl('req', '-verify', '-in', file, '-noout', '-text', '-nameopt', 'utf8,sep_comma_plus_space');
    assert.match(text, /Version: 1 \(0x0\)/);
    assert.match(text, /Subject: C=IT, O=Esempio S\.p\.A\., Arezzo, organizationIdentifier=VATIT-01234567890, CN=Unità di marcatura 1/);
    assert.match(text, /X509v3 Key Usage: critical\s+Digital Signature\n/);
    assert.match(text, /X509v3 Extended Key Usage: critical\s+Time Stamping\n/);
    const other = sign(digest, Buffer.from('something else'), scheme.kind === 'rsa-pss' ? pss : privateKey);
    const broken = join(folder.path, 'broken.csr');
    writeFileSync(broken, certificationRequestPem(certificationRequest(info, scheme, digest, other)));
    const judged = spawnSync('openssl', ['req', '-verify', '-in', broken, '-noout'], { encoding: 'utf8' });
    assert.match(judged.stderr, /verify failure|Signature did not match/i);
  });
}

test('what is no subject is refused, with the reason', () => {
  for (const [text, why] of [
    ['', /list/],
    ['O=Example', /CN is missing/],
    ['C=Italy,CN=a', /two capital letters/],
    ['X=1,CN=a', /X=1/],
    ['CN=', /CN/],
    [`CN=${'x'.repeat(65)}`, /64/],
  ] as const) {
    const result = parseSubject(text);
    assert.ok(typeof result === 'string' && why.test(result), `${text}: ${JSON.stringify(result)}`);
  }
  assert.deepEqual(parseSubject('c=IT, cn = a\\=b'), [
    { type: 'C', value: 'IT' },
    { type: 'CN', value: 'a=b' },
  ]);
});
