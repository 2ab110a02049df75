/** A signer without a TSU that may stamp leaves the lane to those that have one, and comes back; with a real Redis, and threads that a test scripts. */
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { pino } from 'pino';
import { SigilloError } from '../../config/errors.ts';
import { parseConfig } from '../../config/load.ts';
import { createSignerMetrics } from '../../observability/signer-metrics.ts';
import { connectRedis, type RedisClient, whenReady } from '../../queue/redis.ts';
import { ClockMemory, createClockMemory } from '../../signer/clock-memory.ts';
import { type LaneMembership, mayStampAt } from '../../signer/lane-membership.ts';
import type { StampedBatch, Tsu } from '../../signer/stamp-task.ts';
import { takeUpLane } from '../../signer/stamping-lane.ts';
import { type BenchRequester, createGate, type Gate, grantAll, LaneBench, numberOf } from '../support/lane-bench.ts';
import { askMany, kindsOf, slackMs, untilEmpty } from '../support/lane-world.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { until } from '../support/until.ts';

const deadlineMs = 3_000;
const usable = { id: 'usable', activeFromMs: 0, usableUntilMs: Number.MAX_SAFE_INTEGER } as Tsu;
const over = { ...usable, id: 'over', usableUntilMs: 1 };
const log = pino({ level: 'silent' });

interface TestSigner {
  readonly membership: LaneMembership;
  tsus: readonly Tsu[];
  /** Batches that its threads have stamped, and that they had no TSU for. */
  readonly stamped: number;
  readonly refused: number;
  /** What became of it: `in`, `out`. */
  readonly moves: readonly string[];
  readonly clockMemory: SharedArrayBuffer;
}

describe('the place of a signer in the lane', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let bench: LaneBench;
  let commands: RedisClient[];
  let signers: TestSigner[];
  before(async () => {
    server = await startTestRedis();
  });
  after(() => server.close());
  beforeEach(async () => {
    bench = new LaneBench(server);
    await bench.look.flushall();
    commands = [];
    signers = [];
  });
  afterEach(async () => {
    await Promise.all(signers.map(({ membership }) => membership.close()));
    for (const command of commands) command.disconnect();
    await bench.close();
  });

  const stampedOf = (payload: Buffer): StampedBatch => {
    const { block, stamps } = grantAll({ payload } as Parameters<typeof grantAll>[0]);
    const outcomes = { granted: 1, timeNotAvailable: 0, systemFailure: 0, expired: 0 };
    return { kind: 'stamped', block, stamps: new Map(stamps), outcomes, signMs: 1, cpuMs: 1, failure: undefined };
  };

  /** Its threads look at the TSUs behind the gate, as late as a signature does. */
  const startSigner = async (gate?: Gate): Promise<TestSigner> => {
    const config = parseConfig({
      redis: { mode: 'url', url: `unix://${server.socket}` },
      timestamp: { deadlineMs },
      // So long that nobody counts as dead here: what is taken over was left.
      signer: { deadAfterMs: 60_000 },
    });
    const command = connectRedis(config, 'test', 'command');
    commands.push(command);
    await whenReady(command, 5_000);
    const signer = { tsus: [usable] as readonly Tsu[], stamped: 0, refused: 0, moves: [] as string[], clockMemory: createClockMemory() };
    const stamp = async (payload: Buffer): Promise<StampedBatch> => {
      await gate?.passed;
      if (signer.tsus.some((tsu) => mayStampAt(tsu, Date.now()))) {
        signer.stamped += 1;
        return stampedOf(payload);
      }
      signer.refused += 1;
      throw new SigilloError('TSU_NONE_ACTIVE', 'none');
    };
    const metrics = createSignerMetrics({
      slot: 'a',
      sessionsOpen: () => 1,
      entriesBusy: () => 0,
      sessionsBusy: () => 0,
      journalKeyUp: () => true,
      redisDurable: () => true,
    });
    const membership = await takeUpLane({
      parts: { config, log, command, pool: { threads: 2, atOnce: 2, stamp }, metrics, told: () => undefined },
      tsus: () => signer.tsus,
      clockMemory: signer.clockMemory,
      joined: () => void signer.moves.push('in'),
      left: () => void signer.moves.push('out'),
    });
    const started = Object.assign(signer, { membership });
    signers.push(started);
    return started;
  };
  const ask = (count: number): Promise<BenchRequester> => bench.requester({ deadlineMs, batchMax: 1, inFlightMax: count });

  test('while another has a TSU, no request is refused; and it comes back when it has one', async () => {
    const [one, two] = [await startSigner(), await startSigner()];
    const requester = await ask(100);
    const askUntil = async (what: string, condition: () => boolean): Promise<void> => {
      await until(what, async () => {
        assert.deepEqual(kindsOf(await askMany(requester, 8)), ['granted']);
        return condition();
      });
    };
    await askUntil('both stamp', () => one.stamped > 0 && two.stamped > 0);
    one.tsus = [over];
    await askUntil('it is out', () => !one.membership.isMember);
    const before = one.refused;
    for (let i = 0; i < 20; i += 1) assert.deepEqual(kindsOf(await askMany(requester, 8)), ['granted']);
    assert.equal(one.refused, before, 'it reads nothing any more');
    assert.equal(await requester.lane.livingSigners(60_000), 1);
    one.tsus = [over, usable];
    const stamped = one.stamped;
    await askUntil('it stamps again', () => one.stamped > stamped);
    assert.deepEqual(one.moves, ['in', 'out', 'in']);
    assert.deepEqual(two.moves, ['in']);
    assert.equal(requester.answeredTwice, 0);
    await untilEmpty(bench);
  });

  test('what it has read when its last TSU ends is stamped by another, in time and once', async () => {
    const gate = createGate();
    const ending = await startSigner(gate);
    const requester = await ask(4);
    const asked = askMany(requester, 4);
    await until('it has read something', () => ending.membership.busy > 0);
    const other = await startSigner();
    ending.tsus = [];
    gate.open();
    const answers = await asked;
    assert.ok(answers.every(({ answer }, i) => numberOf(answer) === i));
    assert.ok(ending.refused > 0);
    assert.equal(ending.stamped, 0);
    assert.equal(other.stamped, 4);
    assert.equal(requester.answeredTwice, 0);
    await untilEmpty(bench);
  });

  test('a thread that finds no TSU where the main thread sees one: what it hands back is not kept until its deadline', async () => {
    const signer = await startSigner();
    const requester = await ask(1);
    let unseen = true;
    const { tsus } = signer;
    // The main thread looks, every 250 ms; the thread looks at the request.
    Object.defineProperty(signer, 'tsus', { get: () => (signer.refused === 0 && unseen ? [] : tsus) });
    const { answer } = await requester.ask(1);
    unseen = false;
    assert.equal(numberOf(answer), 1, 'it came back, and took over what it had left');
  });

  test('when no signer has a TSU, each request is refused at its deadline; and the first that has one again stamps', async () => {
    const both = [await startSigner(), await startSigner()];
    for (const signer of both) signer.tsus = [];
    const requester = await ask(100);
    const answers = await askMany(requester, 8);
    assert.deepEqual(kindsOf(answers), ['expired']);
    assert.ok(answers.every(({ tookMs }) => tookMs < deadlineMs + slackMs));
    assert.equal(await requester.lane.livingSigners(60_000), 0, 'which is what /readyz of a gateway says');
    assert.equal((await bench.entries()).stream, 0, 'nothing gathers');
    (both[1] as TestSigner).tsus = [usable];
    await until('it reads again', () => both[1]?.membership.isMember === true);
    assert.equal(numberOf((await requester.ask(7)).answer), 7);
    await untilEmpty(bench);
  });

  test('a clock that is not trusted says nothing about TSUs: it stays, to answer timeNotAvailable', async () => {
    const signer = await startSigner();
    new ClockMemory(signer.clockMemory).noteStep(5_000, Number.MAX_SAFE_INTEGER);
    signer.tsus = [];
    signer.membership.look();
    assert.deepEqual([signer.membership.isMember, signer.moves], [true, ['in']]);
  });

  test('one that stops while it is out of the lane, or that loses its token, is not back again', async () => {
    const [stopped, failed] = [await startSigner(), await startSigner()];
    for (const signer of [stopped, failed]) {
      signer.tsus = [];
      signer.membership.look();
      assert.equal(signer.membership.isMember, false);
      signer.tsus = [usable];
      signer.membership.look();
    }
    await Promise.all([stopped.membership.close(), failed.membership.abandon()]);
    for (const { membership } of [stopped, failed]) {
      membership.look();
      assert.equal(membership.isMember, false);
    }
    const requester = await ask(1);
    await until('nobody reads', async () => (await requester.lane.livingSigners(60_000)) === 0);
  });
});
