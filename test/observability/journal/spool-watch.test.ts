import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { sealEvent } from '../../../observability/journal/chain.ts';
import { Spool } from '../../../observability/journal/spool.ts';
import { SpoolWatch, spoolWarning } from '../../../observability/journal/spool-watch.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { draftOf } from './fixtures.ts';

const plenty = 1e12;

test('past four fifths, or with less than a fifth left on the disk', () => {
  const warns = (octets: number, free: number | undefined, wasSaid = false): boolean =>
    spoolWarning({ octets, octetsMax: 1_000, free }, wasSaid) !== undefined;
  assert.deepEqual([warns(0, plenty), warns(800, plenty), warns(801, plenty)], [false, false, true]);
  assert.deepEqual([warns(0, 200), warns(0, 199), warns(0, undefined)], [false, true, false]);
  assert.deepEqual([warns(751, plenty), warns(751, plenty, true), warns(750, plenty, true)], [false, true, false]);
  const octetsMax = 16_384_000_000;
  assert.equal(spoolWarning({ octets: 14e9, octetsMax, free: plenty }), '14000 MB of 16384 MB (journal.spool.megabytesMax) are full');
  assert.equal(spoolWarning({ octets: 0, octetsMax, free: 3e9 }), 'its disk has 3000 MB left');
});

describe('the watch over a spool', () => {
  const folder = temporaryFolder();
  after(() => folder.remove());

  test('says it once, and once when it is over', async () => {
    const spool = await Spool.open(join(folder.path, 'spool'), 10_000);
    const lines: string[] = [];
    const say = (_: object, line: string): number => lines.push(line);
    let free = plenty;
    let open: Spool | undefined;
    const watch = new SpoolWatch({ log: { warn: say, info: say } as never, spool: () => open, freeOctets: async () => free });
    try {
      await watch.look();
      assert.deepEqual([watch.warning, watch.free], [undefined, undefined], 'none is open');
      open = spool;
      await watch.look();
      assert.deepEqual([watch.warning, watch.free], [undefined, plenty]);
      for (let first = 0; spool.octets < 8_500; first += 1) {
        const draft = { ...draftOf('service.stopped', { optional: false }), detail: { reason: randomBytes(300).toString('hex') } };
        const sealed = sealEvent({ size: first, hash: Buffer.alloc(32) }, draft as never);
        const origin = { source: 'events', millis: 1, number: first, index: 0 };
        await spool.append(first, [{ octets: sealed.octets, origin }], {});
      }
      await watch.look();
      await watch.look();
      assert.match(watch.warning ?? '', /^0 MB of 0 MB/);
      assert.deepEqual(lines.splice(0), [`journal: the spool runs out of room: ${watch.warning}`]);
      await spool.clear();
      free = 1_999;
      await watch.look();
      assert.match(watch.warning ?? '', /its disk/);
      free = plenty;
      await watch.look();
      assert.equal(watch.warning, undefined);
      assert.deepEqual(lines.splice(0), ['journal: the spool has room again']);
    } finally {
      watch.close();
    }
  });

  test('the file system tells what is free', async () => {
    const spool = await Spool.open(join(folder.path, 'real'), 1);
    const watch = new SpoolWatch({ log: { warn: () => undefined, info: () => undefined } as never, spool: () => spool });
    await watch.look();
    watch.close();
    assert.ok((watch.free ?? 0) > 1_000_000, String(watch.free));
  });
});
