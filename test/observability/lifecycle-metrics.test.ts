import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createLifecycleMetrics } from '../../observability/lifecycle-metrics.ts';

test('the age of the CRL goes on while it is not renewed; where there is none, there is no age', async () => {
  let now = new Date('2026-11-22T10:00:00.000Z');
  const metrics = createLifecycleMetrics(() => now);
  const values = async (): Promise<string[]> => ((await metrics.registry.metrics()).match(/^crl_.*$/gm) ?? []).toSorted();
  assert.deepEqual(await values(), []);
  metrics.crl({ thisUpdate: new Date('2026-11-22T09:30:00.000Z'), nextUpdate: new Date('2026-11-29T09:30:00.000Z') });
  assert.deepEqual(await values(), ['crl_age_seconds 1800', 'crl_left_seconds 603000']);
  now = new Date('2026-11-30T09:30:00.000Z');
  assert.deepEqual(await values(), ['crl_age_seconds 691200', 'crl_left_seconds -86400']);
});
