import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { DerReader, encode, tag } from '../../pki/der.ts';
import { serialOctets } from '../../pki/token-template.ts';
import { createSerialNumbers } from '../../signer/serial-numbers.ts';
import { canonicalDer } from '../support/strict-der.ts';

const counterOf = (serial: Buffer): number => serial.readUIntBE(serialOctets - 6, 6);

describe('serial numbers', () => {
  test('20 octets, positive and minimal, whatever is drawn', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), (drawn) => {
        const next = createSerialNumbers((octets) => Buffer.from(drawn.subarray(0, octets)));
        for (let i = 0; i < 3; i += 1) {
          const serial = next();
          assert.equal(serial.length, serialOctets);
          assert.equal((serial[0] ?? 0) & 0xc0, 0x40);
          const der = encode(tag.integer, serial);
          assert.equal(new DerReader(der).integer().length, serialOctets);
          assert.equal(canonicalDer(der).toString('hex'), Buffer.from(der).toString('hex'));
          assert.ok(BigInt(`0x${serial.toString('hex')}`) > 0n);
        }
      }),
    );
  });

  test('no two of many thousands from many starts are the same', () => {
    const seen = new Set<string>();
    for (let start = 0; start < 50; start += 1) {
      const next = createSerialNumbers();
      for (let i = 0; i < 400; i += 1) seen.add(next().toString('hex'));
    }
    assert.equal(seen.size, 50 * 400);
  });

  test('110 bits of each start are drawn, none of them is lost or fixed', () => {
    const asked: number[] = [];
    const prefixes = Array.from({ length: 200 }, () => {
      const next = createSerialNumbers((octets) => {
        asked.push(octets);
        return randomBytes(octets);
      });
      return next()
        .subarray(0, serialOctets - 6)
        .toString('hex');
    });
    assert.deepEqual([...new Set(asked)], [serialOctets - 6], 'once per start');
    assert.equal(new Set(prefixes).size, prefixes.length);
    let [ones, zeros] = [0n, 0n];
    for (const prefix of prefixes) {
      ones |= BigInt(`0x${prefix}`);
      zeros |= ~BigInt(`0x${prefix}`) & (2n ** 112n - 1n);
    }
    // 200 draws leave a free bit constant with a probability of 2^-199.
    assert.equal((ones & zeros).toString(2).replaceAll('0', '').length, 110);
  });

  test('the counter counts, carries over octets, and leaves the prefix alone', () => {
    const next = createSerialNumbers(() => Buffer.alloc(serialOctets - 6, 0xff));
    const prefix = `7f${'ff'.repeat(serialOctets - 7)}`;
    let previous = 0;
    for (let i = 1; i <= 70_000; i += 1) {
      const serial = next();
      assert.equal(counterOf(serial), previous + 1);
      previous += 1;
      if (i < 3 || (i & 0xff) < 2 || i > 65_530) assert.equal(serial.toString('hex', 0, serialOctets - 6), prefix);
    }
    assert.equal(next().toString('hex').slice(-12), '000000011171');
  });

  test('the buffer is the same one each time, as it says', () => {
    const next = createSerialNumbers();
    assert.equal(next(), next());
  });

  test('a random source that fails leaves no serial numbers', () => {
    assert.throws(() =>
      createSerialNumbers(() => {
        throw new Error('no entropy');
      }),
    );
  });
});
