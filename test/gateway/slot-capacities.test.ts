import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import type { SlotCapacity } from '../../gateway/entry-sizes.ts';
import { followSlotCapacities, slotCapacities } from '../../gateway/slot-capacities.ts';
import { type SlotStatus, slotStatusKey, tellSlot } from '../../queue/slot-status.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { until } from '../support/until.ts';

const at = '2026-11-22T10:00:00.000Z';
const statusOf = (slot: string, atOnce: number, more: Partial<SlotStatus> = {}): SlotStatus => ({
  version: 2,
  node: 'node-1',
  slot,
  purpose: 'timestamp',
  process: 'signer',
  module: '/usr/lib/module.so',
  state: 'serving',
  since: at,
  processId: 42,
  startedAt: at,
  sessions: { busy: 1, open: atOnce, max: 64 },
  threads: 2,
  signatures: { total: 7, perSecond: 1.5 },
  keys: [],
  failures: {},
  ...more,
});

test('what slots hold counts while they stamp: not what failed, stopped, waits, signs for something else, or has told nothing for long', () => {
  const { threads: _, ...ofAnotherRelease } = statusOf('e', 8);
  const told = [
    { status: statusOf('a', 32, { signMs: 2.5 }), ageMs: 900 },
    { status: statusOf('b', 16), ageMs: 10_000 },
    { status: statusOf('c', 16, { state: 'failed' }), ageMs: 0 },
    { status: statusOf('d', 16, { state: 'waiting' }), ageMs: 0 },
    { status: ofAnotherRelease, ageMs: 0 },
    { status: statusOf('f', 1, { purpose: 'journal' }), ageMs: 0 },
  ];
  assert.deepEqual(slotCapacities(told), [
    { atOnce: 32, threads: 2, signMs: 2.5 },
    { atOnce: 8, threads: undefined, signMs: undefined },
  ]);
});

describe('a gateway follows what signers tell', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let redis: Redis;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
  });
  after(() => server.close());
  beforeEach(() => redis.flushall());

  test('as they come, learn and go; what cannot be read changes nothing', async () => {
    const seen: (readonly SlotCapacity[])[] = [];
    const following = followSlotCapacities({ redis, use: (slots) => seen.push(slots), pollMs: 5 });
    const untilAtOnce = (...wanted: number[]): Promise<number> =>
      until(
        `${wanted} at once`,
        () =>
          seen
            .at(-1)
            ?.map(({ atOnce }) => atOnce)
            .join() === wanted.join(),
      );
    try {
      await untilAtOnce();
      await tellSlot(redis, statusOf('a', 2));
      await untilAtOnce(2);
      await tellSlot(redis, statusOf('a', 32));
      await tellSlot(redis, statusOf('b', 4));
      await untilAtOnce(32, 4);
      await tellSlot(redis, statusOf('a', 0, { state: 'stopped' }));
      await untilAtOnce(4);
      const looks = seen.length;
      await redis.set(slotStatusKey, 'no hash');
      await redis.flushall();
      await until('it looks on', () => seen.length > looks);
      await untilAtOnce();
    } finally {
      following.close();
    }
  });
});
