import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { Lease } from '../../queue/lease.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { whenReady } from '../../queue/redis.ts';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { LaneBench } from '../support/lane-bench.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { until } from '../support/until.ts';

const key = 'test:lease';

describe('a lease', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let bench: LaneBench;
  let redis: RedisClient;
  before(async () => {
    server = await startTestRedis();
  });
  after(() => server.close());
  beforeEach(async () => {
    bench = new LaneBench(server);
    await bench.look.flushall();
    redis = bench.connect('command');
    await whenReady(redis, 5_000);
  });
  afterEach(() => bench.close());

  test('one holds it, the other does not; renewing lengthens it', async () => {
    const [one, other] = [new Lease(redis, { key, lengthMs: 10_000 }), new Lease(redis, { key, lengthMs: 10_000 })];
    assert.equal(one.heldForMs, 0);
    assert.equal(await one.acquire(), true);
    assert.ok(one.heldForMs > 8_000 && one.heldForMs <= 10_000);
    assert.equal(await other.acquire(), false);
    assert.equal(other.heldForMs, 0);
    await bench.look.pexpire(key, 500);
    assert.equal(await one.acquire(), true);
    assert.ok((await bench.look.pttl(key)) > 8_000);
  });

  test('of many that ask at once, one gets it', async () => {
    const leases = Array.from({ length: 50 }, () => new Lease(redis, { key, lengthMs: 10_000 }));
    const got = await Promise.all(leases.map((lease) => lease.acquire()));
    assert.equal(got.filter((held) => held).length, 1);
    assert.equal(leases.filter((lease) => lease.heldForMs > 0).length, 1);
  });

  test('given back, the next one has it at once; giving back what is not held changes nothing', async () => {
    const [one, other] = [new Lease(redis, { key, lengthMs: 10_000 }), new Lease(redis, { key, lengthMs: 10_000 })];
    await one.acquire();
    await other.release();
    assert.equal(await other.acquire(), false);
    await one.release();
    assert.equal(one.heldForMs, 0);
    assert.equal(await other.acquire(), true);
  });

  test('a holder that says nothing more loses it, knows it in time, and does not take it back from the next', async () => {
    const [one, other] = [new Lease(redis, { key, lengthMs: 300 }), new Lease(redis, { key, lengthMs: 10_000 })];
    const askedMs = monotonicMs();
    await one.acquire();
    await until('the other has it', () => other.acquire(), 5_000);
    assert.ok(monotonicMs() - askedMs >= 300, 'not before its end');
    assert.equal(one.heldForMs, 0, 'the first counts from before it asked, so its end is not later than that in Redis');
    assert.equal(await one.acquire(), false);
    await one.release();
    assert.equal(await one.acquire(), false);
  });

  test('Redis away: asking fails, and what was held ends by itself', async () => {
    const own = await startTestRedis();
    const ownBench = new LaneBench(own);
    try {
      const client = ownBench.connect('command');
      await whenReady(client, 5_000);
      const lease = new Lease(client, { key, lengthMs: 400 });
      await lease.acquire();
      await own.stop('SIGKILL');
      await assert.rejects(lease.acquire());
      await until('its end', () => lease.heldForMs === 0, 5_000);
    } finally {
      await ownBench.close();
      await own.close();
    }
  });
});
