import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { SigilloError } from '../../../config/errors.ts';
import { decodeDrafts, encodeDrafts } from '../../../observability/journal/draft-block.ts';
import type { EventDraft } from '../../../observability/journal/events.ts';
import { JournalRecorder } from '../../../observability/journal/recorder.ts';
import { journalKeys } from '../../../queue/keys.ts';
import { connectedRedis } from '../../support/connected-redis.ts';
import { redisServerMissing } from '../../support/redis-server.ts';
import { until } from '../../support/until.ts';
import { allKinds, draftOf } from './fixtures.ts';

const stopped = (reason: string) => ({ kind: 'service.stopped', subject: 'test', outcome: 'success', detail: { reason } }) as const;

describe('a block of events', () => {
  const drafts = allKinds.flatMap((kind) => [draftOf(kind, { optional: true }), draftOf(kind, { optional: false })]);

  test('every kind comes back', () => {
    const read = decodeDrafts(encodeDrafts(drafts));
    assert.equal(read.length, drafts.length);
    for (const [i, draft] of read.entries()) {
      const { sequence, previous, ...told } = draft as unknown as Record<string, unknown>;
      assert.deepEqual([sequence, Buffer.from(previous as Uint8Array)], [0, Buffer.alloc(32)]);
      assert.equal(told['kind'], drafts[i]?.kind);
    }
    assert.deepEqual(decodeDrafts(encodeDrafts([])), []);
  });

  test('whatever is cut, changed or put behind it is told, or is another event, but never anything else', () => {
    const block = encodeDrafts(drafts.slice(0, 4));
    const tryRead = (bytes: Buffer): EventDraft[] | undefined => {
      try {
        return decodeDrafts(bytes);
      } catch (error) {
        assert.ok(error instanceof SigilloError && error.code === 'JOURNAL_MALFORMED', String(error));
        return undefined;
      }
    };
    const whole = new Set([1, block.length]);
    for (let at = 5; at < block.length; at += 4 + block.readUInt32BE(at - 4)) whole.add(at - 4);
    for (let length = 0; length < block.length; length += 1) {
      if (!whole.has(length)) assert.equal(tryRead(block.subarray(0, length)), undefined, `${length} octets`);
    }
    for (let at = 0; at < block.length; at += 1) {
      for (const bit of [1, 0x80, 0xff]) {
        const changed = Buffer.from(block);
        changed[at] = (changed[at] as number) ^ bit;
        tryRead(changed);
      }
    }
    assert.equal(tryRead(Buffer.concat([block, Buffer.of(0, 0, 0)])), undefined);
    assert.equal(tryRead(Buffer.concat([block, Buffer.from('ffffffff00', 'hex')])), undefined, 'a length of 4 GB');
  });
});

describe('the recorder of events', { skip: redisServerMissing() }, () => {
  const world = connectedRedis();
  beforeEach(async () => {
    await world.redis.flushall();
  });
  const recorded = async (): Promise<EventDraft[]> => {
    const entries = (await world.redis.xrangeBuffer(journalKeys.events, '-', '+')) as [Buffer, Buffer[]][];
    return entries.flatMap(([, fields]) => decodeDrafts(fields[1] as Buffer));
  };

  test('what happens at once travels together, in order, with who, where and when', async () => {
    const recorder = new JournalRecorder({ redis: world.redis, actor: 'test' });
    const before = Date.now() * 1_000;
    for (let i = 0; i < 250; i += 1) recorder.record(stopped(`reason ${i}`));
    await recorder.close();
    const events = await recorded();
    assert.deepEqual(
      events.map(({ detail }) => (detail as { reason: string }).reason),
      Array.from({ length: 250 }, (_, i) => `reason ${i}`),
    );
    assert.ok((await world.redis.xlen(journalKeys.events)) <= 4);
    const [first] = events;
    assert.deepEqual([first?.actor, first?.role, first?.clock], ['test', 'system', 'unverified']);
    assert.ok(Math.abs((first?.unixMicros ?? 0) - before) < 60_000_000);
  });

  test('while Redis is away events wait, up to the bound; what is more is counted', async () => {
    const failures: unknown[] = [];
    const recorder = new JournalRecorder({ redis: world.redis, actor: 'test', onFailed: (error) => failures.push(error) });
    await world.server.stop();
    for (let i = 0; i < 10_003; i += 1) recorder.record(stopped(String(i)));
    assert.equal(recorder.lost, 3);
    await assert.rejects(recorder.recordNow(stopped('now')));
    await world.server.start();
    await until('all that waited is recorded', async () => (await recorded().catch(() => [])).length === 10_000, 15_000);
    await recorder.close();
  });

  test('what it gives up at its end is counted and told', async () => {
    const told: number[] = [];
    const recorder = new JournalRecorder({ redis: world.redis, actor: 'test', onLost: (events) => void told.push(events) });
    recorder.record(stopped('recorded'));
    await until('it is recorded', async () => (await recorded()).length === 1);
    await world.server.stop();
    await until('the connection is gone', () => world.redis.status !== 'ready');
    for (let i = 0; i < 5; i += 1) recorder.record(stopped(String(i)));
    assert.equal(recorder.lost, 0, 'they wait');
    await recorder.close();
    assert.deepEqual([recorder.lost, told], [5, [5]]);
    await world.server.start();
    await until('Redis is back', () => world.redis.status === 'ready');
    const fine = new JournalRecorder({ redis: world.redis, actor: 'test', onLost: (events) => void told.push(events) });
    fine.record(stopped('fine'));
    await fine.close();
    assert.deepEqual(told, [5], 'nothing is told of nothing');
  });

  test('an event that does not fit its kind holds up no other', async () => {
    const failures: unknown[] = [];
    const recorder = new JournalRecorder({ redis: world.redis, actor: 'test', onFailed: (error) => failures.push(error) });
    recorder.record({ ...stopped('bad'), detail: { reason: 1 } } as never);
    await until('it is told', () => failures.length === 1);
    recorder.record(stopped('good'));
    await recorder.close();
    assert.equal(recorder.lost, 1);
    assert.equal((await recorded()).length, 1);
  });
});
