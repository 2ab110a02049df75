import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import fc from 'fast-check';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { type Der, encode, integer, octetString, oid, sequence, tag } from '../../pki/der.ts';
import { checkTimestampAnswer, readTimestamp, verifyTimestamp } from '../../pki/tsp-verify.ts';
import { attribute, essCertIdV2, issuerAndSerialNumber, makeResponse, sha256 } from '../support/timestamp-fixtures.ts';
import { data, rsa, TimestampWorld, tsu } from '../support/timestamp-world.ts';

describe('verification of timestamps', () => {
  const world = new TimestampWorld();
  const { pki, root, timestampCa, good, expectation } = world;
  const token: TimestampWorld['token'] = (more) => world.token(more);
  const reasonOf: TimestampWorld['reasonOf'] = (bytes, more) => world.reasonOf(bytes, more);
  const expectReason: TimestampWorld['expectReason'] = (reason, bytes, more) => world.expectReason(reason, bytes, more);
  after(() => pki.close());

  test('a good token, bare and in a response', () => {
    const bytes = token({
      genTime: '20301122040506.5Z',
      tstTail: [sequence(integer(1), encode(0x80, Buffer.of(0x01, 0xf4)), encode(0x81, Buffer.of(7)))],
    });
    for (const form of [bytes, makeResponse(0, bytes), makeResponse(1, bytes)]) {
      const verdict = verifyTimestamp(form, expectation);
      assert.ok(verdict.kind === 'valid', JSON.stringify(verdict));
      assert.equal(verdict.genTimeText, '2030-11-22T04:05:06.5Z');
      assert.equal(verdict.genTime.toISOString(), '2030-11-22T04:05:06.500Z');
      assert.equal(verdict.accuracyMicros, 1_500_007);
      assert.equal(verdict.policy, '1.3.6.1.4.1.32473.1.1');
      assert.equal(verdict.serialNumber, '4d');
      assert.equal(verdict.digest, 'sha256');
      assert.match(verdict.tsu, /CN=tsu/);
      assert.deepEqual(
        verdict.path.map((der) => Buffer.from(der)),
        [good, timestampCa, root].map(({ certificate }) => certificate.raw),
      );
    }
  });

  test('the certificates may be given instead of being in the token', () => {
    expectReason('signer-certificate-missing', token({ certificates: [] }));
    expectReason('valid', token({ certificates: [] }), { untrusted: [good.certificate.raw, timestampCa.certificate.raw] });
    expectReason('valid', token({ certificates: [root, timestampCa, good].map(({ certificate }) => certificate) }), { untrusted: [] });
  });

  test('tokens by openssl ts, for every kind of key that it can sign with', () => {
    for (const [name, key, digest] of [
      ['openssl-p256', ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256'], 'sha256'],
      ['openssl-p384', ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-384'], 'sha384'],
      ['openssl-rsa', rsa(2_048), 'sha512'],
    ] as const) {
      const signer = pki.issue(name, { issuer: timestampCa, key, extensions: tsu() });
      const settings = [
        '[tsa]',
        'default_tsa=x',
        '[x]',
        'serial=serial',
        'crypto_device=builtin',
        `signer_digest=${digest}`,
        'default_policy=1.2.3.4',
        'digests=sha256,sha512',
        'accuracy=secs:1,millisecs:500',
        'ess_cert_id_alg=sha256',
        'ess_cert_id_chain=no',
        'tsa_name=yes',
      ];
      pki.file('tsa.cnf', settings.join('\n'));
      pki.file('serial', '0123456789');
      pki.file('data', data);
      pki.openssl('ts', '-query', '-data', 'data', '-sha512', '-cert', '-out', 'query.tsq');
      pki.openssl(
        'ts',
        '-reply',
        '-config',
        'tsa.cnf',
        '-queryfile',
        'query.tsq',
        '-signer',
        signer.certificateFile,
        '-inkey',
        signer.keyFile,
        '-chain',
        timestampCa.certificateFile,
        '-out',
        'reply.tsr',
      );
      const verdict = verifyTimestamp(readFileSync(join(pki.folder, 'reply.tsr')), {
        messageImprint: { algorithm: digestAlgorithms.sha512.oid, hashedMessage: createHash('sha512').update(data).digest() },
        roots: [root.certificate.raw],
      });
      assert.ok(verdict.kind === 'valid', `${name}: ${JSON.stringify(verdict)}`);
      assert.equal(verdict.accuracyMicros, 1_500_000);
      assert.equal(verdict.policy, '1.2.3.4');
    }
  });

  test('our own fixtures verify with openssl ts, so a refusal is about the fault alone', () => {
    pki.file('data', data);
    pki.file('own.tsr', makeResponse(0, token()));
    const out = pki.openssl(
      'ts',
      '-verify',
      '-data',
      'data',
      '-in',
      'own.tsr',
      '-CAfile',
      root.certificateFile,
      '-untrusted',
      timestampCa.certificateFile,
    );
    assert.match(out.toString(), /Verification: OK/);
  });

  test('RSA: PKCS#1 v1.5, PSS, and a key that is for PSS alone', () => {
    const rsaTsu = pki.issue('tsu-rsa', { issuer: timestampCa, key: rsa(2_048), extensions: tsu() });
    const pssTsu = pki.issue('tsu-pss', {
      issuer: timestampCa,
      key: ['-algorithm', 'RSA-PSS', '-pkeyopt', 'rsa_keygen_bits:2048'],
      extensions: tsu(),
    });
    const pss = { kind: 'rsa-pss', bits: 2_048 } as const;
    for (const digest of ['sha256', 'sha384', 'sha512'] as const) {
      expectReason('valid', token({ signer: rsaTsu, digest, scheme: { kind: 'rsa-pkcs1', bits: 2_048 } }));
      expectReason('valid', token({ signer: rsaTsu, digest, scheme: pss }));
    }
    expectReason('valid', token({ signer: pssTsu, scheme: pss }));
    const rsaEncryption = sequence(oid('1.2.840.113549.1.1.1'), Uint8Array.of(5, 0));
    expectReason('valid', token({ signer: rsaTsu, scheme: { kind: 'rsa-pkcs1', bits: 2_048 }, signatureAlgorithm: rsaEncryption }));
    // The salt is 32 octets, the parameters say 20 (their default).
    const sha256Identifier = sequence(oid(digestAlgorithms.sha256.oid));
    const shortSalt = sequence(
      oid('1.2.840.113549.1.1.10'),
      sequence(encode(0xa0, sha256Identifier), encode(0xa1, sequence(oid('1.2.840.113549.1.1.8'), sha256Identifier))),
    );
    expectReason('signature', token({ signer: rsaTsu, scheme: pss, signatureAlgorithm: shortSalt }));
    const sha1Defaults = sequence(oid('1.2.840.113549.1.1.10'), sequence());
    expectReason('algorithm-unsupported', token({ signer: rsaTsu, scheme: pss, signatureAlgorithm: sha1Defaults }));
    const short = pki.issue('tsu-rsa-1024', { issuer: timestampCa, key: rsa(1_024), extensions: tsu() });
    expectReason('signature', token({ signer: short, scheme: { kind: 'rsa-pkcs1', bits: 1_024 } }));
  });

  test('a refusal says status, failInfo and text', () => {
    const text = sequence(encode(tag.utf8String, Buffer.from('no such digest')));
    const bytes = sequence(sequence(integer(2), text, encode(tag.bitString, Buffer.of(7, 0x80))));
    assert.deepEqual(verifyTimestamp(bytes, expectation), {
      kind: 'invalid',
      reason: 'refused',
      detail: 'rejection badAlg no such digest',
    });
    expectReason('malformed', makeResponse(0));
    expectReason('malformed', makeResponse(9, token()));
  });

  test('TSTInfo', () => {
    expectReason('imprint-mismatch', token({ hashedMessage: sha256(Buffer.from('other')) }));
    expectReason('imprint-mismatch', token({ imprintOid: digestAlgorithms['sha3-256'].oid }));
    expectReason('version', token({ tstVersion: 2 }));
    for (const nonce of [Buffer.of(1), Buffer.of(0x80), Buffer.concat([Buffer.of(0xff, 0x7f), Buffer.alloc(64, 1)])]) {
      expectReason('valid', token({ nonce }), { nonce });
      expectReason('nonce-mismatch', token({ nonce }), { nonce: Buffer.of(2) });
    }
    expectReason('nonce-mismatch', token(), { nonce: Buffer.of(1) });
    expectReason('valid', token({ nonce: Buffer.of(5) }));
    const extension = (critical: boolean) =>
      encode(0xa1, sequence(oid('1.2.3'), ...(critical ? [Uint8Array.of(1, 1, 0xff)] : []), octetString(Buffer.of(5, 0))));
    expectReason('critical-extension', token({ tstTail: [extension(true)] }));
    expectReason('valid', token({ tstTail: [extension(false)] }));
    for (const genTime of [
      '20261122040506.50Z',
      '20261122040506.Z',
      '20261122040506+0100',
      '202611220405Z',
      '20260230040506Z',
      '20261122240000Z',
      '20261122040560Z',
    ]) {
      expectReason('malformed', token({ genTime }));
    }
    expectReason('malformed', token({ tstTail: [sequence(encode(0x80, Buffer.of(0x03, 0xe8)))] }));
  });

  test('SignedData and SignerInfo', () => {
    expectReason('version', token({ signedDataVersion: 1 }));
    expectReason('version', token({ signerInfoVersion: 3 }));
    expectReason('signer-count', token({ signers: 2 }));
    expectReason('signer-count', token({ signers: 0 }));
    expectReason('malformed', token({ contentType: '1.2.840.113549.1.7.1' }));
    expectReason('signed-attributes-missing', token({ noAttributes: true }));
    expectReason('signed-attributes-order', token({ attributes: (sorted) => sorted.toReversed() }));
    expectReason('content-type', token({ attributeContentType: '1.2.840.113549.1.7.1' }));
    expectReason('message-digest', token({ messageDigest: Buffer.alloc(32) }));
    const without = (type: string) => (sorted: Der[]) => sorted.filter((der) => !Buffer.from(der).includes(Buffer.from(oid(type))));
    expectReason('content-type', token({ attributes: without('1.2.840.113549.1.9.3') }));
    expectReason('message-digest', token({ attributes: without('1.2.840.113549.1.9.4') }));
    expectReason('signing-certificate', token({ attributes: without('1.2.840.113549.1.9.16.2.47') }));
    expectReason('algorithm-unsupported', token({ digestAlgorithm: sequence(oid('1.3.14.3.2.26')) }));
    expectReason('algorithm-unsupported', token({ signatureAlgorithm: sequence(oid('1.2.840.10045.4.3.3')) }));
    expectReason('algorithm-unsupported', token({ signatureAlgorithm: sequence(oid('1.2.840.10045.4.1')) }));
    expectReason('signature', token({ signature: Buffer.from('no signature') }));
    expectReason('signature', token({ signatureAlgorithm: sequence(oid('1.2.840.113549.1.1.11')) }));
    const other = pki.issue('tsu-other-key', { issuer: timestampCa, subject: 'tsu', extensions: tsu() });
    expectReason('signature', token({ signer: { ...good, key: other.key } }));
    const keyIdentifier = sha256(Buffer.from('x')).subarray(0, 20);
    expectReason('signer-certificate-missing', token({ signerInfoVersion: 3, sid: encode(0x80, keyIdentifier) }));
    const extension = Buffer.from(good.certificate.raw);
    const at = extension.indexOf(Buffer.from('0603551d0e04160414', 'hex')) + 9;
    expectReason('valid', token({ signerInfoVersion: 3, sid: encode(0x80, extension.subarray(at, at + 20)) }));
  });

  test('ESSCertIDv2: exactly one, and the one of the signer', () => {
    const twin = pki.issue('tsu-twin', { issuer: timestampCa, extensions: tsu() });
    expectReason('signing-certificate', token({ signingCertificate: sequence(sequence(essCertIdV2(twin.certificate))) }));
    expectReason(
      'signing-certificate',
      token({ signingCertificate: sequence(sequence(essCertIdV2(good.certificate), essCertIdV2(timestampCa.certificate))) }),
    );
    const own = sequence(sequence(essCertIdV2(good.certificate)));
    expectReason(
      'signing-certificate',
      token({
        attributes: (sorted) => [...sorted.slice(0, 2), attribute('1.2.840.113549.1.9.16.2.47', own, own)].toSorted(Buffer.compare),
      }),
    );
    expectReason(
      'algorithm-unsupported',
      token({ signingCertificate: sequence(sequence(sequence(sequence(oid('1.3.14.3.2.26')), octetString(Buffer.alloc(20))))) }),
    );
    const [issuer, serialNumber] = issuerAndSerialNumber(good.certificate);
    const withSerial = (serial: Der) =>
      sequence(sequence(sequence(octetString(sha256(good.certificate.raw)), sequence(sequence(encode(0xa4, issuer)), serial))));
    expectReason('valid', token({ signingCertificate: withSerial(serialNumber) }));
    expectReason('signing-certificate', token({ signingCertificate: withSerial(integer(1)) }));
  });

  test('an answer is checked for imprint and nonce before it is kept', () => {
    const { messageImprint } = expectation;
    const nonce = Buffer.of(9);
    assert.equal(checkTimestampAnswer(token({ nonce }), { messageImprint, nonce }).kind, 'read');
    const verdict = checkTimestampAnswer(token({ nonce }), { messageImprint, nonce: Buffer.of(8) });
    assert.equal(verdict.kind === 'invalid' && verdict.reason, 'nonce-mismatch');
  });

  test('every truncation and a flipped bit in each octet give a verdict, never an exception and never valid', { timeout: 120_000 }, () => {
    const bytes = makeResponse(0, token());
    for (let length = 0; length < bytes.length; length += 1) assert.equal(reasonOf(bytes.subarray(0, length)), 'malformed');
    assert.equal(reasonOf(Buffer.concat([bytes, Buffer.of(0)])), 'malformed');
    for (let at = 0; at < bytes.length; at += 1) {
      const flipped = Uint8Array.from(bytes);
      flipped[at]! ^= 1 << (at & 7);
      if (reasonOf(flipped) !== 'valid') continue;
      // What the signature does not cover may change: the status granted, and the list of digests for one-pass readers.
      const digestAlgorithmsAt = Buffer.from(bytes).indexOf(Buffer.from(oid(digestAlgorithms.sha256.oid)));
      assert.ok(at < 12 || Math.abs(at - digestAlgorithmsAt) < 16, `octet ${at} of ${bytes.length} may be flipped`);
    }
  });

  test('arbitrary and mutated input never throws', () => {
    const bytes = makeResponse(0, token({ certificates: [good.certificate, timestampCa.certificate] }));
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (input) => void readTimestamp(input)),
      { numRuns: 20_000 },
    );
    const edit = fc.record({ at: fc.nat(bytes.length - 1), remove: fc.nat(4), insert: fc.uint8Array({ maxLength: 4 }) });
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 4 }), (edits) => {
        let mutated = Buffer.from(bytes);
        for (const { at, remove, insert } of edits)
          mutated = Buffer.concat([mutated.subarray(0, at), insert, mutated.subarray(at + remove)]);
        verifyTimestamp(mutated, expectation);
      }),
      { numRuns: 20_000 },
    );
  });

  test('a very long object identifier or nesting is refused at once', () => {
    const start = performance.now();
    expectReason('malformed', sequence(encode(tag.oid, Buffer.concat([Buffer.alloc(500_000, 0x81), Buffer.of(1)]))));
    let nested: Der = Uint8Array.of(5, 0);
    for (let i = 0; i < 20_000; i += 1) nested = sequence(nested);
    expectReason('malformed', nested);
    expectReason('malformed', Buffer.alloc(2_000_000, 0x30));
    assert.ok(performance.now() - start < 3_000);
  });
});
