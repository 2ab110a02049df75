/** What comes into the journal while nothing fails, and what is no answer of ours. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import { journalKeys } from '../../../queue/keys.ts';
import { redisServerMissing } from '../../support/redis-server.ts';
import { draftOf } from './fixtures.ts';
import { answerOf, lane, serviceEvent, writerWorld } from './writer-world.ts';

describe('the writer of the journal', { skip: redisServerMissing() }, () => {
  const world = writerWorld();

  test('events of all streams come into the store, in order and once, and leave Redis', async () => {
    for (let i = 0; i < 30; i += 1) await world.answer(7, i % 3);
    await world.tell(serviceEvent());
    const writer = await world.start();
    await world.untilStored(241);
    await world.untilTaken();
    await world.answer(1);
    await world.finish(242, { others: 31 });
    assert.equal(writer.head.size, 242);
    await world.assertRoot(writer, 242);
  });

  test('a writer that ends is followed by another, behind the same entry; a stop writes what is there', async () => {
    const first = await world.start();
    await world.answer(5);
    await world.answer(5);
    await world.stop();
    assert.equal(first.head.size, 10);
    await world.answer(3);
    const second = await world.start();
    assert.deepEqual([second.head.size, second.snapshot?.size], [10, 10]);
    await world.untilStored(13);
    await world.stop();
    await world.assertRoot(second, 13);
    await world.assertComplete({ others: 0 });
  });

  test('an entry that cannot be read goes into quarantine, whole, and stops nothing', async () => {
    const poison = randomBytes(100_000);
    await world.answer(2);
    await world.redis.xadd(lane, '*', 'b', poison);
    await world.redis.xadd(journalKeys.events, '*', 'x', '');
    await world.answer(2);
    await world.start();
    await world.finish(4 + 3 + 1, { others: 4 });
    const parts = (await world.journal()).filter((event) => event.kind === 'journal.quarantined');
    const ofLane = parts.filter(({ subject }) => subject.startsWith(lane));
    assert.deepEqual(
      ofLane.map(({ detail }) => [detail.part, detail.parts]),
      [
        [1, 3],
        [2, 3],
        [3, 3],
      ],
    );
    assert.deepEqual(Buffer.concat(ofLane.map(({ detail }) => detail.octets)), poison);
    assert.deepEqual(world.said.toSorted(), [`quarantined ${journalKeys.events}`, `quarantined ${lane}`]);
    const table = await world.store.client.query({ query: 'SELECT count() AS n FROM journal_quarantine', format: 'JSONEachRow' });
    assert.deepEqual(await table.json(), [{ n: 4 }]);
  });

  test('what only the journal itself tells goes into quarantine when it comes out of Redis', async () => {
    // Sealed, the first would make every verification fail for ever; the second would excuse a deleted entry.
    await world.tell(draftOf('journal.checkpoint', { optional: true }));
    await world.tell(draftOf('journal.expired', { optional: true }));
    await world.tell(serviceEvent());
    await world.start();
    await world.finish(3, { others: 3 });
    const kinds = (await world.journal()).map(({ kind }) => kind).toSorted();
    assert.deepEqual(kinds, ['journal.quarantined', 'journal.quarantined', 'service.logStarted']);
    assert.deepEqual(world.said, [`quarantined ${journalKeys.events}`, `quarantined ${journalKeys.events}`]);
  });

  test('an answer that is too long for an event goes into quarantine; its neighbours do not', async () => {
    const long = { ...answerOf(randomBytes(16)), token: randomBytes(70_000) };
    const good = answerOf(randomBytes(16));
    world.issued.push(Buffer.from(good.serial).toString('hex'));
    await world.answerWith([long, good]);
    await world.start();
    await world.finish(3, { others: 2 });
  });

  test('an event of the journal itself is durable when it is said to be', async () => {
    const writer = await world.start();
    const sealed = await writer.append(serviceEvent());
    assert.equal(sealed.event.sequence, 0);
    assert.equal((await world.store.head()).size, 1);
    await world.stop();
    await assert.rejects(writer.append(serviceEvent()), { code: 'JOURNAL_LEASE_LOST' });
  });
});
