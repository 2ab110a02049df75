/** How a signer takes over a new list of TSUs: also when what it needs for that fails in between. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { SigilloError } from '../../config/errors.ts';
import type { SlotTsus } from '../../signer/slot-tsus.ts';
import type { Tsu } from '../../signer/stamp-task.ts';
import { firstTsus, followTsus } from '../../signer/tsu-follower.ts';
import { until } from '../support/until.ts';

const tsu = (id: string, activeFromMs = 0): Tsu => ({ id, keyLabel: id, activeFromMs, usableUntilMs: Number.MAX_SAFE_INTEGER }) as Tsu;
const log = { warn: () => undefined, info: () => undefined };

/** A register that counts as seen only when it was taken over, as SlotTsus has it. */
const register = (first: readonly Tsu[]) => {
  let tsus = first;
  let seen = false;
  return {
    change(next: readonly Tsu[]) {
      tsus = next;
      seen = false;
    },
    async look(_: number, take: (tsus: readonly Tsu[]) => void | Promise<void>) {
      if (seen) return false;
      await take(tsus);
      seen = true;
      return true;
    },
  };
};

test('Redis hiccups while a chain is published: what is compromised is dropped at once, and what is new taken at a later look', async () => {
  const [old, bad, next] = [tsu('old'), tsu('bad'), tsu('next')];
  const slotTsus = register([old, bad]);
  let failures = 3;
  const used: string[][] = [];
  const follower = followTsus({
    slotTsus,
    log: log as never,
    first: [old, bad],
    everyMs: 1,
    publish: async () => {
      assert.deepEqual(used.at(-1), ['old'], 'dropped first');
      failures -= 1;
      if (failures >= 0) throw new Error('Redis is away');
    },
    use: (tsus) => void used.push(tsus.map(({ id }) => id)),
  });
  slotTsus.change([next, old]);
  await until('the new one is taken', () => used.at(-1)?.includes('next') === true);
  assert.ok(used.every((ids) => !ids.includes('bad')));
  assert.deepEqual(used, [['old'], ['old'], ['old'], ['old'], ['next', 'old']]);
  follower.stop();
});

test('no TSU is left: none is used, until there is one again', async () => {
  const slotTsus = register([]);
  const used: string[][] = [];
  const follower = followTsus({
    slotTsus,
    log: log as never,
    first: [tsu('old')],
    everyMs: 1,
    publish: async () => undefined,
    use: (tsus) => void used.push(tsus.map(({ id }) => id)),
  });
  await until('none is used', () => used.at(-1)?.length === 0);
  slotTsus.change([tsu('next')]);
  await until('the next one is used', () => used.at(-1)?.join() === 'next');
  follower.stop();
});

test('a first TSU whose time is over is none', async () => {
  const over = { ...tsu('over'), usableUntilMs: Date.now() - 1 };
  const slotTsus = register([over]);
  let waited = 0;
  const found = firstTsus(slotTsus, 'a', () => {
    waited += 1;
  });
  await until('it is waited for another', () => waited > 0);
  slotTsus.change([tsu('next')]);
  assert.deepEqual(
    (await found).map(({ id }) => id),
    ['next'],
  );
});

test('a first TSU that begins in a moment is waited for, though the register does not change any more', async () => {
  let waited = 0;
  const soon = tsu('soon', Date.now() + 300);
  const found = await firstTsus(register([soon]), 'a', () => {
    waited += 1;
  });
  assert.deepEqual(found, [soon]);
  assert.ok(waited > 0);
});

test('after the stop the register is not looked at any more', async () => {
  let looks = 0;
  const slotTsus = {
    async look() {
      looks += 1;
      return false;
    },
  };
  const options = { slotTsus, log: log as never, first: [], publish: async () => undefined, use: () => undefined };
  const follower = followTsus({ ...options, everyMs: 60_000 });
  await turn();
  follower.stop();
  await turn();
  await turn();
  assert.equal(looks, 0);
});

test('a look that is under way at the stop asks no token, has nothing taken over, and fails nothing', async () => {
  const [looking, goOn, over] = [Promise.withResolvers<void>(), Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const used: unknown[] = [];
  let failed: unknown;
  let aborted: boolean | undefined;
  const slotTsus: Pick<SlotTsus, 'look'> = {
    async look(_, take, signal) {
      looking.resolve();
      await goOn.promise;
      aborted = signal?.aborted;
      await take([tsu('next')]);
      over.resolve();
      throw new SigilloError('HSM_DEVICE', 'the module is finalised');
    },
  };
  const publish = async () => void used.push('published');
  const follower = followTsus({ slotTsus, log: log as never, first: [], publish, use: (tsus) => void used.push(tsus), everyMs: 1 });
  void follower.failed.then((error) => {
    failed = error;
  });
  await looking.promise;
  follower.stop();
  goOn.resolve();
  await over.promise;
  await turn();
  assert.deepEqual([aborted, used, failed], [true, [], undefined]);
});
