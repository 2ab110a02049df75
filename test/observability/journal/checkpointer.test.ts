import assert from 'node:assert/strict';
import { createHash, generateKeyPairSync, sign } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, beforeEach, describe, test } from 'node:test';
import { verifyCheckpoint } from '../../../observability/journal/checkpoint.ts';
import { Checkpointer } from '../../../observability/journal/checkpointer.ts';
import type { EventDraft } from '../../../observability/journal/events.ts';
import type { JournalSnapshot } from '../../../observability/journal/writer-options.ts';
import type { RedisClient } from '../../../queue/redis.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { until } from '../../support/until.ts';

const origin = 'tsa.example.com/journal';
const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const spki = publicKey.export({ format: 'der', type: 'spki' });

describe('checkpoints', () => {
  const folder = temporaryFolder();
  after(() => folder.remove());
  const file = join(folder.path, 'checkpoint.json');
  let published: string[] = [];
  let appended: EventDraft[] = [];
  let outcomes: string[] = [];
  let stamped: Uint8Array[] = [];
  let snapshot: JournalSnapshot | undefined;
  let signing: 'works' | 'fails' = 'works';
  let stamping: 'works' | 'fails' | 'hangs' = 'works';
  beforeEach(() => {
    [published, appended, outcomes, stamped, signing, stamping, snapshot] = [[], [], [], [], 'works', 'works', undefined];
    rmSync(file, { force: true, recursive: true });
  });

  const run = async (options: { seconds: number; events: number; file?: string }, act: (checkpointer: Checkpointer) => Promise<void>) => {
    const checkpointer = new Checkpointer({
      redis: { set: async (_key: string, json: string) => published.push(json) } as unknown as RedisClient,
      origin,
      file,
      ...options,
      sign: async (text) => {
        if (signing === 'fails') throw new Error('no signer');
        return { signature: sign('sha256', Buffer.from(text), privateKey), spki };
      },
      stamp: async (digest) => {
        if (stamping === 'fails') throw new Error('no TSA');
        if (stamping === 'hangs') await new Promise(() => undefined);
        stamped.push(digest);
        return Buffer.from('token');
      },
      on: { made: (outcome) => outcomes.push(outcome), notKept: () => outcomes.push('not kept') },
    });
    const stop = new AbortController();
    const writer = {
      get snapshot() {
        return snapshot;
      },
      append: async (draft: EventDraft) => appended.push(draft),
    };
    const running = checkpointer.run(writer, stop.signal);
    try {
      await act(checkpointer);
    } finally {
      stop.abort();
      await running;
    }
  };
  const at = (size: number, foreign = size): JournalSnapshot => ({
    size,
    root: createHash('sha256').update(String(size)).digest(),
    foreign,
  });

  test('one is signed, stamped, put into the journal, then published and kept', async () => {
    snapshot = at(5);
    await run({ seconds: 3_600, events: 5 }, async () => until('it is made', () => outcomes.length === 1).then(() => undefined));
    assert.deepEqual(outcomes, ['made']);
    const { size, note, token } = JSON.parse(published[0] as string);
    assert.deepEqual([size, token], [5, Buffer.from('token').toString('base64')]);
    const verdict = verifyCheckpoint(note, { name: origin, spki });
    assert.ok(verdict.kind === 'valid' && Buffer.compare(verdict.checkpoint.root, at(5).root) === 0);
    assert.deepEqual(Buffer.from(stamped[0] as Uint8Array), createHash('sha256').update(note).digest());
    const [event] = appended;
    assert.deepEqual([event?.kind, event?.subject], ['journal.checkpoint', '5']);
    assert.ok(event?.kind === 'journal.checkpoint' && event.detail.note === note);
    assert.equal(readFileSync(file, 'utf8'), published[0]);
  });

  test('who takes over a journal makes its first one soon: writers that die again and again make theirs too', async () => {
    snapshot = at(5);
    await run({ seconds: 3_600, events: 1_000 }, async () => until('it is made', () => outcomes.length === 1).then(() => undefined));
    assert.deepEqual(outcomes, ['made']);
  });

  test('none without entries, none without a tree, none for what the journal itself has made', async () => {
    await run({ seconds: 1, events: 1 }, async (checkpointer) => {
      snapshot = at(3);
      await until('the first', () => outcomes.length === 1);
      snapshot = at(9, 3);
      const age = checkpointer.ageSeconds ?? 0;
      await until('longer than its time', () => (checkpointer.ageSeconds ?? 0) > age + 1.5);
      assert.equal(outcomes.length, 1);
      snapshot = at(10, 4);
      await until('the next', () => outcomes.length === 2);
    });
  });

  test('without a signer none is made, and the next attempt waits; without a TSA it is made without a stamp', async () => {
    signing = 'fails';
    snapshot = at(4);
    await run({ seconds: 1, events: 1 }, async () => {
      await until('it failed', () => outcomes.includes('failed'));
      assert.deepEqual([published, appended], [[], []]);
      signing = 'works';
      stamping = 'fails';
      await until('it is made', () => outcomes.includes('unstamped'));
    });
    assert.equal(JSON.parse(published[0] as string).token, null);
    const [event] = appended;
    assert.ok(event?.kind === 'journal.checkpoint' && event.detail.token === undefined);
  });

  test('a stop does not wait for a TSA that is gone', async () => {
    stamping = 'hangs';
    snapshot = at(4);
    const started = performance.now();
    await run({ seconds: 3_600, events: 1 }, async () => undefined);
    assert.ok(performance.now() - started < 2_000);
  });

  test('a file that cannot be written is told, and the checkpoint counts', async () => {
    snapshot = at(4);
    const nowhere = join(folder.path, 'missing', 'checkpoint.json');
    await run({ seconds: 3_600, events: 1, file: nowhere }, async () =>
      until('it is made', () => outcomes.includes('made')).then(() => undefined),
    );
    assert.deepEqual(outcomes, ['not kept', 'made']);
    assert.equal(published.length, 1);
  });
});
