import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import pkcs11 from 'pkcs11js';
import { readTimeStampToken } from '../../pki/tsp-read.ts';
import { decodeAnswerBlock } from '../../queue/answer-block.ts';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { createCallMemory, longestCallMs } from '../../signer/call-watch.ts';
import { ConcurrentStamper } from '../../signer/concurrent-stamper.ts';
import { createPaceMemory, takeTurn } from '../../signer/session-pace.ts';
import { writeTsus } from '../../signer/shared-tsus.ts';
import type { StampedBatch, StampTaskResult, Tsu } from '../../signer/stamp-task.ts';
import { Stamper } from '../../signer/stamper.ts';
import { StampingPool } from '../../signer/stamping-pool.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { faultyTsuWorld } from '../support/faulty-module/tsu-world.ts';
import { batchOf as requestsOf } from '../support/stamp-batches.ts';
import { until } from '../support/until.ts';

const batchOf = (count: number, ttlMs?: number): Uint8Array<ArrayBuffer> => new Uint8Array(requestsOf(count, ttlMs));

describe('a stamper that waits for none of its signatures', { skip: withoutFaultyModule }, () => {
  const hsm = faultyTsuWorld();
  afterEach(() => {
    if (hsm.data !== undefined) writeTsus(hsm.data.tsuMemory, [hsm.tsu]);
  });

  const stamp = (stamper: ConcurrentStamper, count: number, atOnce = 4): Promise<StampTaskResult> =>
    stamper.stamp({ payload: batchOf(count), enteredAtMs: monotonicMs(), atOnce });
  const sectionsOf = ({ block }: StampedBatch) => decodeAnswerBlock(Buffer.from(block)).sections;
  const stamped = (result: StampTaskResult): StampedBatch => {
    assert.equal(result.kind, 'stamped', JSON.stringify(result));
    return result as StampedBatch;
  };

  test('answers every request, several batches at a time, with as many signatures at once as it may have', async () => {
    const { token } = hsm;
    token.delaySigning(2_000);
    const stamper = new ConcurrentStamper(hsm.data);
    const results = (await Promise.all([40, 1, 25].map((count) => stamp(stamper, count)))).map(stamped);
    const serials = new Set<string>();
    for (const [i, count] of [40, 1, 25].entries()) {
      const result = results[i] as StampedBatch;
      const [section, ...others] = sectionsOf(result);
      assert.deepEqual([section?.tsu.toString('hex'), others.length, result.outcomes.granted], [hsm.tsu.id, 0, count]);
      assert.deepEqual(
        section?.answers.map(({ id }) => id),
        Array.from({ length: count }, (_, id) => id),
      );
      for (const { serial, token: octets, unixMillis } of section?.answers ?? []) {
        serials.add(Buffer.from(serial).toString('hex'));
        const { tstInfo } = readTimeStampToken(octets);
        assert.equal(Buffer.from(tstInfo.serialNumber).toString('hex'), Buffer.from(serial).toString('hex'));
        assert.equal(tstInfo.genTime.getTime(), unixMillis);
      }
    }
    assert.equal(serials.size, 66);
    assert.equal(token.counters.signingMost, 4);
    assert.ok(results.reduce((sum, { signMs }) => sum + signMs, 0) >= 66 * 2);
    assert.deepEqual(
      [...(results[0] as StampedBatch).stamps],
      [
        ['anonymous', 20],
        ['bank.one', 20],
      ],
    );
  });

  test('keys prove themselves side by side, and hold nothing up meanwhile', async () => {
    const { token } = hsm;
    token.delaySigning(500_000);
    const stamping = stamp(new ConcurrentStamper(hsm.data), 4);
    await until('all sessions sign their challenge', () => token.counters.signing === 4);
    assert.equal(token.counters.signatures, 0, 'and none has waited for another');
    assert.equal(stamped(await stamping).outcomes.granted, 4);
    assert.equal(token.counters.signatures, 8);
  });

  test('a token that has no room for more sessions is believed', async () => {
    const { token } = hsm;
    const stamper = new ConcurrentStamper(hsm.data);
    token.limitSessions(token.counters.sessions + 2);
    token.delaySigning(1_000);
    assert.equal(stamped(await stamp(stamper, 30, 16)).outcomes.granted, 30);
    assert.equal(token.counters.signingMost, 2);
  });

  test('a token that had no room is asked again: others may have left it', async () => {
    const { token } = hsm;
    const stamper = new ConcurrentStamper(hsm.data, undefined, 0);
    token.limitSessions(token.counters.sessions + 2);
    token.delaySigning(1_000);
    assert.equal(stamped(await stamp(stamper, 30, 4)).outcomes.granted, 30);
    assert.equal(token.counters.signingMost, 2);
    token.limitSessions(0);
    await until('more of them sign', async () => {
      stamped(await stamp(stamper, 30, 4));
      return token.counters.signingMost === 4;
    });
  });

  test('a token that fails: nothing of the batch is answered; a session that is gone is opened anew', async () => {
    const { token } = hsm;
    const stamper = new ConcurrentStamper(hsm.data);
    stamped(await stamp(stamper, 8));
    token.killSessions();
    assert.equal(stamped(await stamp(stamper, 20)).outcomes.granted, 20);
    const rule = token.fail('C_Sign', pkcs11.CKR_DEVICE_ERROR, { every: 7, times: 1 });
    const failed = await stamp(stamper, 20);
    assert.deepEqual(failed, { kind: 'slotFailed', errorClass: 'device', message: 'CKR_DEVICE_ERROR' });
    rule.clear();
    assert.equal(stamped(await stamp(stamper, 20)).outcomes.granted, 20, 'its sessions are as good as before');
  });

  test('what the token will not do is refused alone, and so is what is late', async () => {
    const stamper = new ConcurrentStamper(hsm.data);
    stamped(await stamp(stamper, 8));
    hsm.token.fail('C_Sign', pkcs11.CKR_DATA_LEN_RANGE, { times: 3 });
    const { outcomes, failure } = stamped(await stamp(stamper, 10));
    assert.deepEqual([outcomes.granted, outcomes.systemFailure, failure?.message], [7, 3, 'CKR_DATA_LEN_RANGE']);
    const late = await stamper.stamp({ payload: batchOf(3, 5), enteredAtMs: monotonicMs() - 100, atOnce: 2 });
    assert.equal(stamped(late).outcomes.expired, 3);
    assert.equal((await stamper.stamp({ payload: Uint8Array.of(1, 0, 9), enteredAtMs: 0, atOnce: 2 })).kind, 'malformed');
  });

  test('a TSU that is activated meanwhile: each answer is in the section of the one that signed', async () => {
    const stamper = new ConcurrentStamper(hsm.data);
    const { token } = hsm;
    stamped(await stamp(stamper, 8));
    token.delaySigning(10_000);
    let instant = 0;
    const next = (): Tsu => ({ ...hsm.tsu, id: 'ab'.repeat(32), activeFromMs: instant });
    let sections: ReturnType<typeof sectionsOf> = [];
    // Behind the proof of the new key in each session, and long before the end of a second of stamps; a busy machine may begin the batch
    // when the instant has passed.
    for (let aheadMs = 400; sections.length < 2 && aheadMs < 2_000; aheadMs += 200) {
      instant = Date.now() + aheadMs;
      writeTsus(hsm.data.tsuMemory, [hsm.tsu, next()]);
      sections = sectionsOf(stamped(await stamp(stamper, 400)));
    }
    assert.deepEqual(
      sections.map((section) => section.tsu.toString('hex')),
      [hsm.tsu.id, next().id],
    );
    assert.ok(sections[0]?.answers.every(({ unixMillis }) => unixMillis < instant));
    assert.ok(sections[1]?.answers.every(({ unixMillis }) => unixMillis >= instant));
    assert.equal(sections.flatMap(({ answers }) => answers).length, 400);
    assert.equal(await stamper.look(), undefined);
  });

  test('a lane that cannot be opened fails the request that asked for it, a lone one too', async () => {
    const { token } = hsm;
    const stamper = new ConcurrentStamper(hsm.data);
    const rule = token.fail('C_OpenSession', pkcs11.CKR_DEVICE_ERROR, { times: 1 });
    assert.deepEqual(await stamp(stamper, 1), { kind: 'slotFailed', errorClass: 'device', message: 'CKR_DEVICE_ERROR' });
    rule.clear();
    assert.equal(stamped(await stamp(stamper, 1)).outcomes.granted, 1);
  });

  test('a token that has no room for one lane is stamped with as before, in the session that the thread has', async () => {
    const { token } = hsm;
    const plain = new Stamper(hsm.data);
    const stamper = new ConcurrentStamper(hsm.data, plain);
    const rule = token.fail('C_OpenSession', pkcs11.CKR_SESSION_COUNT);
    for (const count of [1, 30]) assert.equal(stamped(await stamp(stamper, count)).outcomes.granted, count);
    assert.ok(rule.calls <= 4, 'and is not asked at every batch');
    rule.clear();
    plain.close();
  });

  test('a token that has no room while lanes wait for their turns to be opened is asked again', async () => {
    const { token } = hsm;
    const paceMemory = createPaceMemory(100);
    takeTurn(paceMemory, monotonicMs()); // so that the first one waits as well
    const stamper = new ConcurrentStamper({ ...hsm.data, paceMemory });
    const rule = token.fail('C_OpenSession', pkcs11.CKR_SESSION_COUNT);
    assert.deepEqual(await stamp(stamper, 3), { kind: 'slotFailed', errorClass: 'session', message: 'CKR_SESSION_COUNT' });
    rule.clear();
    assert.equal(stamped(await stamp(stamper, 3)).outcomes.granted, 3);
  });

  test('lanes that cannot be opened use up no call marks; one for which there is no mark fails as any other', async () => {
    const { token } = hsm;
    const callMemory = createCallMemory();
    const stamper = new ConcurrentStamper({ ...hsm.data, callMemory });
    const rule = token.fail('C_OpenSession', pkcs11.CKR_SESSION_COUNT);
    for (let i = 0; i < 5; i += 1) assert.equal((await stamp(stamper, 4)).kind, 'slotFailed');
    rule.clear();
    stamped(await stamp(stamper, 1));
    assert.equal(new Int32Array(callMemory)[0], 1, 'only one was ever open');
    new Int32Array(callMemory)[0] = 1_024;
    assert.equal((await stamp(new ConcurrentStamper({ ...hsm.data, callMemory }), 2)).kind, 'slotFailed');
  });

  test('a session for each turn, also for those that replace lost ones; waiting for one is no call that hangs', async () => {
    const { token } = hsm;
    const paceMs = 40;
    const paced = { ...hsm.data, paceMemory: createPaceMemory(paceMs), callMemory: createCallMemory() };
    const stamper = new ConcurrentStamper(paced);
    token.delaySigning(2_000);
    stamped(await stamp(stamper, 200, 8));
    const opened = token.fail('C_OpenSession', pkcs11.CKR_DEVICE_ERROR, { every: 1_000 });
    let longest = 0;
    const watch = setInterval(() => {
      longest = Math.max(longest, longestCallMs(paced.callMemory, monotonicMs()));
    }, 5);
    for (const again of ['stamps', 'looks'] as const) {
      token.killSessions();
      const calls = opened.calls;
      const began = monotonicMs();
      if (again === 'stamps') stamped(await stamp(stamper, 400, 8));
      else assert.equal(await stamper.look(), undefined);
      const sessions = opened.calls - calls;
      assert.ok(sessions >= 6, `${sessions} sessions were opened anew`);
      const ms = monotonicMs() - began;
      assert.ok(ms >= (sessions - 1) * paceMs - 5, `${sessions} sessions in ${ms} ms, while it ${again}`);
    }
    clearInterval(watch);
    assert.ok(longest < 6 * paceMs, `a call has taken ${longest} ms`);
  });

  /** A pool with batches of this size, so many at a time, until the condition holds. */
  const load = async (
    { threads, sessionsMax, batches, requests }: { threads: number; sessionsMax: number; batches: number; requests: number },
    untilSeen: (pool: StampingPool) => Promise<unknown>,
  ): Promise<void> => {
    const pool = await StampingPool.start({ data: hsm.data, threads, sessionsMax, inline: false, callMsMax: 10_000, keepAliveMs: 60_000 });
    let going = true;
    const loop = async (): Promise<void> => {
      while (going) {
        assert.equal((await pool.stamp(Buffer.from(batchOf(requests)), monotonicMs())).outcomes.granted, requests);
        await turn(); // the next one comes from Redis
      }
    };
    const loops = Array.from({ length: batches }, loop);
    try {
      await untilSeen(pool);
    } finally {
      going = false;
      await Promise.all(loops);
      await pool.close();
    }
  };

  /** Long beside what a busy machine adds to a signature, which must not pass for a module that has no room. */
  const latencyMicros = 20_000;
  const findsOutMsMax = 60_000;

  test('the pool finds out by itself how many signatures a slow token makes at once', async () => {
    const { token } = hsm;
    token.delaySigning(latencyMicros);
    await load({ threads: 2, sessionsMax: 8, batches: 4, requests: 8 }, async (pool) => {
      assert.equal(pool.atOnce, 2);
      await until('it has as many at once as it may', () => pool.atOnce === 8, findsOutMsMax);
      // libuv has four threads where nobody asked for more.
      await until('the token sees them', () => token.counters.signingMost >= 4);
    });
  });

  test('a single batch for each thread is reason enough, when it has more requests than are in the token', async () => {
    hsm.token.delaySigning(latencyMicros);
    await load({ threads: 2, sessionsMax: 8, batches: 2, requests: 8 }, (pool) =>
      until('it has as many at once as it may', () => pool.atOnce === 8, findsOutMsMax),
    );
  });

  test('batches of one request fill the token too', async () => {
    const { token } = hsm;
    token.delaySigning(latencyMicros);
    await load({ threads: 1, sessionsMax: 4, batches: 8, requests: 1 }, (pool) =>
      until('there are four in the token', () => pool.signing === 4 && token.counters.signing === 4, findsOutMsMax),
    );
  });

  test('a call that does not come back is seen, and ends the pool', async () => {
    const { token } = hsm;
    const pool = await StampingPool.start({
      data: hsm.data,
      threads: 2,
      sessionsMax: 8,
      inline: false,
      callMsMax: 300,
      keepAliveMs: 60_000,
    });
    const rule = token.hang('C_Sign', { times: 1 });
    const pending = Promise.allSettled([pool.stamp(Buffer.from(batchOf(1)), monotonicMs())]);
    assert.equal((await pool.failed).code, 'HSM_DEVICE');
    assert.ok(pool.stuck);
    await assert.rejects(pool.stamp(Buffer.from(batchOf(1)), monotonicMs()), { code: 'HSM_DEVICE' });
    rule.clear();
    await pending;
    await pool.close();
  });
});
