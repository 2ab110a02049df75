import assert from 'node:assert/strict';
import { generateKeyPairSync, type KeyObject, sign, type X509Certificate } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { type CertificateSigner, issueCertificate } from '../../authority/issue.ts';
import type { SigilloError } from '../../config/errors.ts';
import { isTimeStampingCertificate, privateKeyUsagePeriod } from '../../pki/tsu-usage.ts';
import { openssl, temporaryFolder } from '../support/token-home.ts';

const folder = temporaryFolder();
after(folder.remove);

const spkiOf = (key: KeyObject): Uint8Array => key.export({ format: 'der', type: 'spki' });
const softwareCa = (): CertificateSigner => {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
  return { scheme: { kind: 'ecdsa', curve: 'P-384' }, spki: spkiOf(publicKey), sign: (tbs) => sign('sha384', tbs, privateKey) };
};
const rootSigner = softwareCa();
const caSigner = softwareCa();
const tsuSpki = spkiOf(generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey);
const now = new Date('2026-03-04T05:06:07.890Z');

const issueRoot = (at = now): Promise<X509Certificate> =>
  issueCertificate({ kind: 'root-ca', spki: rootSigner.spki, issuer: { signer: rootSigner, certificate: undefined }, now: at });
const issueCa = (root: X509Certificate, at = now): Promise<X509Certificate> =>
  issueCertificate({ kind: 'timestamp-ca', spki: caSigner.spki, issuer: { signer: rootSigner, certificate: root }, now: at });
const issueTsu = (ca: X509Certificate, at = now, signer = caSigner): Promise<X509Certificate> =>
  issueCertificate({ kind: 'tsu', spki: tsuSpki, issuer: { signer, certificate: ca }, now: at });

const root = await issueRoot();
const ca = await issueCa(root);
const tsu = await issueTsu(ca);
const fileOf = (name: string, certificate: X509Certificate): string => {
  const file = join(folder.path, name);
  writeFileSync(file, certificate.toString());
  return file;
};
const rootFile = fileOf('root.pem', root);
const caFile = fileOf('ca.pem', ca);
const tsuFile = fileOf('tsu.pem', tsu);
const textOf = (file: string): string => openssl('x509', '-noout', '-text', '-in', file);

test('OpenSSL verifies the chain strictly, for timestamping', () => {
  const at = ['-attime', String((now.getTime() / 1_000 + 3_600) | 0)];
  assert.match(
    openssl('verify', '-x509_strict', ...at, '-purpose', 'timestampsign', '-CAfile', rootFile, '-untrusted', caFile, tsuFile),
    /OK/,
  );
});

test('the TSU profile as OpenSSL prints it', () => {
  const text = textOf(tsuFile);
  assert.match(text, /Extended Key Usage: critical\n\s+Time Stamping\n/);
  assert.match(text, /X509v3 Key Usage: critical\n\s+Digital Signature\n/);
  assert.match(text, /Private Key Usage Period: \n\s+Not Before: Mar {2}4 05:06:07 2026 GMT, Not After: Jun {2}2 05:06:07 2026 GMT/);
  assert.match(text, /Subject: O ?= ?Sigillo Demonstration, CN ?= ?Sigillo Demonstration TSU 2026-03-04 [0-9a-f]{16}\n/);
  assert.match(text, /Not Before: Mar {2}4 05:06:07 2026 GMT\n\s+Not After : Mar {2}4 05:06:07 2032 GMT/);
  assert.match(text, /Subject Key Identifier/);
  assert.match(text, /Authority Key Identifier/);
  assert.doesNotMatch(text, /Certificate Policies|Basic Constraints/);
});

test('the CA profiles as OpenSSL prints them', () => {
  assert.match(textOf(rootFile), /Basic Constraints: critical\n\s+CA:TRUE\n/);
  assert.match(textOf(rootFile), /Key Usage: critical\n\s+Certificate Sign, CRL Sign\n/);
  assert.match(textOf(caFile), /CA:TRUE, pathlen:0\n/);
  assert.match(textOf(caFile), /X509v3 Any Policy/);
  assert.match(textOf(caFile), /ecdsa-with-SHA384/);
  assert.equal(root.validToDate.toISOString(), '2046-03-04T05:06:07.000Z');
  assert.equal(ca.validToDate.toISOString(), '2038-03-04T05:06:07.000Z');
});

test('privateKeyUsagePeriod and extended key usage are read back from the certificate', () => {
  assert.deepEqual(privateKeyUsagePeriod(tsu.raw), {
    notBefore: new Date('2026-03-04T05:06:07Z'),
    notAfter: new Date('2026-06-02T05:06:07Z'),
  });
  assert.equal(privateKeyUsagePeriod(ca.raw), undefined);
  assert.equal(isTimeStampingCertificate(tsu.raw), true);
  assert.equal(isTimeStampingCertificate(ca.raw), false);
});

test('each TSU has a name and a serial number of its own: positive, 16 octets', async () => {
  const others = await Promise.all(Array.from({ length: 50 }, () => issueTsu(ca)));
  const all = [tsu, ...others];
  assert.equal(new Set(all.map((certificate) => certificate.subject)).size, all.length);
  assert.equal(new Set(all.map((certificate) => certificate.serialNumber)).size, all.length);
  for (const certificate of all) assert.match(certificate.serialNumber, /^[4-7][0-9A-F]{31}$/);
});

test('dates are UTCTime through 2049 and GeneralizedTime from 2050 (RFC 5280, 4.1.2.5)', async () => {
  const late = await issueRoot(new Date('2049-12-31T23:59:59Z'));
  const types = openssl('asn1parse', '-in', fileOf('late.pem', late));
  assert.match(types, /UTCTIME\s+:491231235959Z/);
  assert.match(types, /GENERALIZEDTIME\s+:20691231235959Z/);
});

test('a certificate does not outlive its issuer', async () => {
  const at = new Date('2035-01-01T00:00:00Z');
  assert.equal((await issueTsu(ca, at)).validToDate.toISOString(), ca.validToDate.toISOString());
});

const rejects = (run: Promise<unknown>, code: string, message: RegExp): Promise<void> =>
  assert.rejects(run, (error: SigilloError) => error.code === code && message.test(error.message));

test('an expired issuer, and a clock before the issuer, are refused', async () => {
  await rejects(issueTsu(ca, new Date('2039-01-01T00:00:00Z')), 'CERTIFICATE_INVALID', /expired/);
  await rejects(issueTsu(ca, new Date('2026-03-01T00:00:00Z')), 'CERTIFICATE_INVALID', /check the clock/);
});

test('a signer that is not the issuer is refused, and so is one that signs wrongly', async () => {
  await rejects(issueTsu(ca, now, rootSigner), 'HSM_KEY_MISMATCH', /Timestamp CA/);
  await rejects(issueTsu(ca, now, { ...caSigner, sign: rootSigner.sign }), 'CERTIFICATE_INVALID', /does not verify/);
});
