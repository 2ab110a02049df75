import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { startTicks, type Ticks } from '../../queue/ticks.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { until } from '../support/until.ts';

describe('ticks', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  before(async () => {
    server = await startTestRedis();
  });
  after(() => server.close());

  /** The role `jobs` of queue/redis.ts. */
  const jobs = (): Redis => server.connect({ maxRetriesPerRequest: null, enableOfflineQueue: false });

  const start = async (name: string, work: () => Promise<void>): Promise<Ticks> => {
    const connection = jobs();
    await until('connected', () => connection.status === 'ready');
    return startTicks({ name, everyMs: 50, connection, work, onError: () => undefined });
  };

  test('come to one of several workers each, whoever is there', async () => {
    const counts = [0, 0, 0];
    let atOnce = 0;
    let most = 0;
    const workers = await Promise.all(
      counts.map((_, i) =>
        start('shared', async () => {
          atOnce += 1;
          most = Math.max(most, atOnce);
          counts[i] = (counts[i] as number) + 1;
          await new Promise((done) => setImmediate(done));
          atOnce -= 1;
        }),
      ),
    );
    const total = (): number => counts.reduce((a, b) => a + b);
    const took = await until('20 ticks', () => total() >= 20, 20_000);
    assert.ok(total() <= took / 50 + 5, `${total()} ticks in ${took} ms: each is given to one`);
    assert.equal(most, 1);
    await workers[0]?.close();
    await workers[1]?.close();
    const before = counts[2] as number;
    await until('the last one has them all', () => (counts[2] as number) > before + 5, 20_000);
    await workers[2]?.close();
  });

  test('work that fails changes nothing for the next tick', async () => {
    let ticks = 0;
    const one = await start('failing', async () => {
      ticks += 1;
      throw new Error('on purpose');
    });
    await until('some ticks', () => ticks >= 5, 20_000);
    await one.close();
  });

  test('go on when the clock of the host was hours ahead, and is set back', async (context) => {
    let ticks = 0;
    context.mock.timers.enable({ apis: ['Date'], now: Date.now() + 5 * 3_600_000 });
    const one = await start('ahead', async () => {
      ticks += 1;
    });
    await until('a tick', () => ticks >= 1, 20_000);
    context.mock.timers.reset();
    const seen = ticks;
    await until('ticks after the step', () => ticks > seen + 3, 30_000);
    await one.close();
  });

  test('go on when Redis comes back empty, restarted or not', async () => {
    let ticks = 0;
    const one = await start('lost', async () => {
      ticks += 1;
    });
    await until('ticks', () => ticks >= 3, 20_000);
    await server.connect().flushall();
    let seen = ticks;
    await until('ticks after a flush', () => ticks > seen + 3, 30_000);
    await server.stop('SIGKILL');
    await server.start();
    seen = ticks;
    await until('ticks after a restart', () => ticks > seen + 3, 30_000);
    await one.close();
  });
});
