import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { encode, tag } from '../../pki/der.ts';
import { GenTimeWriter, genTimeOctets } from '../../pki/gen-time.ts';
import { readGeneralizedTime } from '../../pki/tsp-read.ts';
import { canonicalDer } from '../support/strict-der.ts';

const write = (unixMillis: number, writer = new GenTimeWriter()): string => {
  const out = Buffer.alloc(40, 0xee);
  const end = writer.write(out, 7, unixMillis);
  assert.equal(end - 7, genTimeOctets(unixMillis), 'as long as announced');
  assert.ok(out.subarray(0, 7).every((octet) => octet === 0xee) && out.subarray(end).every((octet) => octet === 0xee));
  return out.toString('latin1', 7, end);
};
/** The same time as Date writes it, in the form of X.690, 11.7. */
const expected = (unixMillis: number): string => {
  const iso = new Date(unixMillis).toISOString();
  const fraction = iso.slice(20, 23).replace(/0+$/, '');
  return `${iso.slice(0, 19).replaceAll(/[-T:]/g, '')}${fraction === '' ? '' : `.${fraction}`}Z`;
};

const first = new Date('0000-01-01T00:00:00Z').getTime();
const last = Date.UTC(9_999, 11, 31, 23, 59, 59, 999);
const times = fc.oneof(
  fc.integer({ min: 0, max: Date.UTC(2_100, 0, 1) }),
  fc.integer({ min: first, max: last }),
  fc.integer({ min: 0, max: 4_102_444_800 }).map((seconds) => seconds * 1_000),
  fc.integer({ min: 0, max: 41_024_448_000 }).map((tenths) => tenths * 100),
  fc.integer({ min: 0, max: 410_244_480_000 }).map((hundredths) => hundredths * 10),
);

describe('GeneralizedTime', () => {
  test('each form of the fraction', () => {
    const second = Date.UTC(2_026, 10, 22, 10, 11, 12);
    for (const [millis, text] of [
      [0, '20261122101112Z'],
      [1, '20261122101112.001Z'],
      [10, '20261122101112.01Z'],
      [100, '20261122101112.1Z'],
      [101, '20261122101112.101Z'],
      [110, '20261122101112.11Z'],
      [120, '20261122101112.12Z'],
      [123, '20261122101112.123Z'],
      [900, '20261122101112.9Z'],
      [990, '20261122101112.99Z'],
      [999, '20261122101112.999Z'],
    ] as const) {
      assert.equal(write(second + millis), text);
    }
  });

  test('every millisecond of a second', () => {
    for (let millis = 0; millis < 1_000; millis += 1) assert.equal(write(1_800_000_000_000 + millis), expected(1_800_000_000_000 + millis));
  });

  test('borders of days, months, years and leap days', () => {
    for (const iso of [
      '1970-01-01T00:00:00.000Z',
      '1999-12-31T23:59:59.999Z',
      '2000-02-29T12:00:00.500Z',
      '2024-02-29T23:59:59.990Z',
      '2026-03-01T00:00:00.000Z',
      '2038-01-19T03:14:08.001Z',
      '2100-02-28T23:59:59.999Z',
      '9999-12-31T23:59:59.999Z',
      '0001-01-01T00:00:00.100Z',
    ]) {
      assert.equal(write(new Date(iso).getTime()), expected(new Date(iso).getTime()), iso);
    }
  });

  test('any time is what Date says, is read back, and is DER for asn1js', () => {
    fc.assert(
      fc.property(times, (unixMillis) => {
        const text = write(unixMillis);
        assert.equal(text, expected(unixMillis));
        assert.equal(readGeneralizedTime(Buffer.from(text), 0).date.getTime(), unixMillis);
        const der = encode(tag.generalizedTime, Buffer.from(text));
        assert.equal(canonicalDer(der).toString('hex'), Buffer.from(der).toString('hex'));
      }),
      { numRuns: 1_000 },
    );
  });

  test('one writer for all times, whatever their order', () => {
    const writer = new GenTimeWriter();
    fc.assert(
      fc.property(
        fc.array(fc.oneof(times, fc.integer({ min: 1_800_000_000_000, max: 1_800_000_002_500 })), { minLength: 1, maxLength: 30 }),
        (many) => {
          for (const unixMillis of many) assert.equal(write(unixMillis, writer), expected(unixMillis));
        },
      ),
    );
  });

  test('the kept second is not that of the very first call by accident', () => {
    const writer = new GenTimeWriter();
    assert.equal(write(0, writer), '19700101000000Z');
    assert.equal(write(-1, writer), '19691231235959.999Z');
    assert.equal(write(0, writer), '19700101000000Z');
  });
});
