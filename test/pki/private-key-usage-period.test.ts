import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type Der, DerError, encode, integer, octetString, sequence, tag } from '../../pki/der.ts';
import { privateKeyUsagePeriod } from '../../pki/tsu-usage.ts';
import { withExtensions } from '../support/certificate-extensions.ts';
import { type Identity, TestPki } from '../support/timestamp-fixtures.ts';
import { extensionDer } from '../support/tsp-requests.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const usableUntil = (certificate: Der): number | undefined => privateKeyUsagePeriod(certificate)?.notAfter?.getTime();
const usagePeriod = (...ends: readonly [0 | 1, string][]): Der =>
  sequence(...ends.map(([n, time]) => encode(tag.context(n), Buffer.from(time))));

let pki: TestPki;
let authority: Identity;
before(() => {
  pki = new TestPki();
  authority = pki.issue('authority', { extensions: ['basicConstraints=critical,CA:TRUE'] });
});
after(() => pki.close());

describe('the PrivateKeyUsagePeriod of a certificate', () => {
  test('the end of the PrivateKeyUsagePeriod, wherever the extension stands', () => {
    const until = usagePeriod([0, '20260101000000Z'], [1, '20260401123456Z']);
    const millis = Date.UTC(2_026, 3, 1, 12, 34, 56);
    const other = extensionDer('2.5.29.14', octetString(new Uint8Array(20)));
    const critical = extensionDer('2.5.29.37', sequence(), true);
    const period = extensionDer('2.5.29.16', until);
    for (const extensions of [[period], [other, period], [critical, period, other], [extensionDer('2.5.29.16', until, true)]]) {
      assert.equal(usableUntil(withExtensions(authority, extensions)), millis);
    }
    assert.equal(
      usableUntil(withExtensions(authority, [extensionDer('2.5.29.16', usagePeriod([1, '20261122101112Z']))])),
      Date.UTC(2_026, 10, 22, 10, 11, 12),
    );
  });

  test('no end: none of its forms says one', () => {
    assert.equal(usableUntil(withExtensions(authority, undefined)), undefined);
    assert.equal(usableUntil(withExtensions(authority, [extensionDer('2.5.29.16', usagePeriod([0, '20260101000000Z']))])), undefined);
    assert.equal(usableUntil(withExtensions(authority, [extensionDer('2.5.29.17', usagePeriod([1, '20260101000000Z']))])), undefined);
  });

  test('unique identifiers of version 2 are passed over', () => {
    const identifiers = [encode(tag.context(1), new Uint8Array(3)), encode(tag.context(2), new Uint8Array(3))];
    const period = extensionDer('2.5.29.16', usagePeriod([1, '20260401000000Z']));
    assert.equal(usableUntil(withExtensions(authority, [period], identifiers)), Date.UTC(2_026, 3, 1));
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
      assert.throws(() => usableUntil(withExtensions(authority, [extensionDer('2.5.29.16', value)])), DerError, hex(value));
    }
  });

  test('a period whose end is no day of the calendar is a fault', () => {
    for (const time of ['20261301000000Z', '20260230000000Z', '20260401250000Z', '20260401006000Z', '20260400000000Z']) {
      const der = withExtensions(authority, [extensionDer('2.5.29.16', usagePeriod([1, time]))]);
      assert.throws(() => privateKeyUsagePeriod(der), DerError, time);
    }
  });
});
