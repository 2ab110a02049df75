/** Every series is there before its first event: rate() and an alarm see the first one only as growth of what was there before. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { Registry } from 'prom-client';
import { createGatewayMetrics } from '../../observability/gateway-metrics.ts';
import { createSignerMetrics } from '../../observability/signer-metrics.ts';

/** Label values of a counter that is zero in all of them. */
const zeros = async (registry: Registry, name: string, label: string): Promise<string[]> => {
  const metric = (await registry.getMetricsAsJSON()).find((one) => one.name === name);
  const values = (metric?.values ?? []) as { value: number; labels: Record<string, string> }[];
  assert.ok(
    values.every(({ value }) => value === 0),
    name,
  );
  return values.map(({ labels }) => labels[label] ?? '').toSorted();
};

describe('counters before their first event', () => {
  test('of a gateway', async () => {
    const { registry } = createGatewayMetrics({
      inFlight: () => 0,
      entriesOutstanding: () => 0,
      connections: async () => 0,
      journalWaiting: () => ({ lane: 0, events: 0 }),
      journalEventsLost: () => 0,
      journalWaitingMax: 1,
    });
    const outcomes = await zeros(registry, 'tsp_requests_total', 'outcome');
    for (const outcome of ['granted', 'overloaded', 'unavailable', 'expired', 'backlog', 'http', 'other', 'systemFailure'])
      assert.ok(outcomes.includes(outcome), outcome);
    const reasons = await zeros(registry, 'client_authentication_failures_total', 'reason');
    assert.deepEqual(reasons, ['disabled', 'malformed', 'missing', 'role', 'unknown', 'wrong']);
  });

  test('of a signer', async () => {
    const { registry } = createSignerMetrics({
      slot: 'a',
      sessionsOpen: () => 0,
      entriesBusy: () => 0,
      sessionsBusy: () => 0,
      journalKeyUp: () => true,
      redisDurable: () => undefined,
    });
    const outcomes = await zeros(registry, 'tsp_signer_answers_total', 'outcome');
    assert.deepEqual(outcomes, ['expired', 'granted', 'systemFailure', 'timeNotAvailable']);
    assert.deepEqual(await zeros(registry, 'lane_failures_total', 'stage'), ['answer', 'claim', 'read', 'work']);
    assert.deepEqual(await zeros(registry, 'lane_entries_claimed_total', 'lane'), ['timestamp']);
    for (const name of ['hsm_signatures_total', 'hsm_sign_seconds_total']) assert.deepEqual(await zeros(registry, name, 'slot'), ['a']);
  });
});
