/** A session is lost, and the next one has to wait for its turn: what is over by then is not signed. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { decodeAnswerBlock } from '../../queue/answer-block.ts';
import { monotonicMs } from '../../queue/redis-clock.ts';
import { ConcurrentStamper } from '../../signer/concurrent-stamper.ts';
import { createPaceMemory, takeTurn } from '../../signer/session-pace.ts';
import { createTsuMemory, writeTsus } from '../../signer/shared-tsus.ts';
import type { StampTask, StampTaskResult, Tsu } from '../../signer/stamp-task.ts';
import { Stamper } from '../../signer/stamper.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { faultyTsuWorld } from '../support/faulty-module/tsu-world.ts';
import { batchOf } from '../support/stamp-batches.ts';

const overMs = 300;
/** Of the requests in batchOf. */
const ttlMs = 60_000;

describe('a stamp whose session is lost', { skip: withoutFaultyModule }, () => {
  const hsm = faultyTsuWorld();
  type Stamping = (task: StampTask) => StampTaskResult | Promise<StampTaskResult>;

  for (const [name, Kind] of Object.entries({ Stamper, ConcurrentStamper })) {
    /** A stamper with a session that was just lost; the next one's turn is in a while. */
    const world = async (tsu: Tsu, turnMs: () => number = () => 2 * overMs) => {
      const { token } = hsm; // named before a session is opened on it, so that it can be lost
      const tsuMemory = createTsuMemory([tsu]);
      const paceMemory = createPaceMemory(0);
      const stamper: { stamp: Stamping } = new Kind({ ...hsm.data, tsuMemory, paceMemory });
      const stamp = (enteredAtMs: number) => stamper.stamp({ payload: new Uint8Array(batchOf(1)), enteredAtMs, atOnce: 2 });
      assert.equal((await stamp(monotonicMs())).kind, 'stamped');
      new Int32Array(paceMemory).set(new Int32Array(createPaceMemory(turnMs())));
      takeTurn(paceMemory, monotonicMs());
      token.killSessions();
      const { signatures } = token.counters;
      return { stamp, write: (tsus: Tsu[]) => writeTsus(tsuMemory, tsus), signatures: () => token.counters.signatures - signatures };
    };

    test(`${name}: a request whose deadline passes meanwhile has expired`, async () => {
      const { stamp, signatures } = await world(hsm.tsu);
      const result = await stamp(monotonicMs() - ttlMs + overMs);
      assert.ok(result.kind === 'stamped');
      assert.deepEqual([result.outcomes.expired, result.outcomes.granted, signatures()], [1, 0, 0]);
      assert.equal((await stamp(monotonicMs())).kind, 'stamped');
      assert.equal(signatures(), 1, 'the session is as good as any');
    });

    test(`${name}: a key whose period ends meanwhile signs no more`, async () => {
      const usableUntilMs = Date.now() + 4_000;
      const { stamp, signatures } = await world({ ...hsm.tsu, usableUntilMs }, () => usableUntilMs - Date.now() + overMs);
      assert.equal((await stamp(monotonicMs())).kind, 'noTsu');
      assert.equal(signatures(), 0);
    });

    test(`${name}: a stamp that is still wanted is made in the next session`, async () => {
      const { stamp, signatures } = await world(hsm.tsu);
      assert.equal((await stamp(monotonicMs())).kind, 'stamped');
      assert.equal(signatures(), 1);
    });

    if (Kind === Stamper) continue;
    test(`${name}: a TSU that is taken off the list meanwhile signs no more`, async () => {
      const { stamp, write } = await world(hsm.tsu);
      const stamping = stamp(monotonicMs());
      await turn(); // it has met the lost session, and waits
      const successor = { ...hsm.tsu, id: 'ab'.repeat(32) };
      write([successor]);
      const result = await stamping;
      assert.ok(result.kind === 'stamped');
      const { sections } = decodeAnswerBlock(Buffer.from(result.block));
      assert.deepEqual(
        sections.map(({ tsu }) => tsu.toString('hex')),
        [successor.id],
      );
    });
  }
});
