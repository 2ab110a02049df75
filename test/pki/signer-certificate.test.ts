import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { Certificate } from 'pkijs';
import { type Der, DerError, DerReader, encode, integer, octetString, sequence, tag } from '../../pki/der.ts';
import { readSignerCertificate } from '../../pki/signer-certificate.ts';
import { privateKeyUsagePeriod } from '../../pki/tsu-usage.ts';
import { type Identity, TestPki } from '../support/timestamp-fixtures.ts';
import { extensionDer } from '../support/tsp-requests.ts';

const keyUsableUntil = (der: Uint8Array): number | undefined => privateKeyUsagePeriod(der)?.notAfter?.getTime();

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
let pki: TestPki;
let authority: Identity;
before(() => {
  pki = new TestPki();
  authority = pki.issue('authority', { extensions: ['basicConstraints=critical,CA:TRUE'], subject: 'An Authority' });
});
after(() => pki.close());

const usagePeriod = (...ends: readonly [0 | 1, string][]): Der =>
  sequence(...ends.map(([n, time]) => encode(tag.context(n), Buffer.from(time))));

/** The certificate of `like` with these extensions in place of its own; the signature does not matter here. */
const withExtensions = (like: Identity, extensions: readonly Der[] | undefined, more: readonly Der[] = []): Der => {
  const outer = new DerReader(like.certificate.raw).enter(tag.sequence);
  const tbs = outer.enter(tag.sequence);
  const start = tbs.offset;
  tbs.next(tag.contextConstructed(0));
  tbs.integer();
  for (let i = 0; i < 5; i += 1) tbs.next(tag.sequence);
  const head = like.certificate.raw.subarray(start, tbs.offset);
  const tail = like.certificate.raw.subarray(outer.offset);
  const own = extensions === undefined ? [] : [encode(tag.contextConstructed(3), sequence(...extensions))];
  return sequence(sequence(head, ...more, ...own), tail);
};

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

  test('the end of the PrivateKeyUsagePeriod, wherever the extension stands', () => {
    const until = usagePeriod([0, '20260101000000Z'], [1, '20260401123456Z']);
    const millis = Date.UTC(2_026, 3, 1, 12, 34, 56);
    const other = extensionDer('2.5.29.14', octetString(new Uint8Array(20)));
    const critical = extensionDer('2.5.29.37', sequence(), true);
    const period = extensionDer('2.5.29.16', until);
    for (const extensions of [[period], [other, period], [critical, period, other], [extensionDer('2.5.29.16', until, true)]]) {
      assert.equal(keyUsableUntil(withExtensions(authority, extensions)), millis);
    }
    assert.equal(
      keyUsableUntil(withExtensions(authority, [extensionDer('2.5.29.16', usagePeriod([1, '20261122101112Z']))])),
      Date.UTC(2_026, 10, 22, 10, 11, 12),
    );
  });

  test('no end: none of its forms says one', () => {
    assert.equal(keyUsableUntil(withExtensions(authority, undefined)), undefined);
    assert.equal(keyUsableUntil(withExtensions(authority, [extensionDer('2.5.29.16', usagePeriod([0, '20260101000000Z']))])), undefined);
    assert.equal(keyUsableUntil(withExtensions(authority, [extensionDer('2.5.29.17', usagePeriod([1, '20260101000000Z']))])), undefined);
  });

  test('unique identifiers of version 2 are passed over', () => {
    const identifiers = [encode(tag.context(1), new Uint8Array(3)), encode(tag.context(2), new Uint8Array(3))];
    const period = extensionDer('2.5.29.16', usagePeriod([1, '20260401000000Z']));
    assert.equal(keyUsableUntil(withExtensions(authority, [period], identifiers)), Date.UTC(2_026, 3, 1));
  });

  test('a period in a form that RFC 5280 does not allow is a fault, never no limit', () => {
    for (const time of [
      '20260401000000',
      '20260401000000.5Z',
      '20260401000000+0100',
      '202604010000Z',
      '260401000000Z',
      '',
      'Z',
      '20260401000000ZZ',
    ]) {
      const der = withExtensions(authority, [extensionDer('2.5.29.16', usagePeriod([1, time]))]);
      assert.throws(() => privateKeyUsagePeriod(der), DerError, time);
    }
    for (const value of [new Uint8Array(), integer(5), sequence(integer(5)), sequence(encode(tag.contextConstructed(1), integer(5)))]) {
      assert.throws(() => readSignerCertificate(withExtensions(authority, [extensionDer('2.5.29.16', value)])), DerError, hex(value));
    }
  });

  test('a period whose end is no day of the calendar is a fault', () => {
    for (const time of ['20261301000000Z', '20260230000000Z', '20260401250000Z', '20260401006000Z', '20260400000000Z']) {
      const der = withExtensions(authority, [extensionDer('2.5.29.16', usagePeriod([1, time]))]);
      assert.throws(() => privateKeyUsagePeriod(der), DerError, time);
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
