import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ClickHouseClient } from '@clickhouse/client';
import { PartScrubber } from '../../../observability/journal/scrub.ts';
import {
  runScrubRounds,
  scrubFailuresMax,
  scrubPauseMs,
  scrubRetryMsMax,
  scrubRoundMs,
} from '../../../observability/journal/scrub-rounds.ts';

/** A store of these parts, where some cannot be checked and some are torn. It notes which were asked about. */
const storeOf = (parts: readonly string[], { failing = new Set<string>(), torn = new Set<string>() } = {}) => {
  const checked: string[] = [];
  const query = async ({ query: sql }: { query: string }) => {
    const [, part] = /PART '(\w+)'/.exec(sql) ?? [];
    if (part === undefined) return { json: async () => parts.map((name) => ({ name })) };
    checked.push(part);
    if (failing.has(part)) throw new Error('not enough privileges');
    return { json: async () => [{ part_path: part, is_passed: torn.has(part) ? 0 : 1, message: torn.has(part) ? 'torn' : '' }] };
  };
  return { checked, failing, client: { query } as unknown as ClickHouseClient };
};

/** Runs until it has paused so often. @returns how long each time */
const pausesOf = async (
  count: number,
  client: ClickHouseClient,
  more: Partial<Parameters<typeof runScrubRounds>[0]> = {},
): Promise<{ pauses: number[]; begun: number; failures: number; damaged: string[] }> => {
  const ending = new AbortController();
  const seen = { pauses: [] as number[], begun: 0, failures: 0, damaged: [] as string[] };
  await runScrubRounds({
    begin: async () => {
      seen.begun += 1;
      return new PartScrubber(client);
    },
    isDown: () => false,
    onDamage: (damaged) => seen.damaged.push([...damaged.keys()].join()),
    onFailure: () => {
      seen.failures += 1;
    },
    pause: async (ms) => {
      if (seen.pauses.push(ms) === count) ending.abort();
    },
    signal: ending.signal,
    ...more,
  });
  return seen;
};

describe('rounds through what is stored', () => {
  test('a part a second, the newest first, and a round a day', async () => {
    const { client, checked } = storeOf(['a', 'b']);
    const { pauses, begun } = await pausesOf(5, client);
    assert.deepEqual(pauses, [scrubPauseMs, scrubPauseMs, scrubRoundMs, scrubPauseMs, scrubPauseMs]);
    assert.deepEqual([checked, begun], [['b', 'a', 'b', 'a'], 2]);
  });

  test('a part that cannot be checked comes last, later and later up to an hour, and no other is checked again', async () => {
    const { client, checked } = storeOf(['a', 'b', 'c'], { failing: new Set(['c']) });
    const { pauses, begun, failures } = await pausesOf(20, client);
    assert.deepEqual(pauses.slice(0, 8), [1_000, scrubPauseMs, scrubPauseMs, 1_000, 2_000, 4_000, 8_000, 16_000]);
    assert.deepEqual(pauses.slice(-3), [scrubRetryMsMax, scrubRetryMsMax, scrubRetryMsMax]);
    assert.deepEqual(checked.slice(0, 4), ['c', 'b', 'a', 'c']);
    assert.equal(checked.filter((part) => part !== 'c').length, 2);
    assert.deepEqual([begun, failures], [1, 18]);
  });

  test('when it can be checked at last, the round ends as any other', async () => {
    const { client, failing } = storeOf(['a', 'b'], { failing: new Set(['a']) });
    let left = 5;
    const { pauses } = await pausesOf(8, client, {
      onFailure: () => {
        left -= 1;
        if (left === 0) failing.clear();
      },
    });
    assert.deepEqual(pauses, [scrubPauseMs, 1_000, 2_000, 4_000, 8_000, 16_000, scrubPauseMs, scrubRoundMs]);
  });

  test('a part that never can be checked does not keep the others from their next round', async () => {
    const { client, checked } = storeOf(['a', 'b'], { failing: new Set(['a']) });
    const { begun } = await pausesOf(scrubFailuresMax + 2, client);
    assert.equal(begun, 2);
    assert.equal(checked.filter((part) => part === 'b').length, 2);
  });

  test('a round that cannot begin is tried again in the same way', async () => {
    const { pauses } = await pausesOf(4, storeOf([]).client, {
      begin: async () => {
        throw new Error('timeout');
      },
    });
    assert.deepEqual(pauses, [1_000, 2_000, 4_000, 8_000]);
  });

  test('damage is told when it is found, also when the round does not end', async () => {
    const { client } = storeOf(['a', 'b'], { failing: new Set(['a']), torn: new Set(['b']) });
    assert.deepEqual((await pausesOf(10, client)).damaged, ['b']);
  });

  test('a store that is away is not asked', async () => {
    const { client, checked } = storeOf(['a']);
    assert.deepEqual((await pausesOf(2, client, { isDown: () => true })).pauses, [scrubPauseMs, scrubPauseMs]);
    assert.deepEqual(checked, []);
  });
});
