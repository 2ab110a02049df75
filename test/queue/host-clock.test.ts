import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { parseConfig } from '../../config/load.ts';
import { decodeDrafts } from '../../observability/journal/draft-block.ts';
import { JournalRecorder } from '../../observability/journal/recorder.ts';
import { HostClock } from '../../queue/host-clock.ts';
import { journalKeys } from '../../queue/keys.ts';
import { createEventClock, type EventClock } from '../../signer/event-clock.ts';
import { NtpWorld, serverNames } from '../support/ntp-world.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { until } from '../support/until.ts';

const node = 'node-1';
const key = 'clock:{clock}:node-1';

describe('the clock of a host, as its signers tell it to its other processes', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let redis: Redis;
  let world: NtpWorld;
  let signer: EventClock;
  let other: HostClock;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    await until('Redis is there', () => redis.status === 'ready');
  });
  after(() => server.close());
  beforeEach(async () => {
    await redis.flushall();
    world = new NtpWorld(parseConfig({ time: { servers: serverNames(3).map((host) => ({ host })) } }).time);
    signer = createEventClock(redis, node);
    other = new HostClock({ redis, node, clocks: world.sources });
  });
  afterEach(() => {
    signer.close();
    other.close();
    world.watch.close();
  });

  /** The signer tells every second by itself; a test does not wait for it. */
  const told = async (): Promise<void> => {
    signer.follow(world.watch);
    const { state, differenceMs } = world.watch.told();
    await until('it is told', async () => {
      const json = JSON.parse((await redis.get(key)) ?? '{}');
      return json.state === state && json.differenceMs === differenceMs;
    });
    await other.look();
  };
  const trusted = async (): Promise<void> => {
    await world.round(0);
    await told();
    assert.equal(other.state(), 'trusted');
  };

  test('trusted with the first quorum, and in the events of a process that has no clock of its own', async () => {
    const recorder = new JournalRecorder({ redis, actor: 'gateway', clock: other.state });
    const record = async (): Promise<string | undefined> => {
      await redis.del(journalKeys.events);
      await recorder.recordNow({ kind: 'service.logStarted', subject: 'gateway', outcome: 'success', detail: {} });
      const [entry] = (await redis.xrangeBuffer(journalKeys.events, '-', '+')) as [Buffer, Buffer[]][];
      return decodeDrafts(entry?.[1][1] as Buffer)[0]?.clock;
    };
    assert.equal(signer.state(), 'unverified', 'before its own watch, and nobody else vouches');
    assert.equal(await record(), 'unverified');
    await told();
    assert.deepEqual([signer.state(), other.state()], ['unverified', 'unverified'], 'starting');
    await trusted();
    assert.deepEqual([signer.state(), await record()], ['trusted', 'trusted']);
    world.scriptAll({ offsetMs: -2_000 });
    await world.round();
    await told();
    assert.deepEqual([signer.state(), await record()], ['unverified', 'unverified']);
  });

  test('a signer that has no watch yet believes another one of its host', async () => {
    await trusted();
    const real = { state: 'trusted', differenceMs: Date.now() - Number(process.hrtime.bigint()) / 1e6, stepMsMax: 500 } as const;
    const second = createEventClock(redis, 'node-2');
    second.follow({ told: () => real });
    const third = createEventClock(redis, 'node-2');
    const fourth = createEventClock(redis, node);
    try {
      await until('it is heard', () => third.state() === 'trusted');
      assert.equal(fourth.state(), 'unverified', 'that clock of the same name is another one');
    } finally {
      for (const one of [second, third, fourth]) one.close();
    }
  });

  test('a clock that was set since does not fit any more, at that instant', async () => {
    await trusted();
    world.pass(900);
    assert.equal(other.state(), 'trusted');
    world.wall += 501;
    assert.equal(other.state(), 'unverified');
    assert.equal(world.watch.told().state, 'unverified', 'the signer sees it too');
    world.wall -= 501;
    assert.equal(other.state(), 'trusted', 'and nothing else was wrong');
    world.wall -= 501;
    assert.equal(other.state(), 'unverified');
  });

  test('what is not heard any more does not count, and is forgotten', async () => {
    await trusted();
    const leftMs = await redis.pttl(key);
    assert.ok(leftMs > 0 && leftMs <= 5_000, String(leftMs));
    world.pass(3_000);
    assert.equal(other.state(), 'trusted');
    world.pass(1);
    assert.equal(other.state(), 'unverified', 'Redis has not answered for too long');
    await other.look();
    assert.equal(other.state(), 'trusted');
    signer.close();
    await redis.del(key);
    await other.look();
    assert.equal(other.state(), 'unverified', 'no signer tells it');
  });

  test('another form of it, or of another host, is nothing', async () => {
    await trusted();
    signer.close();
    for (const value of ['', 'trusted', '{}', '{"version":2,"state":"trusted","differenceMs":0,"stepMsMax":1e18}']) {
      await redis.set(key, value);
      await other.look();
      assert.equal(other.state(), 'unverified', value);
    }
    const elsewhere = new HostClock({ redis, node: 'node-3', clocks: world.sources });
    await elsewhere.look();
    assert.equal(elsewhere.state(), 'unverified');
    elsewhere.close();
  });
});
