import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { configDigest } from '../../../config/digest.ts';
import { parseConfig } from '../../../config/load.ts';
import { decodeDrafts } from '../../../observability/journal/draft-block.ts';
import type { EventDraft } from '../../../observability/journal/events.ts';
import { JournalRecorder, nodeName } from '../../../observability/journal/recorder.ts';
import { recordStart, recordStop } from '../../../observability/journal/service-events.ts';
import { journalKeys } from '../../../queue/keys.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../../support/redis-server.ts';

describe('what a process tells of itself', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  before(async () => {
    server = await startTestRedis();
  });
  after(() => server.close());

  const recorded = async (): Promise<EventDraft[]> => {
    const redis = server.connect();
    const entries = await redis.xrangeBuffer(journalKeys.events, '-', '+');
    await redis.del(journalKeys.events);
    return entries.flatMap(([, fields]) => decodeDrafts(fields[1] as Buffer));
  };
  const runOnce = async (level: string): Promise<EventDraft[]> => {
    const redis = server.connect();
    const recorder = new JournalRecorder({ redis, actor: 'gateway' });
    await recordStart(recorder, redis, { process: 'gateway', config: parseConfig({ log: { level } }), version: '1.2.3' });
    recordStop(recorder, 'gateway', 'SIGTERM');
    await recorder.close();
    return recorded();
  };

  test('start and stop, with release, configuration and reason', async () => {
    const events = await runOnce('info');
    assert.deepEqual(
      events.map(({ kind }) => kind),
      ['service.started', 'service.logStarted', 'service.stopped', 'service.logStopped'],
    );
    for (const { subject, actor, role, node } of events)
      assert.deepEqual([subject, actor, role, node], ['gateway', 'gateway', 'system', nodeName()]);
    const [started, , stopped] = events;
    assert.equal(started?.kind === 'service.started' && started.detail.version, '1.2.3');
    const digest = configDigest(parseConfig({}));
    assert.deepEqual(started?.kind === 'service.started' && Buffer.from(started.detail.configSha256), digest);
    assert.equal(stopped?.kind === 'service.stopped' && stopped.detail.reason, 'SIGTERM');
  });

  test('another level than at the start before is an event, the same one is none', async () => {
    const changes = (events: EventDraft[]): unknown[] =>
      events.flatMap((event) => (event.kind === 'service.logLevel' ? [event.detail] : []));
    assert.deepEqual(changes(await runOnce('info')), []);
    assert.deepEqual(changes(await runOnce('debug')), [{ from: 'info', to: 'debug' }]);
    assert.deepEqual(changes(await runOnce('debug')), []);
    assert.deepEqual(await server.connect().hgetall(journalKeys.logLevels), { [`${nodeName()}:gateway`]: 'debug' });
  });

  test('a process that starts before Redis has the connection tells it all the same', async () => {
    const redis = server.connect({ enableOfflineQueue: false, lazyConnect: true });
    const recorder = new JournalRecorder({ redis, actor: 'gateway' });
    const started = recordStart(recorder, redis, { process: 'gateway', config: parseConfig({ log: { level: 'warn' } }), version: '1' });
    await redis.connect();
    await started;
    await recorder.close();
    assert.deepEqual((await recorded()).map(({ kind }) => kind).toSorted(), ['service.logLevel', 'service.logStarted', 'service.started']);
  });
});
