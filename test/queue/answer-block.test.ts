import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  answerBlockVersion,
  answerOctets,
  blockHeaderOctets,
  type DecodedStampAnswer,
  decodeAnswerBlock,
  sectionHeaderOctets,
  stampOutcomes,
  writeAnswer,
  writeBlockHeader,
  writeSectionHeader,
} from '../../queue/answer-block.ts';
import { makeAnswerBlock } from '../support/answer-blocks.ts';
import { checkHostileBytes, isMalformed } from '../support/malformed.ts';

const bytes = (maxLength: number): fc.Arbitrary<Buffer> => fc.uint8Array({ maxLength }).map((octets) => Buffer.from(octets));
const name = (maxLength: number): fc.Arbitrary<string> => fc.string({ unit: fc.constantFrom(...'abzAZ019._-'), maxLength });
const answer: fc.Arbitrary<DecodedStampAnswer> = fc.record(
  {
    id: fc.nat(0xffff_ffff),
    outcome: fc.constantFrom(...stampOutcomes),
    clock: fc.constantFrom('trusted', 'unverified'),
    certReq: fc.boolean(),
    unixMillis: fc.oneof(fc.nat(2 ** 31 - 1), fc.constantFrom(0, 2 ** 32 - 1, 2 ** 32, 1_800_000_000_123, 2 ** 48 - 1)),
    client: name(64),
    policy: bytes(255),
    messageImprint: bytes(255),
    serial: bytes(20),
    token: fc.oneof(bytes(10), bytes(2_000), bytes(70_000)),
  },
  { noNullPrototype: true },
);
const tsu = Buffer.alloc(32, 0x7e);

describe('blocks of answers', () => {
  test('what was written is decoded', () => {
    fc.assert(
      fc.property(name(64), fc.array(answer, { maxLength: 30 }), (node, answers) => {
        const block = makeAnswerBlock(node, tsu, answers);
        assert.deepEqual(decodeAnswerBlock(block), { node, sections: [{ tsu, answers }] });
      }),
      { numRuns: 60 },
    );
  });

  test('lengths are as announced, and nothing beyond them is touched', () => {
    fc.assert(
      fc.property(answer, name(64), fc.nat(50), (one, node, offset) => {
        const out = Buffer.alloc(offset + blockHeaderOctets(node) + sectionHeaderOctets + answerOctets(one) + 20, 0xee);
        assert.equal(writeBlockHeader(out, node, 1), blockHeaderOctets(node));
        assert.equal(writeSectionHeader(out, blockHeaderOctets(node), tsu, 1), blockHeaderOctets(node) + sectionHeaderOctets);
        const start = blockHeaderOctets(node) + sectionHeaderOctets + offset;
        assert.equal(writeAnswer(out, start, one, one.token.length), start + answerOctets(one));
        assert.ok(out.subarray(start + answerOctets(one)).every((octet) => octet === 0xee));
        assert.ok(out.subarray(start - offset, start).every((octet) => octet === 0xee));
      }),
    );
  });

  test('the layout of version 2', () => {
    const block = makeAnswerBlock('host', Buffer.alloc(32, 0xaa), [
      {
        id: 0x01020304,
        outcome: 'granted',
        clock: 'trusted',
        certReq: true,
        unixMillis: 0x010203040506,
        client: 'ab',
        policy: Buffer.from('06012a', 'hex'),
        messageImprint: Buffer.from('3000', 'hex'),
        serial: Buffer.from('41', 'hex'),
        token: Buffer.from('300102', 'hex'),
      },
    ]);
    const expected = [
      '02 04 686f7374 01',
      'aa'.repeat(32),
      '0001',
      '01020304 00 03 010203040506 02 6162 03 06012a 02 3000 01 41 000003 300102',
    ];
    assert.equal(block.toString('hex'), expected.join('').replaceAll(' ', ''));
  });

  test('each outcome and each combination of flags comes back', () => {
    for (const outcome of stampOutcomes) {
      for (const clock of ['trusted', 'unverified'] as const) {
        for (const certReq of [true, false]) {
          const empty = Buffer.alloc(0);
          const one = {
            id: 7,
            outcome,
            clock,
            certReq,
            unixMillis: 5,
            client: 'c',
            policy: empty,
            messageImprint: empty,
            serial: empty,
            token: empty,
          };
          assert.deepEqual(decodeAnswerBlock(makeAnswerBlock('n', tsu, [one])).sections, [{ tsu, answers: [one] }]);
        }
      }
    }
  });

  test('another version, an unknown outcome and a wrong count are refused', () => {
    const empty = Buffer.alloc(0);
    const one = {
      id: 7,
      outcome: 'granted',
      clock: 'trusted',
      certReq: true,
      unixMillis: 5,
      client: 'c',
      policy: empty,
      messageImprint: empty,
      serial: empty,
      token: empty,
    } as const;
    const block = makeAnswerBlock('n', tsu, [one, one]);
    const changed = (at: number, value: number): Buffer => {
      const copy = Buffer.from(block);
      copy[at] = value;
      return copy;
    };
    for (const version of [0, answerBlockVersion + 1, 255]) assert.throws(() => decodeAnswerBlock(changed(0, version)), isMalformed);
    const sectionsAt = blockHeaderOctets('n') - 1;
    for (const sections of [0, 2, 255]) assert.throws(() => decodeAnswerBlock(changed(sectionsAt, sections)), isMalformed);
    const countAt = blockHeaderOctets('n') + sectionHeaderOctets - 1;
    for (const count of [0, 1, 3, 255]) assert.throws(() => decodeAnswerBlock(changed(countAt, count)), isMalformed);
    for (const outcome of [stampOutcomes.length, 255])
      assert.throws(() => decodeAnswerBlock(changed(blockHeaderOctets('n') + sectionHeaderOctets + 4, outcome)), isMalformed);
  });

  test('hostile bytes are read or refused', () => {
    const one = { id: 7, outcome: 'granted', clock: 'trusted', certReq: true, unixMillis: 5, client: 'bank.one' } as const;
    const fields = { policy: Buffer.alloc(9, 1), messageImprint: Buffer.alloc(51, 2), serial: Buffer.alloc(20, 3) };
    const answers = [
      { ...one, ...fields, token: Buffer.alloc(99, 4) },
      { ...one, ...fields, outcome: 'expired', token: Buffer.alloc(0) } as const,
    ];
    checkHostileBytes(makeAnswerBlock('node-1', tsu, answers), decodeAnswerBlock);
  });
});
