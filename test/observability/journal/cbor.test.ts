import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { decode, encode, rfc8949EncodeOptions } from 'cborg';
import fc from 'fast-check';
import { CborReader, CborWriter } from '../../../observability/journal/cbor.ts';
import { isMalformedAs } from '../../support/malformed.ts';

const isMalformed = isMalformedAs('JOURNAL_MALFORMED');
const written = (write: (writer: CborWriter) => void): Buffer => {
  const writer = new CborWriter(4);
  write(writer);
  return writer.copy();
};

/** Both sides of every length that a head can take. */
const edges = [0, 1, 23, 24, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER];

describe('the journal CBOR, against another implementation', () => {
  test('unsigned integers, at every edge', () => {
    for (const value of edges) {
      const octets = written((writer) => writer.unsigned(value));
      assert.equal(octets.toString('hex'), Buffer.from(encode(value, rfc8949EncodeOptions)).toString('hex'));
      assert.equal(new CborReader(octets).unsigned(), value);
    }
  });

  test('text, octets, booleans and arrays', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 400 }), fc.uint8Array({ maxLength: 400 }), fc.boolean(), (text, bytes, flag) => {
        const octets = written((writer) => {
          writer.array(3);
          writer.text(text);
          writer.bytes(bytes);
          writer.boolean(flag);
        });
        assert.deepEqual(decode(octets), [text, bytes, flag]);
        assert.equal(octets.toString('hex'), Buffer.from(encode([text, bytes, flag], rfc8949EncodeOptions)).toString('hex'));
        const reader = new CborReader(octets);
        reader.array(3);
        assert.deepEqual([reader.text(), new Uint8Array(reader.octets()), reader.boolean()], [text, bytes, flag]);
        reader.finish();
      }),
    );
  });

  test('what is no unsigned integer is not written', () => {
    for (const value of [-1, 0.5, Number.NaN, 2 ** 53, Number.POSITIVE_INFINITY]) {
      assert.throws(() => written((writer) => writer.unsigned(value)), isMalformed);
    }
  });

  for (const [what, hex] of [
    ['a number in two octets that needs one', '1817'],
    ['a number in three octets that needs two', '1900ff'],
    ['a number in nine octets that needs five', '1b00000000ffffffff'],
    ['a number beyond 2^53 - 1', '1b0020000000000000'],
    ['an indefinite length', '5f'],
    ['a reserved length', '1c'],
    ['a negative integer', '20'],
    ['nothing', ''],
    ['a head without its number', '19ff'],
  ] as const) {
    test(`refused: ${what}`, () => {
      assert.throws(() => new CborReader(Buffer.from(hex, 'hex')).unsigned(), isMalformed);
    });
  }

  test('refused: text that is not UTF-8, octets that are not there, a boolean that is null', () => {
    assert.throws(() => new CborReader(Buffer.from('62c328', 'hex')).text(), isMalformed);
    assert.throws(() => new CborReader(Buffer.from('5affffffff00', 'hex')).octets(), isMalformed);
    assert.throws(() => new CborReader(Buffer.from('f6', 'hex')).boolean(), isMalformed);
    assert.throws(() => new CborReader(Buffer.from('00', 'hex')).finish(), isMalformed);
  });
});
