/** Writers that went apart, and blocks that one of them has left: nothing is written behind another entry, and nothing that counts is lost. */
import assert from 'node:assert/strict';
import { cpSync, existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { SigilloError } from '../../../config/errors.ts';
import { sealEvent } from '../../../observability/journal/chain.ts';
import { encodeDrafts } from '../../../observability/journal/draft-block.ts';
import { noOrigin } from '../../../observability/journal/origin.ts';
import { journalKeys } from '../../../queue/keys.ts';
import { redisServerMissing } from '../../support/redis-server.ts';
import { until } from '../../support/until.ts';
import { away, lane, serviceEvent, writerWorld } from './writer-world.ts';

describe('writers of the journal that went apart', { skip: redisServerMissing() }, () => {
  const world = writerWorld();
  const keptSpool = join(world.folder.path, 'spool-kept');

  const keepSpool = (): void => {
    rmSync(keptSpool, { recursive: true, force: true });
    cpSync(world.spoolFolder, keptSpool, { recursive: true });
    world.removeSpool();
  };
  const bringSpoolBack = (): void => {
    world.removeSpool();
    cpSync(keptSpool, world.spoolFolder, { recursive: true });
  };

  /** A writer dies when it has spooled 56 stamps and told nobody; another one, elsewhere, stores nine of what was in Redis, and dies too. */
  const leaveStrayBlock = async (): Promise<void> => {
    world.blockAgeMs = 60_000;
    world.crashAtInsert();
    for (let i = 0; i < 56; i += 1) await world.answer(1);
    await world.start();
    await world.crashed({ spool: 'kept' });
    assert.equal(await world.spooledBlocks(), 1);
    keepSpool();
    world.blockAgeMs = 0;
    await world.tell(serviceEvent());
    world.insert = async (block) => {
      if (block[0]?.event.sequence !== 9) return world.store.insert(block);
      world.crashAtInsert();
      return world.insert(block);
    };
    await world.start();
    await world.crashed({ spool: 'lost' });
    assert.deepEqual([(await world.store.head()).size, JSON.parse(await world.record()).size], [9, 9]);
    bringSpoolBack();
  };

  test('as many entries in the store, and another one at the end: the writer ends', async () => {
    const writer = await world.startAndStore(2);
    world.storeAway = true;
    await world.answer(1);
    await until('it is spooled', () => writer.head.size === 3);
    await world.store.insert([{ ...sealEvent(await world.store.head(), serviceEvent()), origin: noOrigin }]);
    world.storeAway = false;
    const error = await world.ended();
    assert.equal(error instanceof SigilloError ? error.code : error, 'JOURNAL_FORKED');
    await world.journal();
    assert.equal(await world.spooledBlocks(), 1, 'what was spooled is there for people to look at');
  });

  test('a block that nobody was told of, longer than what another writer has stored since, is set aside', async () => {
    await leaveStrayBlock();
    await world.start();
    await world.answer(1);
    await world.finish(58, { others: 1 });
    assert.deepEqual(
      world.said.filter((one) => one !== 'store failed'),
      ['stray blocks'],
    );
    assert.ok(existsSync(join(world.spoolFolder, '.stray')), 'and kept');
  });

  test('the same, and the store is away: nobody goes on behind that block', async () => {
    await leaveStrayBlock();
    world.storeAway = true;
    await world.openWriter().then(
      ({ head }) => assert.equal(head.size, 9),
      (error: SigilloError) => assert.equal(error.code, 'JOURNAL_STORE_UNAVAILABLE'),
    );
    world.storeAway = false;
    await world.start();
    await world.finish(57, { others: 1 });
  });

  test('a block of long ago in the spool, and the store is away at the start: the next block is spooled nevertheless', async () => {
    const first = await world.startAndStore(2);
    world.storeAway = true;
    await world.answer(2);
    await until('it is spooled', () => first.head.size === 4);
    world.storeAway = false;
    await world.untilShipped(first);
    await world.stop();
    keepSpool();
    await world.start();
    await world.answer(2);
    await world.untilStored(6);
    await world.stop();
    bringSpoolBack();
    world.storeAway = true;
    const second = await world.start();
    await world.answer(2);
    await until('it is spooled', () => second.head.size === 8);
    world.storeAway = false;
    await world.finish(8);
  });

  test('entries that only an unrecorded spool has: another host is told where they are', async () => {
    await world.startAndStore(2);
    world.crashAtInsert();
    await world.answer(3);
    await world.crashed({ spool: 'kept' });
    world.insert = async () => away();
    await world.start();
    await until('the lease was confirmed', async () => JSON.parse(await world.record()).size === 5);
    await world.stop();
    keepSpool();
    await assert.rejects(world.openWriter({ node: 'node-2' }), { code: 'JOURNAL_ELSEWHERE' });
    bringSpoolBack();
    world.storeTakesAll();
    await world.start();
    await world.finish(5);
  });

  test('nothing is removed from Redis that only an unrecorded spool has, also when nothing new comes', async () => {
    await world.startAndStore(2);
    world.crashAtInsert();
    await world.answer(3);
    await world.crashed({ spool: 'kept' });
    world.storeAway = true;
    await world.setRecord(JSON.stringify({ ...JSON.parse(await world.record()), inserting: 0 }));
    await world.start();
    await world.redis.xadd(journalKeys.events, '*', 'b', encodeDrafts([]));
    await until('it is passed over', async () => (await world.redis.xlen(journalKeys.events)) === 0);
    const { size, node } = JSON.parse(await world.record());
    assert.deepEqual([size, node], [5, 'node-1']);
    assert.equal(await world.redis.xlen(lane), 0);
    world.storeAway = false;
    await world.finish(5);
  });
});
