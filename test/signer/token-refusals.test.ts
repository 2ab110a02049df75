/**
 * A token that refuses every signature at once must not draw the work of those that sign: after a few refusals its slot gives up, what
 * it has not answered is others', and it is used again only when its keys have proved themselves.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, type TestContext, test } from 'node:test';
import pkcs11 from 'pkcs11js';
import { homePaths } from '../../config/home.ts';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { ConcurrentStamper } from '../../signer/concurrent-stamper.ts';
import { embeddedModule, type HsmModule, openModule } from '../../signer/pkcs11-module.ts';
import { writeTsus } from '../../signer/shared-tsus.ts';
import { asSlotFailed, SlotError, SlotFailed, slotFailureOf } from '../../signer/slot-failure.ts';
import type { StampTask, StampTaskResult, StampWorkerData, Tsu } from '../../signer/stamp-task.ts';
import { Stamper } from '../../signer/stamper.ts';
import { StampingPool } from '../../signer/stamping-pool.ts';
import { createRefusalMemory, TokenRefusals } from '../../signer/token-refusals.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import { batchOf } from '../support/stamp-batches.ts';
import { configOf, temporaryFolder } from '../support/token-home.ts';
import { createTokenTsu } from '../support/token-tsu.ts';

const label = 'sigillo-timestamp';
/** Refusals in a row that a slot does not survive. */
const tooMany = 8;

test('refusals in a row are too many, now and then they are not, however long it goes on', () => {
  const memory = createRefusalMemory();
  const [one, two] = [new TokenRefusals(memory), new TokenRefusals(memory)];
  const row = Array.from({ length: tooMany }, (_, i) => (i % 2 === 0 ? one : two).refused());
  assert.deepEqual(row, [...Array.from({ length: tooMany - 1 }, () => false), true], 'all threads together');
  const rare = new TokenRefusals(createRefusalMemory());
  for (let i = 0; i < 10_000; i += 1) {
    if (i % 11 === 0) assert.equal(rare.refused(), false);
    else rare.signed();
  }
  const half = new TokenRefusals(createRefusalMemory());
  let survived = 0;
  while (!half.refused()) {
    half.signed();
    survived += 1;
  }
  assert.ok(survived < 2 * tooMany, 'one that refuses every second one is no better');
});

test('a token that returns no signatures is no better than one that refuses them', () => {
  const refusals = new TokenRefusals(createRefusalMemory());
  const nonsense = new RangeError('an odd number of octets');
  for (let i = 1; i < tooMany; i += 1) assert.equal(asSlotFailed(nonsense, refusals), nonsense);
  const failed = asSlotFailed(nonsense, refusals);
  assert.ok(failed instanceof SlotFailed);
  assert.deepEqual(slotFailureOf(failed), {
    kind: 'slotFailed',
    errorClass: 'device',
    message: 'an odd number of octets, again and again',
  });
});

describe('a token that refuses fast', { skip: withoutFaultyModule }, () => {
  const folder = temporaryFolder();
  const control = temporaryFolder();
  let faulty: FaultyModule;
  let module: HsmModule;
  let made: StampWorkerData;
  let data: StampWorkerData;
  let tsu: Tsu;
  before(async () => {
    const token = await createTokenTsu(folder.path);
    token.module.close();
    const embedded = embeddedModule(configOf(folder.path));
    faulty = new FaultyModule(embedded, control.path);
    module = openModule(faulty);
    module.login({ ...embedded, label, purposes: ['timestamp'], pinFile: join(homePaths(folder.path).pinFolder, `${label}.pin`) });
    ({ tsu } = token);
    made = { ...token.data, modulePath: faulty.modulePath, slot: module.findSlot(label).handle };
  });
  beforeEach(() => {
    data = { ...made, refusalMemory: createRefusalMemory() };
  });
  afterEach(() => {
    faulty?.reset();
    if (made !== undefined) writeTsus(made.tsuMemory, [tsu]);
  });
  after(() => {
    module?.close();
    faulty?.close();
    folder.remove();
    control.remove();
  });

  const taskOf = (count: number, atOnce = 1): StampTask => ({
    payload: new Uint8Array(batchOf(count)),
    enteredAtMs: monotonicMs(),
    atOnce,
  });
  const stampers = {
    'one that waits for each signature': (): ((count: number) => StampTaskResult) => {
      const stamper = new Stamper(data);
      return (count) => stamper.stamp(taskOf(count));
    },
    'one that waits for none': (): ((count: number) => Promise<StampTaskResult>) => {
      const stamper = new ConcurrentStamper(data);
      return (count) => stamper.stamp(taskOf(count, 4));
    },
  };
  for (const [name, open] of Object.entries(stampers)) {
    describe(name, () => {
      for (const [code, errorClass] of [
        ['CKR_MECHANISM_INVALID', 'request'],
        ['CKR_ARGUMENTS_BAD', 'bug'],
      ] as const) {
        test(`${code} again and again is the slot's failure: a few clients are refused, and the rest is others'`, async () => {
          const stamp = open();
          assert.equal((await stamp(4)).kind, 'stamped');
          faulty.token(label).fail('C_Sign', pkcs11[code]);
          let refused = 0;
          let result = await stamp(1);
          for (; result.kind === 'stamped'; result = await stamp(1)) {
            refused += result.outcomes.systemFailure;
            assert.ok(refused < tooMany, 'it goes on and on');
          }
          assert.deepEqual(result, { kind: 'slotFailed', errorClass, message: `${code}, again and again` });
          assert.ok(refused >= tooMany - 2, `${refused} refused`);
        });
      }

      test('nothing of the batch in whose midst it is too much is answered', async () => {
        const stamp = open();
        assert.equal((await stamp(4)).kind, 'stamped');
        faulty.token(label).fail('C_Sign', pkcs11.CKR_MECHANISM_INVALID);
        assert.equal((await stamp(64)).kind, 'slotFailed');
      });

      test('the next TSU cannot be opened, whatever the token says: the one that stamps goes on', async () => {
        const stamp = open();
        assert.equal((await stamp(1)).kind, 'stamped');
        // No function of the stamp itself, which may go first.
        const rule = faulty.token(label).fail('C_FindObjectsInit', pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, { times: 1 });
        writeTsus(data.tsuMemory, [{ ...tsu, id: 'ab'.repeat(32), activeFromMs: Date.now() + 60_000 }, tsu]);
        for (let stamps = 0; stamps < 2; stamps += 1) {
          const result = await stamp(1);
          assert.ok(result.kind === 'stamped', JSON.stringify(result));
          assert.deepEqual([result.outcomes.granted, rule.struck], [1, 1]);
        }
      });

      test('the only TSU cannot be opened: that is the slot', async () => {
        const stamp = open();
        assert.equal((await stamp(1)).kind, 'stamped');
        faulty.token(label).fail('C_SignInit', pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED);
        writeTsus(data.tsuMemory, [{ ...tsu, id: 'ab'.repeat(32) }]);
        const result = await stamp(1);
        assert.deepEqual(result, { kind: 'slotFailed', errorClass: 'request', message: 'CKR_KEY_FUNCTION_NOT_PERMITTED' });
      });
    });
  }

  const startPool = async (t: TestContext): Promise<StampingPool> => {
    const pool = await StampingPool.start({ data, threads: 2, sessionsMax: 2, inline: false, callMsMax: 10_000, keepAliveMs: 60_000 });
    t.after(() => pool.close());
    return pool;
  };

  test('the pool gives up; a new one begins only when the keys have proved themselves', async (t) => {
    const pool = await startPool(t);
    assert.equal((await pool.stamp(batchOf(4), monotonicMs())).outcomes.granted, 4);
    const rule = faulty.token(label).fail('C_Sign', pkcs11.CKR_MECHANISM_INVALID);
    const results = await Promise.allSettled(Array.from({ length: 40 }, () => pool.stamp(batchOf(1), monotonicMs())));
    const answered = results.filter(({ status }) => status === 'fulfilled').length;
    assert.ok(answered < tooMany, `${answered} of 40 were refused to their clients`);
    for (const result of results) if (result.status === 'rejected') assert.equal((result.reason as SlotError).code, 'HSM_REQUEST');
    const failed = await pool.failed;
    assert.ok(failed instanceof SlotError);
    assert.equal(failed.errorClass, 'request');

    data = { ...data, refusalMemory: createRefusalMemory() };
    await assert.rejects(startPool(t));
    rule.clear();
    const next = await startPool(t);
    assert.equal((await next.stamp(batchOf(4), monotonicMs())).outcomes.granted, 4);
  });
});
