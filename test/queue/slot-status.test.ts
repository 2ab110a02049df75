import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { Registry } from 'prom-client';
import { registerSlotMetrics } from '../../observability/slot-metrics.ts';
import {
  believedState,
  forgetOldSlots,
  readSlot,
  readSlots,
  type SlotState,
  type SlotStatus,
  slotStatusKey,
  type ToldSlot,
  tellSlot,
} from '../../queue/slot-status.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';

const at = '2026-11-22T10:00:00.000Z';
const statusOf = (slot: string, more: Partial<SlotStatus> = {}): SlotStatus => ({
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
  sessions: { busy: 1, open: 2, max: 32 },
  signatures: { total: 7, perSecond: 1.5 },
  keys: [{ label: 'tsu-1', algorithm: 'ec-p256', certificateSha256: 'ab'.repeat(32), activeFrom: at }],
  failures: { device: 2 },
  ...more,
});

describe('what is told of slots', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let redis: Redis;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
  });
  after(() => server.close());
  beforeEach(() => redis.flushall());

  test('comes back as it was told, with its age on the clock of Redis; the newest of a slot holds', async () => {
    await tellSlot(redis, statusOf('b'));
    await tellSlot(redis, statusOf('a', { state: 'starting' }));
    const failed = statusOf('a', { state: 'failed', lastError: { at, class: 'device', code: 'HSM_DEVICE', message: 'CKR_DEVICE_ERROR' } });
    await tellSlot(redis, failed);
    const told = await readSlots(redis);
    assert.deepEqual(
      told.map(({ status }) => status),
      [failed, statusOf('b')],
    );
    for (const { ageMs } of told) assert.ok(ageMs >= 0 && ageMs < 5_000, String(ageMs));
    const holder = { node: 'node-1', slot: 'a', purpose: 'timestamp', process: 'signer' } as const;
    assert.deepEqual(await readSlot(redis, holder), failed);
    for (const other of [{ node: 'node-2' }, { purpose: 'journal' as const }, { process: 'signer of a' }])
      assert.equal(await readSlot(redis, { ...holder, ...other }), undefined);
  });

  test('a slot is told of once for each purpose and process', async () => {
    const journal = { purpose: 'journal', process: 'signer of b' } as const;
    for (const status of [statusOf('a', journal), statusOf('b'), statusOf('a'), statusOf('a', { ...journal, process: 'signer of a' })])
      await tellSlot(redis, status);
    assert.deepEqual(
      (await readSlots(redis)).map(({ status }) => [status.slot, status.purpose, status.process]),
      [
        ['a', 'journal', 'signer of a'],
        ['a', 'journal', 'signer of b'],
        ['a', 'timestamp', 'signer'],
        ['b', 'timestamp', 'signer'],
      ],
    );
  });

  test('what another release tells, or nobody tells any more, holds nothing up', async () => {
    await tellSlot(redis, statusOf('a'));
    await redis.hset(slotStatusKey, 'old', `${Date.now() - 8 * 86_400_000} {}`, 'new', `${Date.now()} {"version":3}`, 'torn', 'x');
    assert.deepEqual(
      (await readSlots(redis)).map(({ status }) => status.slot),
      ['a'],
    );
    await forgetOldSlots(redis);
    assert.equal(await redis.hexists(slotStatusKey, 'old'), 0);
    assert.equal(await redis.hlen(slotStatusKey), 3);
  });

  test('a process that tells nothing any more is silent; one that said how it ended is believed', () => {
    const believed = (state: SlotState, ageMs: number) => believedState({ status: statusOf('a', { state }), ageMs });
    assert.equal(believed('serving', 4_000), 'serving');
    for (const state of ['starting', 'waiting', 'serving'] as const) assert.equal(believed(state, 6_000), 'silent');
    for (const state of ['failed', 'pin-refused', 'stopped'] as const) assert.equal(believed(state, 86_400_000), state);
  });
});

test('metrics of slots: one that failed is down and counted, and without Redis there are none', async () => {
  let told: () => Promise<readonly ToldSlot[]> = async () => [
    { status: statusOf('a'), ageMs: 0 },
    { status: statusOf('b', { state: 'failed' }), ageMs: 60_000 },
    { status: statusOf('c'), ageMs: 60_000 },
    { status: statusOf('d', { state: 'pin-refused' }), ageMs: 86_400_000 },
    { status: statusOf('e', { purpose: 'journal', process: 'signer of a' }), ageMs: 0 },
    { status: statusOf('e', { purpose: 'journal', process: 'signer of b', state: 'failed' }), ageMs: 0 },
  ];
  const registry = new Registry();
  registerSlotMetrics(registry, () => told());
  const samples = async (): Promise<string[]> => (await registry.metrics()).split('\n').filter((line) => /^hsm_slot/.test(line));
  const first = await samples();
  for (const [slot, up] of [
    ['a', 1],
    ['b', 0],
    ['c', 0],
  ])
    assert.ok(first.includes(`hsm_slot_up{node="node-1",slot="${slot}",purpose="timestamp",process="signer"} ${up}`), first.join('\n'));
  for (const [name, up] of [
    ['a', 1],
    ['b', 0],
  ])
    assert.ok(first.includes(`hsm_slot_up{node="node-1",slot="e",purpose="journal",process="signer of ${name}"} ${up}`), first.join('\n'));
  const b = 'node="node-1",slot="b",purpose="timestamp",process="signer"';
  assert.ok(first.includes(`hsm_slot_failures_total{${b},class="device"} 2`));
  assert.ok(first.includes(`hsm_slot_failures_total{${b},class="credential"} 0`));
  assert.ok(first.includes(`hsm_slot_signatures_total{${b}} 7`));
  const refused = first.filter((line) => /^hsm_slot_pin_refused.* 1$/.test(line));
  assert.deepEqual(refused, ['hsm_slot_pin_refused{node="node-1",slot="d",purpose="timestamp",process="signer"} 1'], 'as long as it stays');
  assert.ok(first.includes('hsm_slot_sessions_max{node="node-1",slot="a",purpose="timestamp",process="signer"} 32'));
  told = () => Promise.reject(new Error('away'));
  assert.deepEqual(await samples(), []);
});
