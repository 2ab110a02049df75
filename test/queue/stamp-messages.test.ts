import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { parseConfig } from '../../config/load.ts';
import { oid } from '../../pki/der.ts';
import { decodeStampRequests, encodeStampRequests, messageVersion, type StampRequest } from '../../queue/stamp-messages.ts';
import { checkHostileBytes, isMalformed } from '../support/malformed.ts';

const bytes = (maxLength: number): fc.Arbitrary<Buffer> => fc.uint8Array({ maxLength }).map((octets) => Buffer.from(octets));
const clientName = fc.string({ unit: fc.constantFrom(...'abzAZ019._-'), minLength: 1, maxLength: 64 });
const request: fc.Arbitrary<StampRequest> = fc.record({
  id: fc.nat(0xffff_ffff),
  certReq: fc.boolean(),
  policy: bytes(255),
  messageImprint: bytes(255),
  client: clientName,
  nonce: fc.option(
    fc.oneof(bytes(30), bytes(70_000)).filter((nonce) => nonce.length > 0),
    { nil: undefined },
  ),
});

describe('request batches', () => {
  test('what was encoded is decoded', () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(request, fc.integer({ min: -5_000, max: 120_000 })), { maxLength: 40 }), (batch) => {
        const encoded = encodeStampRequests(
          batch.map(([one]) => one),
          (index) => (batch[index] as [StampRequest, number])[1] + 0.75,
        );
        const expected = batch.map(([{ nonce, policy, messageImprint, ...rest }, ttlMs]) => ({
          ...rest,
          policy: Buffer.from(policy),
          messageImprint: Buffer.from(messageImprint),
          nonce: nonce === undefined ? undefined : Buffer.from(nonce),
          ttlMs: Math.max(0, ttlMs),
        }));
        assert.deepEqual(decodeStampRequests(encoded), expected);
      }),
      { numRuns: 60 },
    );
  });

  test('the layout of version 1', () => {
    const one: StampRequest = {
      id: 0x01020304,
      certReq: true,
      policy: oid('1.2'),
      messageImprint: Buffer.from('3000', 'hex'),
      client: 'ab',
      nonce: Buffer.from('020105', 'hex'),
    };
    const encoded = encodeStampRequests([one, { ...one, id: 5, certReq: false, nonce: undefined }], () => 1_000.9);
    const expected = [
      '01 0002',
      '01020304 000003e8 01 03 06012a 02 3000 02 6162 000003 020105',
      '00000005 000003e8 00 03 06012a 02 3000 02 6162 000000',
    ];
    assert.equal(encoded.toString('hex'), expected.join('').replaceAll(' ', ''));
  });

  test('an empty batch, and the largest one', () => {
    assert.deepEqual(decodeStampRequests(encodeStampRequests([], () => 0)), []);
    const one: StampRequest = {
      id: 1,
      certReq: false,
      policy: oid('1.2.3'),
      messageImprint: Buffer.alloc(90),
      client: 'anonymous',
      nonce: undefined,
    };
    const many = Array.from({ length: 65_535 }, (_, id) => ({ ...one, id }));
    assert.equal(decodeStampRequests(encodeStampRequests(many, () => 5)).at(-1)?.id, 65_534);
  });

  test('the fields are views into the batch', () => {
    const one: StampRequest = {
      id: 1,
      certReq: false,
      policy: oid('1.2.3'),
      messageImprint: Buffer.alloc(90),
      client: 'a',
      nonce: Buffer.alloc(9, 7),
    };
    const encoded = encodeStampRequests([one], () => 5);
    const [decoded] = decodeStampRequests(encoded);
    for (const field of [decoded?.policy, decoded?.messageImprint, decoded?.nonce]) assert.equal(field?.buffer, encoded.buffer);
  });

  test('another version is refused', () => {
    const encoded = encodeStampRequests([], () => 0);
    for (const version of [0, messageVersion + 1, 0xff]) {
      encoded[0] = version;
      assert.throws(() => decodeStampRequests(encoded), isMalformed);
    }
  });

  test('a count that is not that of the requests is refused', () => {
    const one: StampRequest = {
      id: 1,
      certReq: false,
      policy: oid('1.2.3'),
      messageImprint: Buffer.alloc(90),
      client: 'a',
      nonce: undefined,
    };
    for (const count of [0, 1, 3, 65_535]) {
      const encoded = encodeStampRequests([one, one], () => 5);
      encoded.writeUInt16BE(count, 1);
      assert.throws(() => decodeStampRequests(encoded), isMalformed, String(count));
    }
  });

  test('hostile bytes are read or refused', () => {
    const one: StampRequest = {
      id: 1,
      certReq: true,
      policy: oid('1.2.3'),
      messageImprint: Buffer.alloc(40, 3),
      client: 'bank.one',
      nonce: Buffer.alloc(9, 7),
    };
    checkHostileBytes(
      encodeStampRequests([one, { ...one, nonce: undefined }, one], () => 500),
      decodeStampRequests,
    );
  });

  test('every policy that the configuration accepts fits its length octet', () => {
    const policy = `2${'.99999999999999999999'.repeat(30)}`;
    try {
      parseConfig({ timestamp: { policies: [policy] } });
    } catch {
      return; // refused at the start: as good
    }
    const long: StampRequest = {
      id: 1,
      certReq: false,
      policy: oid(policy),
      messageImprint: Buffer.alloc(90),
      client: 'a',
      nonce: undefined,
    };
    const [decoded] = decodeStampRequests(encodeStampRequests([long], () => 5));
    assert.deepEqual(decoded?.policy, Buffer.from(oid(policy)));
  });
});
