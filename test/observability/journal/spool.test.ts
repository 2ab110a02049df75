import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { hash } from 'node:crypto';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, beforeEach, describe, test } from 'node:test';
import { eventOctetsMax } from '../../../observability/journal/event-encoding.ts';
import { noOrigin, type Origin } from '../../../observability/journal/origin.ts';
import { Spool } from '../../../observability/journal/spool.ts';
import { temporaryFolder } from '../../support/token-home.ts';

const octetsMax = 100_000;
const sources = ['', 'lane:{timestamp}:journal', 'other'] as const;
const entriesFrom = (first: number, count: number, length = 100): { octets: Buffer; origin: Origin }[] =>
  Array.from({ length: count }, (_, i) => {
    // Octets that do not shrink, and the same each time: as those of signatures.
    const octets = hash('shake256', `entry ${first + i}`, { outputEncoding: 'buffer', outputLength: length });
    const source = sources[i % sources.length] as string;
    return { octets, origin: source === '' ? noOrigin : { source, millis: 1_795_000_000_123, number: first, index: i } };
  });
const positions = { 'lane:{timestamp}:journal': '1795000000000-3', other: '' };
const isDamaged = { code: 'JOURNAL_SPOOL_DAMAGED' };

describe('the spool', () => {
  const base = temporaryFolder();
  let folder = '';
  let made = 0;
  beforeEach(() => {
    made += 1;
    folder = join(base.path, String(made), 'spool');
  });
  after(() => base.remove());

  const files = (): string[] => readdirSync(folder).toSorted();
  const filled = async (): Promise<Spool> => {
    const spool = await Spool.open(folder, octetsMax);
    await spool.append(5, entriesFrom(5, 3), positions);
    await spool.append(8, entriesFrom(8, 1), positions);
    await spool.append(9, entriesFrom(9, 10, 0), positions);
    return spool;
  };

  test('keeps blocks in order, across a restart, and gives back what was written', async () => {
    const first = await filled();
    assert.deepEqual(files(), ['0000000000000005-3.block', '0000000000000008-1.block', '0000000000000009-10.block']);
    assert.equal(statSync(folder).mode & 0o777, 0o700);
    assert.equal(statSync(join(folder, files()[0] as string)).mode & 0o777, 0o600);
    const again = await Spool.open(folder, octetsMax);
    assert.deepEqual(again.blocks, first.blocks);
    assert.deepEqual([again.octets, again.next], [first.octets, 19]);
    const [oldest] = again.blocks;
    assert.ok(oldest);
    assert.deepEqual(await again.read(oldest), { entries: entriesFrom(5, 3), positions });
    await again.removeOldest();
    assert.deepEqual(
      again.blocks.map(({ first: number }) => number),
      [8, 9],
    );
    await again.removeOldest();
    await again.removeOldest();
    assert.deepEqual([files(), again.next], [['0000000000000009-10.block'], 19], 'the last one stays');
    await again.append(19, entriesFrom(19, 1), positions);
    await again.removeOldest();
    assert.deepEqual([files(), again.next], [['0000000000000019-1.block'], 20]);
  });

  test('a block that does not follow, or is empty, is a defect of the caller', async () => {
    const spool = await filled();
    for (const first of [18, 20]) await assert.rejects(spool.append(first, entriesFrom(first, 1), positions), { code: 'INTERNAL' });
    await assert.rejects(spool.append(19, [], positions), { code: 'INTERNAL' });
    assert.equal(spool.next, 19);
  });

  test('the bound: exactly full, and one octet too much', async () => {
    const whole = (await (await Spool.open(folder, octetsMax)).append(0, entriesFrom(0, 1, 100), positions)).octets;
    rmSync(folder, { recursive: true });
    const spool = await Spool.open(folder, 2 * whole);
    await spool.append(0, entriesFrom(0, 1, 100), positions);
    await assert.rejects(spool.append(1, entriesFrom(1, 1, 101), positions), { code: 'JOURNAL_SPOOL_FULL' });
    assert.deepEqual(files(), ['0000000000000000-1.block']);
    await spool.append(1, entriesFrom(1, 1, 100), positions);
    assert.equal(spool.octets, 2 * whole);
    await assert.rejects(spool.append(2, entriesFrom(2, 1, 0), positions), { code: 'JOURNAL_SPOOL_FULL' });
    await spool.removeOldest();
    await spool.append(2, entriesFrom(2, 1, 100), positions);
    await spool.clear();
    assert.deepEqual([files(), spool.octets, spool.next], [[], 0, undefined]);
  });

  test('what a crash left unfinished is removed: it was never promised', async () => {
    await filled();
    writeFileSync(join(folder, '0000000000000019-5.block.unfinished'), 'half');
    const spool = await Spool.open(folder, octetsMax);
    assert.deepEqual([spool.next, files().length], [19, 3]);
  });

  test('a block that another process has put there stays as it is', async () => {
    const [first, second] = [await Spool.open(folder, octetsMax), await Spool.open(folder, octetsMax)];
    const block = await second.append(0, entriesFrom(0, 3), positions);
    await assert.rejects(first.append(0, entriesFrom(7, 3), positions), { code: 'EEXIST' });
    assert.deepEqual(await second.read(block), { entries: entriesFrom(0, 3), positions });
    assert.deepEqual([files().length, first.octets], [1, 0], 'nothing unfinished is left');
  });

  test('a missing block, a foreign file: told, and nothing is touched', async () => {
    await filled();
    rmSync(join(folder, '0000000000000008-1.block'));
    await assert.rejects(Spool.open(folder, octetsMax), isDamaged);
    assert.equal(files().length, 2);
    writeFileSync(join(folder, '0000000000000008-1.block'), '');
    writeFileSync(join(folder, 'notes.txt'), '');
    await assert.rejects(Spool.open(folder, octetsMax), isDamaged);
    assert.equal(files().length, 4);
  });

  test('every octet of a block counts, and so does its end', async () => {
    const spool = await filled();
    const [block] = spool.blocks;
    assert.ok(block);
    const path = join(folder, files()[0] as string);
    const right = readFileSync(path);
    for (let at = 0; at < right.length; at += 1) {
      const changed = Buffer.from(right);
      changed[at] = (changed[at] as number) ^ 1;
      writeFileSync(path, changed);
      await assert.rejects(spool.read(block), isDamaged, `octet ${at}`);
    }
    for (const length of [0, 1, 15, 16, 19, 20, 47, 51, 52, right.length - 33, right.length - 1]) {
      writeFileSync(path, right.subarray(0, length));
      await assert.rejects(spool.read(block), isDamaged, `${length} octets`);
    }
    writeFileSync(path, Buffer.concat([right, Buffer.of(0)]));
    await assert.rejects(spool.read(block), isDamaged);
    rmSync(path);
    await assert.rejects(spool.read(block), isDamaged);
  });

  test('a block under the name of another is not taken for it', async () => {
    const spool = await filled();
    const [five, eight] = spool.blocks;
    assert.ok(five && eight);
    cpSync(join(folder, '0000000000000008-1.block'), join(folder, '0000000000000005-3.block'));
    await assert.rejects(spool.read(five), isDamaged);
  });

  test('the longest entries', async () => {
    const spool = await Spool.open(folder, 10 * eventOctetsMax);
    const block = await spool.append(0, entriesFrom(0, 2, eventOctetsMax), positions);
    assert.equal((await spool.read(block)).entries[1]?.octets.length, eventOctetsMax);
  });

  test('a full disk: told, nothing of the block is left, and it goes on when there is room', {
    skip: process.getuid?.() !== 0,
  }, async () => {
    mkdirSync(folder, { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k,mode=700', 'tmpfs', folder]);
    try {
      const spool = await Spool.open(folder, 10_000_000);
      await spool.append(0, entriesFrom(0, 20, 1_000), positions);
      await assert.rejects(spool.append(20, entriesFrom(20, 50, 1_000), positions), { code: 'JOURNAL_SPOOL_FULL' });
      assert.deepEqual(files(), ['0000000000000000-20.block']);
      const again = await Spool.open(folder, 10_000_000);
      assert.deepEqual(again.blocks, spool.blocks);
      await again.append(20, entriesFrom(20, 2, 1_000), positions);
      await again.removeOldest();
      await again.append(22, entriesFrom(22, 50, 1_000), positions);
    } finally {
      execFileSync('umount', [folder]);
    }
  });
});
