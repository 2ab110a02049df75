/** What a writer finds when the one before it crashed, lost the lease, or knew another Redis or store. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { sealEvent } from '../../../observability/journal/chain.ts';
import { noOrigin } from '../../../observability/journal/origin.ts';
import { Spool } from '../../../observability/journal/spool.ts';
import { redisServerMissing } from '../../support/redis-server.ts';
import { until } from '../../support/until.ts';
import { answerOf, lane, serviceEvent, writerWorld } from './writer-world.ts';

describe('the writer of the journal after another one', { skip: redisServerMissing() }, () => {
  const world = writerWorld();

  test('Redis lost its record: the store tells where to go on', async () => {
    await world.startAndStore(5, 1);
    await world.stop();
    await world.emptyRedis();
    await world.answer(2);
    await world.start();
    await world.finish(8, { others: 1 });
  });

  test('a crash after one run of a block: the rest is taken from Redis, and nothing twice', async () => {
    for (let i = 0; i < 4; i += 1) await world.answer(3, 2);
    const runs: number[] = [];
    world.crashAtInsert(async (block) => {
      const first = block.filter(({ event }) => event.kind === 'timestamp.issued');
      runs.push(first.length);
      await world.store.insert(first);
    });
    await world.start();
    await until('it happens', () => runs.length > 0);
    await world.crashed({ spool: 'lost' });
    assert.equal((await world.store.head()).size, 12);
    await world.start();
    await world.untilStored(20);
    await world.answer(1);
    await world.finish(21, { others: 8 });
  });

  test('the lease is lost: the writer ends, and nothing was written without it', async () => {
    const writer = await world.startAndStore(2);
    world.heldForMs = 10;
    await world.answer(2);
    await world.assertLeaseLost();
    assert.equal(writer.head.size, 2);
    assert.equal((await world.store.head()).size, 2);
    world.heldForMs = 60_000;
    await world.start();
    await world.finish(4);
  });

  test('who waits for an event of a block that fails is told', async () => {
    world.loseLeaseAtInsert();
    const writer = await world.start();
    const told = writer.append(serviceEvent());
    await assert.rejects(told, { code: 'JOURNAL_LEASE_LOST' });
    await world.assertLeaseLost();
  });

  test('a writer that lost the lease while it waited for the store changes nothing that another one needs', async () => {
    await world.startAndStore(2);
    await world.untilRecorded(2);
    const recorded = await world.record();
    world.loseLeaseAtInsert();
    await world.answer(3);
    await world.assertLeaseLost();
    assert.equal(await world.spooledBlocks(), 1, 'what it spooled is for the next one to judge');
    const { inserting, ...state } = JSON.parse(await world.record());
    assert.deepEqual(state, (({ inserting: _, ...rest }) => rest)(JSON.parse(recorded)));
    assert.equal(inserting, 5);
    assert.equal(await world.waiting(), 1, 'what it had read is still in Redis');
    await world.takeLease();
    world.storeTakesAll();
    await world.start();
    await world.finish(5);
  });

  test('blocks that a writer without the lease left in the spool are set aside, not shipped', async () => {
    await world.startAndStore(2);
    await world.stop();
    const spool = await Spool.open(world.spoolFolder, 1_000_000);
    const stray = sealEvent({ size: 1, hash: Buffer.alloc(32, 9) }, serviceEvent());
    await spool.append(1, [{ octets: stray.octets, origin: noOrigin }], {});
    await world.start();
    await world.answer(2);
    await world.untilStored(4);
    await world.stop();
    assert.deepEqual(world.said, ['stray blocks']);
    await world.assertComplete({ others: 0 });
    rmSync(join(world.spoolFolder, '.stray'), { recursive: true });
  });

  test('a crash between store and record, after a block of many entries: nothing is there twice', async () => {
    for (let i = 0; i < 16; i += 1) await world.answer(60);
    // The record in Redis is of before.
    world.crashAtInsert((block) => world.store.insert(block));
    await world.start();
    await until('a block is stored', async () => (await world.store.head()).size > 0);
    await world.crashed({ spool: 'lost' });
    await world.start();
    await world.answer(1);
    await world.finish(961);
  });

  test('a crash between store and record, and another at the next insert: nothing is there twice', async () => {
    await world.startAndStore(2);
    world.crashAtInsert((block) => world.store.insert(block));
    await world.answer(3);
    await world.crashed({ spool: 'lost' });
    // It says in Redis what it is about to store, which must not make anything of the block before pass for recorded.
    world.crashAtInsert();
    await world.answer(1);
    await world.start();
    await world.crashed({ spool: 'lost' });
    await world.start();
    await world.finish(6);
  });

  test('a crash between store and record, and another when the next writer is in the middle of that block: nothing is there twice', async () => {
    world.blockAgeMs = 60_000;
    world.crashAtInsert((block) => world.store.insert(block));
    for (let i = 0; i < 56; i += 1) await world.answer(1);
    await world.start();
    await world.crashed({ spool: 'lost' });
    // A block is what one read gives: eight entries that are stored already, and eight of another stream; then the next of both.
    world.blockAgeMs = 0;
    for (let i = 0; i < 9; i += 1) await world.tell(serviceEvent());
    world.insert = async (block) => {
      await world.store.insert(block);
      world.crashAtInsert();
    };
    await world.start();
    await world.crashed({ spool: 'lost' });
    assert.equal((await world.store.head()).size, 64, 'the block, and the first eight of the others');
    await world.start();
    await world.answer(1);
    await world.finish(66, { others: 9 });
  });

  test('what does not fit is not put into quarantine again by the writer after a crash', async () => {
    await world.startAndStore(2);
    const long = { ...answerOf(randomBytes(16)), token: randomBytes(70_000) };
    const good = answerOf(randomBytes(16));
    world.issued.push(Buffer.from(good.serial).toString('hex'));
    world.crashAtInsert((block) => world.store.insert(block));
    await world.answerWith([long, good, long]);
    await world.crashed({ spool: 'lost' });
    const { size } = await world.store.head();
    await world.start();
    await world.answer(1);
    await world.finish(size + 1, { others: size - 3 });
  });

  test('a crash between spool and record, and another before anything is recorded: nothing is there twice', async () => {
    await world.startAndStore(2);
    // The block is in the spool, the record in Redis is of before.
    world.crashAtInsert();
    await world.answer(3);
    await world.crashed({ spool: 'kept' });
    await world.start();
    await world.untilStored(5);
    await world.stop();
    assert.equal((await world.openWriter()).head.size, 5);
    await world.start();
    await world.answer(1);
    await world.finish(6);
  });

  test('Redis falls back to before an outage of the store: what came in by way of the spool is known there', async () => {
    await world.startAndStore(2);
    await world.stop();
    const record = await world.record();
    await world.answer(3);
    const [[, fields] = []] = await world.redis.xrangeBuffer(lane, '-', '+');
    const [[id] = []] = await world.redis.xrange(lane, '-', '+');
    world.storeAway = true;
    const writer = await world.start();
    await until('it is spooled', () => writer.head.size === 5);
    world.storeAway = false;
    await world.untilShipped(writer);
    await world.answer(1);
    await world.untilStored(6);
    await until('the spool is empty', async () => (await world.spooledBlocks()) === 0);
    await world.stop();
    await world.redis.del(lane);
    await world.redis.xadd(lane, id as string, 'b', fields?.[1] as Buffer);
    await world.setRecord(record);
    await world.start();
    await world.answer(1);
    await world.finish(7);
  });

  for (const [name, forgets] of [
    ['a block that ClickHouse takes for stored, and has not, is stored after all', false],
    ['the same, and Redis has forgotten that the block was sent', true],
  ] as const) {
    test(name, async () => {
      await world.startAndStore(2);
      await world.untilRecorded(2);
      const record = await world.record();
      // Killed after it had noted the block, and before it had it.
      world.crashAtInsert();
      await world.answer(3);
      await world.crashed({ spool: 'lost' });
      if (forgets) await world.setRecord(record);
      let swallowed = 0;
      world.insert = async (block) => {
        swallowed += 1;
        if (swallowed > 1) await world.store.insert(block);
      };
      await world.start();
      await world.untilStored(5);
      await world.answer(1);
      await world.finish(6);
      assert.ok(swallowed > 1);
    });
  }

  test('a store that lost entries, and one with another entry: nothing is written', async () => {
    await world.startAndStore(5);
    await world.stop();
    await world.store.client.command({ query: 'ALTER TABLE journal_events DELETE WHERE sequence >= 3 SETTINGS mutations_sync = 1' });
    await assert.rejects(world.openWriter(), { code: 'JOURNAL_SHORTENED' });
    await world.emptyRedis();
    const writer = await world.openWriter();
    assert.equal(writer.head.size, 3, 'who empties the record accepts the loss');
  });
});
