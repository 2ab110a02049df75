/** The timestamp lane while both ends live: how requests become entries, what bounds them, their deadlines, and the end. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { signerGroup } from '../../queue/keys.ts';
import type { LaneAnswer } from '../../queue/lane-requester.ts';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { decodeStampRequests } from '../../queue/stamp-messages.ts';
import { createGate, grantAll, keys, numbered, numberOf } from '../support/lane-bench.ts';
import { askMany, grantBehind, kindsOf, laneWorld, slackMs } from '../support/lane-world.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { until } from '../support/until.ts';

describe('the timestamp lane', { skip: redisServerMissing() }, () => {
  const world = laneWorld();

  describe('batches', () => {
    test('a lone request is a batch of one, sent at once', async () => {
      const requester = await world.bench.requester();
      const gate = createGate();
      await world.bench.responder({ work: grantBehind(gate) });
      const asked = requester.ask(7);
      assert.deepEqual(requester.batches, []);
      await new Promise(setImmediate);
      assert.deepEqual(requester.batches, [1], 'in the very next turn');
      gate.open();
      assert.equal(numberOf((await asked).answer), 7);
    });

    test('what arrives in one turn shares an entry', async () => {
      const requester = await world.bench.requester();
      await world.bench.responder();
      const answers = await askMany(requester, 10);
      assert.deepEqual(requester.batches, [10]);
      assert.deepEqual(
        answers.map(({ answer }) => numberOf(answer)),
        Array.from({ length: 10 }, (_, i) => i),
      );
    });

    test('while an entry is without a reply, the next waits for company, at the latest until that reply', async () => {
      const requester = await world.bench.requester({ batchMin: 4, batchMax: 8 });
      const gate = createGate();
      await world.bench.responder({ work: grantBehind(gate) });
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
      const requester = await world.bench.requester({ entriesOutstandingMax: 2, batchMax: 8 });
      const gate = createGate();
      let seen = 0;
      await world.bench.responder({
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

    test('beyond that bound only full entries go out, as many as there is room for', async () => {
      const requester = await world.bench.requester({ entriesOutstandingMax: 2, fullEntriesBesides: 2, batchMax: 8 });
      const gate = createGate();
      await world.bench.responder({ capacity: 8, work: grantBehind(gate) });
      const all: Promise<{ answer: LaneAnswer }>[] = [];
      const askUntil = async (count: number): Promise<void> => {
        while (all.length < count) {
          all.push(requester.ask(all.length));
          await new Promise(setImmediate);
        }
      };
      await askUntil(9);
      assert.deepEqual(requester.batches, [1, 1], 'seven wait');
      await askUntil(10);
      assert.deepEqual(requester.batches, [1, 1, 8]);
      await askUntil(30);
      assert.deepEqual(requester.batches, [1, 1, 8, 8], 'two more, and no third');
      assert.equal(requester.lane.entriesOutstanding, 4);
      gate.open();
      assert.deepEqual(kindsOf(await Promise.all(all)), ['granted']);
      assert.ok(requester.batches.every((batch) => batch <= 8));
      assert.deepEqual([requester.lane.inFlight, requester.lane.entriesOutstanding], [0, 0], 'also those that never filled one');
    });

    test('other sizes hold at once: what waits goes out when there is room now', async () => {
      const sizes = { entriesOutstandingMax: 1, fullEntriesBesides: 0, batchMin: 1, batchMax: 4 };
      const requester = await world.bench.requester(sizes);
      const gate = createGate();
      await world.bench.responder({ capacity: 8, work: grantBehind(gate) });
      const first = askMany(requester, 4);
      await new Promise(setImmediate);
      const others = askMany(requester, 12);
      await new Promise(setImmediate);
      assert.deepEqual(requester.batches, [4]);
      requester.lane.resize({ ...sizes, fullEntriesBesides: 2 });
      await new Promise(setImmediate);
      assert.deepEqual(requester.batches, [4, 4, 4]);
      requester.lane.resize({ ...sizes, batchMax: 3 });
      await new Promise(setImmediate);
      assert.deepEqual(requester.batches, [4, 4, 4], 'fewer, while more are on their way');
      gate.open();
      assert.deepEqual(kindsOf([...(await first), ...(await others)]), ['granted']);
      assert.deepEqual(requester.batches, [4, 4, 4, 3, 1]);
    });

    test('under load: batches up to the limit, each request its own answer', async () => {
      const requester = await world.bench.requester({ batchMax: 16, inFlightMax: 3_000 });
      const responder = await world.bench.responder();
      const answers = await askMany(requester, 3_000);
      assert.ok(answers.every(({ answer }, i) => numberOf(answer) === i));
      assert.equal(Math.max(...requester.batches), 16);
      assert.equal(
        requester.batches.reduce((sum, batch) => sum + batch, 0),
        3_000,
      );
      await until('every answer is committed', () => responder.answeredBatches === requester.batches.length);
      assert.equal(await world.bench.look.hget(keys.stamps, 'anonymous'), '3000');
      assert.equal(await world.bench.look.xlen(keys.journal), requester.batches.length, 'one block for each batch');
      assert.deepEqual(await world.bench.entries(), { stream: 0, pending: 0 });
    });

    test('two gateways and two signers: nobody gets what another one asked', async () => {
      const [one, other] = [await world.bench.requester(), await world.bench.requester()];
      const [first, second] = [await world.bench.responder(), await world.bench.responder()];
      const [mine, theirs] = await Promise.all([askMany(one, 400), askMany(other, 400, 1_000)]);
      assert.ok(mine.every(({ answer }, i) => numberOf(answer) === i));
      assert.ok(theirs.every(({ answer }, i) => numberOf(answer) === 1_000 + i));
      assert.equal(await one.lane.livingSigners(500), 2);
      assert.deepEqual([first.failures, second.failures], [[], []]);
    });
  });

  describe('bounds', () => {
    test('a requester takes no more than its bound, and takes again when there is room', async () => {
      const requester = await world.bench.requester({ inFlightMax: 20 });
      const gate = createGate();
      await world.bench.responder({ work: grantBehind(gate) });
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
      const requester = await world.bench.requester({ entriesOutstandingMax: 8, batchMax: 1 });
      const gate = createGate();
      const responder = await world.bench.responder({ capacity: 3, work: grantBehind(gate) });
      const asked = askMany(requester, 8);
      await until('the responder is full', () => responder.lane.busy === 3);
      await until('all are in the stream', async () => (await world.bench.entries()).stream === 8);
      assert.equal((await world.bench.entries()).pending, 3);
      assert.equal(responder.lane.busy, 3);
      gate.open();
      assert.deepEqual(kindsOf(await asked), ['granted']);
    });

    test('a responder that can make use of more requests reads on, entry by entry, until it has them', async () => {
      const requester = await world.bench.requester({ entriesOutstandingMax: 16, batchMax: 2 });
      const gate = createGate();
      let wanted = 9;
      const responder = await world.bench.responder({ capacity: 2, requestsWanted: () => wanted, work: grantBehind(gate) });
      const asked = askMany(requester, 32);
      await until('it has what it wants', () => responder.lane.busy === 5);
      await until('all are in the stream', async () => (await world.bench.entries()).stream === 16);
      assert.equal((await world.bench.entries()).pending, 5, 'nine requests in entries of two');
      wanted = 0;
      gate.open();
      assert.deepEqual(kindsOf(await asked), ['granted']);
    });

    test('the journal stream keeps every block: only the writer of the journal removes what it has', async () => {
      const requester = await world.bench.requester({ batchMax: 1, inFlightMax: 2_000 });
      await world.bench.responder();
      await askMany(requester, 1_000);
      assert.equal(await world.bench.look.xlen(keys.journal), 1_000);
    });
  });

  describe('deadlines', () => {
    test('with no signer each request expires at its deadline, and nothing stays behind', async () => {
      const deadlineMs = 300;
      const requester = await world.bench.requester({ deadlineMs, entriesOutstandingMax: 2, batchMax: 4 });
      const answers = await askMany(requester, 20);
      for (const { answer, tookMs } of answers) {
        assert.equal(answer.kind, 'expired');
        assert.ok(tookMs >= deadlineMs - 1 && tookMs < deadlineMs + slackMs, `${tookMs} ms`);
      }
      assert.deepEqual([requester.lane.inFlight, requester.lane.entriesOutstanding], [0, 0]);
      await until('the stream is empty', async () => (await world.bench.entries()).stream === 0);
      assert.deepEqual(requester.batches, [4, 4], 'what waited was never sent');
    });

    test('a request that waited takes its lost time with it', async () => {
      const requester = await world.bench.requester({ deadlineMs: 1_500, entriesOutstandingMax: 1 });
      const left: number[] = [];
      const gate = createGate();
      await world.bench.responder({
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
      const requester = await world.bench.requester({ deadlineMs: 250 });
      const gate = createGate();
      const responder = await world.bench.responder({
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
      await until('nothing is left', async () => (await world.bench.entries()).stream + (await world.bench.entries()).pending === 0);
    });

    test('an entry that Redis took only after the deadline does not stay in the stream', async () => {
      const requester = await world.bench.requester({ deadlineMs: 150 });
      await world.bench.look.client('PAUSE', 500, 'WRITE');
      const { answer, tookMs } = await requester.ask(1);
      assert.equal(answer.kind, 'expired');
      assert.ok(tookMs < 150 + slackMs);
      await until('Redis writes again', async () => (await world.bench.look.set('probe', '1')) === 'OK');
      await until('the stream is empty', async () => (await world.bench.entries()).stream === 0, 2_000);
    });
  });

  describe('the end', () => {
    test('drained: at once when idle, else with the last answer', async () => {
      const requester = await world.bench.requester();
      const gate = createGate();
      const responder = await world.bench.responder({ work: grantBehind(gate) });
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
      const requester = await world.bench.requester({ deadlineMs: 200 });
      const asked = requester.ask(1);
      await Promise.all([requester.lane.drained(), requester.lane.drained(), asked]);
    });

    test('close answers what is in flight, takes nothing more and removes its replies', async () => {
      const requester = await world.bench.requester({ gatewayId: 'closing', deadlineMs: 5_000, entriesOutstandingMax: 1, batchMax: 2 });
      const gate = createGate();
      const responder = await world.bench.responder({ work: grantBehind(gate) });
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
      assert.equal(await world.bench.look.exists(keys.replies('closing')), 0);
      gate.open();
    });

    test('a responder finishes what it has read, and leaves the group', async () => {
      const requester = await world.bench.requester({ batchMax: 1 });
      const gate = createGate();
      const responder = await world.bench.responder({ capacity: 2, work: grantBehind(gate) });
      const asked = askMany(requester, 4);
      await until('two are at work', () => responder.lane.busy === 2);
      const closing = responder.lane.close();
      gate.open();
      await closing;
      assert.equal(responder.lane.busy, 0);
      const consumers = (await world.bench.look.xinfo('CONSUMERS', keys.requests, signerGroup)) as unknown[];
      assert.equal(consumers.length, 0);
      assert.equal(await world.bench.look.zcard(keys.signers), 0);
      // The others wait for a signer that lives.
      await world.bench.responder();
      assert.deepEqual(kindsOf(await asked), ['granted']);
    });
  });
});
