import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { Registry } from 'prom-client';
import { journalSources } from '../../../observability/journal/sources.ts';
import { oldestWaitingSeconds, registerWaitingAge } from '../../../observability/journal/waiting-age.ts';
import { journalKeys, laneKeys } from '../../../queue/keys.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../../support/redis-server.ts';

describe('the age of the oldest event that waits for the journal', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let redis: Redis;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
  });
  after(() => server.close());
  beforeEach(async () => {
    await redis.flushall();
  });
  const nowMs = async (): Promise<number> => Number((await redis.time())[0]) * 1_000;
  const add = async (stream: string, ageMs: number): Promise<void> => {
    await redis.xadd(stream, `${(await nowMs()) - ageMs}-0`, 'b', 'block');
  };
  /** Redis's clock goes on, and its seconds were rounded down. */
  const isAbout = (seconds: number, expected: number): void => assert.ok(seconds >= expected && seconds < expected + 30, String(seconds));

  test('nothing waits', async () => {
    assert.equal(await oldestWaitingSeconds(redis), 0);
  });

  test('it is that of the oldest in any stream, however many come behind it', async () => {
    for (const { key } of journalSources) {
      await redis.flushall();
      await add(key, 3_600_000);
      isAbout(await oldestWaitingSeconds(redis), 3_600);
    }
    await redis.flushall();
    await add(journalKeys.events, 100_000);
    await add(laneKeys('timestamp').journal, 700_000);
    await add(laneKeys('timestamp').journal, 1_000);
    isAbout(await oldestWaitingSeconds(redis), 700);
    // As the writer does when a block is durable.
    await redis.xtrim(laneKeys('timestamp').journal, 'MINID', '=', `${(await nowMs()) - 600_000}-0`);
    isAbout(await oldestWaitingSeconds(redis), 100);
  });

  test('an id ahead of the clock is no age', async () => {
    await add(journalKeys.events, -60_000);
    assert.equal(await oldestWaitingSeconds(redis), 0);
  });

  test('as a metric: while Redis does not answer there is none, and a scrape does not wait for it', async () => {
    const registry = new Registry();
    let read = async (): Promise<number> => 12.5;
    registerWaitingAge(registry, () => read());
    const value = async (): Promise<string | undefined> => /^journal_oldest_waiting_seconds (.*)$/m.exec(await registry.metrics())?.[1];
    assert.equal(await value(), '12.5');
    read = async () => assert.fail('away');
    assert.equal(await value(), undefined);
    read = () => new Promise(() => undefined);
    assert.equal(await value(), undefined);
    read = async () => 0;
    assert.equal(await value(), '0');
  });
});
