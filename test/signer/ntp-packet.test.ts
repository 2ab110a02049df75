import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { answersNonce, decodeNtpReply, encodeNtpRequest, type NtpAnswer, type NtpReply } from '../../signer/ntp-packet.ts';
import { encodeNtpReply, type ReplyFields } from '../support/ntp-replies.ts';

const now = Date.UTC(2026, 10, 22, 10, 0, 0, 250);
const nonce = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
const packet = (more: Partial<ReplyFields> = {}): Buffer =>
  encodeNtpReply({ origin: nonce, receiveMs: now, transmitMs: now + 0.25, ...more });
const decode = (octets: Uint8Array, pivot = now): NtpAnswer => decodeNtpReply(octets, nonce, pivot);
const replyOf = (answer: NtpAnswer): NtpReply => (answer.kind === 'reply' ? answer : assert.fail(JSON.stringify(answer)));
const near = (actual: number, expected: number): void => assert.ok(Math.abs(actual - expected) < 0.001, `${actual} is not ${expected}`);
const reasonOf = (answer: NtpAnswer): string => (answer.kind === 'refused' ? answer.reason : answer.kind);

describe('NTP packets', () => {
  test('a request is version 4, mode 3, and tells nothing but its nonce', () => {
    assert.equal(Buffer.from(encodeNtpRequest(nonce)).toString('hex'), `23${'00'.repeat(39)}0102030405060708`);
    assert.throws(() => encodeNtpRequest(nonce.subarray(1)), RangeError);
  });

  test('a reply of a real server (chrony 4.3), octet for octet', () => {
    // Taken on the loopback: local stratum 3, precision 2^-26, its reference 127.127.1.1.
    const octets = Buffer.from('240300e600000000000000007f7f0101eead6e7b0ca9a66c0102030405060708eead6e7c8068031feead6e7c806b8b8c', 'hex');
    const reply = replyOf(decode(octets));
    assert.deepEqual([reply.stratum, reply.leap, reply.rootDelayMs, reply.rootDispersionMs], [3, 'none', 0, 0]);
    near(reply.precisionMs, 1_000 / 2 ** 26);
    assert.equal(new Date(reply.receiveMs).toISOString(), '2026-11-22T13:37:00.501Z');
    near(reply.transmitMs - reply.receiveMs, 0.054);
  });

  test('every field comes back as it was sent', () => {
    const fields = fc.record({
      leap: fc.constantFrom(0, 1, 2),
      version: fc.constantFrom(3, 4),
      stratum: fc.integer({ min: 1, max: 15 }),
      precision: fc.integer({ min: -30, max: 0 }),
      rootDelayMs: fc.double({ min: 0, max: 60_000, noNaN: true }),
      rootDispersionMs: fc.double({ min: 0, max: 60_000, noNaN: true }),
      receiveMs: fc.double({ min: now - 6e8, max: now + 6e8, noNaN: true }),
      workMs: fc.double({ min: 0.01, max: 100, noNaN: true }),
    });
    fc.assert(
      fc.property(fields, ({ workMs, ...sent }) => {
        const reply = replyOf(decode(packet({ ...sent, transmitMs: sent.receiveMs + workMs })));
        assert.equal(reply.leap, ['none', 'insert', 'delete'][sent.leap]);
        assert.equal(reply.stratum, sent.stratum);
        assert.equal(reply.precisionMs, 2 ** sent.precision * 1_000);
        assert.ok(Math.abs(reply.rootDelayMs - sent.rootDelayMs) < 0.01);
        assert.ok(Math.abs(reply.rootDispersionMs - sent.rootDispersionMs) < 0.01);
        near(reply.receiveMs, sent.receiveMs);
        near(reply.transmitMs, sent.receiveMs + workMs);
      }),
    );
  });

  for (const year of [1971, 2026, 2036, 2037, 2100, 2200]) {
    test(`the era is that of ${year}`, () => {
      const time = Date.UTC(year, 1, 8, 6, 28, 16);
      near(replyOf(decode(packet({ receiveMs: time - 1, transmitMs: time + 1 }), time + 40 * 365 * 86_400_000)).receiveMs, time - 1);
    });
  }

  const refusals: [string, Partial<ReplyFields>, string][] = [
    ['version 2', { version: 2 }, 'version'],
    ['version 5', { version: 5 }, 'version'],
    ['a request', { mode: 3 }, 'mode'],
    ['a broadcast', { mode: 5 }, 'mode'],
    ['a control message', { mode: 6 }, 'mode'],
    ['leap indicator 3', { leap: 3 }, 'unsynchronised'],
    ['stratum 16', { stratum: 16 }, 'unsynchronised'],
    ['stratum 255', { stratum: 255 }, 'unsynchronised'],
    ['no receive timestamp', { receiveMs: undefined }, 'timestamps'],
    ['no transmit timestamp', { transmitMs: undefined }, 'timestamps'],
    ['an answer before its question', { transmitMs: now - 1 }, 'timestamps'],
    ['an origin of our clock', { origin: new Uint8Array(8) }, 'origin'],
    ['stratum 0', { stratum: 0, leap: 3, referenceId: 'RATE' }, 'kiss'],
  ];
  for (const [name, fields, reason] of refusals) test(`${name}: ${reason}`, () => assert.equal(reasonOf(decode(packet(fields))), reason));

  test('every kiss code, and what is none is not repeated', () => {
    for (const code of ['RATE', 'DENY', 'RSTR', 'ACST', 'X\n\u0000!']) {
      const answer = decode(packet({ stratum: 0, referenceId: code }));
      assert.deepEqual(answer, { kind: 'kiss', code: code === 'X\n\u0000!' ? 'X..!' : code });
    }
  });

  test('a kiss that answers no question of ours is none', () => {
    const answer = decode(packet({ stratum: 0, referenceId: 'DENY', origin: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 9) }));
    assert.equal(reasonOf(answer), 'origin');
  });

  test('truncated at every octet: refused; extension fields behind: read', () => {
    const whole = packet();
    for (let octets = 0; octets < whole.length; octets += 1) {
      assert.equal(reasonOf(decode(whole.subarray(0, octets))), 'length');
      assert.equal(answersNonce(whole.subarray(0, octets), nonce), false);
    }
    assert.equal(decode(Buffer.concat([whole, Buffer.alloc(28, 0xff)])).kind, 'reply');
  });

  test('every flipped bit: an answer, a refusal or another time, and nothing else', () => {
    const whole = packet({ rootDelayMs: 3, rootDispersionMs: 4 });
    for (let bit = 0; bit < whole.length * 8; bit += 1) {
      const flipped = Buffer.from(whole);
      flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (0x80 >> (bit & 7));
      const answer = decode(flipped);
      const octet = bit >> 3;
      if (octet >= 24 && octet < 32) assert.equal(reasonOf(answer), 'origin');
      if (answer.kind === 'reply')
        for (const value of Object.values(answer)) assert.ok(typeof value === 'string' || Number.isFinite(value));
    }
  });

  test('any octets: never a throw, and never a reply without the nonce', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), fc.boolean(), (octets, withNonce) => {
        if (withNonce && octets.length >= 32) octets.set(nonce, 24);
        // A view into something larger, as the socket gives it.
        const inside = Buffer.concat([Buffer.alloc(3, 0xaa), octets, Buffer.alloc(3, 0xaa)]).subarray(3, 3 + octets.length);
        const answer = decode(inside);
        if (!answersNonce(inside, nonce)) assert.equal(answer.kind, 'refused');
        if (answer.kind !== 'reply') return;
        for (const value of Object.values(answer)) assert.ok(typeof value === 'string' || Number.isFinite(value));
        assert.ok(answer.stratum >= 1 && answer.stratum <= 15 && answer.transmitMs >= answer.receiveMs);
      }),
      { numRuns: 2_000 },
    );
  });
});
