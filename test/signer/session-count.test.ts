import assert from 'node:assert/strict';
import { availableParallelism } from 'node:os';
import { test } from 'node:test';
import { stampingSessions, stampingThreads } from '../../signer/session-count.ts';
import { configOf } from '../support/token-home.ts';

const config = (workers: number) =>
  configOf('/nonexistent', {
    hsm: {
      mode: 'module',
      module: '/module.so',
      slots: [{ label: 'a', purposes: ['timestamp', 'journal', 'authority'], pinFile: '/pin' }],
    },
    signer: { workers },
  });

/** What a process opens at most: for two TSUs in every thread and lane, the login, and the journal's key with a look for it. */
const opened = (atOnce: number, workers: number, journal: boolean): number => {
  const threads = Math.min(workers, atOnce);
  const lanes = atOnce > workers ? Math.ceil(atOnce / threads) * threads : 0;
  return 2 * (threads + lanes) + 1 + (journal ? 2 : 0);
};

test('whatever a token allows, no more is opened, and hardly less', () => {
  for (const workers of [1, 2, 3, 8, 16])
    for (const journal of [false, true])
      for (let limit = journal ? 5 : 3; limit <= 200; limit += 1) {
        const purposes = journal ? (['timestamp', 'journal'] as const) : (['timestamp'] as const);
        const count = (sessions?: number) => stampingSessions(config(workers), { purposes, sessions }, limit);
        for (const sessions of [undefined, 1, 5, 1_000]) {
          const most = opened(count(sessions), workers, journal);
          assert.ok(most <= limit, `${most} of ${limit} with ${workers} threads, ${sessions} wanted`);
        }
        // One step of lanes more would be too many.
        const most = count(1_000);
        assert.ok(opened(Math.max(most + workers, 2 * workers), workers, journal) > limit, `${most} for ${limit} with ${workers} threads`);
      }
});

test('the slots that stamp share the cores', () => {
  const threadsOf = (slots: number) =>
    stampingThreads(
      configOf('/nonexistent', {
        hsm: {
          mode: 'module',
          module: '/module.so',
          slots: Array.from({ length: slots }, (_, slot) => ({
            label: `slot ${slot}`,
            purposes: slot === 0 ? ['timestamp', 'journal', 'authority'] : ['timestamp'],
            pinFile: '/pin',
          })),
        },
      }),
    );
  const cores = availableParallelism();
  assert.equal(threadsOf(1), cores);
  assert.equal(threadsOf(2), Math.ceil(cores / 2));
  assert.equal(threadsOf(2 * cores), 1);
  assert.equal(stampingThreads(config(3)), 3);
});

test('what is wanted, where the token sets no limit; one at the least', () => {
  const slot = { purposes: ['timestamp'] as const };
  assert.equal(stampingSessions(config(2), slot, undefined), 32);
  assert.equal(stampingSessions(config(2), { ...slot, sessions: 5 }, undefined), 5);
  assert.equal(stampingSessions(config(2), { ...slot, sessions: 5 }, 1_000), 5);
  assert.equal(stampingSessions(config(2), slot, 1), 1);
});
