import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { type JournalBacklog, watchJournalBacklog } from '../../gateway/journal-backlog.ts';
import { journalKeys, laneKeys } from '../../queue/keys.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { until } from '../support/until.ts';

const stream = laneKeys('timestamp').journal;
const waitingMax = 100;

describe('the backlog of the journal', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let redis: Redis;
  let backlog: JournalBacklog;
  let lines: string[];
  const log = { warn: (line: string) => void lines.push(line), info: (line: string) => void lines.push(line) };

  before(async () => {
    server = await startTestRedis({ appendOnly: true });
    redis = server.connect({ enableOfflineQueue: false, lazyConnect: true });
    await redis.connect();
  });
  after(() => server.close());
  beforeEach(async () => {
    lines = [];
    await redis.flushall();
  });
  afterEach(() => backlog.close());

  const start = (): void => {
    backlog = watchJournalBacklog({ redis, waitingMax, pollMs: 5, log });
  };
  const fill = async (key: string, count: number): Promise<void> => {
    const pipeline = redis.pipeline();
    for (let i = 0; i < count; i += 1) pipeline.xadd(key, '*', 'b', 'x');
    await pipeline.exec();
  };
  const seen = (count: number) => until(`${count} entries are seen`, () => backlog.waiting.lane === count);

  test('full above the bound, open again below nine tenths of it', async () => {
    start();
    await fill(stream, waitingMax);
    await seen(100);
    assert.equal(backlog.isFull, false, 'at the bound');
    assert.equal(backlog.health().ok, true);
    await fill(stream, 1);
    await seen(101);
    assert.equal(backlog.isFull, true, 'above the bound');
    const { name, ok, detail } = backlog.health();
    assert.deepEqual([name, ok], ['journal backlog', false]);
    assert.match(detail, /101 of 100.*refused/);
    await redis.xtrim(stream, 'MAXLEN', 90);
    await seen(90);
    assert.equal(backlog.isFull, true, 'at nine tenths');
    await redis.xtrim(stream, 'MAXLEN', 89);
    await seen(89);
    assert.equal(backlog.isFull, false, 'below nine tenths');
    assert.equal(backlog.health().ok, true);
    await fill(stream, 11);
    await seen(100);
    assert.equal(backlog.isFull, false, 'at the bound again');
    assert.equal(lines.length, 2, 'told once each way');
  });

  test('events that belong to no lane have the same bound, and refuse no stamps', async () => {
    start();
    await fill(journalKeys.events, waitingMax);
    await until('they are seen', () => backlog.waiting.events === 100);
    assert.equal(backlog.areEventsFull, false);
    await fill(journalKeys.events, 1);
    await until('they are seen', () => backlog.waiting.events === 101);
    assert.deepEqual([backlog.areEventsFull, backlog.isFull, backlog.health().ok], [true, false, true]);
    await redis.xtrim(journalKeys.events, 'MAXLEN', 90);
    await until('they are seen', () => backlog.waiting.events === 90);
    assert.equal(backlog.areEventsFull, true);
    await redis.xtrim(journalKeys.events, 'MAXLEN', 89);
    await until('they are seen', () => backlog.waiting.events === 89);
    assert.equal(backlog.areEventsFull, false);
  });

  test('while Redis is away the last look stays in force', async () => {
    start();
    await fill(stream, waitingMax + 1);
    await seen(101);
    await server.stop('SIGKILL');
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.equal(backlog.isFull, true);
    await server.start();
    await until('Redis is back', () => redis.status === 'ready');
    await redis.del(stream);
    await seen(0);
    assert.equal(backlog.isFull, false);
  });
});
