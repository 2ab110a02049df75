import assert from 'node:assert/strict';
import { generateKeyPairSync, sign } from 'node:crypto';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../../config/errors.ts';
import { answerCheckpointRequests, type CheckpointResponder, requestCheckpointSignature } from '../../queue/checkpoint-signing.ts';
import { journalKeys } from '../../queue/keys.ts';
import { type RedisClient, whenReady } from '../../queue/redis.ts';
import { LaneBench } from '../support/lane-bench.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { until } from '../support/until.ts';

const text = 'example.org/journal\n7\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n';
const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const spki = pair.publicKey.export({ format: 'der', type: 'spki' });
const signWell = (asked: string): { signature: Buffer; spki: Buffer } => ({
  signature: sign('sha256', Buffer.from(asked), pair.privateKey),
  spki,
});

describe('the signing of checkpoints through Redis', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let bench: LaneBench;
  let command: RedisClient;
  let responders: CheckpointResponder[] = [];
  let refused: string[] = [];
  before(async () => {
    server = await startTestRedis();
  });
  after(() => server.close());
  beforeEach(async () => {
    bench = new LaneBench(server);
    await bench.look.flushall();
    command = bench.connect('command');
    await whenReady(command, 5_000);
    refused = [];
  });
  afterEach(async () => {
    for (const responder of responders) await responder.close();
    responders = [];
    await bench.close();
  });

  const respond = async (work: (asked: string) => { signature: Uint8Array; spki: Uint8Array } = signWell): Promise<void> => {
    const client = bench.connect('command');
    await whenReady(client, 5_000);
    responders.push(
      answerCheckpointRequests({ command: client, sign: async (asked) => work(asked), onRefused: ({ code }) => refused.push(code) }),
    );
  };
  const ask = (deadlineMs = 2_000): ReturnType<typeof requestCheckpointSignature> =>
    requestCheckpointSignature(command, text, { deadlineMs });
  const code = (expected: string) => (error: unknown) => error instanceof SigilloError && error.code === expected;
  const assertNothingStays = async (): Promise<void> => assert.deepEqual(await bench.look.keys('journal:*'), []);

  test('a signature and its key come back, and nothing stays in Redis', async () => {
    await respond();
    const answer = await ask();
    assert.deepEqual(answer.spki, spki);
    await assertNothingStays();
  });

  test('two signers: each request is signed once', async () => {
    let signed = 0;
    const count = (asked: string): ReturnType<typeof signWell> => {
      signed += 1;
      return signWell(asked);
    };
    await respond(count);
    await respond(count);
    await Promise.all(Array.from({ length: 5 }, () => ask()));
    assert.equal(signed, 5);
  });

  test('without a signer the deadline ends it, and a signer that comes later signs nothing', async () => {
    const started = performance.now();
    await assert.rejects(ask(200), code('DEADLINE_EXCEEDED'));
    assert.ok(performance.now() - started < 400);
    await assertNothingStays();
    let signed = 0;
    // As an asker that died leaves it.
    await bench.look.rpush(journalKeys.signing, `${Date.now() - 1} ${'0'.repeat(32)}\n${text}`);
    await respond((asked) => {
      signed += 1;
      return signWell(asked);
    });
    await until('it is taken', async () => (await bench.look.llen(journalKeys.signing)) === 0);
    await delay(50);
    assert.equal(signed, 0);
    await assertNothingStays();
  });

  test('what the signer throws is the answer, and it goes on', async () => {
    let failures = 2;
    await respond((asked) => {
      failures -= 1;
      if (failures === 1) throw new SigilloError('JOURNAL_CHECKPOINT_REFUSED', 'too small');
      if (failures === 0) throw new Error('unforeseen');
      return signWell(asked);
    });
    await assert.rejects(ask(), (error) => code('JOURNAL_CHECKPOINT_REFUSED')(error) && /too small/.test(String(error)));
    await assert.rejects(ask(), code('INTERNAL'));
    await ask();
    assert.deepEqual(refused, ['JOURNAL_CHECKPOINT_REFUSED', 'INTERNAL']);
  });

  test('a reply that is no signature of the text does not count', async () => {
    await respond((asked) => signWell(`${asked}more`));
    await assert.rejects(ask(), code('HSM_SELFTEST_FAILED'));
    const forge = async (reply: string): Promise<void> => {
      const asking = assert.rejects(ask(), code('LANE_ENTRY_MALFORMED'));
      const entry = await bench.look.blpop(journalKeys.signing, 2);
      const id = /^\d+ (\w+)\n/.exec(entry?.[1] ?? '')?.[1] as string;
      await bench.look.set(journalKeys.signature(id), reply);
      await asking;
    };
    await responders.pop()?.close();
    for (const reply of ['', 'no JSON', '{}', '{"error":"NO_SUCH_CODE","message":""}', '{"signature":"?","spki":""}']) await forge(reply);
  });

  test('what is no request is dropped, and only replies of requests are written', async () => {
    const entries = [
      '',
      'x',
      `${Date.now() + 9_000} ../../other\n${text}`,
      `${Date.now() + 9_000} ${'0'.repeat(32)}\n${'x'.repeat(2_000)}`,
    ];
    for (const entry of entries) await bench.look.rpush(journalKeys.signing, entry);
    await respond();
    await until('all are taken', async () => (await bench.look.llen(journalKeys.signing)) === 0);
    await ask();
    assert.deepEqual(
      refused,
      entries.map(() => 'LANE_ENTRY_MALFORMED'),
    );
    await assertNothingStays();
  });

  test('more than sixteen do not wait, and replies nobody fetches expire', async () => {
    const waiting = Array.from({ length: 16 }, () => assert.rejects(ask(500), code('DEADLINE_EXCEEDED')));
    await until('they wait', async () => (await bench.look.llen(journalKeys.signing)) === 16);
    await assert.rejects(ask(500), code('OVERLOADED'));
    assert.ok((await bench.look.pttl(journalKeys.signing)) > 0, 'the list expires');
    await Promise.all(waiting);
    await assertNothingStays();

    await bench.look.rpush(journalKeys.signing, `${Date.now() + 5_000} ${'a'.repeat(32)}\n${text}`);
    await respond();
    await until('it is answered', async () => (await bench.look.exists(journalKeys.signature('a'.repeat(32)))) === 1);
    const ttl = await bench.look.pttl(journalKeys.signature('a'.repeat(32)));
    assert.ok(ttl > 5_000 && ttl <= 10_000, `${ttl} ms`);
  });

  test('an abort ends the waiting with its reason', async () => {
    const abort = new AbortController();
    const asking = requestCheckpointSignature(command, text, { deadlineMs: 5_000, signal: abort.signal });
    await until('it waits', async () => (await bench.look.llen(journalKeys.signing)) === 1);
    abort.abort(new Error('stopping'));
    await assert.rejects(asking, /stopping/);
    await assertNothingStays();
    await assert.rejects(requestCheckpointSignature(command, text, { deadlineMs: 5_000, signal: abort.signal }), /stopping/);
  });

  test('Redis away: the asker is told at once, and both ends go on when it is back', async () => {
    await respond();
    await ask();
    await server.stop('SIGKILL');
    await until('the connection is lost', () => command.status !== 'ready');
    await assert.rejects(ask(), code('REDIS_UNAVAILABLE'));
    await server.start();
    await whenReady(command, 5_000);
    await ask(5_000);
  });
});
