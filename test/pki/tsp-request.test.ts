import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { TimeStampReq as PkijsRequest } from 'pkijs';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { derNull, encode, integer, octetString, oid, sequence, tag } from '../../pki/der.ts';
import {
  applyRules,
  type FailInfo,
  type ImprintDigest,
  parseTimeStampReq,
  type TimeStampReq,
  type TimeStampRules,
} from '../../pki/tsp-request.ts';
import { booleanDer, extensionDer, makeRequest, messageImprint } from '../support/tsp-requests.ts';

const digests = Object.keys(digestAlgorithms) as ImprintDigest[];
const hex = (bytes: Uint8Array | undefined): string | undefined => (bytes === undefined ? undefined : Buffer.from(bytes).toString('hex'));
const policy = '1.3.6.1.4.1.32473.1.1';
const otherPolicy = '1.3.6.1.4.1.32473.1.2';
const rules = (options: Partial<{ policies: string[]; digests: ImprintDigest[] }> = {}): TimeStampRules => ({
  policies: (options.policies ?? [policy, otherPolicy]).map((name) => oid(name)) as [Uint8Array, ...Uint8Array[]],
  digests: new Set(options.digests ?? digests),
});

const accepted = (bytes: Uint8Array): TimeStampReq => {
  const result = parseTimeStampReq(bytes);
  assert.equal(result.kind, 'request', `refused: ${JSON.stringify(result)} ${hex(bytes)}`);
  return (result as { request: TimeStampReq }).request;
};
/** What a service with these rules answers. */
const judge = (bytes: Uint8Array, withRules = rules()): FailInfo | 'accepted' => {
  const result = parseTimeStampReq(bytes);
  if (result.kind === 'refused') return result.failInfo;
  const decision = applyRules(result.request, withRules);
  return decision.kind === 'refused' ? decision.failInfo : 'accepted';
};

describe('what is accepted', () => {
  for (const digest of digests) {
    test(`${digest}, with NULL and with absent parameters`, () => {
      const algorithm = digestAlgorithms[digest];
      const hashedMessage = createHash(algorithm.name).update('x').digest();
      for (const parameters of [[derNull], []]) {
        const imprint = messageImprint(algorithm.oid, hashedMessage, parameters);
        const request = accepted(makeRequest({ imprint }));
        assert.equal(request.digest, digest);
        assert.equal(hex(request.messageImprint), hex(imprint), 'echoed as it was sent');
      }
    });
  }

  test('certReq TRUE, FALSE and absent', () => {
    assert.equal(accepted(makeRequest({ certReq: true })).certReq, true);
    assert.equal(accepted(makeRequest({ certReq: false })).certReq, false);
    assert.equal(accepted(makeRequest()).certReq, false);
  });

  const nonces: readonly (readonly [string, Uint8Array])[] = [
    ['zero', Uint8Array.of(0)],
    ['one', Uint8Array.of(1)],
    ['minus one', Uint8Array.of(0xff)],
    ['minus 2^63', Uint8Array.of(0x80, 0, 0, 0, 0, 0, 0, 0)],
    ['minus 2^64 - 1', Uint8Array.of(0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)],
    ['with a leading zero octet', Uint8Array.of(0, 0x80, 1, 2, 3, 4, 5, 6)],
    ['of 127 octets', new Uint8Array(127).fill(0x55)],
    ['of 128 octets', new Uint8Array(128).fill(0x55)],
    ['of 8,000 octets', new Uint8Array(8_000).fill(0x55)],
    ['of 8,000 octets, negative', new Uint8Array(8_000).fill(0xaa)],
    ['of a million octets', new Uint8Array(1_000_000).fill(0x55)],
  ];
  for (const [name, nonce] of nonces) {
    test(`a nonce that is ${name} is kept bit for bit`, () => {
      assert.equal(hex(accepted(makeRequest({ nonce })).nonce), hex(encode(tag.integer, nonce)));
    });
  }

  test('all fields at once, in their order', () => {
    const request = accepted(makeRequest({ policy, nonce: Uint8Array.of(0x81), certReq: true }));
    assert.equal(hex(request.reqPolicy), hex(oid(policy)));
    assert.equal(hex(request.nonce), '020181');
    assert.equal(request.certReq, true);
    const bare = accepted(makeRequest());
    assert.deepEqual([bare.reqPolicy, bare.nonce], [undefined, undefined]);
  });

  test('the fields are views: nothing is copied', () => {
    const bytes = makeRequest({ policy, nonce: Uint8Array.of(1, 2) });
    const { messageImprint: imprint, reqPolicy, nonce } = accepted(bytes);
    for (const view of [imprint, reqPolicy, nonce]) assert.equal(view?.buffer, bytes.buffer);
  });

  test('pkijs reads the same in random requests', () => {
    const request = fc.record({
      digest: fc.constantFrom(...digests),
      parameters: fc.constantFrom([derNull], []),
      policy: fc.option(fc.constantFrom(policy, '2.999.1', '1.2.840.113549.1.9'), { nil: undefined }),
      nonce: fc.option(fc.bigInt({ min: -(2n ** 200n), max: 2n ** 200n }), { nil: undefined }),
      certReq: fc.option(fc.boolean(), { nil: undefined }),
      fill: fc.nat(255),
    });
    fc.assert(
      fc.property(request, (parts) => {
        const { oid: algorithm, octets } = digestAlgorithms[parts.digest];
        const hashedMessage = new Uint8Array(octets).fill(parts.fill);
        const nonce = parts.nonce === undefined ? undefined : integerContents(parts.nonce);
        const bytes = makeRequest({
          imprint: messageImprint(algorithm, hashedMessage, parts.parameters),
          ...(parts.policy === undefined ? {} : { policy: parts.policy }),
          ...(nonce === undefined ? {} : { nonce }),
          ...(parts.certReq === undefined ? {} : { certReq: parts.certReq }),
        });
        const mine = accepted(bytes);
        const theirs = PkijsRequest.fromBER(Uint8Array.from(bytes));
        assert.equal(theirs.version, 1);
        assert.equal(theirs.messageImprint.hashAlgorithm.algorithmId, algorithm);
        assert.equal(hex(theirs.messageImprint.hashedMessage.valueBlock.valueHexView), hex(hashedMessage));
        assert.equal(theirs.reqPolicy, parts.policy);
        assert.equal(mine.reqPolicy === undefined, parts.policy === undefined);
        assert.equal(theirs.nonce?.toBigInt(), parts.nonce);
        assert.equal(hex(mine.nonce), nonce === undefined ? undefined : hex(encode(tag.integer, nonce)));
        assert.equal(theirs.certReq ?? false, mine.certReq);
      }),
    );
  });
});

const integerContents = (value: bigint): Uint8Array => {
  let octets = 1;
  while (BigInt.asIntN(8 * octets, value) !== value) octets += 1;
  const text = BigInt.asUintN(8 * octets, value)
    .toString(16)
    .padStart(2 * octets, '0');
  return Uint8Array.from(Buffer.from(text, 'hex'));
};

describe('badAlg', () => {
  const unknown: readonly (readonly [string, string, number])[] = [
    ['SHA-1', '1.3.14.3.2.26', 20],
    ['MD5', '1.2.840.113549.2.5', 16],
    ['MD2', '1.2.840.113549.2.2', 16],
    ['RIPEMD-160', '1.3.36.3.2.1', 20],
    ['SHA-224', '2.16.840.1.101.3.4.2.4', 28],
    ['SHA-512/256', '2.16.840.1.101.3.4.2.6', 32],
    ['SHA3-224', '2.16.840.1.101.3.4.2.7', 28],
    ['SHAKE128', '2.16.840.1.101.3.4.2.11', 32],
    ['HMAC with SHA3-224', '2.16.840.1.101.3.4.2.13', 32],
    ['the arc of the NIST digests itself', '2.16.840.1.101.3.4.2', 32],
    ['an arc below SHA-256', '2.16.840.1.101.3.4.2.1.1', 32],
    ['the neighbouring NIST arc', '2.16.840.1.101.3.4.1.1', 32],
    ['a signature algorithm', '1.2.840.113549.1.1.11', 32],
    ['an unassigned name', '2.999.7', 32],
  ];
  for (const [name, algorithm, octets] of unknown) {
    test(name, () => assert.equal(judge(makeRequest({ algorithm, hashedMessage: new Uint8Array(octets) })), 'badAlg'));
  }

  test('a digest that is known but not allowed here', () => {
    for (const digest of digests) {
      const bytes = makeRequest({
        algorithm: digestAlgorithms[digest].oid,
        hashedMessage: new Uint8Array(digestAlgorithms[digest].octets),
      });
      assert.equal(judge(bytes, rules({ digests: [digest] })), 'accepted');
      assert.equal(judge(bytes, rules({ digests: digests.filter((other) => other !== digest) })), 'badAlg');
    }
  });

  test('parameters other than NULL', () => {
    for (const parameters of [
      integer(0),
      sequence(),
      octetString(new Uint8Array(4)),
      oid('1.2.3'),
      sequence(derNull, sequence(oid('1.2.3'))),
    ]) {
      assert.equal(judge(makeRequest({ parameters: [parameters] })), 'badAlg', hex(parameters));
    }
  });

  test('parameters that are not DER, whatever the algorithm', () => {
    const bad = [
      '050100', // NULL with contents
      '3003050100',
      '0000', // end of contents
      '30020000',
      '3003020200', // cut inside
      '300402020001', // INTEGER not minimal
      '010101', // BOOLEAN neither 00 nor FF
      '0600',
      '2400', // a constructed OCTET STRING
      '1000', // a primitive SEQUENCE
      '1f81010500', // a tag of several octets
      '30800000',
    ].map((text) => Buffer.from(text, 'hex'));
    for (const parameters of bad)
      for (const algorithm of [digestAlgorithms.sha256.oid, '1.3.14.3.2.26'])
        assert.equal(judge(makeRequest({ algorithm, parameters: [parameters] })), 'badDataFormat', hex(parameters));
    let nested = derNull;
    for (let depth = 0; depth < 500; depth += 1) nested = sequence(nested, derNull);
    assert.equal(judge(makeRequest({ parameters: [nested] })), 'badAlg');
    nested[nested.length - 1] = 1;
    assert.equal(judge(makeRequest({ parameters: [nested] })), 'badDataFormat');
  });

  test('an unknown algorithm counts before its length and its parameters', () => {
    assert.equal(judge(makeRequest({ algorithm: '1.3.14.3.2.26', hashedMessage: new Uint8Array(3) })), 'badAlg');
    assert.equal(judge(makeRequest({ algorithm: '1.3.14.3.2.26', parameters: [sequence()] })), 'badAlg');
  });
});

describe('badRequest', () => {
  const versions = [
    integer(0),
    integer(2),
    integer(255),
    integer(2 ** 40),
    encode(tag.integer, Uint8Array.of(0xff)),
    encode(tag.integer, new Uint8Array(60).fill(1)),
  ];
  for (const version of versions) {
    test(`version ${hex(version)}`, () => assert.equal(judge(makeRequest({ version })), 'badRequest'));
  }
  test('a later version may hold anything behind its number', () => {
    assert.equal(judge(sequence(integer(2), octetString(new Uint8Array(9)))), 'badRequest');
    assert.equal(judge(sequence(integer(2))), 'badRequest');
  });
});

describe('badDataFormat', () => {
  const whole = makeRequest({ policy, nonce: new Uint8Array(9).fill(0x71), certReq: true });

  test('every truncation', () => {
    for (let length = 0; length < whole.length; length += 1)
      assert.equal(judge(whole.subarray(0, length)), 'badDataFormat', String(length));
  });

  test('every truncation with the outer length made to fit', () => {
    const contents = whole.subarray(2);
    // Cut between two optional fields it is a whole request again.
    const shorter = [makeRequest(), makeRequest({ policy }), makeRequest({ policy, nonce: new Uint8Array(9).fill(0x71) })];
    const wholeAgain = shorter.map((request) => request.length - 2);
    for (let length = 0; length < contents.length; length += 1) {
      const answer = judge(sequence(contents.subarray(0, length)));
      assert.equal(answer, wholeAgain.includes(length) ? 'accepted' : 'badDataFormat', String(length));
    }
  });

  test('trailing octets, outside and inside', () => {
    for (const tail of [[0], [0, 0], [5, 0], [...whole]])
      assert.equal(judge(Buffer.concat([whole, Uint8Array.from(tail)])), 'badDataFormat');
    assert.equal(judge(makeRequest({ tail: [derNull] })), 'badDataFormat');
    assert.equal(
      judge(makeRequest({ imprint: sequence(sequence(oid(digestAlgorithms.sha256.oid)), octetString(new Uint8Array(32)), derNull) })),
      'badDataFormat',
    );
    assert.equal(judge(makeRequest({ parameters: [derNull, derNull] })), 'badDataFormat');
  });

  const strange: readonly (readonly [string, Uint8Array])[] = [
    ['nothing', new Uint8Array()],
    ['text', Buffer.from('hello')],
    ['PEM', Buffer.from(`-----BEGIN TIMESTAMP QUERY-----\n${Buffer.from(whole).toString('base64')}\n`)],
    ['Base64', Buffer.from(Buffer.from(whole).toString('base64'))],
    ['zeros', new Uint8Array(100)],
    ['an empty SEQUENCE', sequence()],
    ['a SET', Buffer.concat([Uint8Array.of(0x31), whole.subarray(1)])],
    ['indefinite length', Buffer.concat([Uint8Array.of(0x30, 0x80), whole.subarray(2), Uint8Array.of(0, 0)])],
    ['a length in long form without need', Buffer.concat([Uint8Array.of(0x30, 0x81), whole.subarray(1)])],
    ['a version that is not minimal', makeRequest({ version: encode(tag.integer, Uint8Array.of(0, 1)) })],
    ['an empty version', makeRequest({ version: encode(tag.integer) })],
    ['a version that is no INTEGER', makeRequest({ version: octetString(Uint8Array.of(1)) })],
    ['no imprint', sequence(integer(1))],
    ['an imprint without algorithm', makeRequest({ imprint: sequence(octetString(new Uint8Array(32))) })],
    ['an imprint without hash', makeRequest({ imprint: sequence(sequence(oid(digestAlgorithms.sha256.oid))) })],
    [
      'a hash in a BIT STRING',
      makeRequest({ imprint: sequence(sequence(oid(digestAlgorithms.sha256.oid)), encode(tag.bitString, new Uint8Array(33))) }),
    ],
    [
      'a hash in a constructed OCTET STRING',
      makeRequest({ imprint: sequence(sequence(oid(digestAlgorithms.sha256.oid)), encode(0x24, octetString(new Uint8Array(32)))) }),
    ],
    ['an empty algorithm identifier', makeRequest({ imprint: sequence(sequence(encode(tag.oid)), octetString(new Uint8Array(32))) })],
    [
      'an algorithm identifier cut off',
      makeRequest({ imprint: sequence(sequence(encode(tag.oid, Uint8Array.of(0x60, 0x86))), octetString(new Uint8Array(32))) }),
    ],
    ['a policy that is not minimal', makeRequest({ tail: [encode(tag.oid, Uint8Array.of(0x2a, 0x80, 0x01))] })],
    ['a nonce that is not minimal', makeRequest({ nonce: Uint8Array.of(0, 0x7f) })],
    ['a negative nonce that is not minimal', makeRequest({ nonce: Uint8Array.of(0xff, 0x80) })],
    ['an empty nonce', makeRequest({ nonce: new Uint8Array() })],
    ['certReq 01', makeRequest({ tail: [encode(tag.boolean, Uint8Array.of(1))] })],
    ['certReq of two octets', makeRequest({ tail: [encode(tag.boolean, Uint8Array.of(0xff, 0xff))] })],
    ['certReq before the nonce', makeRequest({ tail: [booleanDer(true), integer(5)] })],
    ['the nonce before the policy', makeRequest({ tail: [integer(5), oid(policy)] })],
    ['two nonces', makeRequest({ tail: [integer(5), integer(5)] })],
    ['two policies', makeRequest({ tail: [oid(policy), oid(policy)] })],
    ['certReq twice', makeRequest({ tail: [booleanDer(true), booleanDer(true)] })],
    ['an unknown field', makeRequest({ tail: [encode(tag.contextConstructed(1), integer(1))] })],
    ['empty extensions', makeRequest({ extensions: [] })],
    ['an extension without value', makeRequest({ extensions: [sequence(oid('1.2.3'))] })],
    ['an extension without name', makeRequest({ extensions: [sequence(octetString(new Uint8Array(1)))] })],
    ['an extension with a tail', makeRequest({ extensions: [sequence(oid('1.2.3'), octetString(new Uint8Array(1)), derNull)] })],
    ['an extension that is no SEQUENCE', makeRequest({ extensions: [oid('1.2.3')] })],
    [
      'extensions twice',
      makeRequest({
        extensions: [extensionDer('1.2.3', new Uint8Array(1))],
        tail: [encode(tag.contextConstructed(0), extensionDer('1.2.3', new Uint8Array(1)))],
      }),
    ],
    ['extensions before certReq', makeRequest({ extensions: [extensionDer('1.2.3', new Uint8Array(1))], tail: [booleanDer(true)] })],
  ];
  for (const [name, bytes] of strange) test(name, () => assert.equal(judge(bytes), 'badDataFormat'));

  for (const digest of digests) {
    test(`a hash that is not as long as ${digest}`, () => {
      const { oid: algorithm, octets } = digestAlgorithms[digest];
      for (const length of [0, 1, octets - 1, octets + 1, 2 * octets, 20, 4_000]) {
        assert.equal(judge(makeRequest({ algorithm, hashedMessage: new Uint8Array(length) })), 'badDataFormat', String(length));
      }
      const others = digests.filter((other) => digestAlgorithms[other].octets !== octets);
      for (const other of others) {
        assert.equal(judge(makeRequest({ algorithm, hashedMessage: new Uint8Array(digestAlgorithms[other].octets) })), 'badDataFormat');
      }
    });
  }
});

describe('unacceptedPolicy and unacceptedExtension', () => {
  test('a policy that is served, the first one for none, and any other', () => {
    for (const served of [policy, otherPolicy]) {
      const decision = applyRules(accepted(makeRequest({ policy: served })), rules());
      assert.equal(decision.kind, 'accepted');
      assert.equal(hex((decision as { policy: Uint8Array }).policy), hex(oid(served)));
    }
    const none = applyRules(accepted(makeRequest()), rules());
    assert.equal(hex((none as { policy: Uint8Array }).policy), hex(oid(policy)));
    for (const name of ['1.3.6.1.4.1.32473.1', '1.3.6.1.4.1.32473.1.1.1', '1.3.6.1.4.1.32473.1.3', '2.999', '0.0', `2.${2n ** 64n}.5`]) {
      assert.equal(judge(makeRequest({ policy: name })), 'unacceptedPolicy', name);
    }
  });

  test('any extension, critical or not, one or many', () => {
    const plain = extensionDer('1.2.3', new Uint8Array(1));
    const critical = extensionDer('1.2.3', new Uint8Array(1), true);
    const explicit = extensionDer('1.2.3', new Uint8Array(), false);
    for (const extensions of [[plain], [critical], [explicit], [plain, plain], Array.from({ length: 500 }, () => critical)]) {
      assert.equal(judge(makeRequest({ extensions })), 'unacceptedExtension');
      assert.equal(judge(makeRequest({ policy, nonce: Uint8Array.of(1), certReq: true, extensions })), 'unacceptedExtension');
    }
  });
});

describe('order of the checks', () => {
  const sha1 = { algorithm: '1.3.14.3.2.26', hashedMessage: new Uint8Array(20) };
  const extensions = [extensionDer('1.2.3', new Uint8Array(1))];

  test('the form comes before everything but the version', () => {
    assert.equal(judge(makeRequest({ ...sha1, policy: '2.999', extensions, tail: [derNull] })), 'badDataFormat');
    assert.equal(judge(makeRequest({ ...sha1, version: integer(2) })), 'badRequest');
    assert.equal(judge(makeRequest({ version: integer(2), tail: [derNull] })), 'badRequest');
    assert.equal(judge(Buffer.concat([makeRequest({ version: integer(2) }), Uint8Array.of(0)])), 'badDataFormat');
  });

  test('the policy comes before a digest that is not known, or not allowed here', () => {
    assert.equal(judge(makeRequest({ ...sha1, policy: '2.999' })), 'unacceptedPolicy');
    assert.equal(judge(makeRequest({ policy: '2.999' }), rules({ digests: ['sha512'] })), 'unacceptedPolicy');
  });

  test('a digest that is not allowed comes before extensions', () => {
    assert.equal(judge(makeRequest({ ...sha1, extensions })), 'badAlg');
    assert.equal(judge(makeRequest({ hashedMessage: new Uint8Array(5), extensions })), 'badDataFormat');
  });

  test('the policy comes before extensions', () => {
    assert.equal(judge(makeRequest({ policy: '2.999', extensions })), 'unacceptedPolicy');
  });
});

describe('requests by openssl ts -query', () => {
  const query = (...parameters: string[]): Buffer =>
    execFileSync('openssl', ['ts', '-query', ...parameters], { input: '', stdio: ['pipe', 'pipe', 'ignore'] });

  for (const digest of digests) {
    test(`${digest} with each option`, () => {
      const name = digestAlgorithms[digest].name;
      const hashedMessage = createHash(name).update('document').digest('hex');
      for (const cert of [[], ['-cert']]) {
        for (const nonce of [[], ['-no_nonce']]) {
          for (const named of [[], ['-tspolicy', policy]]) {
            const request = accepted(query('-digest', hashedMessage, `-${name}`, ...cert, ...nonce, ...named));
            assert.equal(request.digest, digest);
            assert.ok(hex(request.messageImprint)?.endsWith(hashedMessage));
            assert.equal(request.certReq, cert.length > 0);
            assert.equal(request.nonce === undefined, nonce.length > 0);
            assert.equal(hex(request.reqPolicy), named.length > 0 ? hex(oid(policy)) : undefined);
          }
        }
      }
    });
  }

  test('digests that are too weak', () => {
    for (const name of ['md5', 'sha1', 'sha224', 'ripemd160']) {
      const octets = { md5: 16, sha1: 20, sha224: 28, ripemd160: 20 }[name] as number;
      const [first, second] = [
        query('-digest', 'ab'.repeat(octets), `-${name}`),
        query('-digest', 'ab'.repeat(octets), `-${name}`, '-cert', '-tspolicy', '2.999'),
      ];
      assert.equal(judge(first), 'badAlg', name);
      assert.notEqual(judge(second), 'accepted', name);
    }
  });
});
