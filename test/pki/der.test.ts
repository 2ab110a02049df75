import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as asn1js from 'asn1js';
import fc from 'fast-check';
import {
  type Der,
  DerError,
  DerReader,
  derNull,
  dottedOid,
  encode,
  integer,
  lengthOctets,
  octetString,
  oid,
  sequence,
  setOf,
  splitDer,
  tag,
  unsignedInteger,
  utf8String,
  writeHeader,
} from '../../pki/der.ts';
import { canonicalDer } from '../support/strict-der.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const bytesOf = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'));
const ber = (block: asn1js.BaseBlock): string => hex(new Uint8Array(block.toBER()));
const octets = (maxLength: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ maxLength });

const small = fc.bigInt({ min: 0n, max: 39n });
const arc = fc.oneof(small, fc.bigInt({ min: 0n, max: 2n ** 70n }), fc.constantFrom(127n, 128n, 16_383n, 16_384n, 2n ** 64n));
const dotted = fc
  .oneof(
    fc.tuple(fc.constantFrom(0n, 1n), small, fc.array(arc, { maxLength: 12 })),
    fc.tuple(fc.constant(2n), arc, fc.array(arc, { maxLength: 12 })),
  )
  .map(([first, second, rest]) => [first, second, ...rest].join('.'));

describe('writer', () => {
  test('headers at every border of the length forms are those of asn1js', () => {
    for (const length of [0, 1, 127, 128, 129, 255, 256, 257, 65_535, 65_536, 65_537, 0xff_ffff, 0x100_0000]) {
      const value = encode(tag.octetString, new Uint8Array(length));
      const other = new Uint8Array(new asn1js.OctetString({ valueHex: new Uint8Array(length) }).toBER());
      assert.equal(value.length, other.length);
      assert.equal(hex(value.subarray(0, 8)), hex(other.subarray(0, 8)), String(length));
      assert.equal(value.length, 1 + lengthOctets(length) + length);
    }
  });

  test('a header is written where it belongs and nowhere else', () => {
    fc.assert(
      fc.property(fc.nat(0xffff_ffff), fc.nat(20), (length, offset) => {
        const target = new Uint8Array(40).fill(0xee);
        const end = writeHeader(target, offset, tag.sequence, length);
        assert.equal(end, offset + 1 + lengthOctets(length));
        assert.ok(target.subarray(0, offset).every((octet) => octet === 0xee));
        assert.ok(target.subarray(end).every((octet) => octet === 0xee));
        const [first, ...rest] = target.subarray(offset + 1, end);
        const announced = rest.length === 0 ? first : rest.reduce((sum, octet) => sum * 256 + octet, 0);
        assert.equal(announced, length);
      }),
    );
  });

  test('integers are those of asn1js', () => {
    const values = [0, 1, 127, 128, 255, 256, 32_767, 32_768, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40, Number.MAX_SAFE_INTEGER];
    for (const value of values) assert.equal(hex(integer(value)), ber(asn1js.Integer.fromBigInt(value)), String(value));
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        assert.equal(hex(integer(value)), ber(asn1js.Integer.fromBigInt(value)));
      }),
    );
  });

  test('unsigned integers of any length, with and without leading zeros, are those of asn1js', () => {
    fc.assert(
      fc.property(fc.nat(5), fc.uint8Array({ minLength: 1, maxLength: 66 }), (zeros, value) => {
        const expected = asn1js.Integer.fromBigInt(BigInt(`0x${hex(value)}`));
        assert.equal(hex(unsignedInteger(Buffer.concat([Buffer.alloc(zeros), value]))), ber(expected));
      }),
    );
  });

  test('object identifiers are those of asn1js, and come back from their octets', () => {
    for (const known of [
      '0.0',
      '0.39',
      '1.0',
      '1.39',
      '2.0',
      '2.39',
      '2.40',
      '2.47',
      '2.48',
      '2.999',
      '2.16.840.1.101.3.4.2.1',
      '1.2.840.113549',
    ]) {
      assert.equal(hex(oid(known)), ber(new asn1js.ObjectIdentifier({ value: known })), known);
    }
    fc.assert(
      fc.property(dotted, (value) => {
        const der = oid(value);
        assert.equal(dottedOid(new DerReader(der).oid()), value);
        assert.equal(hex(canonicalDer(der)), hex(der));
      }),
    );
  });

  test('strings, NULL and nesting are those of asn1js', () => {
    fc.assert(
      fc.property(octets(300), fc.string({ unit: 'grapheme', maxLength: 80 }), fc.nat(), (bytes, text, number) => {
        const mine = sequence(octetString(bytes), sequence(utf8String(text), derNull), encode(tag.contextConstructed(3), integer(number)));
        const theirs = new asn1js.Sequence({
          value: [
            new asn1js.OctetString({ valueHex: bytes }),
            new asn1js.Sequence({ value: [new asn1js.Utf8String({ value: text }), new asn1js.Null()] }),
            new asn1js.Constructed({ idBlock: { tagClass: 3, tagNumber: 3 }, value: [asn1js.Integer.fromBigInt(number)] }),
          ],
        });
        assert.equal(hex(mine), ber(theirs));
        assert.equal(hex(canonicalDer(mine)), hex(mine));
      }),
    );
  });

  test('SET OF is in ascending order whatever the order of its elements', () => {
    fc.assert(
      fc.property(fc.array(octets(140).map(octetString), { maxLength: 8 }), (elements) => {
        const set = setOf(...elements);
        assert.equal(hex(set), hex(setOf(...elements.toReversed())));
        assert.equal(hex(canonicalDer(set)), hex(set));
        assert.equal(
          elements.length,
          splitDer(new DerReader(set).bytes.subarray(set.length - elements.reduce((sum, e) => sum + e.length, 0))).length,
        );
      }),
    );
  });
});

const readInteger = (bytes: Uint8Array): Uint8Array => {
  const reader = new DerReader(bytes);
  const value = reader.integer();
  reader.finish();
  return value;
};

describe('reader', () => {
  test('reads back what the writer wrote, side by side', () => {
    fc.assert(
      fc.property(octets(400), dotted, fc.boolean(), fc.maxSafeNat(), (bytes, name, flag, number) => {
        const values: Der[] = [octetString(bytes), oid(name), encode(tag.boolean, Uint8Array.of(flag ? 0xff : 0)), integer(number)];
        const outer = new DerReader(sequence(...values));
        const reader = outer.enter(tag.sequence);
        outer.finish();
        reader.next(tag.octetString);
        assert.equal(hex(reader.bytes.subarray(reader.contentStart, reader.contentEnd)), hex(bytes));
        assert.equal(dottedOid(reader.oid()), name);
        assert.equal(reader.boolean(), flag);
        assert.equal(BigInt(`0x${hex(reader.integer())}`), BigInt(number));
        assert.equal(reader.peek(), -1);
        reader.finish();
        assert.deepEqual(splitDer(Buffer.concat(values)).map(hex), values.map(hex));
      }),
    );
  });

  const refused: readonly (readonly [string, string])[] = [
    ['empty input', ''],
    ['identifier alone', '30'],
    ['indefinite length', '30 80 00 00'],
    ['indefinite length with contents', '30 80 02 01 01 00 00'],
    ['reserved length form', '30 ff'],
    ['long form below 128', '30 81 00'],
    ['long form for 127', `30 81 7f ${'00'.repeat(127)}`],
    ['two octets below 256', `30 82 00 80 ${'00'.repeat(128)}`],
    ['two octets for 255', `30 82 00 ff ${'00'.repeat(255)}`],
    ['three octets below 65536', `30 83 00 ff ff ${'00'.repeat(65_535)}`],
    ['four octets below 2^24', '30 84 00 00 00 01 00'],
    ['five length octets', '30 85 00 00 00 00 01 00'],
    ['eight length octets', '30 88 00 00 00 00 00 00 00 01 00'],
    ['127 length octets', `30 ff ${'00'.repeat(126)}01`],
    ['four octets of ones', '30 84 ff ff ff ff'],
    ['four octets of ones with little behind', '30 84 ff ff ff ff 00 00'],
    ['length octets cut off', '30 82 01'],
    ['contents cut off', '30 03 02 01'],
    ['contents one short', `30 81 80 ${'00'.repeat(127)}`],
    ['another identifier', '31 00'],
    ['the primitive form', '10 00'],
  ];
  for (const [name, bytes] of refused) {
    test(`refuses ${name}`, () => {
      assert.throws(() => new DerReader(bytesOf(bytes)).next(tag.sequence), DerError);
      assert.throws(() => new DerReader(bytesOf(bytes)).enter(tag.sequence), DerError);
    });
  }

  test('accepts the longest contents of each length form', () => {
    for (const length of [127, 128, 255, 256, 65_535, 65_536, 0xff_ffff, 0x100_0000]) {
      const value = encode(tag.sequence, new Uint8Array(length));
      const reader = new DerReader(value);
      reader.next(tag.sequence);
      assert.equal(reader.contentEnd - reader.contentStart, length);
      reader.finish();
    }
  });

  test('refuses every truncation, and every octet behind the end', () => {
    const value = sequence(
      sequence(oid('2.16.840.1.101.3.4.2.1'), derNull),
      octetString(new Uint8Array(200)),
      integer(2 ** 40),
      encode(tag.boolean, Uint8Array.of(0xff)),
    );
    const readAll = (bytes: Uint8Array): void => {
      const outer = new DerReader(bytes);
      const reader = outer.enter(tag.sequence);
      outer.finish();
      const inner = reader.enter(tag.sequence);
      inner.oid();
      inner.next(tag.null);
      inner.finish();
      reader.next(tag.octetString);
      reader.integer();
      reader.boolean();
      reader.finish();
    };
    readAll(value);
    for (let length = 0; length < value.length; length += 1)
      assert.throws(() => readAll(value.subarray(0, length)), DerError, String(length));
    for (const octet of [0x00, 0x05, 0x30, 0xff]) assert.throws(() => readAll(Buffer.concat([value, Uint8Array.of(octet)])), DerError);
  });

  test('stays inside the part it was given, whatever lies behind it', () => {
    const value = sequence(octetString(new Uint8Array(10)));
    const around = Buffer.concat([Buffer.alloc(5, 0x30), value, Buffer.alloc(5, 0x30)]);
    for (let end = 5; end < 5 + value.length; end += 1) assert.throws(() => new DerReader(around, 5, end).next(tag.sequence), DerError);
    const reader = new DerReader(around, 5, 5 + value.length);
    reader.next(tag.sequence);
    reader.finish();
    // A child announces more than its parent holds.
    assert.throws(() => new DerReader(bytesOf('30 03 04 02 aa bb cc')).enter(tag.sequence).next(tag.octetString), DerError);
  });

  test('integers: minimal two-complement only', () => {
    for (const good of ['00', '01', '7f', '80', 'ff', '00 80', '00 ff', 'ff 7f', '80 00', 'ff 00', '7f ff']) {
      const contents = bytesOf(good);
      assert.equal(hex(readInteger(encode(tag.integer, contents))), hex(contents), good);
    }
    for (const bad of ['', '00 00', '00 01', '00 7f', 'ff 80', 'ff ff', '00 00 80', 'ff ff 7f']) {
      assert.throws(() => readInteger(encode(tag.integer, bytesOf(bad))), DerError, bad);
    }
  });

  test('integers of any size and sign round-trip with asn1js', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: -(2n ** 520n), max: 2n ** 520n }), (value) => {
        const der = new Uint8Array(asn1js.Integer.fromBigInt(value).toBER());
        const contents = readInteger(der);
        assert.equal(BigInt.asIntN(8 * contents.length, BigInt(`0x${hex(contents)}`)), value);
      }),
    );
  });

  test('object identifiers: complete and minimal arcs only', () => {
    for (const bad of ['', '80', '2a 80', '80 01', '2a 80 01', '2a 86', '2a 86 48 80 80 01']) {
      assert.throws(() => new DerReader(encode(tag.oid, bytesOf(bad))).oid(), DerError, bad);
    }
    for (const good of ['00', '2a', '2a 81 00', '2a 86 48', '88 37']) {
      assert.equal(hex(new DerReader(encode(tag.oid, bytesOf(good))).oid()), good.replaceAll(' ', ''));
    }
  });

  test('booleans: 00 and ff only', () => {
    assert.equal(new DerReader(bytesOf('01 01 00')).boolean(), false);
    assert.equal(new DerReader(bytesOf('01 01 ff')).boolean(), true);
    for (const bad of ['01 00', '01 01 01', '01 01 80', '01 01 fe', '01 02 00 00', '01 02 ff ff', '01 81 01 ff']) {
      assert.throws(() => new DerReader(bytesOf(bad)).boolean(), DerError, bad);
    }
  });

  test('strange bytes give values or DerError, and an offset inside the input', () => {
    const attempts: readonly ((reader: DerReader) => unknown)[] = [
      (reader) => reader.next(reader.peek()),
      (reader) => reader.enter(reader.peek()).next(tag.integer),
      (reader) => reader.integer(),
      (reader) => reader.oid(),
      (reader) => reader.boolean(),
      (reader) => splitDer(reader.bytes),
    ];
    const strange = fc.oneof(
      octets(64),
      fc
        .tuple(fc.constantFrom(1, 2, 6, 0x30), fc.constantFrom(0x00, 0x01, 0x02, 0x7f, 0x80, 0x81, 0x82, 0x84, 0x85, 0xff), octets(16))
        .map(([id, length, rest]) => Uint8Array.of(id, length, ...rest)),
    );
    fc.assert(
      fc.property(strange, (bytes) => {
        for (const attempt of attempts) {
          const reader = new DerReader(bytes);
          try {
            attempt(reader);
            assert.ok(reader.offset <= bytes.length && reader.contentEnd <= bytes.length);
          } catch (error) {
            assert.ok(error instanceof DerError, String(error));
            assert.ok(error.offset >= 0 && error.offset <= bytes.length);
          }
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test('deep nesting costs no stack', () => {
    const depth = 2_000;
    let value: Uint8Array = new Uint8Array();
    for (let i = 0; i < depth; i += 1) value = encode(tag.sequence, value);
    let reader = new DerReader(value);
    for (let i = 0; i < depth; i += 1) reader = reader.enter(tag.sequence);
    assert.equal(reader.peek(), -1);
  });
});
