import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Counter, Gauge, Registry } from 'prom-client';
import { type MetricsJson, mergeMetrics } from '../../observability/merge-metrics.ts';
import { createOpsApp, type HealthItem } from '../../observability/ops-app.ts';

const appWith = (items: readonly HealthItem[]) => createOpsApp({ health: async () => items, metrics: async () => 'some_total 1\n' });
const healthy: HealthItem = { name: 'redis', ok: true, detail: 'ready' };
const broken: HealthItem = { name: 'signer', ok: false, detail: 'no answer' };

describe('operations app', () => {
  test('is alive whatever its dependencies do', async () => {
    const response = await appWith([broken]).request('/healthz');
    assert.equal(response.status, 200);
    assert.equal(await response.text(), 'ok\n');
  });

  test('is ready when every dependency is', async () => {
    const response = await appWith([healthy]).request('/readyz');
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('cache-control'), 'no-store');
    assert.deepEqual(await response.json(), { ready: true, dependencies: [healthy] });
  });

  test('names the failed dependency with 503', async () => {
    const response = await appWith([healthy, broken]).request('/readyz');
    assert.equal(response.status, 503);
    assert.deepEqual(await response.json(), { ready: false, dependencies: [healthy, broken] });
  });

  test('an unknown state is a failed dependency, without internals', async () => {
    const app = createOpsApp({ health: () => Promise.reject(new Error('internal')), metrics: () => Promise.reject(new Error('internal')) });
    const ready = await app.request('/readyz');
    assert.equal(ready.status, 503);
    assert.doesNotMatch(await ready.text(), /internal/);
    const metrics = await app.request('/metrics');
    assert.equal(metrics.status, 500);
    assert.doesNotMatch(await metrics.text(), /internal/);
  });

  test('serves Prometheus text', async () => {
    const response = await appWith([]).request('/metrics');
    assert.equal(response.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8');
    assert.equal(await response.text(), 'some_total 1\n');
  });

  test('refuses other methods and paths', async () => {
    for (const path of ['/healthz', '/readyz', '/metrics']) {
      const response = await appWith([]).request(path, { method: 'POST' });
      assert.equal(response.status, 405);
      assert.equal(response.headers.get('allow'), 'GET, HEAD');
      assert.equal((await appWith([]).request(path, { method: 'HEAD' })).status, 200);
    }
    const missing = await appWith([]).request('/admin');
    assert.equal(missing.status, 404);
    assert.match(missing.headers.get('content-type') ?? '', /text\/plain/);
  });
});

test('metrics of several processes are summed, what each has of its own is kept apart', async () => {
  const processes = [1, 2].map(async (amount) => {
    const registry = new Registry();
    new Counter({ name: 'stamps_total', help: 'h', labelNames: ['outcome'], registers: [registry] }).inc({ outcome: 'granted' }, amount);
    new Gauge({ name: 'process_resident_memory_bytes', help: 'h', registers: [registry] }).set(amount);
    return { process: `p${amount}`, metrics: JSON.parse(JSON.stringify(await registry.getMetricsAsJSON())) as MetricsJson };
  });
  const text = await mergeMetrics(await Promise.all(processes));
  assert.match(text, /^stamps_total\{outcome="granted"\} 3$/m);
  assert.match(text, /^process_resident_memory_bytes\{process="p1"\} 1$/m);
  assert.match(text, /^process_resident_memory_bytes\{process="p2"\} 2$/m);
});
