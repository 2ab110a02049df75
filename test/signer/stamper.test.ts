import assert from 'node:assert/strict';
import { createHash, generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import * as asn1js from 'asn1js';
import { type CertificateSigner, issueCertificate } from '../../authority/issue.ts';
import { keyScheme } from '../../pki/algorithms.ts';
import { encode, oid, tag } from '../../pki/der.ts';
import { readTimeStampToken } from '../../pki/tsp-read.ts';
import { type AnswerBlock, type AnswerSection, decodeAnswerBlock } from '../../queue/answer-block.ts';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { encodeStampRequests, type StampRequest } from '../../queue/stamp-messages.ts';
import { ClockMemory, createClockMemory, nothingProved } from '../../signer/clock-memory.ts';
import type { HsmModule } from '../../signer/pkcs11-module.ts';
import { createTsuMemory, writeTsus } from '../../signer/shared-tsus.ts';
import type { StampedBatch, StampWorkerData, Tsu } from '../../signer/stamp-task.ts';
import { Stamper } from '../../signer/stamper.ts';
import { testPolicy } from '../support/software-tsu.ts';
import { temporaryFolder, withoutSofthsm } from '../support/token-home.ts';
import { createTokenTsu } from '../support/token-tsu.ts';
import { messageImprint } from '../support/tsp-requests.ts';

const spkiOf = (key: KeyObject): Uint8Array => key.export({ format: 'der', type: 'spki' });
const digest = createHash('sha256').update('document').digest();
const aRequest = (id: number, more: Partial<StampRequest> = {}): StampRequest => ({
  id,
  certReq: false,
  policy: oid(testPolicy),
  messageImprint: messageImprint('2.16.840.1.101.3.4.2.1', digest),
  client: 'anonymous',
  nonce: undefined,
  ...more,
});

describe('a stamper with a key in a token', { skip: withoutSofthsm }, () => {
  const folder = temporaryFolder();
  let module: HsmModule;
  let data: StampWorkerData;
  let tsu: Tsu;
  before(async () => {
    ({ module, tsu, data } = await createTokenTsu(folder.path));
  });
  after(() => {
    module?.close();
    folder.remove();
  });

  const stampAll = (
    stamper: Stamper,
    requests: readonly StampRequest[],
    ttlMs: (index: number) => number = () => 60_000,
  ): StampedBatch & { decoded: AnswerSection & Pick<AnswerBlock, 'node' | 'sections'> } => {
    const payload = new Uint8Array(encodeStampRequests(requests, ttlMs));
    const result = stamper.stamp({ payload, enteredAtMs: monotonicMs() - 10, atOnce: 1 });
    assert.ok(result.kind === 'stamped');
    const { block } = result;
    const { node, sections } = decodeAnswerBlock(Buffer.from(block.buffer, block.byteOffset, block.byteLength));
    const answers = sections.flatMap((section) => section.answers);
    return { ...result, decoded: { node, sections, tsu: sections[0]?.tsu ?? Buffer.alloc(0), answers } };
  };

  /** The signature of the token over its attributes, by node. */
  const verifies = (token: Buffer): boolean => {
    const contentInfo = asn1js.fromBER(Uint8Array.from(token)).result as asn1js.Sequence;
    const signedData = (contentInfo.valueBlock.value[1] as asn1js.Constructed).valueBlock.value[0] as asn1js.Sequence;
    const signerInfo = (signedData.valueBlock.value.at(-1) as asn1js.Set).valueBlock.value[0] as asn1js.Sequence;
    const [, , , attributes, , signature] = signerInfo.valueBlock.value as [
      unknown,
      unknown,
      unknown,
      asn1js.Constructed,
      unknown,
      asn1js.OctetString,
    ];
    const signed = encode(tag.set, ...attributes.valueBlock.value.map((block) => new Uint8Array(block.valueBeforeDecodeView)));
    const certificate = `-----BEGIN CERTIFICATE-----\n${Buffer.from(tsu.chain[0] ?? []).toString('base64')}\n-----END CERTIFICATE-----\n`;
    return verify('sha256', signed, certificate, signature.valueBlock.valueHexView);
  };

  test('answers each request in its order; serial numbers and signatures are right', () => {
    const requests = Array.from({ length: 20 }, (_, id) =>
      aRequest(id, { certReq: id % 2 === 0, client: id < 5 ? 'bank.one' : 'anonymous' }),
    );
    const before = Date.now();
    const { decoded, stamps, outcomes, failure, signMs } = stampAll(new Stamper(data), requests);
    assert.deepEqual([decoded.node, decoded.tsu.toString('hex')], ['node-1', tsu.id]);
    assert.deepEqual(
      decoded.answers.map(({ id, outcome, certReq }) => [id, outcome, certReq]),
      requests.map(({ id, certReq }) => [id, 'granted', certReq]),
    );
    assert.deepEqual(
      stamps,
      new Map([
        ['bank.one', 5],
        ['anonymous', 15],
      ]),
    );
    assert.deepEqual([outcomes.granted, failure], [20, undefined]);
    assert.ok(signMs > 0);
    assert.equal(new Set(decoded.answers.map(({ serial }) => Buffer.from(serial).toString('hex'))).size, 20);
    for (const { token, serial, unixMillis, policy, messageImprint: imprint } of decoded.answers) {
      const { tstInfo } = readTimeStampToken(token);
      assert.equal(Buffer.from(tstInfo.serialNumber).toString('hex'), Buffer.from(serial).toString('hex'));
      assert.equal(tstInfo.genTime.getTime(), unixMillis);
      assert.ok(unixMillis >= before && unixMillis <= Date.now());
      assert.equal(Buffer.from(policy).toString('hex'), Buffer.from(oid(testPolicy)).toString('hex'));
      assert.equal(Buffer.from(imprint).toString('hex'), Buffer.from(aRequest(0).messageImprint).toString('hex'));
      assert.ok(verifies(token));
    }
  });

  test('a request past its deadline costs no signature', () => {
    const { decoded, outcomes, signMs, stamps } = stampAll(new Stamper(data), [aRequest(1), aRequest(2)], () => 5);
    assert.deepEqual(
      decoded.answers.map(({ outcome, token }) => [outcome, token.length]),
      [
        ['expired', 0],
        ['expired', 0],
      ],
    );
    assert.deepEqual([outcomes.expired, outcomes.granted, signMs, stamps.size], [2, 0, 0, 0]);
  });

  test('a stamp that was prepared is like any other, and preparing twice is preparing once', () => {
    const stamper = new Stamper(data);
    for (let i = 0; i < 3; i += 1) {
      stamper.prepare();
      if (i === 1) stamper.prepare();
      const { decoded } = stampAll(stamper, [aRequest(1), aRequest(2)]);
      assert.ok(decoded.answers.every(({ token }) => verifies(token)));
    }
    stamper.close();
  });

  test('an unknown policy is systemFailure, told once, and takes no other down', () => {
    const { decoded, failure } = stampAll(new Stamper(data), [
      aRequest(1, { policy: oid('2.999') }),
      aRequest(2),
      aRequest(3, { policy: oid('2.998') }),
    ]);
    assert.deepEqual(
      decoded.answers.map(({ outcome }) => outcome),
      ['systemFailure', 'granted', 'systemFailure'],
    );
    assert.equal(failure?.code, 'CONFIG_INVALID');
  });

  test('a batch that cannot be read is told, and the next one is stamped', () => {
    const stamper = new Stamper(data);
    assert.equal(stamper.stamp({ payload: Uint8Array.of(1, 0, 9), enteredAtMs: monotonicMs(), atOnce: 1 }).kind, 'malformed');
    assert.equal(stampAll(stamper, [aRequest(1)]).decoded.answers[0]?.outcome, 'granted');
  });

  test('grants that outgrow the first buffer', () => {
    const nonce = encode(tag.integer, new Uint8Array(8_000).fill(0x55));
    const { decoded } = stampAll(
      new Stamper(data),
      Array.from({ length: 64 }, (_, id) => aRequest(id, { nonce })),
    );
    assert.equal(decoded.answers.length, 64);
    assert.ok(decoded.answers.every(({ token }) => token.length > 8_000));
  });

  test('refusals that outgrow the first buffer', () => {
    const requests = Array.from({ length: 5_000 }, (_, id) => aRequest(id));
    const { decoded } = stampAll(new Stamper(data), requests, () => 0);
    assert.deepEqual(
      decoded.answers.map(({ id }) => id),
      requests.map(({ id }) => id),
    );
  });

  test('no trusted time: timeNotAvailable, without a signature', () => {
    const { decoded, signMs } = stampAll(
      new Stamper({ ...data, clockMemory: createClockMemory(), time: { ...data.time, required: true } }),
      [aRequest(1)],
    );
    assert.deepEqual([decoded.answers[0]?.outcome, signMs], ['timeNotAvailable', 0]);
  });

  describe('several TSUs in one slot', () => {
    const hour = 3_600_000;
    /** The same key under two certificates will do: what is asked is which of them stamps. */
    const other = (activeFromMs: number): Tsu => ({ ...tsu, id: 'ab'.repeat(32), activeFromMs });
    const stampedBy = (stamper: Stamper, requests = [aRequest(1)]): string[] =>
      stampAll(stamper, requests).decoded.sections.map((section) => section.tsu.toString('hex'));

    test('the one that was activated last stamps, from its instant on', () => {
      const now = Date.now();
      const stamper = new Stamper({ ...data, tsuMemory: createTsuMemory([other(now - hour), { ...tsu, activeFromMs: now - 2 * hour }]) });
      assert.deepEqual(stampedBy(stamper), ['ab'.repeat(32)]);
      const early = new Stamper({ ...data, tsuMemory: createTsuMemory([other(now + hour), { ...tsu, activeFromMs: now - hour }]) });
      assert.deepEqual(stampedBy(early), [tsu.id]);
    });

    const isGivenBack = (stamper: Stamper): void => {
      const payload = new Uint8Array(encodeStampRequests([aRequest(1), aRequest(2)], () => 60_000));
      assert.equal(stamper.stamp({ payload, enteredAtMs: monotonicMs(), atOnce: 1 }).kind, 'noTsu');
    };

    test('past its last instant a key signs nothing, whatever its certificate says; another signer may', () => {
      const now = Date.now();
      const stamper = new Stamper({ ...data, tsuMemory: createTsuMemory([{ ...tsu, usableUntilMs: now - 1 }]) });
      isGivenBack(stamper);
      stamper.close();
    });

    test('without a TSU what is late is told so, and without trusted time that is the answer', () => {
      const tsuMemory = createTsuMemory([]);
      const stamper = new Stamper({ ...data, tsuMemory });
      assert.equal(stampAll(stamper, [aRequest(1)], () => 5).outcomes.expired, 1);
      stamper.close();
      const untimed = new Stamper({ ...data, tsuMemory, clockMemory: createClockMemory(), time: { ...data.time, required: true } });
      assert.equal(stampAll(untimed, [aRequest(1)]).outcomes.timeNotAvailable, 1);
      untimed.close();
    });

    test('TSUs are taken over before the next batch; with none that may be used now nothing is answered', () => {
      const tsuMemory = createTsuMemory([tsu]);
      const stamper = new Stamper({ ...data, tsuMemory });
      assert.deepEqual(stampedBy(stamper), [tsu.id]);
      writeTsus(tsuMemory, [tsu, other(Date.now() - 1)]);
      assert.deepEqual(stampedBy(stamper), ['ab'.repeat(32)]);
      writeTsus(tsuMemory, [other(Date.now() + hour)]);
      isGivenBack(stamper);
      writeTsus(tsuMemory, [tsu]);
      assert.deepEqual(stampedBy(stamper), [tsu.id]);
      stamper.close();
    });

    test('a batch in whose midst one is activated has a section for each, split at the instant', () => {
      const requests = Array.from({ length: 256 }, (_, id) => aRequest(id));
      let split = 0;
      for (let tries = 0; split === 0 && tries < 50; tries += 1) {
        const instant = Date.now() + 6;
        const stamper = new Stamper({ ...data, tsuMemory: createTsuMemory([tsu, other(instant)]) });
        const { decoded } = stampAll(stamper, requests);
        stamper.close();
        const [before, after] = decoded.sections;
        if (before === undefined || after === undefined) continue;
        split += 1;
        assert.deepEqual([before.tsu.toString('hex'), after.tsu.toString('hex'), decoded.sections.length], [tsu.id, 'ab'.repeat(32), 2]);
        assert.ok(before.answers.every(({ unixMillis }) => unixMillis < instant));
        assert.ok(after.answers.every(({ unixMillis }) => unixMillis >= instant));
        assert.equal(before.answers.length + after.answers.length, requests.length);
      }
      assert.ok(split > 0, 'an instant fell into a batch');
    });

    test("a key that cannot be found is the slot's failure: nothing is answered, and the earlier TSUs stay", () => {
      const tsuMemory = createTsuMemory([tsu]);
      const stamper = new Stamper({ ...data, tsuMemory });
      writeTsus(tsuMemory, [{ ...tsu, id: 'cd'.repeat(32), keyLabel: 'nowhere' }]);
      const payload = new Uint8Array(encodeStampRequests([aRequest(1)], () => 60_000));
      const result = stamper.stamp({ payload, enteredAtMs: monotonicMs(), atOnce: 1 });
      assert.equal(result.kind, 'slotFailed');
      assert.equal(stamper.look()?.kind, 'slotFailed');
      writeTsus(tsuMemory, [tsu]);
      assert.equal(stamper.look(), undefined);
      assert.deepEqual(stampedBy(stamper), [tsu.id]);
      stamper.close();
    });
  });

  test('with time servers: no stamp before the first quorum, then one that states no better accuracy than was proved', () => {
    const clockMemory = createClockMemory();
    const time = { ...data.time, servers: [{ host: 'a.test', port: 123 }] };
    const stamper = new Stamper({ ...data, clockMemory, time, timestamp: { ...data.timestamp, accuracyMicros: 20_000 } });
    const [none] = stampAll(stamper, [aRequest(1)]).decoded.answers;
    assert.deepEqual([none?.outcome, none?.clock], ['timeNotAvailable', 'unverified']);
    const memory = new ClockMemory(clockMemory);
    for (const [distanceMs, accuracyMicros] of [
      [5, 20_000],
      [30, 50_000],
      [150, 200_000],
      [900, 1_000_000],
      [5, 20_000],
    ] as const) {
      const utcMs = Date.now() - monotonicMs();
      memory.publish({ ...nothingProved, verdict: 'trusted', utcMs, distanceMs, provedAtMs: monotonicMs(), steps: memory.steps });
      const [answer] = stampAll(stamper, [aRequest(1)]).decoded.answers;
      assert.deepEqual([answer?.outcome, answer?.clock], ['granted', 'trusted']);
      assert.equal(readTimeStampToken(answer?.token ?? Buffer.of()).tstInfo.accuracyMicros, accuracyMicros);
      assert.ok(verifies(answer?.token ?? Buffer.of()));
    }
    // A refusal is dated by the same clock, and its event says so.
    const [unknown] = stampAll(stamper, [aRequest(1, { policy: oid('2.999') })]).decoded.answers;
    const [late] = stampAll(stamper, [aRequest(1)], () => 5).decoded.answers;
    assert.deepEqual([unknown?.outcome, unknown?.clock, late?.outcome, late?.clock], ['systemFailure', 'trusted', 'expired', 'trusted']);
    memory.publish({ ...nothingProved, verdict: 'offset' });
    assert.equal(stampAll(stamper, [aRequest(1)]).decoded.answers[0]?.outcome, 'timeNotAvailable');
  });

  test('serial numbers of two stampers of one key never meet', () => {
    const seen = new Set<string>();
    for (let i = 0; i < 5; i += 1) {
      const { decoded } = stampAll(
        new Stamper(data),
        Array.from({ length: 50 }, (_, id) => aRequest(id)),
      );
      for (const { serial } of decoded.answers) seen.add(Buffer.from(serial).toString('hex'));
    }
    assert.equal(seen.size, 250);
  });

  test('a key that is not in the token', () => {
    assert.throws(() => new Stamper({ ...data, tsuMemory: createTsuMemory([{ ...tsu, keyLabel: 'nowhere' }]) }), {
      code: 'HSM_KEY_MISSING',
    });
  });

  test('a certificate of another key: no self-test, no service', async () => {
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const signer: CertificateSigner = {
      scheme: keyScheme('ec-p256'),
      spki: spkiOf(publicKey),
      sign: (tbs) => sign('sha256', tbs, privateKey),
    };
    const other = await issueCertificate({
      kind: 'root-ca',
      spki: signer.spki,
      issuer: { signer, certificate: undefined },
      now: new Date(),
    });
    assert.throws(() => new Stamper({ ...data, tsuMemory: createTsuMemory([{ ...tsu, chain: [other.raw] }]) }), {
      code: 'HSM_SELFTEST_FAILED',
    });
  });
});
