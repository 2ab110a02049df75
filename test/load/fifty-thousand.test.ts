/** 50,000 stamps at 64 connections: every one is right, none is like another, and nothing of it stays behind in Redis. */
import assert from 'node:assert/strict';
import { createHash, verify, X509Certificate } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Redis } from 'ioredis';
import { homePaths } from '../../config/home.ts';
import { journalClient } from '../../observability/journal/writer-options.ts';
import { encode, integer, octetString, oid, sequence, tag } from '../../pki/der.ts';
import { attachCertificates } from '../../pki/token-certificates.ts';
import { readTimeStampResp, readTimeStampToken, type TimeStampToken } from '../../pki/tsp-read.ts';
import { type DecodedStampAnswer, decodeAnswerBlock } from '../../queue/answer-block.ts';
import { anonymousClient } from '../../queue/client-register.ts';
import { laneKeys, signerGroup } from '../../queue/keys.ts';
import { forEachAtOnce, opensslMissing, RelyingParty } from '../support/openssl-ts.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { describeLoad, type KeptAnswer, type LoadResult, nowMs, startLoad } from '../support/stamp-load.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing() || (await opensslMissing());
const long = process.env['TEST_LONG'] !== undefined;
const stamps = long ? 200_000 : 50_000;
const stampsWithCertificates = 1_000;
const sampleSize = 200;

interface Stamp {
  readonly answer: KeptAnswer;
  readonly der: Uint8Array;
  readonly token: TimeStampToken;
  readonly serial: string;
}

const readStamp = (answer: KeptAnswer): Stamp => {
  const { timeStampToken } = readTimeStampResp(answer.response);
  assert.ok(timeStampToken !== undefined);
  const token = readTimeStampToken(timeStampToken);
  return { answer, der: timeStampToken, token, serial: Buffer.from(token.tstInfo.serialNumber).toString('hex') };
};

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('load', { skip }, () => {
  const folder = new ServiceFolder();
  after(folder.remove);
  let service: Service;
  let redis: Redis;
  let chain: X509Certificate[];
  let granted: Stamp[];
  /** Wall-clock time of a monotonic one. */
  const wallOffset = Date.now() - nowMs();

  const grantedBy = (result: LoadResult, expected: number): Stamp[] => {
    assert.deepEqual(result.counts, { granted: expected }, describeLoad(result) + service.lastOutput);
    assert.equal(result.connectFailures, 0);
    return result.kept.map(readStamp);
  };

  before(async () => {
    service = await folder.start();
    redis = new Redis({ path: homePaths(service.home).redisSocket });
    const pem = await fetch(`${service.origin}/repository/tsa-chain.pem`).then((response) => response.text());
    chain = pem.split(/(?<=-----END CERTIFICATE-----\n)/).map((block) => new X509Certificate(block));
  });
  after(async () => {
    redis?.disconnect();
    assert.equal(await service?.stop(), 0);
  });

  test(`${stamps} stamps are granted at 64 connections`, async (context) => {
    const startedAt = performance.now();
    const load = await startLoad({ port: service.port, connections: 64, requestsMax: stamps, keep: true });
    const result = await load.done;
    context.diagnostic(
      `${(stamps / ((performance.now() - startedAt) / 1_000)).toFixed(0)} stamps/s with the load generator on the same machine; ${describeLoad(result)}`,
    );
    granted = grantedBy(result, stamps);
  });

  test('serial numbers are unique, at most 20 octets, positive', () => {
    assert.equal(new Set(granted.map(({ serial }) => serial)).size, stamps);
    for (const { token } of granted) {
      const { serialNumber } = token.tstInfo;
      assert.ok(serialNumber.length <= 20 && (serialNumber[0] as number) < 0x80);
    }
  });

  test('each has the imprint and the nonce of its request', () => {
    assert.equal(new Set(granted.map(({ answer }) => hex(answer.imprint))).size, stamps);
    for (const { answer, token } of granted) {
      assert.equal(hex(token.tstInfo.messageImprint.hashedMessage), hex(answer.imprint));
      assert.equal(hex(token.tstInfo.nonce as Uint8Array), hex(answer.nonce));
    }
  });

  test('each is signed by the TSU over exactly its content', () => {
    const [tsu] = chain;
    assert.ok(tsu !== undefined);
    const key = tsu.publicKey;
    for (const { token, serial } of granted) {
      const [signer] = token.signedData.signerInfos;
      const attributes = signer?.signedAttributes;
      assert.ok(signer !== undefined && attributes !== undefined);
      const digest = attributes.list.find((attribute) => attribute.oid === '1.2.840.113549.1.9.4')?.values[0];
      assert.equal(hex((digest as Uint8Array).subarray(2)), createHash('sha256').update(token.content).digest('hex'), serial);
      assert.ok(verify('sha256', attributes.der, key, signer.signature), serial);
    }
  });

  test('genTime lies between question and answer, and each signer thread goes forward', () => {
    const now = Date.now();
    const byThread = new Map<string, Stamp[]>();
    for (const stamp of granted) {
      const { genTime } = stamp.token.tstInfo;
      // Whole milliseconds, cut off; and the two clocks are not read at the same instant.
      assert.ok(genTime.getTime() >= stamp.answer.startedAt + wallOffset - 50, `${stamp.token.tstInfo.genTimeText} is before its request`);
      assert.ok(genTime.getTime() <= now, stamp.token.tstInfo.genTimeText);
      const thread = stamp.serial.slice(0, -12);
      const others = byThread.get(thread);
      if (others === undefined) byThread.set(thread, [stamp]);
      else others.push(stamp);
    }
    assert.ok(byThread.size <= 64, `${byThread.size} signer threads`);
    for (const stampsOfThread of byThread.values()) {
      const inOrder = stampsOfThread.toSorted((a, b) => (a.serial < b.serial ? -1 : 1)).map(({ token }) => token.tstInfo.genTime.getTime());
      assert.ok(inOrder.every((time, i) => i === 0 || time >= (inOrder[i - 1] as number)));
    }
  });

  test(`a sample of ${sampleSize} verifies by OpenSSL`, async () => {
    const path = join(folder.path, 'sample');
    mkdirSync(path);
    const party = new RelyingParty(path);
    await party.fetchFrom(service.origin);
    const step = Math.floor(granted.length / sampleSize);
    const sample = granted.filter((_, i) => i % step === 0).slice(0, sampleSize);
    assert.equal(sample.length, sampleSize);
    await forEachAtOnce(sample, 2, async ({ answer, serial }) => {
      const imprint = sequence(sequence(oid('2.16.840.1.101.3.4.2.1'), encode(tag.null)), octetString(answer.imprint));
      const tsq = party.write(`${serial}.tsq`, sequence(integer(1), imprint, encode(tag.integer, answer.nonce)));
      const tsr = party.write(`${serial}.tsr`, answer.response);
      const verdict = await party.verify(tsr, ['-queryfile', tsq], { withChain: true });
      assert.match(verdict.stdout, /Verification: OK/, `${serial}: ${verdict.stderr}`);
    });
  });

  test('with certificates: the same tokens as in the journal, and the chain', async () => {
    const load = await startLoad({ port: service.port, connections: 16, requestsMax: stampsWithCertificates, certReq: true, keep: true });
    granted.push(...grantedBy(await load.done, stampsWithCertificates));
  });

  const checkEvent = (event: DecodedStampAnswer, stamp: Stamp | undefined): void => {
    assert.ok(stamp !== undefined, `nobody was given ${hex(event.serial)}`);
    const { tstInfo } = stamp.token;
    const issued = event.certReq
      ? attachCertificates(
          event.token,
          chain.map(({ raw }) => raw),
        )
      : event.token;
    assert.equal(hex(issued), hex(stamp.der));
    assert.equal(event.outcome, 'granted');
    assert.equal(event.unixMillis, tstInfo.genTime.getTime());
    assert.equal(event.client, 'anonymous');
    assert.ok(hex(stamp.der).includes(hex(event.messageImprint)));
    assert.ok(hex(stamp.der).includes(hex(event.policy)));
  };

  test('every journal event that still waits for the writer holds the token that was answered', async (context) => {
    const bySerial = new Map(granted.map((stamp) => [stamp.serial, stamp]));
    const entries = await redis.xrangeBuffer(laneKeys('timestamp').journal, '-', '+');
    const seen = new Set<string>();
    for (const [, fields] of entries) {
      assert.equal(fields[0]?.toString(), 'b');
      const { sections } = decodeAnswerBlock(fields[1] as Buffer);
      const tsu = createHash('sha256')
        .update(chain[0]?.raw ?? '')
        .digest('hex');
      assert.deepEqual([...new Set(sections.map((section) => hex(section.tsu)))], [tsu]);
      for (const event of sections.flatMap(({ answers }) => answers)) {
        const serial = hex(event.serial);
        assert.ok(!seen.has(serial), `${serial} is in two events`);
        seen.add(serial);
        if (event.client !== journalClient) checkEvent(event, bySerial.get(serial));
      }
    }
    context.diagnostic(`${entries.length} blocks with ${seen.size} events`);
  });

  test('nothing stays in the streams of the lane, and every stamp is counted', async () => {
    const keys = laneKeys('timestamp');
    assert.equal(await redis.xlen(keys.requests), 0);
    const [pending] = (await redis.xpending(keys.requests, signerGroup)) as [number];
    assert.equal(pending, 0);
    const replies = await redis.keys('lane:{timestamp}:replies:*');
    for (const key of replies) await until(`${key} is trimmed`, async () => (await redis.xlen(key)) === 0, 5_000);
    // Of the gateway, and of the journal, which has its checkpoints stamped.
    assert.ok(replies.length <= 2, replies.join(', '));
    assert.equal(await redis.hget(keys.stamps, anonymousClient), String(stamps + stampsWithCertificates));
    assert.match(
      await service.metrics(),
      new RegExp(`^tsp_requests_total\\{outcome="granted"\\} ${stamps + stampsWithCertificates}$`, 'm'),
    );
    assert.match(await service.metrics(), /^tsp_in_flight 0$/m);
  });

  test('the certificates of the chain file are those that the tokens were signed with', () => {
    assert.equal(chain.length, 2);
    const file = readFileSync(join(homePaths(service.home).pkiFolder, 'tsu-ec-p256-1.pem'), 'utf8');
    for (const certificate of chain) assert.ok(file.includes(certificate.toString()));
  });
});
