import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../../config/errors.ts';
import { type AnswerSection, decodeAnswerBlock } from '../../queue/answer-block.ts';
import { signerGroup } from '../../queue/keys.ts';
import type { LaneAnswer } from '../../queue/lane-requester.ts';
import { HandedBack, type LaneEntry } from '../../queue/lane-responder.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { decodeStampRequests, encodeStampRequests } from '../../queue/stamp-messages.ts';
import { makeAnswerBlock } from '../support/answer-blocks.ts';
import { type BenchRequester, createGate, grantAll, keys, LaneBench, numbered, numberOf } from '../support/lane-bench.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { until } from '../support/until.ts';

/** What a busy machine adds to any deadline. */
const slackMs = 400;
const askMany = (requester: BenchRequester, count: number, from = 0) =>
  Promise.all(Array.from({ length: count }, (_, i) => requester.ask(from + i)));
const kindsOf = (answers: readonly { readonly answer: LaneAnswer }[]): string[] => [...new Set(answers.map(({ answer }) => answer.kind))];

describe('the timestamp lane', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let bench: LaneBench;
  before(async () => {
    server = await startTestRedis();
  });
  after(() => server.close());
  beforeEach(async () => {
    bench = new LaneBench(server);
    await bench.look.flushall();
  });
  afterEach(() => bench.close());

  const untilEmpty = (): Promise<number> =>
    until('stream and books are empty', async () => (await bench.entries()).stream + (await bench.entries()).pending === 0, 3_000);

  describe('batches', () => {
    test('a lone request is a batch of one, sent at once', async () => {
      const requester = await bench.requester();
      const gate = createGate();
      await bench.responder({ work: (entry) => gate.passed.then(() => grantAll(entry)) });
      const asked = requester.ask(7);
      assert.deepEqual(requester.batches, []);
      await new Promise(setImmediate);
      assert.deepEqual(requester.batches, [1], 'in the very next turn');
      gate.open();
      assert.equal(numberOf((await asked).answer), 7);
    });

    test('what arrives in one turn shares an entry', async () => {
      const requester = await bench.requester();
      await bench.responder();
      const answers = await askMany(requester, 10);
      assert.deepEqual(requester.batches, [10]);
      assert.deepEqual(
        answers.map(({ answer }) => numberOf(answer)),
        Array.from({ length: 10 }, (_, i) => i),
      );
    });

    test('while an entry is without a reply, the next waits for company, at the latest until that reply', async () => {
      const requester = await bench.requester({ batchMin: 4, batchMax: 8 });
      const gate = createGate();
      await bench.responder({ work: (entry) => gate.passed.then(() => grantAll(entry)) });
      const all: Promise<{ answer: LaneAnswer }>[] = [];
      const askOne = async (): Promise<void> => {
        all.push(requester.ask(all.length));
        await new Promise(setImmediate);
      };
      for (let i = 0; i < 4; i += 1) await askOne();
      assert.deepEqual(requester.batches, [1], 'three are not worth an entry');
      await askOne();
      assert.deepEqual(requester.batches, [1, 4]);
      await askOne();
      assert.deepEqual(requester.batches, [1, 4], 'one waits');
      gate.open();
      assert.deepEqual(kindsOf(await Promise.all(all)), ['granted']);
      assert.deepEqual(requester.batches, [1, 4, 1], 'and went with a reply');
    });

    test('behind the bound of entries requests wait and form larger batches', async () => {
      const requester = await bench.requester({ entriesOutstandingMax: 2, batchMax: 8 });
      const gate = createGate();
      let seen = 0;
      await bench.responder({
        work: async (entry) => {
          seen = Math.max(seen, requester.lane.entriesOutstanding);
          await gate.passed;
          return grantAll(entry);
        },
      });
      const all: Promise<{ answer: LaneAnswer }>[] = [];
      for (let i = 0; i < 30; i += 1) {
        all.push(requester.ask(i));
        await new Promise(setImmediate);
      }
      assert.deepEqual(requester.batches, [1, 1], 'two entries without a reply, and no more');
      assert.equal(requester.lane.entriesOutstanding, 2);
      assert.equal(requester.lane.inFlight, 30);
      gate.open();
      const answers = await Promise.all(all);
      assert.deepEqual(
        answers.map(({ answer }) => numberOf(answer)),
        Array.from({ length: 30 }, (_, i) => i),
      );
      assert.equal(requester.batches[2], 8);
      assert.ok(Math.max(...requester.batches) === 8 && seen <= 2);
      assert.deepEqual([requester.lane.inFlight, requester.lane.entriesOutstanding], [0, 0]);
    });

    test('under load: batches up to the limit, each request its own answer', async () => {
      const requester = await bench.requester({ batchMax: 16, inFlightMax: 3_000 });
      const responder = await bench.responder();
      const answers = await askMany(requester, 3_000);
      assert.ok(answers.every(({ answer }, i) => numberOf(answer) === i));
      assert.equal(Math.max(...requester.batches), 16);
      assert.equal(
        requester.batches.reduce((sum, batch) => sum + batch, 0),
        3_000,
      );
      await until('every answer is committed', () => responder.answeredBatches === requester.batches.length);
      assert.equal(await bench.look.hget(keys.stamps, 'anonymous'), '3000');
      assert.equal(await bench.look.xlen(keys.journal), requester.batches.length, 'one block for each batch');
      assert.deepEqual(await bench.entries(), { stream: 0, pending: 0 });
    });

    test('two gateways and two signers: nobody gets what another one asked', async () => {
      const [one, other] = [await bench.requester(), await bench.requester()];
      const [first, second] = [await bench.responder(), await bench.responder()];
      const [mine, theirs] = await Promise.all([askMany(one, 400), askMany(other, 400, 1_000)]);
      assert.ok(mine.every(({ answer }, i) => numberOf(answer) === i));
      assert.ok(theirs.every(({ answer }, i) => numberOf(answer) === 1_000 + i));
      assert.equal(await one.lane.livingSigners(500), 2);
      assert.deepEqual([first.failures, second.failures], [[], []]);
    });
  });

  describe('bounds', () => {
    test('a requester takes no more than its bound, and takes again when there is room', async () => {
      const requester = await bench.requester({ inFlightMax: 20 });
      const gate = createGate();
      await bench.responder({ work: (entry) => gate.passed.then(() => grantAll(entry)) });
      const asked = askMany(requester, 20);
      assert.equal(requester.lane.hasRoomFor(1), false);
      assert.equal(requester.lane.hasRoomFor(0), true);
      let called = 0;
      assert.equal(
        requester.lane.submit(numbered(99), () => {
          called += 1;
        }),
        false,
      );
      gate.open();
      await asked;
      assert.equal(called, 0, 'what was not taken is never answered');
      assert.equal(requester.lane.hasRoomFor(20), true);
      assert.equal(requester.lane.hasRoomFor(21), false);
      assert.equal(numberOf((await requester.ask(5)).answer), 5);
    });

    test('a responder reads no more entries than it has room for', async () => {
      const requester = await bench.requester({ entriesOutstandingMax: 8, batchMax: 1 });
      const gate = createGate();
      const responder = await bench.responder({ capacity: 3, work: (entry) => gate.passed.then(() => grantAll(entry)) });
      const asked = askMany(requester, 8);
      await until('the responder is full', () => responder.lane.busy === 3);
      await until('all are in the stream', async () => (await bench.entries()).stream === 8);
      assert.equal((await bench.entries()).pending, 3);
      assert.equal(responder.lane.busy, 3);
      gate.open();
      assert.deepEqual(kindsOf(await asked), ['granted']);
    });

    test('the journal stream keeps every block: only the writer of the journal removes what it has', async () => {
      const requester = await bench.requester({ batchMax: 1, inFlightMax: 2_000 });
      await bench.responder();
      await askMany(requester, 1_000);
      assert.equal(await bench.look.xlen(keys.journal), 1_000);
    });
  });

  describe('deadlines', () => {
    test('with no signer each request expires at its deadline, and nothing stays behind', async () => {
      const deadlineMs = 300;
      const requester = await bench.requester({ deadlineMs, entriesOutstandingMax: 2, batchMax: 4 });
      const answers = await askMany(requester, 20);
      for (const { answer, tookMs } of answers) {
        assert.equal(answer.kind, 'expired');
        assert.ok(tookMs >= deadlineMs - 1 && tookMs < deadlineMs + slackMs, `${tookMs} ms`);
      }
      assert.deepEqual([requester.lane.inFlight, requester.lane.entriesOutstanding], [0, 0]);
      await until('the stream is empty', async () => (await bench.entries()).stream === 0);
      assert.deepEqual(requester.batches, [4, 4], 'what waited was never sent');
    });

    test('a request that waited takes its lost time with it', async () => {
      const requester = await bench.requester({ deadlineMs: 1_500, entriesOutstandingMax: 1 });
      const left: number[] = [];
      const gate = createGate();
      await bench.responder({
        work: async (entry) => {
          const [first] = decodeStampRequests(entry.payload);
          left.push(first?.ttlMs ?? Number.NaN);
          assert.ok(Math.abs(monotonicMs() - entry.enteredAtMs) < slackMs, 'entered just now');
          await gate.passed;
          return grantAll(entry);
        },
      });
      const first = requester.ask(1);
      await until('the first is at work', () => left.length === 1);
      const second = requester.ask(2);
      await delay(300); // the time that passes is what this test is about
      gate.open();
      assert.deepEqual(kindsOf(await Promise.all([first, second])), ['granted']);
      assert.ok(left[0] !== undefined && left[0] <= 1_500 && left[0] > 1_300);
      assert.ok(left[1] !== undefined && left[1] <= 1_210 && left[1] > 600, String(left));
    });

    test('an answer behind the deadline is dropped, and later ones are not disturbed', async () => {
      const requester = await bench.requester({ deadlineMs: 250 });
      const gate = createGate();
      const responder = await bench.responder({
        work: async (entry) => {
          if (decodeStampRequests(entry.payload).some(({ messageImprint }) => Buffer.from(messageImprint).readDoubleBE() === 1))
            await gate.passed;
          return grantAll(entry);
        },
      });
      assert.equal((await requester.ask(1)).answer.kind, 'expired');
      assert.equal(numberOf((await requester.ask(2)).answer), 2);
      gate.open();
      await until('the late answer is delivered', () => responder.lane.busy === 0);
      assert.equal(numberOf((await requester.ask(3)).answer), 3);
      assert.equal(requester.answeredTwice, 0);
      await until('nothing is left', async () => (await bench.entries()).stream + (await bench.entries()).pending === 0);
    });

    test('an entry that Redis took only after the deadline does not stay in the stream', async () => {
      const requester = await bench.requester({ deadlineMs: 150 });
      await bench.look.client('PAUSE', 500, 'WRITE');
      const { answer, tookMs } = await requester.ask(1);
      assert.equal(answer.kind, 'expired');
      assert.ok(tookMs < 150 + slackMs);
      await until('Redis writes again', async () => (await bench.look.set('probe', '1')) === 'OK');
      await until('the stream is empty', async () => (await bench.entries()).stream === 0, 2_000);
    });
  });

  describe('a signer that dies, stalls or fails', () => {
    test('the entries of a dead one are claimed within deadAfterMs and a second', async () => {
      const deadAfterMs = 800;
      const requester = await bench.requester({ deadlineMs: 5_000, batchMax: 1 });
      await bench.look.xgroup('CREATE', keys.requests, signerGroup, '0', 'MKSTREAM');
      const asked = askMany(requester, 4);
      await until('all are in the stream', async () => (await bench.entries()).stream === 4);
      // Reads, gives a sign of life, and is gone: what SIGKILL leaves behind.
      await bench.look.xreadgroup('GROUP', signerGroup, 'dead', 'COUNT', 10, 'STREAMS', keys.requests, '>');
      const [seconds, micros] = await bench.look.time();
      await bench.look.zadd(keys.signers, Math.round(Number(seconds) * 1_000 + Number(micros) / 1_000), 'dead');
      const died = performance.now();
      const responder = await bench.responder({ deadAfterMs });
      assert.equal(await requester.lane.livingSigners(deadAfterMs), 2, 'not dead yet');
      const answers = await asked;
      const tookMs = performance.now() - died;
      assert.ok(answers.every(({ answer }, i) => numberOf(answer) === i));
      assert.equal(responder.claimed, 4);
      assert.ok(tookMs >= deadAfterMs - 10 && tookMs < deadAfterMs + 1_000, `${tookMs} ms`);
      assert.deepEqual(await bench.entries(), { stream: 0, pending: 0 });
      await until('it counts as dead', async () => (await requester.lane.livingSigners(deadAfterMs)) === 1, 1_500);
    });

    test('one that gives up hands back what it has read: another answers it at once, and nothing is answered twice', async () => {
      const requester = await bench.requester({ deadlineMs: 10_000, batchMax: 1 });
      const failing = createGate();
      const abandoning = await bench.responder({
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
      const other = await bench.responder({ deadAfterMs: 60_000 });
      const answers = await asked;
      assert.ok(answers.every(({ answer }, i) => numberOf(answer) === i));
      assert.ok(performance.now() - gaveUp < 5_000, 'long before it would have counted as dead');
      assert.ok(other.claimed > 0);
      assert.equal(requester.answeredTwice, 0);
      assert.deepEqual(abandoning.failures, []);
      assert.deepEqual(await bench.entries(), { stream: 0, pending: 0 });
    });

    test('what reaches one in the moment in which it gives up is taken over as well', async () => {
      const requester = await bench.requester({ deadlineMs: 10_000, batchMax: 1 });
      const abandoning = await bench.responder({
        deadAfterMs: 60_000,
        work: async () => {
          throw new HandedBack('the token is gone');
        },
      });
      await until('it waits for entries', async () => / flags=b.*cmd=xreadgroup/.test(String(await bench.look.client('LIST'))));
      await abandoning.lane.abandon();
      // Its read still waits in Redis, and this entry goes to it.
      const asked = requester.ask(1);
      await until('it was delivered', async () => (await bench.entries()).pending === 1);
      const other = await bench.responder({ deadAfterMs: 60_000 });
      assert.equal(numberOf((await asked).answer), 1);
      assert.equal(other.claimed, 1);
    });

    test('a signer counts as living for deadAfterMs and no longer', async () => {
      const requester = await bench.requester();
      const redisMs = async (): Promise<number> => {
        const [seconds, micros] = await bench.look.time();
        return Number(seconds) * 1_000 + Number(micros) / 1_000;
      };
      // Late in a second, where a time cut to seconds is off the most.
      await until('it is late in a second', async () => (await redisMs()) % 1_000 > 800);
      const now = await redisMs();
      await bench.look.zadd(keys.signers, Math.round(now) - 400, 'living', Math.round(now) - 600, 'dead');
      assert.equal(await requester.lane.livingSigners(500), 1);
    });

    test('an entry that was delivered into a broken connection does not stay in the books of a signer that lives', async () => {
      const requester = await bench.requester({ deadlineMs: 1_000 });
      await bench.look.xgroup('CREATE', keys.requests, signerGroup, '0', 'MKSTREAM');
      const asked = requester.ask(1);
      await until('it is in the stream', async () => (await bench.entries()).stream === 1);
      // Of a gateway that does not know its id, because that answer was lost too.
      await bench.look.xadd(
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
      await bench.look.xreadgroup('GROUP', signerGroup, 'alive', 'COUNT', 10, 'STREAMS', keys.requests, '>');
      await bench.responder({ signerId: 'alive', deadlineMs: 1_000 });
      assert.ok((await asked).tookMs < 1_000 + slackMs);
      await untilEmpty();
    });

    test('missed entries count towards what a responder works on at once', async () => {
      const requester = await bench.requester({ deadlineMs: 5_000, batchMax: 1, entriesOutstandingMax: 16 });
      await bench.look.xgroup('CREATE', keys.requests, signerGroup, '0', 'MKSTREAM');
      const asked = askMany(requester, 12);
      await until('all are in the stream', async () => (await bench.entries()).stream === 12);
      await bench.look.xreadgroup('GROUP', signerGroup, 'alive', 'COUNT', 6, 'STREAMS', keys.requests, '>');
      const gate = createGate();
      let working = 0;
      let most = 0;
      const responder = await bench.responder({
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
      await until('a beat later', async () => (await bench.look.zscore(keys.signers, 'alive')) !== null);
      gate.open();
      assert.deepEqual(kindsOf(await asked), ['granted']);
      assert.ok(most <= 3, `${most} at once`);
    });

    test('a full responder claims only what it has room for', async () => {
      const requester = await bench.requester({ deadlineMs: 5_000, batchMax: 1, entriesOutstandingMax: 8 });
      await bench.look.xgroup('CREATE', keys.requests, signerGroup, '0', 'MKSTREAM');
      const asked = askMany(requester, 8);
      await until('all are in the stream', async () => (await bench.entries()).stream === 8);
      await bench.look.xreadgroup('GROUP', signerGroup, 'dead', 'COUNT', 10, 'STREAMS', keys.requests, '>');
      await bench.look.zadd(keys.signers, 1, 'dead');
      let most = 0;
      let working = 0;
      const responder = await bench.responder({
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
        const requester = await bench.requester({ deadlineMs: 5_000 });
        const [slowGate, claimerGate] = [createGate(), createGate()];
        const slow = await bench.responder({
          command: stalled(bench.connect('command')),
          work: (entry) => slowGate.passed.then(() => grantAll(entry)),
        });
        const asked = requester.ask(1);
        await until('the slow one has it', () => slow.lane.busy === 1);
        let claimedBatches = 0;
        const claimer = await bench.responder({
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
        assert.equal(await bench.look.xlen(keys.journal), 1);
        assert.equal(await bench.look.hget(keys.stamps, 'anonymous'), '1');
        assert.deepEqual(await bench.entries(), { stream: 0, pending: 0 });
        assert.equal(requester.answeredTwice, 0);
        assert.equal(numberOf((await requester.ask(2)).answer), 2);
      });
    }

    test('work that throws costs its own requests only, and leaves nothing behind', async () => {
      const requester = await bench.requester({ deadlineMs: 400, batchMax: 1 });
      const isBad = (entry: LaneEntry): boolean =>
        decodeStampRequests(entry.payload).some(({ messageImprint }) => Buffer.from(messageImprint).readDoubleBE() < 0);
      const responder = await bench.responder({
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
      await untilEmpty();
    });

    test('an entry of nobody that cannot be read does not stay for ever', async () => {
      const responder = await bench.responder({ deadlineMs: 400 });
      await bench.look.xadd(keys.requests, '*', 'g', 'long-gone', 'n', '1', 'b', 'not a batch');
      await until('it was tried', () => responder.failures.length > 0);
      await untilEmpty();
    });

    test('entries with other fields are taken out, and the reader goes on', async () => {
      const requester = await bench.requester();
      await bench.responder();
      await bench.look.xadd(keys.requests, '*', 'something', 'else');
      await bench.look.xadd(keys.requests, '*', 'g', 'x', 'n', '1');
      assert.equal(numberOf((await requester.ask(1)).answer), 1);
      await until('they are gone', async () => (await bench.entries()).stream === 0);
      assert.equal((await bench.entries()).pending, 0);
    });
  });

  describe('replies', () => {
    const repliesKey = async (): Promise<string> => {
      const [found] = await bench.look.keys(keys.replies('*'));
      return found ?? '';
    };

    test('are trimmed when the lane falls idle, and expire with their gateway', async () => {
      const requester = await bench.requester({ batchMax: 4 });
      await bench.responder({ deadlineMs: 700 });
      await askMany(requester, 600);
      const key = await repliesKey();
      const expiry = await bench.look.pttl(key);
      assert.ok(expiry > 0 && expiry <= 1_400, `${expiry} ms`);
      await until('the replies are trimmed', async () => (await bench.look.xlen(key)) === 0);
    });

    test('never gather while the lane is busy', async () => {
      const requester = await bench.requester({ batchMax: 1 });
      await bench.responder({ deadlineMs: 2_000 });
      let most = 0;
      for (let round = 0; round < 20; round += 1) {
        await askMany(requester, 40);
        most = Math.max(most, await bench.look.xlen(await repliesKey()));
      }
      assert.ok(most < 200, `${most} replies`);
    });

    test('of a gateway that is gone vanish by themselves', async () => {
      await bench.responder({ deadlineMs: 300 });
      const entry = await bench.requester({ gatewayId: 'to-be-killed', deadlineMs: 300 });
      assert.equal(numberOf((await entry.ask(1)).answer), 1);
      await until('the key is gone', async () => (await bench.look.exists(keys.replies('to-be-killed'))) === 0, 3_000);
    });

    test('that cannot be read are reported once, and the reader goes on', async () => {
      const requester = await bench.requester({ gatewayId: 'one', deadlineMs: 1_500 });
      await bench.responder();
      assert.equal(numberOf((await requester.ask(1)).answer), 1);
      await bench.look.xadd(keys.replies('one'), '*', 'n', '0', 'b', 'not a block');
      await until('it is reported', () => requester.readErrors.length === 1);
      assert.equal(numberOf((await requester.ask(2)).answer), 2);
      assert.equal(requester.readErrors.length, 1);
    });

    test('without the expected fields are reported too, and the reader goes on', async () => {
      const requester = await bench.requester({ gatewayId: 'one', deadlineMs: 1_500 });
      await bench.responder();
      await bench.look.xadd(keys.replies('one'), '*', 'x', 'y');
      await until('it is reported', () => requester.readErrors.length === 1);
      assert.equal(numberOf((await requester.ask(2)).answer), 2);
    });

    test('that leave a request out: it expires at its deadline, the others have their answer', async () => {
      const requester = await bench.requester({ deadlineMs: 500 });
      await bench.responder({
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
      const requester = await bench.requester({ deadlineMs: 1_000 });
      const responder = await bench.responder();
      assert.equal(numberOf((await requester.ask(1)).answer), 1);
      await bench.look.flushall();
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
      const requester = await bench.requester({ deadlineMs: 600 });
      const gate = createGate();
      const responder = await bench.responder({ deadlineMs: 600, work: (entry) => gate.passed.then(() => grantAll(entry)) });
      const asked = requester.ask(1);
      await until('it is at work', () => responder.lane.busy === 1);
      await bench.look.flushall();
      gate.open();
      assert.ok((await asked).tookMs < 600 + slackMs);
      await until('stamps are granted again', async () => (await requester.ask(2)).answer.kind === 'granted');
      assert.equal(requester.answeredTwice, 0);
    });
  });

  describe('the end', () => {
    test('drained: at once when idle, else with the last answer', async () => {
      const requester = await bench.requester();
      const gate = createGate();
      const responder = await bench.responder({ work: (entry) => gate.passed.then(() => grantAll(entry)) });
      await requester.lane.drained();
      const asked = askMany(requester, 5);
      let drained = false;
      const waiting = requester.lane.drained().then(() => {
        drained = true;
      });
      await until('it is at work', () => responder.lane.busy === 1);
      assert.equal(drained, false);
      gate.open();
      await Promise.all([asked, waiting]);
      assert.equal(requester.lane.inFlight, 0);
    });

    test('drained: every caller is told', { timeout: 5_000 }, async () => {
      const requester = await bench.requester({ deadlineMs: 200 });
      const asked = requester.ask(1);
      await Promise.all([requester.lane.drained(), requester.lane.drained(), asked]);
    });

    test('close answers what is in flight, takes nothing more and removes its replies', async () => {
      const requester = await bench.requester({ gatewayId: 'closing', deadlineMs: 5_000, entriesOutstandingMax: 1, batchMax: 2 });
      const gate = createGate();
      const responder = await bench.responder({ work: (entry) => gate.passed.then(() => grantAll(entry)) });
      const asked = askMany(requester, 5);
      await until('it is at work', () => responder.lane.busy === 1);
      const started = performance.now();
      await requester.lane.close();
      assert.ok(performance.now() - started < 1_500);
      assert.deepEqual(kindsOf(await asked), ['unavailable']);
      assert.equal(
        requester.lane.submit(numbered(9), () => assert.fail('answered')),
        false,
      );
      assert.equal(requester.lane.hasRoomFor(1), false);
      assert.equal(requester.lane.inFlight, 0);
      await requester.lane.drained();
      assert.equal(await bench.look.exists(keys.replies('closing')), 0);
      gate.open();
    });

    test('a responder finishes what it has read, and leaves the group', async () => {
      const requester = await bench.requester({ batchMax: 1 });
      const gate = createGate();
      const responder = await bench.responder({ capacity: 2, work: (entry) => gate.passed.then(() => grantAll(entry)) });
      const asked = askMany(requester, 4);
      await until('two are at work', () => responder.lane.busy === 2);
      const closing = responder.lane.close();
      gate.open();
      await closing;
      assert.equal(responder.lane.busy, 0);
      const consumers = (await bench.look.xinfo('CONSUMERS', keys.requests, signerGroup)) as unknown[];
      assert.equal(consumers.length, 0);
      assert.equal(await bench.look.zcard(keys.signers), 0);
      // The others wait for a signer that lives.
      await bench.responder();
      assert.deepEqual(kindsOf(await asked), ['granted']);
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
    const responder = await bench.responder({ deadlineMs: 5_000, work: (entry) => gate.passed.then(() => grantAll(entry)) });
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
    const responder = await bench.responder({ deadlineMs: 600, work: (entry) => gate.passed.then(() => grantAll(entry)) });
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
