/**
 * Strange bytes for the request parser: 200,000 in every test run, 5,000,000 with TEST_LONG=1. The seed is printed; FUZZ_SEED
 * repeats a run.
 *
 * Nothing may throw or take long, and what is accepted must be DER: asn1js, reading and encoding it anew, must come to the
 * same octets. The parser tolerates exactly one thing beyond that: certReq FALSE written out, though it is the DEFAULT.
 */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { describe, test } from 'node:test';
import * as asn1js from 'asn1js';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { derNull, encode, lengthOctets, octetString, oid, sequence, tag, writeHeader } from '../../pki/der.ts';
import {
  applyRules,
  type ImprintDigest,
  parseTimeStampReq,
  readRefusedParts,
  type TimeStampReq,
  type TimeStampReqResult,
  type TimeStampRules,
} from '../../pki/tsp-request.ts';
import { canonicalDer, parseAs } from '../support/strict-der.ts';
import { booleanDer, extensionDer, makeRequest, messageImprint } from '../support/tsp-requests.ts';

const inputs = process.env['TEST_LONG'] === undefined ? 200_000 : 5_000_000;
const seed = process.env['FUZZ_SEED'] === undefined ? randomInt(2 ** 31) : Number(process.env['FUZZ_SEED']);
/** One parse takes some 10 microseconds; a scheduler may take the processor away meanwhile, also several times. */
const slowestMsMax = 20;
const meanMicrosMax = 250;

/** mulberry32: small, fast, and the same everywhere. */
const createRandom = (start: number) => {
  let state = start >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (n: number): number => Math.floor(next() * n);
  const pick = <T>(values: readonly T[]): T => values[below(values.length)] as T;
  const octets = (n: number): Uint8Array => {
    const out = new Uint8Array(n);
    for (let i = 0; i < n; i += 1) out[i] = below(256);
    return out;
  };
  return { below, pick, octets };
};
type Random = ReturnType<typeof createRandom>;

const digests = Object.values(digestAlgorithms);
const otherAlgorithms = ['1.3.14.3.2.26', '1.2.840.113549.2.5', '2.16.840.1.101.3.4.2.4', '2.16.840.1.101.3.4.2.11', '2.999.3'];

/** A request that is right, or wrong in one or two of its parts only. */
const nearlyRight = (random: Random): Uint8Array => {
  const digest = random.pick(digests);
  const known = random.below(8) > 0;
  const lengthOff = random.below(8) === 0 ? random.pick([-1, 1, -digest.octets, 300]) : 0;
  const parameters = random.pick([[derNull], [derNull], [], [], [sequence()], [derNull, derNull]]);
  const imprint = messageImprint(known ? digest.oid : random.pick(otherAlgorithms), random.octets(digest.octets + lengthOff), parameters);
  return makeRequest({
    imprint,
    ...(random.below(10) === 0 ? { version: encode(tag.integer, random.octets(random.below(4))) } : {}),
    ...(random.below(2) === 0 ? { policy: random.pick(['1.3.6.1.4.1.32473.1.1', '2.999', '0.0', `2.${2n ** 90n}`]) } : {}),
    ...(random.below(2) === 0 ? { nonce: random.octets(random.pick([1, 1, 2, 8, 8, 9, 20, 130, 300])) } : {}),
    ...(random.below(2) === 0 ? { certReq: random.below(2) === 0 } : {}),
    ...(random.below(8) === 0
      ? { extensions: Array.from({ length: random.below(4) }, () => extensionDer('1.2.3', random.octets(random.below(9)), true)) }
      : {}),
    ...(random.below(12) === 0 ? { tail: [random.pick([derNull, booleanDer(false), octetString(random.octets(2))])] } : {}),
  });
};

const flipBits = (random: Random, bytes: Uint8Array): Uint8Array => {
  const out = bytes.slice();
  for (let i = random.below(4); i >= 0; i -= 1) if (out.length > 0) out[random.below(out.length)]! ^= 1 << random.below(8);
  return out;
};

const setOctets = (random: Random, bytes: Uint8Array): Uint8Array => {
  const out = bytes.slice();
  const telling = [0x00, 0x01, 0x02, 0x05, 0x06, 0x30, 0x31, 0x7f, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0xa0, 0xff];
  for (let i = random.below(3); i >= 0; i -= 1) if (out.length > 0) out[random.below(out.length)] = random.pick(telling);
  return out;
};

const splice = (random: Random, one: Uint8Array, other: Uint8Array): Uint8Array =>
  Buffer.concat([one.subarray(0, random.below(one.length + 1)), other.subarray(random.below(other.length + 1))]);

/** Puts a length of any size and form in front of some octet. */
const hugeLength = (random: Random, bytes: Uint8Array): Uint8Array => {
  const at = random.below(bytes.length + 1);
  const form = random.below(9);
  const length = form === 0 ? Uint8Array.of(0x80) : Uint8Array.of(0x80 | form, ...random.octets(form));
  if (random.below(2) === 0) length.fill(0xff, 1);
  return Buffer.concat([bytes.subarray(0, at), length, bytes.subarray(at + random.below(2))]);
};

const nest = (random: Random, bytes: Uint8Array): Uint8Array => {
  let out = bytes;
  for (let i = random.pick([1, 3, 20, 60]); i > 0; i -= 1) out = encode(random.pick([0x30, 0x31, 0xa0, 0x24]), out);
  return out;
};

/** The outer length made right again, so that the mutation reaches the inner parts. */
const rewrap = (bytes: Uint8Array): Uint8Array => sequence(bytes.subarray(bytes[1] !== undefined && bytes[1] >= 0x80 ? 3 : 2));

const mutations: readonly ((random: Random) => Uint8Array)[] = [
  nearlyRight,
  nearlyRight,
  (random) => flipBits(random, nearlyRight(random)),
  (random) => setOctets(random, nearlyRight(random)),
  (random) => rewrap(flipBits(random, nearlyRight(random))),
  (random) => rewrap(setOctets(random, nearlyRight(random))),
  (random) => {
    const bytes = nearlyRight(random);
    return bytes.subarray(0, random.below(bytes.length));
  },
  (random) => rewrap(splice(random, nearlyRight(random), nearlyRight(random))),
  (random) => splice(random, nearlyRight(random), nearlyRight(random)),
  (random) => hugeLength(random, nearlyRight(random)),
  (random) => rewrap(hugeLength(random, nearlyRight(random))),
  (random) => nest(random, nearlyRight(random)),
  (random) => random.octets(random.below(200)),
  (random) => sequence(random.octets(random.below(200))),
  (random) => Buffer.concat([nearlyRight(random), random.octets(1 + random.below(9))]),
];

const refusals = new Set(['badAlg', 'badRequest', 'badDataFormat', 'unacceptedPolicy', 'unacceptedExtension']);
const rules: TimeStampRules = {
  policies: [oid('1.3.6.1.4.1.32473.1.1'), oid('0.0'), oid(`2.${2n ** 90n}`)],
  digests: new Set<ImprintDigest>(['sha256', 'sha384', 'sha512', 'sha3-256', 'sha3-384']),
};
/** What a service with these rules answers. */
const kindOf = (result: TimeStampReqResult): string => {
  if (result.kind === 'refused') return result.failInfo;
  const decision = applyRules(result.request, rules);
  return decision.kind === 'refused' ? decision.failInfo : 'accepted';
};

/** The request without a written-out certReq FALSE: what strict DER would have been. */
const withoutDefault = (bytes: Uint8Array): Uint8Array => {
  const { value } = parseAs(bytes, asn1js.Sequence).valueBlock;
  const kept = value.filter((field) => !(field instanceof asn1js.Boolean) || field.getValue());
  return Uint8Array.from(Buffer.from(new asn1js.Sequence({ value: kept }).toBER()));
};

const writtenOutFalse = Buffer.from(booleanDer(false));

const checkAccepted = (
  bytes: Uint8Array,
  { messageImprint: imprint, digest, reqPolicy, nonce, certReq }: TimeStampReq,
): 'strict' | 'tolerated' => {
  const text = Buffer.from(bytes).toString('hex');
  assert.equal(canonicalDer(bytes).toString('hex'), text, 'accepted, but not DER');
  const fields = parseAs(bytes, asn1js.Sequence).valueBlock.value;
  // The parts, put side by side again, are the request: nothing of it was skipped.
  const parts = [encode(tag.integer, Uint8Array.of(1)), imprint, reqPolicy ?? new Uint8Array(), nonce ?? new Uint8Array()];
  const rest = fields.some((field) => field instanceof asn1js.Boolean) ? [booleanDer(certReq)] : [];
  assert.equal(Buffer.from(sequence(...parts, ...rest)).toString('hex'), text);
  const hashedMessage = (fields[1] as asn1js.Sequence).valueBlock.value[1] as asn1js.OctetString;
  assert.ok(digest !== undefined);
  assert.equal(hashedMessage.valueBlock.valueHexView.length, digestAlgorithms[digest].octets);
  const strict = withoutDefault(bytes);
  if (Buffer.compare(strict, bytes) === 0) return 'strict';
  assert.equal(bytes.length - strict.length, writtenOutFalse.length);
  assert.equal(Buffer.compare(bytes.subarray(-writtenOutFalse.length), writtenOutFalse), 0);
  return 'tolerated';
};

/** Milliseconds of one parse; measured again when it looks slow, because the processor is shared. */
const timeOf = (bytes: Uint8Array): number => {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 5 && best > slowestMsMax / 4; i += 1) {
    const started = performance.now();
    parseTimeStampReq(bytes);
    best = Math.min(best, performance.now() - started);
  }
  return best;
};

describe('fuzzing of the request parser', () => {
  test(`${inputs.toLocaleString('en')} strange requests`, (context) => {
    context.diagnostic(`FUZZ_SEED=${seed}`);
    const random = createRandom(seed);
    const counts: Record<string, number> = {};
    let slowest = 0;
    let total = 0;
    for (let i = 0; i < inputs; i += 1) {
      const bytes = random.pick(mutations)(random);
      const started = performance.now();
      let result: TimeStampReqResult;
      try {
        result = parseTimeStampReq(bytes);
      } catch (error) {
        throw new Error(`thrown for ${Buffer.from(bytes).toString('hex')} (FUZZ_SEED=${seed})`, { cause: error });
      }
      const took = performance.now() - started;
      total += took;
      if (took > slowest) slowest = Math.max(slowest, took > slowestMsMax ? timeOf(bytes) : took);
      const kind = kindOf(result);
      counts[kind] = (counts[kind] ?? 0) + 1;
      assert.ok(kind === 'accepted' || refusals.has(kind), kind);
      // Never throws either; of what is in order it reads the same.
      const { messageImprint, policy } = readRefusedParts(bytes);
      if (result.kind === 'request') assert.deepEqual([messageImprint, policy], [result.request.messageImprint, result.request.reqPolicy]);
      // Judged by the form alone, so that policies which are not served count too.
      if (result.kind === 'refused' || result.request.digest === undefined || result.request.hasExtensions) continue;
      try {
        const form = checkAccepted(bytes, result.request);
        counts[form] = (counts[form] ?? 0) + 1;
      } catch (error) {
        throw new Error(`accepted: ${Buffer.from(bytes).toString('hex')} (FUZZ_SEED=${seed})`, { cause: error });
      }
    }
    context.diagnostic(
      `${JSON.stringify(counts)}; slowest ${slowest.toFixed(2)} ms, ${((total / inputs) * 1_000).toFixed(2)} µs on average`,
    );
    assert.ok(slowest < slowestMsMax, `slowest ${slowest} ms`);
    assert.ok((total / inputs) * 1_000 < meanMicrosMax, `mean ${(total / inputs) * 1_000} µs`);
    // The mutations reach every answer, or they test nothing.
    for (const kind of ['accepted', 'strict', 'tolerated', ...refusals])
      assert.ok((counts[kind] ?? 0) > inputs / 2_000, `${kind}: ${counts[kind] ?? 0}`);
  });

  const mebi = 1_048_576;
  const filled = (identifier: number, length: number, unit: Uint8Array): Uint8Array => {
    const contents = Buffer.alloc(Math.floor(length / unit.length) * unit.length, unit);
    const out = new Uint8Array(1 + lengthOctets(contents.length) + contents.length);
    out.set(contents, writeHeader(out, 0, identifier, contents.length));
    return out;
  };
  const nestedDefinite = (octets: number): Uint8Array => {
    // From the inside out, each header in front of what is there: what a depth bomb looks like.
    const out = Buffer.alloc(octets);
    let start = octets;
    while (start > 8) {
      const length = octets - start;
      start -= 1 + lengthOctets(length);
      writeHeader(out, start, tag.sequence, length);
    }
    return out.subarray(start);
  };
  const extension = extensionDer('1.2', new Uint8Array());
  const bombs: readonly (readonly [string, () => Uint8Array, string])[] = [
    ['zeros', () => new Uint8Array(mebi), 'badDataFormat'],
    ['indefinite sequences in each other', () => Buffer.alloc(mebi, Uint8Array.of(0x30, 0x80)), 'badDataFormat'],
    ['definite sequences in each other', () => nestedDefinite(mebi), 'badDataFormat'],
    ['a version of a mebibyte', () => sequence(encode(tag.integer, new Uint8Array(mebi).fill(1))), 'badRequest'],
    ['a policy of a mebibyte', () => makeRequest({ tail: [encode(tag.oid, new Uint8Array(mebi).fill(0x2a))] }), 'unacceptedPolicy'],
    [
      'a policy of one arc of a mebibyte',
      () => makeRequest({ tail: [encode(tag.oid, new Uint8Array(mebi).fill(0xff), Uint8Array.of(0x7f))] }),
      'unacceptedPolicy',
    ],
    ['a nonce of a mebibyte', () => makeRequest({ nonce: new Uint8Array(mebi).fill(0x55) }), 'accepted'],
    ['a hash of a mebibyte', () => makeRequest({ hashedMessage: new Uint8Array(mebi) }), 'badDataFormat'],
    ['algorithm parameters of a mebibyte', () => makeRequest({ parameters: [octetString(new Uint8Array(mebi))] }), 'badAlg'],
    [
      'extensions by the hundred thousand',
      () => makeRequest({ tail: [filled(tag.contextConstructed(0), mebi, extension)] }),
      'unacceptedExtension',
    ],
    [
      'extensions with one bad at the end',
      () => makeRequest({ tail: [filled(tag.contextConstructed(0), mebi, extension).fill(0, -1)] }),
      'unacceptedExtension',
    ],
  ];
  for (const [name, make, expected] of bombs) {
    test(`${name}: as long as any body may be`, () => {
      const bytes = make();
      assert.equal(kindOf(parseTimeStampReq(bytes)), expected);
      const took = timeOf(bytes);
      assert.ok(took < 5 * slowestMsMax, `${took} ms`);
    });
  }
});
