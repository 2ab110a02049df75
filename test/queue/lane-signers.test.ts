/** Signers of the timestamp lane that die, stall or fail: their entries are answered by others, once, or by nobody and are gone. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../../config/errors.ts';
import { signerGroup } from '../../queue/keys.ts';
import { HandedBack, type LaneEntry } from '../../queue/lane-responder.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { decodeStampRequests, encodeStampRequests } from '../../queue/stamp-messages.ts';
import { createGate, grantAll, keys, numbered, numberOf } from '../support/lane-bench.ts';
import { askMany, grantBehind, kindsOf, laneWorld, slackMs, untilEmpty } from '../support/lane-world.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { until } from '../support/until.ts';

describe('the timestamp lane', { skip: redisServerMissing() }, () => {
  const world = laneWorld();

  describe('a signer that dies, stalls or fails', () => {
    test('the entries of a dead one are claimed within deadAfterMs and a second', async () => {
      const deadAfterMs = 800;
      const requester = await world.bench.requester({ deadlineMs: 5_000, batchMax: 1 });
      await world.bench.look.xgroup('CREATE', keys.requests, signerGroup, '0', 'MKSTREAM');
      const asked = askMany(requester, 4);
      await until('all are in the stream', async () => (await world.bench.entries()).stream === 4);
      // Reads, gives a sign of life, and is gone: what SIGKILL leaves behind.
      await world.bench.look.xreadgroup('GROUP', signerGroup, 'dead', 'COUNT', 10, 'STREAMS', keys.requests, '>');
      const [seconds, micros] = await world.bench.look.time();
      await world.bench.look.zadd(keys.signers, Math.round(Number(seconds) * 1_000 + Number(micros) / 1_000), 'dead');
      const died = performance.now();
      const responder = await world.bench.responder({ deadAfterMs });
      assert.equal(await requester.lane.livingSigners(deadAfterMs), 2, 'not dead yet');
      const answers = await asked;
      const tookMs = performance.now() - died;
      assert.ok(answers.every(({ answer }, i) => numberOf(answer) === i));
      assert.equal(responder.claimed, 4);
      assert.ok(tookMs >= deadAfterMs - 10 && tookMs < deadAfterMs + 1_000, `${tookMs} ms`);
      assert.deepEqual(await world.bench.entries(), { stream: 0, pending: 0 });
      await until('it counts as dead', async () => (await requester.lane.livingSigners(deadAfterMs)) === 1, 1_500);
    });

    test('one that gives up hands back what it has read: another answers it at once, and nothing is answered twice', async () => {
      const requester = await world.bench.requester({ deadlineMs: 10_000, batchMax: 1 });
      const failing = createGate();
      const abandoning = await world.bench.responder({
        deadAfterMs: 60_000,
        work: async () => {
          await failing.passed;
          throw new HandedBack('the token is gone');
        },
      });
      const asked = askMany(requester, 8);
      await until('it has read what it has room for', () => abandoning.lane.busy > 0);
      const gaveUp = performance.now();
      failing.open();
      await abandoning.lane.abandon();
      assert.equal(await requester.lane.livingSigners(60_000), 0);
      const other = await world.bench.responder({ deadAfterMs: 60_000 });
      const answers = await asked;
      assert.ok(answers.every(({ answer }, i) => numberOf(answer) === i));
      assert.ok(performance.now() - gaveUp < 5_000, 'long before it would have counted as dead');
      assert.ok(other.claimed > 0);
      assert.equal(requester.answeredTwice, 0);
      assert.deepEqual(abandoning.failures, []);
      assert.deepEqual(await world.bench.entries(), { stream: 0, pending: 0 });
    });

    test('what reaches one in the moment in which it gives up is taken over as well', async () => {
      const requester = await world.bench.requester({ deadlineMs: 10_000, batchMax: 1 });
      const abandoning = await world.bench.responder({
        deadAfterMs: 60_000,
        work: async () => {
          throw new HandedBack('the token is gone');
        },
      });
      await until('it waits for entries', async () => / flags=b.*cmd=xreadgroup/.test(String(await world.bench.look.client('LIST'))));
      await abandoning.lane.abandon();
      // Its read still waits in Redis, and this entry goes to it.
      const asked = requester.ask(1);
      await until('it was delivered', async () => (await world.bench.entries()).pending === 1);
      const other = await world.bench.responder({ deadAfterMs: 60_000 });
      assert.equal(numberOf((await asked).answer), 1);
      assert.equal(other.claimed, 1);
    });

    test('a signer counts as living for deadAfterMs and no longer', async () => {
      const requester = await world.bench.requester();
      const redisMs = async (): Promise<number> => {
        const [seconds, micros] = await world.bench.look.time();
        return Number(seconds) * 1_000 + Number(micros) / 1_000;
      };
      // Late in a second, where a time cut to seconds is off the most.
      await until('it is late in a second', async () => (await redisMs()) % 1_000 > 800);
      const now = await redisMs();
      await world.bench.look.zadd(keys.signers, Math.round(now) - 400, 'living', Math.round(now) - 600, 'dead');
      assert.equal(await requester.lane.livingSigners(500), 1);
    });

    test('an entry that was delivered into a broken connection does not stay in the books of a signer that lives', async () => {
      const requester = await world.bench.requester({ deadlineMs: 1_000 });
      await world.bench.look.xgroup('CREATE', keys.requests, signerGroup, '0', 'MKSTREAM');
      const asked = requester.ask(1);
      await until('it is in the stream', async () => (await world.bench.entries()).stream === 1);
      // Of a gateway that does not know its id, because that answer was lost too.
      await world.bench.look.xadd(
        keys.requests,
        '*',
        'g',
        'gateway',
        'n',
        '1',
        'b',
        encodeStampRequests([{ ...numbered(2), id: 1 }], () => 1_000),
      );
      // Redis gave both to this signer, which never saw them.
      await world.bench.look.xreadgroup('GROUP', signerGroup, 'alive', 'COUNT', 10, 'STREAMS', keys.requests, '>');
      await world.bench.responder({ signerId: 'alive', deadlineMs: 1_000 });
      assert.ok((await asked).tookMs < 1_000 + slackMs);
      await untilEmpty(world.bench);
    });

    test('missed entries count towards what a responder works on at once', async () => {
      const requester = await world.bench.requester({ deadlineMs: 5_000, batchMax: 1, entriesOutstandingMax: 16 });
      await world.bench.look.xgroup('CREATE', keys.requests, signerGroup, '0', 'MKSTREAM');
      const asked = askMany(requester, 12);
      await until('all are in the stream', async () => (await world.bench.entries()).stream === 12);
      await world.bench.look.xreadgroup('GROUP', signerGroup, 'alive', 'COUNT', 6, 'STREAMS', keys.requests, '>');
      const gate = createGate();
      let working = 0;
      let most = 0;
      const responder = await world.bench.responder({
        signerId: 'alive',
        capacity: 3,
        work: async (entry) => {
          working += 1;
          most = Math.max(most, working);
          await gate.passed;
          working -= 1;
          return grantAll(entry);
        },
      });
      await until('it is full', () => responder.lane.busy >= 3);
      // A read behind the missed ones would come right now.
      await until('a beat later', async () => (await world.bench.look.zscore(keys.signers, 'alive')) !== null);
      gate.open();
      assert.deepEqual(kindsOf(await asked), ['granted']);
      assert.ok(most <= 3, `${most} at once`);
    });

    test('a full responder claims only what it has room for', async () => {
      const requester = await world.bench.requester({ deadlineMs: 5_000, batchMax: 1, entriesOutstandingMax: 8 });
      await world.bench.look.xgroup('CREATE', keys.requests, signerGroup, '0', 'MKSTREAM');
      const asked = askMany(requester, 8);
      await until('all are in the stream', async () => (await world.bench.entries()).stream === 8);
      await world.bench.look.xreadgroup('GROUP', signerGroup, 'dead', 'COUNT', 10, 'STREAMS', keys.requests, '>');
      await world.bench.look.zadd(keys.signers, 1, 'dead');
      let most = 0;
      let working = 0;
      const responder = await world.bench.responder({
        capacity: 3,
        deadAfterMs: 500,
        work: async (entry) => {
          working += 1;
          most = Math.max(most, working);
          await delay(20); // so that the claimed ones are at work together
          working -= 1;
          return grantAll(entry);
        },
      });
      assert.deepEqual(kindsOf(await asked), ['granted']);
      assert.equal(responder.claimed, 8);
      assert.ok(most <= 3, `${most} at once`);
    });

    /** A command connection whose signs of life stop after the first: a process that stands still. */
    const stalled = (client: RedisClient): RedisClient => {
      let beats = 0;
      return new Proxy(client, {
        get(target, property) {
          const value: unknown = Reflect.get(target, property, target);
          if (property === 'zadd') {
            beats += 1;
            if (beats > 1) return () => Promise.resolve(0);
          }
          return typeof value === 'function' ? value.bind(target) : value;
        },
      });
    };

    for (const [name, firstToAnswer] of [
      ['the claimer first', 'claimer'],
      ['the stalled one first', 'stalled'],
    ] as const) {
      test(`two signers answer the same entry, ${name}: one answer, journalled and counted once`, async () => {
        const requester = await world.bench.requester({ deadlineMs: 5_000 });
        const [slowGate, claimerGate] = [createGate(), createGate()];
        const slow = await world.bench.responder({
          command: stalled(world.bench.connect('command')),
          work: grantBehind(slowGate),
        });
        const asked = requester.ask(1);
        await until('the slow one has it', () => slow.lane.busy === 1);
        let claimedBatches = 0;
        const claimer = await world.bench.responder({
          work: async (entry) => {
            claimedBatches += 1;
            await claimerGate.passed;
            return grantAll(entry);
          },
        });
        await until('the other one has claimed it', () => claimedBatches === 1);
        const order = firstToAnswer === 'claimer' ? [claimerGate, slowGate] : [slowGate, claimerGate];
        order[0]?.open();
        assert.equal(numberOf((await asked).answer), 1);
        order[1]?.open();
        await until('both are done', () => slow.lane.busy === 0 && claimer.lane.busy === 0);
        assert.equal(await world.bench.look.xlen(keys.journal), 1);
        assert.equal(await world.bench.look.hget(keys.stamps, 'anonymous'), '1');
        assert.deepEqual(await world.bench.entries(), { stream: 0, pending: 0 });
        assert.equal(requester.answeredTwice, 0);
        assert.equal(numberOf((await requester.ask(2)).answer), 2);
      });
    }

    test('work that throws costs its own requests only, and leaves nothing behind', async () => {
      const requester = await world.bench.requester({ deadlineMs: 400, batchMax: 1 });
      const isBad = (entry: LaneEntry): boolean =>
        decodeStampRequests(entry.payload).some(({ messageImprint }) => Buffer.from(messageImprint).readDoubleBE() < 0);
      const responder = await world.bench.responder({
        deadlineMs: 400,
        work: async (entry) => {
          if (isBad(entry)) throw new SigilloError('LANE_ENTRY_MALFORMED', 'scripted');
          return grantAll(entry);
        },
      });
      const [bad, good] = await Promise.all([requester.ask(-1), requester.ask(1)]);
      assert.notEqual(bad.answer.kind, 'granted');
      assert.ok(bad.tookMs < 400 + slackMs);
      assert.equal(numberOf(good.answer), 1);
      assert.deepEqual(responder.failures, ['work']);
      await untilEmpty(world.bench);
    });

    test('an entry of nobody that cannot be read does not stay for ever', async () => {
      const responder = await world.bench.responder({ deadlineMs: 400 });
      await world.bench.look.xadd(keys.requests, '*', 'g', 'long-gone', 'n', '1', 'b', 'not a batch');
      await until('it was tried', () => responder.failures.length > 0);
      await untilEmpty(world.bench);
    });

    test('entries with other fields are taken out, and the reader goes on', async () => {
      const requester = await world.bench.requester();
      await world.bench.responder();
      await world.bench.look.xadd(keys.requests, '*', 'something', 'else');
      await world.bench.look.xadd(keys.requests, '*', 'g', 'x', 'n', '1');
      assert.equal(numberOf((await requester.ask(1)).answer), 1);
      await until('they are gone', async () => (await world.bench.entries()).stream === 0);
      assert.equal((await world.bench.entries()).pending, 0);
    });
  });
});
