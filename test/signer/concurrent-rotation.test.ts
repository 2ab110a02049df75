/** A change of TSUs in a thread that waits for none of its signatures: its lanes open the next one beside their stamps. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import pkcs11 from 'pkcs11js';
import { decodeAnswerBlock } from '../../queue/answer-block.ts';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { ConcurrentStamper } from '../../signer/concurrent-stamper.ts';
import { createPaceMemory, takeTurn } from '../../signer/session-pace.ts';
import { createTsuMemory, writeTsus } from '../../signer/shared-tsus.ts';
import type { StampTaskResult, Tsu } from '../../signer/stamp-task.ts';
import { Stamper } from '../../signer/stamper.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { faultyTsuWorld } from '../support/faulty-module/tsu-world.ts';
import { batchOf } from '../support/stamp-batches.ts';

const lanes = 16;
/** Twice the pause between sessions that is the default. */
const paceMs = 100;

describe('a change of TSUs where signatures are not waited for', { skip: withoutFaultyModule }, () => {
  const hsm = faultyTsuWorld();
  const next = (inMs: number): Tsu => ({ ...hsm.tsu, id: 'ab'.repeat(32), activeFromMs: Date.now() + inMs });
  const stamp = (stamper: ConcurrentStamper): Promise<StampTaskResult> =>
    stamper.stamp({ payload: new Uint8Array(batchOf(lanes)), enteredAtMs: monotonicMs(), atOnce: lanes });
  /** TSUs that have signed a batch. */
  const signersOf = (result: StampTaskResult): string[] => {
    assert.equal(result.kind, 'stamped', JSON.stringify(result));
    assert.ok(result.kind === 'stamped');
    return decodeAnswerBlock(Buffer.from(result.block)).sections.map(({ tsu }) => tsu.toString('hex'));
  };
  /** A stamper whose lanes are all open, at a token that answers at once. */
  const warm = async () => {
    const tsuMemory = createTsuMemory([hsm.tsu]);
    const paceMemory = createPaceMemory(0);
    const stamper = new ConcurrentStamper({ ...hsm.data, tsuMemory, paceMemory });
    assert.deepEqual(signersOf(await stamp(stamper)), [hsm.tsu.id]);
    new Int32Array(paceMemory).set(new Int32Array(createPaceMemory(paceMs)));
    const before = hsm.token.counters.sessions;
    return { stamper, write: (...tsus: Tsu[]) => writeTsus(tsuMemory, tsus), opened: () => hsm.token.counters.sessions - before };
  };

  test('the stamper that waits for its signatures does not hold up the thread when it looks beside the other', async () => {
    const tsuMemory = createTsuMemory([hsm.tsu]);
    const paceMemory = createPaceMemory(paceMs);
    const plain = new Stamper({ ...hsm.data, tsuMemory, paceMemory });
    const { sessions } = hsm.token.counters;
    writeTsus(tsuMemory, [hsm.tsu, next(60_000)]);
    takeTurn(paceMemory, monotonicMs() + 1_000);
    const looking = plain.lookLater();
    assert.equal(await Promise.race([looking, turn('the thread goes on')]), 'the thread goes on');
    assert.equal(hsm.token.counters.sessions, sessions, 'its turn has not come');
    assert.equal(await looking, undefined);
    assert.equal(hsm.token.counters.sessions, sessions + 1);
    plain.close();
  });

  test('one that is opened ahead of its time holds no stamps up', async () => {
    const { stamper, write, opened } = await warm();
    write(hsm.tsu, next(60_000));
    let batches = 0;
    for (; opened() < lanes; batches += 1) {
      assert.deepEqual(signersOf(await stamp(stamper)), [hsm.tsu.id]);
      await turn();
    }
    // A batch for which each lane took its turn first would end when all of them are open.
    assert.ok(batches >= 5, `${batches} batches while ${lanes} lanes opened it`);
    assert.equal(await stamper.look(), undefined);
    assert.equal(opened(), lanes);
  });

  test('what is taken off the list stamps no more, in the midst of a change too', async () => {
    const { stamper, write, opened } = await warm();
    write(hsm.tsu, next(60_000));
    while (opened() < 3) assert.deepEqual(signersOf(await stamp(stamper)), [hsm.tsu.id]);
    const successor = next(-1);
    write(successor);
    assert.deepEqual(signersOf(await stamp(stamper)), [successor.id]);
    assert.deepEqual(signersOf(await stamp(stamper)), [successor.id]);
  });

  test('a token that fails meanwhile is told', async () => {
    const { stamper, write } = await warm();
    const rule = hsm.token.fail('C_OpenSession', pkcs11.CKR_DEVICE_ERROR);
    write(hsm.tsu, next(60_000));
    let result = await stamp(stamper);
    while (result.kind === 'stamped') result = await stamp(stamper);
    assert.deepEqual(result, { kind: 'slotFailed', errorClass: 'device', message: 'CKR_DEVICE_ERROR' });
    assert.ok(rule.struck > 0);
  });
});
