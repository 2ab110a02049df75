import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import type { Der } from '../../pki/der.ts';
import { ca, rsa, TimestampWorld, tsu } from '../support/timestamp-world.ts';

describe('certificates of timestamps', () => {
  const world = new TimestampWorld();
  const { pki, root, timestampCa } = world;
  const token: TimestampWorld['token'] = (more) => world.token(more);
  const reasonOf: TimestampWorld['reasonOf'] = (bytes, more) => world.reasonOf(bytes, more);
  const expectReason: TimestampWorld['expectReason'] = (reason, bytes, more) => world.expectReason(reason, bytes, more);
  after(() => pki.close());

  test('the certificate of the TSU', () => {
    const withTsu = (name: string, extensions: readonly string[]): Der =>
      token({ signer: pki.issue(name, { issuer: timestampCa, extensions }) });
    expectReason('extended-key-usage', withTsu('eku-two', ['extendedKeyUsage=critical,timeStamping,serverAuth']));
    expectReason('extended-key-usage', withTsu('eku-soft', ['extendedKeyUsage=timeStamping']));
    expectReason('extended-key-usage', withTsu('eku-other', ['extendedKeyUsage=critical,serverAuth']));
    expectReason('extended-key-usage', withTsu('eku-none', ['keyUsage=digitalSignature']));
    expectReason('key-usage', withTsu('ku-encipher', ['keyUsage=critical,keyEncipherment', 'extendedKeyUsage=critical,timeStamping']));
    expectReason(
      'key-usage',
      withTsu('ku-also-encipher', ['keyUsage=digitalSignature,keyEncipherment', 'extendedKeyUsage=critical,timeStamping']),
    );
    expectReason('valid', withTsu('ku-repudiation', ['keyUsage=nonRepudiation', 'extendedKeyUsage=critical,timeStamping']));
    expectReason('chain-constraint', withTsu('critical', tsu('1.2.3.4=critical,DER:0500')));
    expectReason('chain-not-valid-at-gentime', token({ genTime: '20200101000000Z' }));
    expectReason('chain-not-valid-at-gentime', token({ genTime: '20990101000000Z' }));
  });

  test('genTime lies inside the private key usage period, its ends included', () => {
    const time = (text: string) => Buffer.from(text).toString('hex');
    const signer = pki.issue('pkup', {
      issuer: timestampCa,
      extensions: tsu(`2.5.29.16=DER:3022800f${time('20300101000000Z')}810f${time('20300401000000Z')}`),
    });
    for (const [genTime, reason] of [
      ['20291231235959.999Z', 'private-key-usage-period'],
      ['20300101000000Z', 'valid'],
      ['20300401000000Z', 'valid'],
      ['20300401000000.001Z', 'private-key-usage-period'],
    ] as const) {
      expectReason(reason, token({ signer, genTime }));
    }
    const broken = pki.issue('pkup-broken', { issuer: timestampCa, extensions: tsu('2.5.29.16=DER:0500') });
    assert.notEqual(reasonOf(token({ signer: broken })), 'valid');
  });

  test('the chain', () => {
    const throughCa = (name: string, extensions: readonly string[]): Der => {
      const issuer = pki.issue(name, { issuer: root, extensions });
      const signer = pki.issue(`${name}-tsu`, { issuer, extensions: tsu() });
      return token({ signer, certificates: [signer.certificate, issuer.certificate] });
    };
    expectReason('chain-untrusted', token(), { roots: [] });
    expectReason('chain-untrusted', token(), { untrusted: [] });
    expectReason('chain-untrusted', token(), { roots: [pki.issue('other-root', { subject: 'root', extensions: ca() }).certificate.raw] });
    expectReason('valid', token(), { roots: [timestampCa.certificate.raw], untrusted: [] });
    expectReason('valid', throughCa('plain-ca', ca()));
    expectReason('chain-untrusted', throughCa('no-sign-ca', ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,cRLSign']));
    expectReason('chain-constraint', throughCa('no-ca', ['basicConstraints=critical,CA:FALSE']));
    expectReason('chain-constraint', throughCa('no-constraints', ['keyUsage=critical,keyCertSign']));
    expectReason('chain-constraint', throughCa('named', ca('nameConstraints=critical,permitted;DNS:example.org')));
    expectReason('chain-algorithm', token({ signer: pki.issue('sha1-tsu', { issuer: timestampCa, digest: 'sha1', extensions: tsu() }) }));
    expectReason('valid', token({ signer: pki.issue('sha512-tsu', { issuer: timestampCa, digest: 'sha512', extensions: tsu() }) }));

    const brief = pki.issue('brief-ca', { issuer: root, validity: { to: new Date(Date.now() + 86_400_000) }, extensions: ca() });
    const outliving = pki.issue('brief-tsu', { issuer: brief, extensions: tsu() });
    const later = new Date(Date.now() + 3 * 86_400_000).toISOString().slice(0, 19).replace(/[-T:]/g, '');
    const certificates = [outliving.certificate, brief.certificate];
    expectReason('valid', token({ signer: outliving, certificates }));
    expectReason('chain-not-valid-at-gentime', token({ signer: outliving, certificates, genTime: `${later}Z` }));

    const below = pki.issue('below', { issuer: timestampCa, extensions: ca() });
    const belowTsu = pki.issue('below-tsu', { issuer: below, extensions: tsu() });
    expectReason('chain-constraint', token({ signer: belowTsu, certificates: [belowTsu.certificate, below.certificate] }));

    const forged = Buffer.from(timestampCa.certificate.raw);
    forged[forged.length - 1]! ^= 1;
    expectReason('chain-signature', token(), { untrusted: [forged] });
    // A forged candidate beside the right one does not keep the right one from being found.
    expectReason('valid', token(), { untrusted: [forged, timestampCa.certificate.raw] });
  });

  test('RSA certificates signed with PSS', () => {
    const pssOptions = ['-sigopt', 'rsa_padding_mode:pss', '-sigopt', 'rsa_pss_saltlen:32'];
    const pssRoot = pki.issue('pss-root', { key: rsa(2_048), signatureOptions: pssOptions, extensions: ca() });
    const signer = pki.issue('pss-leaf', { issuer: pssRoot, signatureOptions: pssOptions, extensions: tsu() });
    expectReason('valid', token({ signer }), { roots: [pssRoot.certificate.raw] });
  });

  test('many certificates that could all be each other’s issuer cost a bounded number of signatures', () => {
    const clones = Array.from({ length: 8 }, (_, i) =>
      pki.issue(`clone-${i}`, { subject: 'clone', extensions: ['basicConstraints=critical,CA:TRUE'] }),
    );
    const signer = pki.issue('clone-tsu', { issuer: clones[0]!, extensions: tsu('authorityKeyIdentifier=none') });
    const start = performance.now();
    const reason = reasonOf(token({ signer, certificates: [signer, ...clones].map(({ certificate }) => certificate) }), {
      untrusted: Array.from({ length: 64 }, (_, i) => clones[i % 8]!.certificate.raw),
    });
    assert.match(reason, /^chain-/);
    assert.ok(performance.now() - start < 2_000);
  });
});
