import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { DerError, encode, integer, tag } from '../../pki/der.ts';
import { attachCertificates } from '../../pki/token-certificates.ts';
import { readTokenSummary } from '../../pki/token-summary.ts';
import { serialOctets } from '../../pki/token-template.ts';
import { makeHierarchy, makeSoftwareTsu, makeTemplate, type SoftwareTsu, tokenOf } from '../support/software-tsu.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';
import { messageImprint } from '../support/tsp-requests.ts';

let pki: TestPki;
let tsu: SoftwareTsu;
before(() => {
  pki = new TestPki();
  tsu = makeSoftwareTsu(pki, makeHierarchy(pki), 'ec-p256');
});
after(() => pki.close());

const sha512 = messageImprint('2.16.840.1.101.3.4.2.3', new Uint8Array(64).fill(7));

/** ISO 8601 with the digits that genTime has: as Date writes it, without trailing zeros. */
const isoOf = (unixMillis: number): string => new Date(unixMillis).toISOString().replace(/\.?0*Z$/, 'Z');

describe('summary of an own token', () => {
  test('serial number and time, with and without certificates, nonce, tsa and extensions', () => {
    const templates = [makeTemplate(tsu), makeTemplate(tsu, { tsaName: 'subject', qualified: true, accuracyMicros: 1_500 })];
    const times = fc.oneof(
      fc.integer({ min: 0, max: 4_102_444_800_000 }),
      fc.integer({ min: 0, max: 4_102_444_800 }).map((seconds) => seconds * 1_000),
      fc.integer({ min: 0, max: 410_244_480_000 }).map((hundredths) => hundredths * 10),
    );
    fc.assert(
      fc.property(
        fc.constantFrom(...templates),
        times,
        fc.option(fc.integer({ min: 1, max: 300 }), { nil: undefined }),
        (template, unixMillis, nonceOctets) => {
          const serial = randomBytes(serialOctets);
          serial[0] = 0x40 | ((serial[0] ?? 0) & 0x3f);
          const nonce = nonceOctets === undefined ? undefined : encode(tag.integer, new Uint8Array(nonceOctets).fill(0x11));
          template.prepare({ messageImprint: sha512, nonce }, serial, unixMillis);
          const token = tokenOf(template, new Uint8Array(71));
          const expected = { serial: serial.toString('hex'), genTime: isoOf(unixMillis) };
          assert.deepEqual(readTokenSummary(token), expected);
          assert.deepEqual(readTokenSummary(attachCertificates(token, tsu.chain)), expected);
          assert.equal(Date.parse(expected.genTime), unixMillis);
        },
      ),
    );
  });

  test('works on a token in the middle of a larger buffer', () => {
    const template = makeTemplate(tsu);
    template.prepare({ messageImprint: sha512, nonce: undefined }, Buffer.alloc(serialOctets, 0x44), 1_800_000_000_250);
    const token = tokenOf(template, new Uint8Array(71));
    const inside = Buffer.concat([Buffer.alloc(9, 0x30), token, Buffer.alloc(9, 0x30)]).subarray(9, 9 + token.length);
    assert.deepEqual(readTokenSummary(inside), { serial: '44'.repeat(serialOctets), genTime: '2027-01-15T08:00:00.25Z' });
  });

  test('what is no token is DerError', () => {
    const template = makeTemplate(tsu);
    template.prepare({ messageImprint: sha512, nonce: undefined }, Buffer.alloc(serialOctets, 0x44), 0);
    const token = tokenOf(template, new Uint8Array(71));
    for (const bytes of [new Uint8Array(), integer(1), token.subarray(0, 60), token.subarray(0, -1)])
      assert.throws(() => readTokenSummary(bytes), DerError);
  });
});
