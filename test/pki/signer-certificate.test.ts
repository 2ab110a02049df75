import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { Certificate } from 'pkijs';
import { DerError, DerReader, encode, tag } from '../../pki/der.ts';
import { readSignerCertificate } from '../../pki/signer-certificate.ts';
import { withExtensions } from '../support/certificate-extensions.ts';
import { type Identity, TestPki } from '../support/timestamp-fixtures.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
let pki: TestPki;
let authority: Identity;
before(() => {
  pki = new TestPki();
  authority = pki.issue('authority', { extensions: ['basicConstraints=critical,CA:TRUE'], subject: 'An Authority' });
});
after(() => pki.close());

describe('certificate of the signer', () => {
  test('its parts are those that pkijs and node read', () => {
    for (const key of [
      ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-384'],
      ['-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048'],
    ]) {
      const { certificate } = pki.issue(`leaf-${key[1]}`, {
        issuer: authority,
        key,
        subject: 'Zeitstempel Einheit 1',
        extensions: ['basicConstraints=critical,CA:FALSE', 'extendedKeyUsage=critical,timeStamping'],
      });
      const read = readSignerCertificate(certificate.raw);
      const oracle = Certificate.fromBER(certificate.raw);
      assert.equal(hex(read.der), hex(certificate.raw));
      assert.equal(hex(read.issuer), hex(new Uint8Array(oracle.issuer.valueBeforeDecode)));
      assert.equal(hex(read.subject), hex(new Uint8Array(oracle.subject.valueBeforeDecode)));
      assert.equal(hex(read.serialNumber), hex(new Uint8Array(oracle.serialNumber.toBER())));
    }
  });

  test('serial numbers of up to 20 octets are kept as they are', () => {
    for (const serial of ['0x7f', '0x80', `0x7f${'ab'.repeat(19)}`]) {
      pki.openssl('req', '-new', '-x509', '-key', authority.keyFile, '-subj', '/CN=x', '-set_serial', serial, '-out', 'serial.pem');
      const der = pki.openssl('x509', '-in', 'serial.pem', '-outform', 'DER');
      const contents = new DerReader(readSignerCertificate(der).serialNumber).integer();
      assert.equal(BigInt(`0x${hex(contents)}`), BigInt(serial));
    }
  });

  test('issuer and subject are not taken for each other', () => {
    const { certificate } = pki.issue('leaf-names', { issuer: authority, subject: 'Leaf', extensions: ['basicConstraints=CA:FALSE'] });
    const { issuer, subject } = readSignerCertificate(certificate.raw);
    assert.ok(Buffer.from(issuer).includes('An Authority') && !Buffer.from(issuer).includes('Leaf'));
    assert.ok(Buffer.from(subject).includes('Leaf') && !Buffer.from(subject).includes('An Authority'));
  });

  test('version 1, version 3 and unique identifiers: the parts stay the same', () => {
    const { issuer, subject, serialNumber } = readSignerCertificate(authority.certificate.raw);
    const identifiers = [encode(tag.context(1), new Uint8Array(3)), encode(tag.context(2), new Uint8Array(3))];
    for (const der of [
      withExtensions(authority, undefined),
      withExtensions(authority, []),
      withExtensions(authority, undefined, identifiers),
    ]) {
      const read = readSignerCertificate(der);
      assert.deepEqual([read.issuer, read.subject, read.serialNumber].map(hex), [issuer, subject, serialNumber].map(hex));
    }
  });

  test('truncated and strange bytes are DerError', () => {
    const { raw } = authority.certificate;
    for (let length = 0; length < raw.length; length += 1) assert.throws(() => readSignerCertificate(raw.subarray(0, length)), DerError);
    assert.throws(() => readSignerCertificate(Buffer.concat([raw, Uint8Array.of(0)])), DerError);
    const flips = fc.array(fc.tuple(fc.nat(raw.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(flips, (changes) => {
        const bytes = Uint8Array.from(raw);
        for (const [at, octet] of changes) bytes[at] = octet;
        try {
          readSignerCertificate(bytes);
        } catch (error) {
          assert.ok(error instanceof DerError, String(error));
        }
      }),
      { numRuns: 1_000 },
    );
  });
});
