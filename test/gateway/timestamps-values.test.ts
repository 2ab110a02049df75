/** POST /v1/timestamps: nonces and hashes, as text. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { assertError, imprintOf, resultsOf, timestampsWorld, tokenOf } from '../support/timestamps-world.ts';

const hex = (bytes: Uint8Array | undefined): string | undefined => (bytes === undefined ? undefined : Buffer.from(bytes).toString('hex'));

const world = timestampsWorld();
const { post } = world;

describe('POST /v1/timestamps: values', () => {
  describe('nonce', () => {
    for (const [text, contents] of [
      ['0', '00'],
      ['1', '01'],
      ['-1', 'ff'],
      ['127', '7f'],
      ['128', '0080'],
      ['-128', '80'],
      ['-129', 'ff7f'],
      ['007', '07'],
      ['18446744073709551616', '010000000000000000'],
      ['-9223372036854775808', '8000000000000000'],
      ['0x0', '00'],
      ['0x80', '0080'],
      ['0xFFff', '00ffff'],
      ['0x00000001', '01'],
      [`0x${'f'.repeat(128)}`, `00${'f'.repeat(128)}`],
    ] as const) {
      test(`${text.slice(0, 30)} is ${contents.slice(0, 30)}`, async () => {
        const [result] = await resultsOf(await post({ hashes: [{ ...imprintOf('x'), nonce: text }] }));
        assert.equal(hex(tokenOf(result).tstInfo.nonce), contents);
      });
    }

    test('any number, decimal, comes back', async () => {
      await fc.assert(
        fc.asyncProperty(fc.bigInt({ min: -(10n ** 154n), max: 10n ** 154n }), async (value) => {
          const [result] = await resultsOf(await post({ hashes: [{ ...imprintOf('x'), nonce: String(value) }] }));
          const contents = tokenOf(result).tstInfo.nonce ?? new Uint8Array();
          assert.equal(BigInt.asIntN(8 * contents.length, BigInt(`0x${hex(contents)}`)), value);
        }),
        { numRuns: 50 },
      );
    });

    for (const nonce of [
      '',
      ' 1',
      '1 ',
      '+1',
      '1.5',
      '1e3',
      '0x',
      '-0x1',
      '0b1',
      'abc',
      '--1',
      '1n',
      '٣',
      '9'.repeat(156),
      `0x${'1'.repeat(129)}`,
      5,
      null,
      true,
      ['1'],
    ]) {
      test(`${JSON.stringify(nonce).slice(0, 30)} is refused`, async () => {
        await assertError(await post({ hashes: [{ ...imprintOf('x'), nonce }] }), 400, 'REQUEST_INVALID', /hashes\.0\.nonce/);
      });
    }
  });

  describe('base64', () => {
    const right = imprintOf('x').hash;
    const wrong = [
      right.slice(0, -1),
      `${right}=`,
      `${right}\n`,
      ` ${right}`,
      right.replace(/.$/, ''),
      right.replace(/^./, '-'),
      right.replace(/^./, '_'),
      right.replace(/^./, '='),
      right.replace(/^..../, '===='),
      right.replace(/^./, '\u00e9'),
      Buffer.alloc(32, 0xfb).toString('base64url'),
      createHash('sha256').update('x').digest('hex'),
      'A'.repeat(43),
      'A'.repeat(44),
    ];
    for (const hash of wrong) {
      test(`${JSON.stringify(hash)} is badDataFormat`, async () => {
        const [result] = await resultsOf(await post({ hashes: [{ algorithm: 'sha256', hash }] }));
        assert.deepEqual(result, { status: 'rejection', failInfo: 'badDataFormat' });
      });
    }

    test('bits behind the last octet must be zero (RFC 4648, 3.5): one hash, one text', async () => {
      const [result] = await resultsOf(await post({ hashes: [{ algorithm: 'sha256', hash: `${'A'.repeat(42)}B=` }] }));
      assert.deepEqual(result, { status: 'rejection', failInfo: 'badDataFormat' });
    });
  });
});
