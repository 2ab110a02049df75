import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Hono } from 'hono';
import { createEntrySearching, type EntrySearching } from '../../gateway/entry-search.ts';
import { createJournalEntriesApp } from '../../gateway/journal-entries-app.ts';
import type { EventDraft } from '../../observability/journal/events.ts';
import type { RecordedEvent } from '../../observability/journal/recorder.ts';
import { EmbeddedJournal } from '../support/embedded-journal.ts';
import { scriptedAccess, scriptedGuard } from '../support/scripted-guard.ts';

const clients = { 'Bearer one': 'bank-1', 'Bearer two': 'bank-2', 'Bearer gateway': 'gateway', 'Bearer eye': 'ms-rossi' };
const begin = Date.UTC(2026, 10, 1) * 1_000;
const minute = 60_000_000;

const entry = (number: number, role: EventDraft['role'], actor: string): EventDraft => ({
  kind: 'timestamp.refused',
  unixMicros: begin + number * minute,
  clock: 'trusted',
  node: 'node',
  role,
  actor,
  subject: `subject-${number}`,
  outcome: 'refused',
  detail: { reason: 'policy', policy: Buffer.from('policy'), messageImprint: Buffer.alloc(32), count: undefined },
});
/** bank-1, bank-2 and the program `gateway` in turn. */
const entries = Array.from({ length: 30 }, (_, i) =>
  i % 3 === 2 ? entry(i, 'system', 'gateway') : entry(i, 'client', i % 3 === 0 ? 'bank-1' : 'bank-2'),
);

interface Answer {
  readonly entries: readonly { readonly sequence: number; readonly actor: string; readonly unreadable?: string }[];
  readonly next: number | null;
}

let journal: EmbeddedJournal;
before(async () => {
  journal = await EmbeddedJournal.open();
  await journal.append(...entries);
});
after(() => journal?.close());

let read: RecordedEvent<'journal.read'>[];
let redisAway: boolean;
let areEventsFull: boolean;
let app: Hono;
const serve = (searching: EntrySearching): void => {
  const guard = scriptedGuard(scriptedAccess(clients, ['ms-rossi']));
  const recordNow = async (event: unknown): Promise<void> => {
    if (redisAway) throw new Error('Connection is closed.');
    read.push(event as RecordedEvent<'journal.read'>);
  };
  const backlog = {
    get areEventsFull() {
      return areEventsFull;
    },
  };
  app = createJournalEntriesApp({ guard, searching, backlog, recorder: { recordNow } });
};
beforeEach(() => {
  read = [];
  redisAway = false;
  areEventsFull = false;
  serve(createEntrySearching(async () => journal.client));
});

const get = async (query: string, authorization?: string): Promise<Response> =>
  app.request(`/journal/entries${query}`, authorization === undefined ? {} : { headers: { Authorization: authorization } });
const sequences = async (response: Response): Promise<number[]> => {
  assert.equal(response.status, 200);
  return ((await response.json()) as Answer).entries.map(({ sequence }) => sequence);
};
const assertError = async (response: Response, status: number, code: string): Promise<void> => {
  assert.equal(response.status, status);
  assert.equal(((await response.json()) as { error: string }).error, code);
};
const numbers = (matches: (draft: EventDraft) => boolean): number[] =>
  entries.flatMap((draft, i) => (matches(draft) ? [i] : [])).toReversed();

describe('GET /journal/entries', () => {
  test('an auditor reads all, by every field', async () => {
    assert.deepEqual(
      await sequences(await get('', 'Bearer eye')),
      numbers(() => true),
    );
    const of = async (query: string): Promise<number[]> => sequences(await get(query, 'Bearer eye'));
    assert.deepEqual(
      await of('?actor=bank-1'),
      numbers(({ actor }) => actor === 'bank-1'),
    );
    assert.deepEqual(await of('?subject=subject-7'), [7]);
    assert.deepEqual(
      await of('?subject=subject-2*'),
      numbers(({ subject }) => subject.startsWith('subject-2')),
    );
    assert.deepEqual(await of('?outcome=success'), []);
    assert.deepEqual((await of('?kind=timestamp.*&limit=2')).length, 2);
    assert.deepEqual(await of('?kind=time.*'), []);
    assert.deepEqual(await of('?from=2026-11-01T00:05:00Z&to=2026-11-01T00:07:00Z'), [6, 5]);
    assert.deepEqual(await of('?before=3'), [2, 1, 0]);
    const subject = encodeURIComponent("' OR 1=1 --");
    assert.deepEqual(await of(`?subject=${subject}`), []);
  });

  test('page by page: `next` is the `before` of the next page', async () => {
    const seen: number[] = [];
    let query = '?limit=7';
    for (let pages = 0; pages < 10; pages += 1) {
      const response = await get(query, 'Bearer eye');
      assert.equal(response.headers.get('cache-control'), 'no-store');
      const { entries: page, next } = (await response.json()) as Answer;
      seen.push(...page.map(({ sequence }) => sequence));
      if (next === null) break;
      query = `?limit=7&before=${next}`;
    }
    assert.deepEqual(
      seen,
      numbers(() => true),
    );
  });

  test('a client reads what it did itself, and no more; also one that is called like a program', async () => {
    assert.deepEqual(
      await sequences(await get('', 'Bearer one')),
      numbers(({ actor }) => actor === 'bank-1'),
    );
    assert.deepEqual(
      await sequences(await get('?actor=bank-2', 'Bearer two')),
      numbers(({ actor }) => actor === 'bank-2'),
    );
    assert.deepEqual(await sequences(await get('', 'Bearer gateway')), []);
    assert.deepEqual(await sequences(await get('?subject=subject-1', 'Bearer one')), []);
    await assertError(await get('?actor=bank-2', 'Bearer one'), 403, 'FORBIDDEN');
    assert.deepEqual(
      read.map(({ outcome, detail, by }) => [outcome, detail.entries, by?.role, by?.actor]),
      [
        ['success', 10, 'client', 'bank-1'],
        ['success', 10, 'client', 'bank-2'],
        ['success', 0, 'client', 'gateway'],
        ['success', 0, 'client', 'bank-1'],
        ['refused', 0, 'client', 'bank-1'],
      ],
    );
  });

  test('nobody without a right credential', async () => {
    for (const authorization of [undefined, 'Bearer other']) {
      const response = await get('', authorization);
      assert.match(response.headers.get('www-authenticate') ?? '', /^Basic/);
      await assertError(response, 401, 'UNAUTHENTICATED');
    }
    assert.deepEqual(read, []);
  });

  test('every reading is an event with the role, and without it there is no reading', async () => {
    await get('?kind=timestamp.refused&limit=5', 'Bearer eye');
    const [event] = read;
    assert.deepEqual(
      [event?.kind, event?.subject, event?.outcome, event?.by?.role, event?.by?.actor, event?.detail],
      ['journal.read', 'entries', 'success', 'auditor', 'ms-rossi', { query: 'kind=timestamp.refused&limit=5', entries: 5 }],
    );
    redisAway = true;
    const response = await get('', 'Bearer eye');
    assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
    assert.ok(!(await response.clone().text()).includes('bank-1'));
    await assertError(response, 503, 'REDIS_UNAVAILABLE');
    redisAway = false;
    areEventsFull = true;
    await assertError(await get('', 'Bearer eye'), 503, 'JOURNAL_BACKLOG');
  });

  for (const query of [
    '?limit=0',
    '?limit=1001',
    '?limit=x',
    '?before=-1',
    '?kind=nothing',
    '?kind=',
    '?outcome=good',
    '?from=yesterday',
    '?to=2026-02-30',
    '?what=else',
    `?actor=${'a'.repeat(257)}`,
  ]) {
    test(`${query.slice(0, 40)}: 400`, async () => {
      await assertError(await get(query, 'Bearer eye'), 400, 'REQUEST_INVALID');
      assert.deepEqual(read, []);
    });
  }

  test('405 with Allow; 503 while the store is away, and not a word of why', async () => {
    const posted = await app.request('/journal/entries', { method: 'POST' });
    assert.equal(posted.headers.get('allow'), 'GET, HEAD');
    await assertError(posted, 405, 'METHOD_NOT_ALLOWED');
    const searching = createEntrySearching(async () => {
      const { socketClient } = await import('../../observability/journal/clickhouse.ts');
      return socketClient('/nonexistent/journal.sock');
    });
    serve(searching);
    const response = await get('', 'Bearer eye');
    assert.ok(!(await response.clone().text()).includes('nonexistent'));
    await assertError(response, 503, 'JOURNAL_STORE_UNAVAILABLE');
    await searching.close();
  });

  test('503 when too many search at once', async () => {
    const statuses = await Promise.all(Array.from({ length: 20 }, async () => (await get('', 'Bearer eye')).status));
    assert.deepEqual([...new Set(statuses)].toSorted(), [200, 503]);
    assert.equal((await get('', 'Bearer eye')).status, 200);
  });

  test('a row that cannot be read is for auditors alone', async () => {
    await journal.client.insert({
      table: 'journal_events',
      values: [
        {
          sequence: entries.length,
          unixMicros: begin + 100 * minute,
          clock: 'trusted',
          node: 'node',
          role: 'client',
          actor: 'bank-1',
          kind: 'timestamp.refused',
          subject: 'changed',
          outcome: 'refused',
          retention: 'service',
          octetsBase64: 'AAAA',
        },
      ],
      format: 'JSONEachRow',
      columns: ['sequence', 'unixMicros', 'clock', 'node', 'role', 'actor', 'kind', 'subject', 'outcome', 'retention', 'octetsBase64'],
    });
    assert.equal((await sequences(await get('?limit=1', 'Bearer eye')))[0], entries.length);
    assert.deepEqual(
      await sequences(await get('', 'Bearer one')),
      numbers(({ actor }) => actor === 'bank-1'),
    );
  });
});
