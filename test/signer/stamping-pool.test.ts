import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { decodeAnswerBlock } from '../../queue/answer-block.ts';
import { monotonicMs } from '../../queue/redis-clock.ts';
import type { HsmModule } from '../../signer/pkcs11-module.ts';
import type { StampedBatch } from '../../signer/stamp-task.ts';
import { inlineMsMax, StampingPool } from '../../signer/stamping-pool.ts';
import { isMalformed } from '../support/malformed.ts';
import { batchOf } from '../support/stamp-batches.ts';
import { temporaryFolder, withoutSofthsm } from '../support/token-home.ts';
import { createTokenTsu } from '../support/token-tsu.ts';

/** More than the fastest token signs within the bound. */
const many = batchOf(256);
const one = batchOf(1);

describe('the stamping pool', { skip: withoutSofthsm }, () => {
  const folder = temporaryFolder();
  let module: HsmModule;
  let pool: StampingPool;
  before(async () => {
    const tsu = await createTokenTsu(folder.path);
    module = tsu.module;
    pool = await StampingPool.start({ data: tsu.data, threads: 2, sessionsMax: 2, inline: true, callMsMax: 10_000, keepAliveMs: 60_000 });
  });
  after(async () => {
    await pool?.close();
    module?.close();
    folder.remove();
  });

  const grantedIn = ({ block }: StampedBatch): number =>
    decodeAnswerBlock(Buffer.from(block))
      .sections.flatMap(({ answers }) => answers)
      .filter(({ outcome }) => outcome === 'granted').length;
  /** Stamps; `inline` when the result was there before any worker could have sent it. */
  const stamp = async (payload: Buffer): Promise<{ granted: number; inline: boolean }> => {
    let inline = false;
    const pending = pool.stamp(payload, monotonicMs()).then((result) => {
      inline = true;
      return result;
    });
    for (let turns = 0; turns < 10; turns += 1) await undefined;
    const wasInline = inline;
    return { granted: grantedIn(await pending), inline: wasInline };
  };

  test('while the cost of a signature is unknown, the workers sign; then a lone fast stamp is signed at once', async () => {
    assert.deepEqual(await stamp(one), { granted: 1, inline: false });
    // P-256 in SoftHSM takes 0.04 ms; a busy machine may need a few signatures until the mean says so.
    let lone = await stamp(one);
    for (let tries = 0; !lone.inline && tries < 200; tries += 1) lone = await stamp(one);
    assert.deepEqual(lone, { granted: 1, inline: true }, `within ${inlineMsMax} ms`);
  });

  test('a batch that would hold up the reader goes to a worker, and so does what comes while one is busy', async () => {
    const large = stamp(many);
    assert.equal(pool.busy, 1);
    assert.deepEqual(await stamp(one), { granted: 1, inline: false });
    assert.deepEqual(await large, { granted: 256, inline: false });
  });

  test('a batch that cannot be read fails alone', async () => {
    await assert.rejects(pool.stamp(Buffer.of(1, 0, 1, 9), monotonicMs()), isMalformed);
    await assert.rejects(pool.stamp(Buffer.of(1), monotonicMs()), isMalformed);
    assert.equal((await stamp(one)).granted, 1);
  });
});
