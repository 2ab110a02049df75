/** What the timestamp lane keeps in Redis for its answers, and what becomes of the lane when Redis is emptied, killed or away. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { type AnswerSection, decodeAnswerBlock } from '../../queue/answer-block.ts';
import { makeAnswerBlock } from '../support/answer-blocks.ts';
import { createGate, grantAll, keys, LaneBench, numberOf } from '../support/lane-bench.ts';
import { askMany, grantBehind, laneWorld, slackMs } from '../support/lane-world.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { until } from '../support/until.ts';

describe('the timestamp lane', { skip: redisServerMissing() }, () => {
  const world = laneWorld();

  describe('replies', () => {
    const repliesKey = async (): Promise<string> => {
      const [found] = await world.bench.look.keys(keys.replies('*'));
      return found ?? '';
    };

    test('are trimmed when the lane falls idle, and expire with their gateway', async () => {
      const requester = await world.bench.requester({ batchMax: 4 });
      await world.bench.responder({ deadlineMs: 700 });
      await askMany(requester, 600);
      const key = await repliesKey();
      const expiry = await world.bench.look.pttl(key);
      assert.ok(expiry > 0 && expiry <= 1_400, `${expiry} ms`);
      await until('the replies are trimmed', async () => (await world.bench.look.xlen(key)) === 0);
    });

    test('never gather while the lane is busy', async () => {
      const requester = await world.bench.requester({ batchMax: 1 });
      await world.bench.responder({ deadlineMs: 2_000 });
      let most = 0;
      for (let round = 0; round < 20; round += 1) {
        await askMany(requester, 40);
        most = Math.max(most, await world.bench.look.xlen(await repliesKey()));
      }
      assert.ok(most < 200, `${most} replies`);
    });

    test('of a gateway that is gone vanish by themselves', async () => {
      await world.bench.responder({ deadlineMs: 300 });
      const entry = await world.bench.requester({ gatewayId: 'to-be-killed', deadlineMs: 300 });
      assert.equal(numberOf((await entry.ask(1)).answer), 1);
      await until('the key is gone', async () => (await world.bench.look.exists(keys.replies('to-be-killed'))) === 0, 3_000);
    });

    test('that cannot be read are reported once, and the reader goes on', async () => {
      const requester = await world.bench.requester({ gatewayId: 'one', deadlineMs: 1_500 });
      await world.bench.responder();
      assert.equal(numberOf((await requester.ask(1)).answer), 1);
      await world.bench.look.xadd(keys.replies('one'), '*', 'n', '0', 'b', 'not a block');
      await until('it is reported', () => requester.readErrors.length === 1);
      assert.equal(numberOf((await requester.ask(2)).answer), 2);
      assert.equal(requester.readErrors.length, 1);
    });

    test('without the expected fields are reported too, and the reader goes on', async () => {
      const requester = await world.bench.requester({ gatewayId: 'one', deadlineMs: 1_500 });
      await world.bench.responder();
      await world.bench.look.xadd(keys.replies('one'), '*', 'x', 'y');
      await until('it is reported', () => requester.readErrors.length === 1);
      assert.equal(numberOf((await requester.ask(2)).answer), 2);
    });

    test('that leave a request out: it expires at its deadline, the others have their answer', async () => {
      const requester = await world.bench.requester({ deadlineMs: 500 });
      await world.bench.responder({
        work: async (entry) => {
          const { node, sections } = decodeAnswerBlock(grantAll(entry).block);
          const [{ tsu, answers }] = sections as [AnswerSection];
          return { block: makeAnswerBlock(node, tsu, answers.slice(1)), stamps: new Map() };
        },
      });
      const [first, second] = await askMany(requester, 2);
      assert.equal(first?.answer.kind, 'expired');
      assert.ok((first?.tookMs ?? Number.NaN) < 500 + slackMs);
      assert.equal(second && numberOf(second.answer), 1);
    });
  });

  describe('Redis emptied under the lane', () => {
    test('FLUSHALL: the group is made anew, by itself', async () => {
      const requester = await world.bench.requester({ deadlineMs: 1_000 });
      const responder = await world.bench.responder();
      assert.equal(numberOf((await requester.ask(1)).answer), 1);
      await world.bench.look.flushall();
      let recovered = Number.NaN;
      await until('stamps are granted again', async () => {
        const { answer } = await requester.ask(2);
        recovered = numberOf(answer);
        return answer.kind === 'granted';
      });
      assert.equal(recovered, 2);
      await until('it counts as living again', async () => (await requester.lane.livingSigners(600)) === 1, 2_000);
      assert.ok(responder.lane.reading);
      assert.ok(!responder.failures.includes('answer'));
    });

    test('FLUSHALL while entries are at work: answered by the deadline, then all is well', async () => {
      const requester = await world.bench.requester({ deadlineMs: 600 });
      const gate = createGate();
      const responder = await world.bench.responder({ deadlineMs: 600, work: grantBehind(gate) });
      const asked = requester.ask(1);
      await until('it is at work', () => responder.lane.busy === 1);
      await world.bench.look.flushall();
      gate.open();
      assert.ok((await asked).tookMs < 600 + slackMs);
      await until('stamps are granted again', async () => (await requester.ask(2)).answer.kind === 'granted');
      assert.equal(requester.answeredTwice, 0);
    });
  });
});

describe('the timestamp lane when Redis dies', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let bench: LaneBench;
  beforeEach(async () => {
    server = await startTestRedis({ appendOnly: true });
    bench = new LaneBench(server);
  });
  afterEach(async () => {
    await bench.close();
    await server.close();
  });

  test('killed and started under load: each request answered once by its deadline, and service by itself', async () => {
    const deadlineMs = 1_500;
    const requester = await bench.requester({ deadlineMs, inFlightMax: 100 });
    const responder = await bench.responder({ deadlineMs });
    const outcomes: Record<string, number> = {};
    let slowest = 0;
    let running = true;
    let number = 0;
    const client = async (): Promise<void> => {
      while (running) {
        number += 1;
        const mine = number;
        const { answer, tookMs } = await requester.ask(mine);
        outcomes[answer.kind] = (outcomes[answer.kind] ?? 0) + 1;
        slowest = Math.max(slowest, tookMs);
        if (answer.kind === 'granted') assert.equal(numberOf(answer), mine);
        // Refused at once while Redis is away: a client does not come back at once.
        if (answer.kind !== 'granted') await delay(20);
      }
    };
    const clients = Array.from({ length: 16 }, client);
    await until('the lane is busy', () => (outcomes['granted'] ?? 0) > 200);
    await server.stop('SIGKILL');
    await until('requests are refused', () => (outcomes['unavailable'] ?? 0) + (outcomes['expired'] ?? 0) > 20);
    const granted = outcomes['granted'] ?? 0;
    await server.start();
    const back = performance.now();
    await until('stamps are granted again', () => (outcomes['granted'] ?? 0) > granted + 200);
    assert.ok(performance.now() - back < 5_000);
    running = false;
    await Promise.all(clients);
    assert.ok(slowest < deadlineMs + slackMs, `slowest ${slowest} ms`);
    assert.equal(requester.answeredTwice, 0);
    assert.equal(requester.lane.inFlight, 0);
    assert.ok(responder.lane.reading);
  });

  test('killed while entries are at work: the answer is kept until Redis is back, and given once', async () => {
    const requester = await bench.requester({ deadlineMs: 5_000 });
    const gate = createGate();
    const responder = await bench.responder({ deadlineMs: 5_000, work: grantBehind(gate) });
    const asked = requester.ask(1);
    await until('it is at work', () => responder.lane.busy === 1);
    await server.stop('SIGKILL');
    gate.open();
    await until('the answer could not be given', () => responder.failures.includes('answer'));
    await server.start();
    const { answer } = await asked;
    assert.equal(numberOf(answer), 1);
    await until('both are done', () => responder.lane.busy === 0);
    assert.equal(await bench.look.hget(keys.stamps, 'anonymous'), '1');
    assert.equal(await bench.look.xlen(keys.journal), 1);
    assert.deepEqual(await bench.entries(), { stream: 0, pending: 0 });
  });

  test('away for good: refused at once, or at the deadline for what was sent; close does not hang', async () => {
    const requester = await bench.requester({ deadlineMs: 600 });
    const gate = createGate();
    const responder = await bench.responder({ deadlineMs: 600, work: grantBehind(gate) });
    const sent = requester.ask(1);
    await until('it is at work', () => responder.lane.busy === 1);
    await server.stop('SIGKILL');
    gate.open();
    assert.ok((await sent).tookMs < 600 + slackMs);
    const refused = await requester.ask(2);
    assert.equal(refused.answer.kind, 'unavailable');
    assert.ok(refused.tookMs < 100 + slackMs, `${refused.tookMs} ms`);
    await until('the responder gave it up', () => responder.lane.busy === 0, 3_000);
    assert.equal(responder.lane.reading, false);
    const started = performance.now();
    await Promise.all([requester.lane.close(), responder.lane.close()]);
    assert.ok(performance.now() - started < 3_000);
  });

  test('empty after a restart: what it lost is answered by the deadline', async () => {
    const requester = await bench.requester({ deadlineMs: 1_000 });
    await bench.responder({ deadlineMs: 1_000 });
    assert.equal(numberOf((await requester.ask(1)).answer), 1);
    await bench.look.flushall();
    await server.stop('SIGKILL');
    await server.start();
    const started = performance.now();
    await until('stamps are granted again', async () => (await requester.ask(2)).answer.kind === 'granted');
    assert.ok(performance.now() - started < 5_000);
  });
});
