import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Registry } from 'prom-client';
import { createServiceRecorder } from '../../../observability/journal/service-recorder.ts';
import { registerRecorderMetrics } from '../../../observability/recorder-metrics.ts';
import { connectedRedis } from '../../support/connected-redis.ts';
import { redisServerMissing } from '../../support/redis-server.ts';
import { until } from '../../support/until.ts';

const stopped = { kind: 'service.stopped', subject: 'test', outcome: 'success', detail: { reason: 'test' } } as const;

describe('the recorder of a process', { skip: redisServerMissing() }, () => {
  const world = connectedRedis();

  test('what is lost is a metric while it runs, and a line of the log at its end', async () => {
    const logged: unknown[] = [];
    const log = {
      warn: (...told: unknown[]) => void logged.push(['warn', ...told]),
      error: (...told: unknown[]) => void logged.push(['error', ...told]),
    };
    const recorder = createServiceRecorder(world.redis, 'test', log);
    const registry = new Registry();
    registerRecorderMetrics(registry, () => recorder.lost);
    const metric = async (): Promise<number> => Number(/^journal_events_lost_total (\d+)$/m.exec(await registry.metrics())?.[1]);
    assert.equal(await metric(), 0);
    await world.server.stop();
    await until('the connection is gone', () => world.redis.status !== 'ready');
    for (let i = 0; i < 10_007; i += 1) recorder.record(stopped);
    assert.deepEqual([await metric(), await metric()], [7, 7], 'it does not grow by being looked at');
    assert.deepEqual(logged, []);
    await recorder.close();
    assert.equal(await metric(), 10_007);
    assert.deepEqual(logged, [
      ['error', { actor: 'test', events: 10_007 }, 'journal: events of this process were lost, they are in no entry'],
    ]);
  });
});
