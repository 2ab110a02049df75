import assert from 'node:assert/strict';
import { appendFileSync, existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { decodeDrafts } from '../../../observability/journal/draft-block.ts';
import { appendToOutbox, deliverOutbox } from '../../../observability/journal/outbox.ts';
import { draftOf } from '../../../observability/journal/recorder.ts';
import { journalKeys } from '../../../queue/keys.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../../support/redis-server.ts';
import { temporaryFolder } from '../../support/token-home.ts';

describe('the outbox', { skip: redisServerMissing() }, () => {
  const folder = temporaryFolder();
  let server: TestRedis;
  before(async () => {
    server = await startTestRedis();
  });
  after(async () => {
    await server.close();
    folder.remove();
  });
  let files = 0;
  const newFile = (): string => {
    files += 1;
    return join(folder.path, `home-${files}`, 'journal', 'outbox');
  };
  const keep = (file: string, subject: string): void =>
    appendToOutbox(file, draftOf({ kind: 'service.logStarted', subject, outcome: 'success', detail: {} }, 'test'));
  const recorded = async (): Promise<string[]> => {
    const redis = server.connect();
    const entries = await redis.xrangeBuffer(journalKeys.events, '-', '+');
    await redis.flushall();
    return entries.flatMap(([, fields]) => decodeDrafts(fields[1] as Buffer).map(({ subject }) => subject));
  };

  test('what is kept is delivered once, in order, and the file is gone', async () => {
    const file = newFile();
    for (const subject of ['a', 'b', 'c']) keep(file, subject);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    assert.deepEqual(await deliverOutbox(file, server.connect()), { delivered: 3, tornLines: 0 });
    assert.ok(!existsSync(file));
    assert.deepEqual(await deliverOutbox(file, server.connect()), { delivered: 0, tornLines: 0 });
    assert.deepEqual(await recorded(), ['a', 'b', 'c']);
  });

  test('a line that was cut off tells nothing, and does not spoil the next', async () => {
    const file = newFile();
    keep(file, 'a');
    const whole = readFileSync(file, 'utf8').trimEnd();
    for (const length of [1, 40, whole.length - 5]) {
      appendFileSync(file, whole.slice(0, length));
      keep(file, `after ${length}`);
    }
    assert.deepEqual(await deliverOutbox(file, server.connect()), { delivered: 4, tornLines: 3 });
    assert.deepEqual(await recorded(), ['a', 'after 1', 'after 40', `after ${whole.length - 5}`]);
  });

  test('while Redis does not take them all stay; an interruption before the removal tells them twice', async () => {
    const file = newFile();
    keep(file, 'a');
    keep(file, 'b');
    const redis = server.connect();
    await redis.set(journalKeys.events, 'something else');
    await assert.rejects(deliverOutbox(file, redis), /WRONGTYPE/);
    await redis.del(journalKeys.events);
    const before = readFileSync(file);
    await deliverOutbox(file, redis);
    appendFileSync(file, before); // as if it had not come to the removal
    await deliverOutbox(file, redis);
    assert.deepEqual(await recorded(), ['a', 'b', 'a', 'b']);
  });

  test('an event that comes during a delivery is delivered by the next', async () => {
    const file = newFile();
    keep(file, 'a');
    const redis = server.connect();
    const delivering = deliverOutbox(file, redis);
    keep(file, 'b');
    await delivering;
    assert.ok(existsSync(file));
    await deliverOutbox(file, redis);
    assert.deepEqual(await recorded(), ['a', 'a', 'b']);
  });
});
