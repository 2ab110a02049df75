/** The store goes away while the writer writes: blocks wait in the spool, and all are stored in order, once. */
import assert from 'node:assert/strict';
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../../../config/errors.ts';
import { runsOf, type StoredEvent } from '../../../observability/journal/store.ts';
import { redisServerMissing } from '../../support/redis-server.ts';
import { until } from '../../support/until.ts';
import { away, writerWorld } from './writer-world.ts';

describe('the writer of the journal without its store', { skip: redisServerMissing() }, () => {
  const world = writerWorld();

  test('the store goes away and comes back: blocks wait in the spool, go in order, and none is lost or there twice', async () => {
    const writer = await world.startAndStore(5);
    world.storeAway = true;
    for (let i = 0; i < 6; i += 1) {
      await world.answer(4, 1);
      await world.untilTaken();
    }
    await until('it happens', () => writer.head.size === 35);
    assert.deepEqual([writer.storeDown, writer.unshipped, (await world.store.head()).size], [true, 30, 5]);
    assert.ok(world.said.includes('store failed'));
    world.storeAway = false;
    await world.untilStored(35);
    await until('it happens', () => !writer.storeDown);
    assert.ok(world.said.includes('store back 30'), world.said.join());
    await world.answer(3);
    await world.untilStored(38);
    await until('it happens', async () => (await world.spooledBlocks()) === 0);
    await world.stop();
    await world.assertComplete({ others: 6 });
  });

  test('a writer starts while the store is away, after one that spooled', async () => {
    await world.startAndStore(5);
    world.storeAway = true;
    await world.answer(4);
    await world.untilTaken();
    await world.stop();
    await world.answer(4);
    const second = await world.start();
    await until('it happens', () => second.head.size === 13);
    assert.equal(second.snapshot?.size, 13, 'the tree is known without the store');
    world.storeAway = false;
    await world.untilStored(13);
    await world.stop();
    await world.assertRoot(second, 13);
    await world.assertComplete({ others: 0 });
  });

  test('the store takes a block and dies before it says so: stored once', async () => {
    let failures = 0;
    world.insert = async (block) => {
      await world.store.insert(block);
      failures += 1;
      if (failures <= 3) away();
    };
    const writer = await world.start();
    let rounds = 0;
    for (; failures < 4; rounds += 1) {
      await world.answer(3, 1);
      await until('it is shipped', async () => (await world.waiting()) === 0 && writer.unshipped === 0);
    }
    await world.untilShipped(writer);
    await world.stop();
    await world.assertComplete({ others: rounds });
  });

  test('the spool is full: nothing more is taken from Redis, nothing is lost, and it goes on when there is room', async () => {
    world.spoolOctetsMax = 100_000;
    world.storeAway = true;
    await world.setRecord(
      JSON.stringify({ version: 1, size: 0, hash: '0'.repeat(64), node: '', positions: {}, inserting: 0, subtrees: [] }),
    );
    const writer = await world.start();
    for (let i = 0; i < 40; i += 1) await world.answer(5);
    await until('it happens', () => world.said.includes('spool full'));
    const { size } = writer.head;
    assert.ok(size > 0 && size < 200, `${size}`);
    await world.answer(5);
    assert.ok((await world.waiting()) >= 1);
    world.storeAway = false;
    await world.finish(205);
  });

  test('a block that an outage left in the spool does not stand in the way of the next outage', async () => {
    const first = await world.startAndStore(2);
    world.storeAway = true;
    await world.answer(2);
    await until('it is spooled', () => first.head.size === 4);
    world.storeAway = false;
    await world.untilStored(4);
    await world.stop();
    // Written by another host meanwhile: this one's spool is of long ago.
    const behind = join(world.folder.path, 'spool-kept');
    cpSync(world.spoolFolder, behind, { recursive: true });
    await world.start();
    await world.answer(2);
    await world.untilStored(6);
    await world.stop();
    cpSync(behind, world.spoolFolder, { recursive: true });
    const second = await world.start();
    world.storeAway = true;
    await world.answer(2);
    await until('it is spooled again', () => second.head.size === 8);
    world.storeAway = false;
    await world.finish(8);
  });

  test('one insert was slow, and the spool has no room: full blocks go into the store', async () => {
    world.spoolOctetsMax = 1_000;
    let slow = true;
    world.insert = async (block) => {
      if (slow) await delay(1_100);
      slow = false;
      await world.store.insert(block);
    };
    await world.start();
    await world.answer(60);
    await world.untilStored(60);
    await world.answer(60);
    await world.finish(120);
  });

  test('the store has a part of a block, and the spool has no room: the next writer takes the rest', async () => {
    world.spoolOctetsMax = 1_000;
    world.insert = async (block) => {
      await world.store.insert(runsOf(block)[0] as readonly StoredEvent[]);
      world.storeTakesAll();
      away();
    };
    await world.start();
    await world.answer(3, 2);
    const error = await world.ended();
    assert.equal(error instanceof SigilloError ? error.code : error, 'JOURNAL_SPOOL_FULL');
    await world.start();
    await world.finish(5, { others: 2 });
  });

  test('a part of a run came first: what follows is not put behind a gap', async () => {
    await world.startAndStore(2, 1);
    let lost: readonly StoredEvent[] = [];
    world.insert = async (block) => {
      if (lost.length === 0) lost = block;
      away();
    };
    await world.answer(3);
    await world.untilTaken();
    await world.answer(3, 2);
    await world.untilTaken();
    // The first insert comes after all, just before that of the spool, which is of both blocks and behind the same entry.
    let landed = false;
    world.insert = async (block) => {
      if (!landed) await world.store.insert(lost);
      landed = true;
      await world.store.insert(block);
    };
    await world.finish(11, { others: 3 });
  });

  test('the tree is read from the store while blocks are written, and is the right one', async () => {
    await world.startAndStore(5);
    world.storeAway = true;
    await world.answer(5);
    await world.untilTaken();
    await world.stop();
    const record = JSON.parse(await world.record());
    await world.setRecord(JSON.stringify({ ...record, subtrees: [] }));
    let slow = Promise.withResolvers<void>();
    world.resumeTree = async (size) => {
      await slow.promise;
      return world.treeOf(size);
    };
    const writer = await world.start();
    assert.equal(writer.snapshot?.size, undefined);
    world.storeAway = false;
    await world.untilStored(10);
    await world.answer(3);
    await world.untilStored(13);
    // What an outage puts into the spool meanwhile does not wait for the tree.
    world.storeAway = true;
    await world.answer(2);
    await until('it is spooled', () => writer.head.size === 15);
    world.storeAway = false;
    await world.untilStored(15);
    slow.resolve();
    await until('the tree is known', () => writer.snapshot?.size === 15);
    await world.stop();
    slow = Promise.withResolvers();
    await world.assertRoot(writer, 15);
  });

  test('work that needs the store for itself runs between blocks, when the store has all', async () => {
    const writer = await world.start();
    world.storeAway = true;
    await world.answer(2);
    await until('it is spooled', () => writer.head.size === 2);
    let stored = -1;
    const done = writer.exclusively(async () => {
      stored = (await world.store.head()).size;
    });
    await world.answer(2);
    await until('it is spooled', () => writer.head.size === 4);
    assert.equal(stored, -1);
    world.storeAway = false;
    await done;
    assert.equal(stored, 4);
    await world.stop();
    await assert.rejects(
      writer.exclusively(async () => undefined),
      { code: 'JOURNAL_LEASE_LOST' },
    );
  });
});
