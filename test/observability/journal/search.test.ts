import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { ClickHouseClient } from '@clickhouse/client';
import { embeddedClient, socketClient } from '../../../observability/journal/clickhouse.ts';
import { entriesOctets, firstEntryFrom } from '../../../observability/journal/entry-places.ts';
import { type EventDraft, type EventKind, eventCatalogue } from '../../../observability/journal/events.ts';
import { instantText, readInstant } from '../../../observability/journal/instants.ts';
import { type LocalServer, serveLocally } from '../../../observability/journal/local-server.ts';
import { type EntrySearch, entryJson, kindsMatching, searchEntries } from '../../../observability/journal/search.ts';
import { countEntries, groupIntervals, sumOutcomes } from '../../../observability/journal/statistics.ts';
import { EmbeddedJournal } from '../../support/embedded-journal.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { allKinds, draftOf } from './fixtures.ts';

const begin = Date.UTC(2026, 10, 1) * 1_000;
const hour = 3_600_000_000;
const strange = 'it\'s \\ "größe"\t%_*';
const event = (kind: EventKind, more: Partial<EventDraft>): EventDraft => ({ ...draftOf(kind, { optional: true }), ...more }) as EventDraft;

/** Three days of events, one an hour, of all kinds in turn. */
const hours = 72;
const drafts = Array.from({ length: hours }, (_, i) =>
  event(allKinds[i % allKinds.length] as EventKind, {
    unixMicros: begin + i * hour,
    actor: i % 2 === 0 ? 'bank-1' : 'bank-2',
    role: i % 3 === 0 ? 'client' : 'operator',
    subject: i === 40 ? strange : `subject-${i}`,
    outcome: i % 5 === 0 ? 'refused' : 'success',
    node: i < 10 ? 'node-a' : 'node-b',
  }),
);

describe('searching the journal', () => {
  const folder = temporaryFolder();
  let journal: EmbeddedJournal;
  before(async () => {
    journal = await EmbeddedJournal.open(folder.path);
    await journal.append(...drafts);
  });
  after(async () => {
    await journal?.close();
    folder.remove();
  });

  const found = async (search: Partial<EntrySearch>, client: ClickHouseClient = journal.client): Promise<number[]> => {
    const sequences: number[] = [];
    for await (const one of searchEntries(client, { limit: 1_000, ...search })) {
      sequences.push(one.kind === 'entry' ? one.event.sequence : -one.sequence);
    }
    return sequences;
  };
  const where = (matches: (draft: EventDraft, i: number) => boolean): number[] =>
    drafts.flatMap((draft, i) => (matches(draft, i) ? [i] : [])).toReversed();

  test('by each field, and by all together', async () => {
    assert.deepEqual(
      await found({}),
      where(() => true),
    );
    assert.deepEqual(
      await found({ actor: 'bank-1' }),
      where(({ actor }) => actor === 'bank-1'),
    );
    assert.deepEqual(await found({ subject: 'subject-7' }), [7]);
    assert.deepEqual(
      await found({ subjectStart: 'subject-1' }),
      where(({ subject }) => subject.startsWith('subject-1')),
    );
    assert.deepEqual(
      await found({ outcome: 'refused' }),
      where(({ outcome }) => outcome === 'refused'),
    );
    assert.deepEqual(
      await found({ node: 'node-a' }),
      where((_, i) => i < 10),
    );
    assert.deepEqual(
      await found({ roles: ['client', 'auditor'] }),
      where(({ role }) => role === 'client'),
    );
    assert.deepEqual(await found({ fromMicros: begin + 3 * hour, toMicros: begin + 5 * hour }), [4, 3]);
    assert.deepEqual(
      await found({ kinds: ['service.started'] }),
      where(({ kind }) => kind === 'service.started'),
    );
    assert.deepEqual(
      await found({ actor: 'bank-1', outcome: 'refused', node: 'node-b' }),
      where(({ actor, outcome }, i) => actor === 'bank-1' && outcome === 'refused' && i >= 10),
    );
    assert.deepEqual(await found({ actor: 'nobody' }), []);
    assert.deepEqual(await found({ kinds: [] }), []);
  });

  test('a star at the end of a kind: the register of time', async () => {
    assert.deepEqual(kindsMatching('time.*'), ['time.state', 'time.anomaly']);
    assert.deepEqual(kindsMatching('*').length, allKinds.length);
    assert.deepEqual(kindsMatching('time.state'), ['time.state']);
    for (const none of ['time', 'time.', '', 'x*', 'time.stat', '%']) assert.deepEqual(kindsMatching(none), [], none);
    assert.deepEqual(
      await found({ kinds: kindsMatching('time.*') }),
      where(({ kind }) => kind.startsWith('time.')),
    );
  });

  test('newest first or oldest first, up to a limit, and on from there', async () => {
    assert.deepEqual(await found({ limit: 3 }), [71, 70, 69]);
    assert.deepEqual(await found({ limit: 3, before: 69 }), [68, 67, 66]);
    assert.deepEqual(await found({ limit: 3, first: 'oldest' }), [0, 1, 2]);
    assert.deepEqual(await found({ limit: 0 }), []);
  });

  test('no text is taken for anything but itself, in this process and through the socket', async () => {
    const sockets = temporaryFolder();
    const socket = `${sockets.path}/journal.sock`;
    let server: LocalServer | undefined;
    const other = socketClient(socket);
    // A client of its own, because its session becomes one that can only read.
    const reader = await embeddedClient(folder.path);
    try {
      server = await serveLocally(socket, reader);
      for (const client of [journal.client, other]) {
        assert.deepEqual(await found({ subject: strange }, client), [40]);
        assert.deepEqual(await found({ subjectStart: strange.slice(0, 6) }, client), [40]);
        for (const attack of ["' OR 1=1 --", "subject-7' --", '\\', "\\' OR 1 --", '{actor0:String}', '%', 'subject-%', '*']) {
          assert.deepEqual(await found({ subject: attack }, client), [], attack);
          assert.deepEqual(await found({ actor: attack }, client), [], attack);
          assert.deepEqual(await found({ node: attack }, client), [], attack);
          assert.deepEqual(await found({ subjectStart: attack }, client), [], attack);
        }
        assert.equal(
          (await found({ kinds: kindsMatching('time.*') }, client)).length,
          drafts.filter(({ kind }) => kind.startsWith('time.')).length,
        );
      }
    } finally {
      await other.close();
      await server?.close();
      await reader.close();
      sockets.remove();
    }
  });

  test('as JSON: every field, octets in base64, hashes in hexadecimal', async () => {
    for await (const one of searchEntries(journal.client, { limit: 1, kinds: ['certificate.issued'] })) {
      assert.equal(one.kind, 'entry');
      const { sequence, hash } = { sequence: one.event.sequence, hash: journal.entries[one.event.sequence]?.hash };
      assert.deepEqual(entryJson(one), {
        sequence,
        time: instantText(begin + sequence * hour),
        clock: 'unverified',
        node: 'node-b',
        role: drafts[sequence]?.role,
        actor: drafts[sequence]?.actor,
        kind: 'certificate.issued',
        subject: `subject-${sequence}`,
        outcome: drafts[sequence]?.outcome,
        retention: 'certificate',
        detail: {
          issuer: 'text of issuer',
          profile: 'text of profile',
          certificate: Buffer.from('octets of certificate').toString('base64'),
        },
        previous: journal.entries[sequence - 1]?.hash.toString('hex'),
        hash: hash?.toString('hex'),
      });
    }
  });

  test('where a time begins, and what a range takes', async () => {
    assert.equal(await firstEntryFrom(journal.client, begin + 3 * hour, 'at'), 3);
    assert.equal(await firstEntryFrom(journal.client, begin + 3 * hour + 1, 'at'), 4);
    assert.equal(await firstEntryFrom(journal.client, begin + 3 * hour, 'after'), 3);
    assert.equal(await firstEntryFrom(journal.client, begin + 3 * hour + 1, 'after'), 4);
    assert.equal(await firstEntryFrom(journal.client, begin - 1, 'after'), 0);
    assert.equal(await firstEntryFrom(journal.client, begin + 1_000 * hour, 'at'), hours);
    const octets = journal.entries.slice(3, 6).reduce((sum, one) => sum + one.octets.length, 0);
    assert.equal(await entriesOctets(journal.client, { from: 3, to: 6 }), octets);
  });

  test('statistics: every entry is counted once, in its interval', async () => {
    for (const [by, intervals] of [
      ['hour', 72],
      ['day', 3],
      ['month', 1],
    ] as const) {
      const counted = await countEntries(journal.client, { by });
      assert.ok('kinds' in counted);
      assert.equal(counted.total, hours);
      assert.equal(counted.intervals.length, intervals, by);
      assert.equal(counted.intervals[0], begin / 1_000);
      assert.deepEqual(
        counted.kinds.map(({ kind }) => kind),
        allKinds.toSorted(),
      );
      assert.equal(
        counted.kinds.flatMap(({ counts }) => sumOutcomes(counts)).reduce((a, b) => a + b, 0),
        hours,
      );
      const refused = counted.kinds.flatMap(({ counts }) => counts.refused).reduce((a, b) => a + b, 0);
      assert.equal(refused, drafts.filter(({ outcome }) => outcome === 'refused').length);
    }
    const one = await countEntries(journal.client, { fromMicros: begin + 5 * hour, toMicros: begin + 6 * hour });
    assert.deepEqual('kinds' in one && one.kinds.map(({ kind, total }) => [kind, total]), [[drafts[5]?.kind, 1]]);
    const none = await countEntries(journal.client, { toMicros: begin });
    assert.deepEqual(none, { by: 'day', intervals: [], total: 0, occurrences: 0, kinds: [] });
  });

  test('statistics: intervals are grouped without loss', async () => {
    const counted = await countEntries(journal.client, { by: 'hour' });
    assert.ok('kinds' in counted);
    for (const [most, length, groups] of [
      [100, 1, 72],
      [72, 1, 72],
      [71, 2, 36],
      [10, 8, 9],
      [1, 72, 1],
    ] as const) {
      const grouped = groupIntervals(counted, most);
      assert.deepEqual([grouped.length, grouped.statistics.intervals.length], [length, groups]);
      assert.equal(
        grouped.statistics.kinds.flatMap(({ counts }) => sumOutcomes(counts)).reduce((a, b) => a + b, 0),
        hours,
      );
    }
  });

  test('an entry that was changed does not hide the others, and a changed row says nothing', async () => {
    const row = (sequence: number, more: Record<string, unknown>): Record<string, unknown> => ({
      sequence,
      unixMicros: begin + sequence * hour,
      clock: 'trusted',
      node: 'node-b',
      role: 'client',
      actor: 'bank-9',
      kind: 'client.added',
      subject: 'changed',
      outcome: 'success',
      retention: 'certificate',
      ...more,
    });
    await journal.client.insert({
      table: 'journal_events',
      values: [row(72, { octetsBase64: 'AAAA' }), row(73, { octetsBase64: journal.entries[5]?.octets.toString('base64') })],
      columns: ['sequence', 'unixMicros', 'clock', 'node', 'role', 'actor', 'kind', 'subject', 'outcome', 'retention', 'octetsBase64'],
      format: 'JSONEachRow',
    });
    assert.deepEqual(await found({ limit: 3 }), [5, -72, 71]);
    assert.deepEqual(await found({ actor: 'bank-9' }), [-72]);
    for await (const one of searchEntries(journal.client, { limit: 1, actor: 'bank-9' })) {
      assert.match(String(entryJson(one)['unreadable']), /./);
    }
  });
});

describe('instants', () => {
  test('are read to the microsecond, with their offset', () => {
    assert.equal(readInstant('2026-11-01'), begin);
    assert.equal(readInstant('2026-11-01T00:00Z'), begin);
    assert.equal(readInstant('2026-11-01T01:00:00+01:00'), begin);
    assert.equal(readInstant('2026-11-01T00:00:00.000001Z'), begin + 1);
    assert.equal(readInstant('2026-11-01T00:00:00.5Z'), begin + 500_000);
    assert.equal(readInstant('2024-02-29'), Date.UTC(2024, 1, 29) * 1_000);
    for (const micros of [0, 1, begin + 123_456]) assert.equal(readInstant(instantText(micros)), micros);
  });

  test('are nothing else', () => {
    const wrong = ['', 'now', '2026', '2026-11', '2026-13-01', '2026-02-30', '2026-02-29', '2026-11-01T00:00', '2026-11-01 00:00Z'];
    for (const text of [
      ...wrong,
      '2026-11-01T25:00Z',
      '2026-11-01T00:00:00.1234567Z',
      '1969-12-31',
      '12026-11-01',
      '2026-11-01T00:00:00Z; DROP',
    ]) {
      assert.equal(readInstant(text), undefined, text);
    }
  });
});

test('every kind has its class of retention, which the search relies on', () => {
  for (const kind of allKinds) assert.match(eventCatalogue[kind].retention, /^(certificate|timestamp|mail|service)$/);
});
