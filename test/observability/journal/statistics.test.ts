/** What entries tell of, where one stands for many; how entries are counted is in search.test.ts. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { EventDraft, EventKind } from '../../../observability/journal/events.ts';
import {
  countEntries,
  groupIntervals,
  type Statistics,
  type StatisticsQuery,
  sumOutcomes,
} from '../../../observability/journal/statistics.ts';
import { EmbeddedJournal } from '../../support/embedded-journal.ts';
import { draftOf } from './fixtures.ts';

const begin = Date.UTC(2026, 10, 1) * 1_000;
const hour = 3_600_000_000;
/** Of every length in which the encoding writes a number, and at their edges. */
const counts = [1, 23, 24, 255, 256, 65_535, 65_536, 4_294_967_295, 4_294_967_296, 1_000_000_000_000];
const total = counts.reduce((sum, count) => sum + count, 0);

const told = (kind: EventKind, at: number, detail: Record<string, unknown>, more: Partial<EventDraft> = {}): EventDraft =>
  ({ ...draftOf(kind, { optional: false }), unixMicros: begin + at * hour, outcome: 'refused', detail, ...more }) as EventDraft;

describe('statistics: an entry that stands for many', () => {
  let journal: EmbeddedJournal;
  before(async () => {
    journal = await EmbeddedJournal.open();
    await journal.append(
      told('service.started', 0, { version: '1', configSha256: Buffer.alloc(32) }, { outcome: 'success' }),
      ...counts.map((count) => told('timestamp.refused', 1, { reason: 'badAlg', count })),
      // With and without the other fields that it may have, and none at all.
      told('timestamp.refused', 2, { reason: 'badAlg', count: 300, policy: Buffer.alloc(9), messageImprint: Buffer.alloc(80) }),
      told('timestamp.refused', 2, { reason: 'badAlg', messageImprint: Buffer.alloc(80) }),
      ...counts.map((count) => told('authentication.failed', 3, { reason: 'wrong', count, address: '192.0.2.7' })),
      // What strangers write, or a hash holds, is no count.
      told('authentication.failed', 4, { reason: 'unknown' }, { subject: 'certificate\u00a3ecount\u0018' }),
      told('authentication.failed', 4, { reason: 'unknown', address: 'ecount' }, { subject: 'recount', outcome: 'failure' }),
      told('timestamp.refused', 4, { reason: 'badAlg', policy: Buffer.from('service\xa2ecount\x18\xff', 'latin1') }),
    );
  });
  after(() => journal?.close());

  const counted = async (query: StatisticsQuery = {}): Promise<Statistics> => {
    const statistics = await countEntries(journal.client, query);
    assert.ok('kinds' in statistics);
    return statistics;
  };
  const perKind = ({ kinds }: Statistics): unknown[] => kinds.map((one) => [one.kind, one.total, one.occurrences.total]);
  const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

  test('is one entry, and as many occurrences as it says', async () => {
    const statistics = await counted({ by: 'hour' });
    assert.deepEqual(perKind(statistics), [
      ['authentication.failed', 12, total + 2],
      ['service.started', 1, 1],
      ['timestamp.refused', 13, total + 302],
    ]);
    assert.deepEqual([statistics.total, statistics.occurrences], [26, 2 * total + 305]);
    const [failed, started, refused] = statistics.kinds;
    assert.deepEqual(refused?.occurrences.counts.refused, [0, total, 301, 0, 1]);
    assert.deepEqual(refused?.counts.refused, [0, 10, 2, 0, 1]);
    assert.deepEqual(failed?.occurrences.counts, { success: [0, 0, 0, 0, 0], refused: [0, 0, 0, total, 1], failure: [0, 0, 0, 0, 1] });
    assert.deepEqual(started?.occurrences.counts, started?.counts);
  });

  test('by every unit, and in a range', async () => {
    for (const by of ['day', 'month'] as const) {
      const { kinds } = await counted({ by });
      assert.deepEqual(
        kinds.map((one) => sumOutcomes(one.occurrences.counts)),
        [[total + 2], [1], [total + 302]],
      );
    }
    const part = await counted({ by: 'hour', fromMicros: begin + 2 * hour, toMicros: begin + 3 * hour });
    assert.deepEqual(perKind(part), [['timestamp.refused', 2, 301]]);
  });

  test('in groups of intervals', async () => {
    const { statistics } = groupIntervals(await counted({ by: 'hour' }), 2);
    assert.deepEqual(
      statistics.kinds.map(({ occurrences }) => occurrences.counts.refused),
      [
        [0, total + 1],
        [0, 0],
        [total + 301, 1],
      ],
    );
    assert.equal(sum(statistics.kinds.map(({ occurrences }) => sum(sumOutcomes(occurrences.counts)))), statistics.occurrences);
  });

  test('a row whose octets were changed is an occurrence', async () => {
    const columns = ['sequence', 'unixMicros', 'kind', 'outcome', 'retention', 'octetsBase64'];
    const row = { unixMicros: begin + 5 * hour, kind: 'timestamp.refused', outcome: 'refused', retention: 'service' };
    const octets = ['', 'AAAA', Buffer.from('gservice\xa2ecount', 'latin1').toString('base64')];
    await journal.client.insert({
      table: 'journal_events',
      values: octets.map((octetsBase64, i) => ({ ...row, sequence: 1_000 + i, octetsBase64 })),
      columns: columns as [string, ...string[]],
      format: 'JSONEachRow',
    });
    const part = await counted({ by: 'hour', fromMicros: begin + 5 * hour });
    assert.deepEqual(perKind(part), [['timestamp.refused', 3, 3]]);
  });
});
