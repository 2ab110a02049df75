/** Every kind of key and digest and every setting of a token through the whole service, judged by programs that are not ours. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { digestNames, type TsuAlgorithm, tsuAlgorithms } from '../../config/schema.ts';
import { forEachAtOnce, type RelyingParty } from '../support/openssl-ts.ts';
import { type Service, ServiceFolder } from '../support/service.ts';
import { atOnce, count, newParty, stamp, withoutInterop } from '../support/timestamp-interop.ts';

/** One home for every configuration: the key of another algorithm is made at the next start. */
const home = new ServiceFolder();
after(home.remove);

/** What OpenSSL calls the signature of each kind of key. */
const signatureNames: Readonly<Record<TsuAlgorithm, string>> = {
  'ec-p256': 'ecdsa-with-SHA256',
  'ec-p384': 'ecdsa-with-SHA384',
  'rsa-2048': 'sha256WithRSAEncryption|rsaEncryption',
  'rsa-3072': 'sha256WithRSAEncryption|rsaEncryption',
  'rsa-4096': 'sha256WithRSAEncryption|rsaEncryption',
  'rsa-pss-2048': 'rsassaPss',
  'rsa-pss-3072': 'rsassaPss',
  'rsa-pss-4096': 'rsassaPss',
};

interface Combination {
  readonly digest: string;
  readonly certReq: boolean;
  readonly nonce: boolean;
}

/** The token as CMS and as ASN.1: profile of ETSI EN 319 422 and the form that DER demands. */
const inspectToken = async (
  party: RelyingParty,
  tst: string,
  name: string,
  algorithm: TsuAlgorithm,
  wanted: Combination,
): Promise<void> => {
  const cms = await party.openssl('cms', '-cmsout', '-print', '-noout', '-inform', 'DER', '-in', tst);
  assert.match(cms, /d\.signedData: \n {4}version: 3\n/, name);
  assert.match(cms, /eContentType: id-smime-ct-TSTInfo/, name);
  assert.match(cms, wanted.certReq ? /certificates:\n {6}d\.certificate/ : /certificates:\n {6}<ABSENT>/, name);
  assert.equal(count(cms, /d\.certificate: /g), wanted.certReq ? 2 : 0, `${name}: TSU and timestamp CA, without the root`);
  assert.match(cms, /crls:\n {6}<ABSENT>/, name);
  assert.equal(count(cms, /d\.issuerAndSerialNumber: /g), 1, `${name}: one SignerInfo`);
  assert.equal(count(cms, /signingCertificateV2/g), 1, name);
  assert.doesNotMatch(cms, /signingCertificate \(/, `${name}: no ESSCertID of version 1`);
  assert.match(cms, /unsignedAttrs:\n {10}<ABSENT>/, name);
  assert.match(cms, new RegExp(`signatureAlgorithm: \n {10}algorithm: (${signatureNames[algorithm]}) `), name);

  const asn1 = await party.openssl('asn1parse', '-inform', 'DER', '-in', tst);
  assert.doesNotMatch(asn1, /l= *inf|BAD OBJECT/, name);
  assert.match(asn1.split('\n')[0] ?? '', /d=0 .*SEQUENCE/, name);
  assert.equal(count(asn1, /:id-smime-aa-signingCertificateV2/g), 1, name);
};

/** TSTInfo, as OpenSSL takes it out of a signature that it found good. */
const inspectTstInfo = async (party: RelyingParty, tst: string, name: string, wanted: Combination): Promise<void> => {
  const info = `${name}.info`;
  // cms -verify takes path certificates from the message or from the trusted file only.
  const trusted = wanted.certReq ? ['-CAfile', party.trust] : ['-CAfile', party.everything, '-certfile', party.chain];
  await party.openssl('cms', '-verify', '-inform', 'DER', '-in', tst, ...trusted, '-purpose', 'timestampsign', '-out', info);
  const lines = (await party.openssl('asn1parse', '-inform', 'DER', '-in', info)).trim().split('\n');
  const top = lines.filter((line) => /^ *\d+:d=1 /.test(line));
  assert.match(lines[1] ?? '', /INTEGER +:01$/, `${name}: version 1`);
  const genTimes = lines.filter((line) => line.includes('GENERALIZEDTIME'));
  assert.equal(genTimes.length, 1, name);
  assert.match(genTimes[0] ?? '', /GENERALIZEDTIME +:\d{14}(\.\d{0,2}[1-9])?Z$/, `${name}: genTime in DER form, to the millisecond`);
  // version, policy, imprint, serial, genTime, accuracy, and the nonce: neither ordering (its DEFAULT) nor anything else.
  assert.equal(top.length, wanted.nonce ? 7 : 6, `${name}:\n${lines.join('\n')}`);
};

const checkCombination = async (service: Service, party: RelyingParty, algorithm: TsuAlgorithm, wanted: Combination): Promise<void> => {
  const name = `${wanted.digest}${wanted.certReq ? '-cert' : ''}${wanted.nonce ? '-nonce' : ''}`;
  const data = party.write(`${name}.data`, randomBytes(300));
  const hash = createHash(wanted.digest)
    .update(readFileSync(join(party.folder, data)))
    .digest('hex');
  const what = wanted.nonce ? ['-data', data] : ['-digest', hash];
  const flags = [...(wanted.certReq ? ['-cert'] : []), ...(wanted.nonce ? [] : ['-no_nonce'])];
  const { tsq, tsr } = await stamp(service, party, name, [...what, `-${wanted.digest}`, ...flags]);

  const chain = { withChain: !wanted.certReq };
  for (const against of [
    ['-queryfile', tsq],
    ['-data', data],
  ]) {
    const verdict = await party.verify(tsr, against, chain);
    assert.match(verdict.stdout, /^Verification: OK$/m, `${algorithm} ${name} ${against[0]}: ${verdict.stderr}`);
  }
  if (!wanted.certReq && wanted.digest === 'sha256') {
    const verdict = await party.verify(tsr, ['-queryfile', tsq], { withChain: false });
    assert.match(verdict.stdout, /FAILED/, `${algorithm} ${name}: the certificate is nowhere, so it must not verify`);
  }
  const text = await party.text(tsr);
  assert.match(text, /Status: Granted\.\nStatus description: unspecified\nFailure info: unspecified\n/);
  assert.match(text, new RegExp(`Version: 1\\nPolicy OID: 1\\.3\\.6\\.1\\.4\\.1\\.32473\\.1\\.1\\nHash Algorithm: ${wanted.digest}\\n`));
  assert.match(text, /Accuracy: 0x01 seconds, unspecified millis, unspecified micros\nOrdering: no\n/);
  assert.match(text, wanted.nonce ? /Nonce: 0x[0-9A-F]+\n/ : /Nonce: unspecified\n/);
  assert.match(text, /TSA: unspecified\nExtensions:\n/);

  const tst = `${name}.tst`;
  await party.openssl('ts', '-reply', '-in', tsr, '-token_out', '-out', tst);
  await inspectToken(party, tst, name, algorithm, wanted);
  await inspectTstInfo(party, tst, name, wanted);
};

const combinations: readonly Combination[] = digestNames.flatMap((digest) =>
  [true, false].flatMap((certReq) => [true, false].map((nonce) => ({ digest, certReq, nonce }))),
);

describe('every key kind, digest, certReq and nonce', { skip: withoutInterop }, () => {
  for (const algorithm of tsuAlgorithms) {
    test(algorithm, async () => {
      const service = await home.start({ environment: { SIGILLO__TIMESTAMP__ALGORITHM: algorithm } });
      try {
        const party = await newParty(home, algorithm, service);
        await forEachAtOnce(combinations, atOnce, (wanted) => checkCombination(service, party, algorithm, wanted));
        // What verifies must also be able to fail: other data, and a signature with one bit turned.
        const verdict = await party.verify('sha256-cert-nonce.tsr', ['-data', 'sha256.data'], { withChain: false });
        assert.match(verdict.stdout, /FAILED/);
        const bytes = readFileSync(join(party.folder, 'sha256-cert-nonce.tsr'));
        bytes[bytes.length - 1]! ^= 1;
        party.write('turned.tsr', bytes);
        const turned = await party.verify('turned.tsr', ['-queryfile', 'sha256-cert-nonce.tsq'], { withChain: false });
        assert.match(turned.stdout, /FAILED/);
      } finally {
        assert.equal(await service.stop(), 0, service.lastOutput);
      }
    });
  }
});

describe('what the configuration changes in a token', { skip: withoutInterop }, () => {
  const check = async (
    name: string,
    settings: Record<string, unknown>,
    use: (service: Service, party: RelyingParty) => Promise<void>,
  ): Promise<void> => {
    const service = await home.start({ settings: { timestamp: settings, time: { unverifiedMicros: 1_000 } } });
    try {
      await use(service, await newParty(home, name, service));
    } finally {
      assert.equal(await service.stop(), 0, service.lastOutput);
    }
  };
  const granted = async (service: Service, party: RelyingParty, name: string, query: readonly string[]): Promise<string> => {
    const data = party.write(`${name}.data`, randomBytes(100));
    const { tsq, tsr } = await stamp(service, party, name, ['-data', data, '-cert', ...query]);
    const verdict = await party.verify(tsr, ['-queryfile', tsq], { withChain: false });
    assert.match(verdict.stdout, /Verification: OK/, verdict.stderr);
    return party.text(tsr);
  };

  test('tsa name, the qualified statement, fine accuracy, a second policy', async () => {
    const settings = {
      tsaName: 'subject',
      qualified: true,
      accuracyMicros: 250_250,
      policies: ['1.3.6.1.4.1.32473.9', '1.3.6.1.4.1.32473.10.200000'],
    };
    await check('variant-full', settings, async (service, party) => {
      const text = await granted(service, party, 'full', ['-sha256']);
      assert.match(text, /Policy OID: 1\.3\.6\.1\.4\.1\.32473\.9\n/);
      assert.match(text, /Accuracy: unspecified seconds, 0xFA millis, 0xFA micros\n/);
      assert.match(text, /TSA: DirName:\/O=Sigillo Demonstration\/CN=Sigillo Demonstration TSU /);
      assert.match(text, /Extensions:\nqcStatements: *\n/);
      assert.match(
        await granted(service, party, 'second', ['-sha512', '-tspolicy', '1.3.6.1.4.1.32473.10.200000']),
        /Policy OID: 1\.3\.6\.1\.4\.1\.32473\.10\.200000\n/,
      );
      // The name in the token is the subject of the certificate that signed, and the extension is not critical.
      await party.openssl('ts', '-reply', '-in', 'full.tsr', '-token_out', '-out', 'full.tst');
      await party.openssl(
        'cms',
        '-verify',
        '-inform',
        'DER',
        '-in',
        'full.tst',
        '-CAfile',
        party.trust,
        '-purpose',
        'timestampsign',
        '-out',
        'full.info',
      );
      const info = await party.openssl('asn1parse', '-inform', 'DER', '-in', 'full.info');
      assert.match(info, /:qcStatements\n.*OCTET STRING +\[HEX DUMP\]:300B300906070400[0-9A-F]*0101\n/);
    });
  });

  test('accuracy of a millisecond, to which the cut of genTime adds another, and a digest list that leaves something out', async () => {
    await check('variant-milli', { accuracyMicros: 1_000, digests: ['sha512', 'sha3-512'] }, async (service, party) => {
      assert.match(await granted(service, party, 'milli', ['-sha512']), /Accuracy: unspecified seconds, 0x02 millis, unspecified micros\n/);
      const { tsr } = await stamp(service, party, 'refused', ['-data', party.write('refused.data', 'x'), '-sha256']);
      assert.match(await party.text(tsr), /Failure info: unrecognized or unsupported algorithm identifier\n/);
    });
  });

  for (const [algorithm, signatureDigest, name] of [
    ['ec-p256', 'sha512', 'ecdsa-with-SHA512'],
    ['rsa-3072', 'sha384', 'sha384WithRSAEncryption|rsaEncryption'],
    ['rsa-pss-2048', 'sha512', 'rsassaPss'],
  ] as const) {
    test(`${algorithm} with ${signatureDigest}`, async () => {
      await check(`variant-${algorithm}`, { algorithm, signatureDigest }, async (service, party) => {
        await granted(service, party, 'token', ['-sha256']);
        await party.openssl('ts', '-reply', '-in', 'token.tsr', '-token_out', '-out', 'token.tst');
        const cms = await party.openssl('cms', '-cmsout', '-print', '-noout', '-inform', 'DER', '-in', 'token.tst');
        assert.match(cms, new RegExp(`digestAlgorithm: \\n {10}algorithm: ${signatureDigest} `));
        assert.match(cms, new RegExp(`signatureAlgorithm: \\n {10}algorithm: (${name}) `));
        if (name !== 'rsassaPss') return;
        // RSASSA-PSS-params of the signature: digest, MGF1 with the same digest, a salt of as many octets.
        const asn1 = await party.openssl('asn1parse', '-inform', 'DER', '-in', 'token.tst');
        const parameters = asn1.slice(asn1.lastIndexOf(':rsassaPss'));
        assert.match(parameters, /OBJECT +:sha512\n.*OBJECT +:mgf1\n.*OBJECT +:sha512\n.*INTEGER +:40\n/s);
      });
    });
  }
});
