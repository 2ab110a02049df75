/** Alert rules that name a metric which does not exist never fire. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, test } from 'node:test';
import { Registry } from 'prom-client';
import { parse } from 'yaml';
import { registerClockMetrics } from '../../observability/clock-metrics.ts';
import { createGatewayMetrics } from '../../observability/gateway-metrics.ts';
import { createJournalMetrics } from '../../observability/journal/metrics.ts';
import { registerWaitingAge } from '../../observability/journal/waiting-age.ts';
import { createLifecycleMetrics } from '../../observability/lifecycle-metrics.ts';
import { createSignerMetrics } from '../../observability/signer-metrics.ts';
import { registerSlotMetrics } from '../../observability/slot-metrics.ts';
import { registerSupervisorMetrics } from '../../observability/supervisor-metrics.ts';
import { metricsInRules, rulesFile } from '../support/alert-rules.ts';
import { programMissing, runProgram } from '../support/service.ts';

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels?: { readonly severity?: string };
  readonly annotations?: { readonly summary?: string; readonly description?: string };
}

const skipPromtool = await programMissing('promtool', 'prometheus');
const text = readFileSync(rulesFile, 'utf8');
const { groups } = parse(text) as { groups: readonly { readonly name: string; readonly rules: readonly Rule[] }[] };
const rules = groups.flatMap((group) => group.rules);

/** Everything that the processes of a service register. */
const served = (): ReadonlySet<string> => {
  const nothing = (): number => 0;
  const gateway = createGatewayMetrics({
    inFlight: nothing,
    entriesOutstanding: nothing,
    connections: async () => 0,
    journalWaiting: () => ({ lane: 0, events: 0 }),
    journalEventsLost: nothing,
    journalWaitingMax: 1,
  }).registry;
  registerSlotMetrics(gateway, async () => []);
  registerWaitingAge(gateway, async () => 0);
  const signer = createSignerMetrics({
    slot: 'slot',
    sessionsOpen: nothing,
    entriesBusy: nothing,
    sessionsBusy: nothing,
    journalKeyUp: () => true,
    redisDurable: () => true,
  }).registry;
  registerClockMetrics(signer, () => assert.fail('nobody scrapes'));
  const journal = createJournalMetrics({
    active: nothing,
    storeUp: nothing,
    size: nothing,
    unshipped: nothing,
    spoolOctets: nothing,
    spoolOctetsMax: nothing,
    spoolDiskFree: nothing,
    damaged: nothing,
    checkpointAge: nothing,
  }).registry;
  const supervisor = new Registry();
  registerSupervisorMetrics(supervisor, () => []);
  const registries = [gateway, signer, journal, createLifecycleMetrics().registry, supervisor];
  return new Set(registries.flatMap((registry) => registry.getMetricsAsArray().map(({ name }) => name)));
};

describe('the alert rules', () => {
  test('every metric in them is one of the service', () => {
    const names = served();
    const asked = metricsInRules(text);
    assert.ok(asked.length > 25, asked.join());
    assert.deepEqual(
      asked.filter((name) => !names.has(name)),
      [],
    );
  });

  test('what an operator must hear of has a rule', () => {
    const asked = metricsInRules(text);
    for (const metric of [
      'journal_active',
      'journal_oldest_waiting_seconds',
      'journal_spool_bytes',
      'journal_spool_disk_free_bytes',
      'journal_store_up',
      'journal_quarantined_total',
      'journal_checkpoints_total',
      'journal_store_damaged',
      'journal_events_lost_total',
      'journal_waiting_entries',
      'hsm_slot_up',
      'hsm_slot_pin_refused',
      'time_state',
      'tsu_usage_left_seconds',
      'crl_age_seconds',
      'redis_durability_ok',
    ])
      assert.ok(asked.includes(metric), metric);
  });

  test('each says what is wrong, what to do, and how urgent it is', () => {
    assert.equal(new Set(rules.map(({ alert }) => alert)).size, rules.length, 'no name twice');
    for (const { alert, labels, annotations } of rules) {
      assert.match(alert, /^Sigillo[A-Z][A-Za-z]+$/);
      assert.ok(['page', 'ticket'].includes(labels?.severity ?? ''), alert);
      assert.ok((annotations?.summary ?? '').length > 20 && (annotations?.description ?? '').length > 20, alert);
    }
  });

  test('each is in docs/operations.md', () => {
    const operations = readFileSync(join(resolve(import.meta.dirname, '../..'), 'docs/operations.md'), 'utf8');
    assert.match(operations, /deploy\/prometheus\/rules\.yml/);
    assert.deepEqual(
      metricsInRules(text).filter((name) => !operations.includes(name)),
      [],
      'a metric that alarms is explained there',
    );
  });

  test('promtool reads them', { skip: skipPromtool }, async () => {
    const { code, stdout, stderr } = await runProgram('promtool', ['check', 'rules', rulesFile]);
    assert.equal(code, 0, `${stdout}${stderr}`);
  });
});
