import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Hono } from 'hono';
import { createArchiveApp } from '../../gateway/archive-app.ts';
import { createJournalSource, type JournalSource } from '../../gateway/journal-source.ts';
import { createStampReading } from '../../gateway/stamp-reading.ts';
import { createTimestampsApp } from '../../gateway/timestamps-app.ts';
import { createTsaListener } from '../../gateway/tsa-listener.ts';
import type { RecordedEvent } from '../../observability/journal/recorder.ts';
import { grantedResponse } from '../../pki/tsp-granted.ts';
import { createSigner, laneRequest } from '../support/archived-stamps.ts';
import { EmbeddedJournal, publishedEvent } from '../support/embedded-journal.ts';
import { createGate } from '../support/lane-bench.ts';
import { scriptedAccess, scriptedGuard } from '../support/scripted-guard.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareHierarchy, type SoftwareTsu } from '../support/software-tsu.ts';
import { createStampingBench } from '../support/stamping-bench.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';
import { makeRequest, messageImprint } from '../support/tsp-requests.ts';

const sha256 = '2.16.840.1.101.3.4.2.1';
const json = { 'Content-Type': 'application/json' };
const reply = 'application/timestamp-reply';
const clients = { 'Bearer one': 'bank-1', 'Bearer two': 'bank-2', 'Bearer eye': 'ms-rossi' };
const imprintOf = (text: string): Uint8Array => messageImprint(sha256, createHash('sha256').update(text).digest());

let pki: TestPki;
let hierarchy: SoftwareHierarchy;
let tsu: SoftwareTsu;
let journal: EmbeddedJournal;
let sign: ReturnType<typeof createSigner>;
before(async () => {
  pki = new TestPki();
  hierarchy = makeHierarchy(pki);
  tsu = makeSoftwareTsu(pki, hierarchy, 'ec-p256');
  sign = createSigner(tsu);
  journal = await EmbeddedJournal.open();
  await journal.append(publishedEvent(tsu));
});
after(async () => {
  await journal?.close();
  pki.close();
});

let eventsFull = false;
let redisAway = false;
/** What stands between an event and Redis having it. */
let recording: Promise<void> | undefined;
let read: RecordedEvent<'journal.read'>[];
let refused: string[];
let app: Hono;
/** An archive as a gateway with this access serves it. */
const serve = (access: 'anonymous' | 'clients', source: JournalSource = createJournalSource(async () => journal.client)): void => {
  read = [];
  refused = [];
  eventsFull = false;
  redisAway = false;
  recording = undefined;
  const backlog = {
    get areEventsFull() {
      return eventsFull;
    },
  };
  const guard = scriptedGuard(scriptedAccess(clients, ['ms-rossi']), { backlog, onFailure: (reason) => void refused.push(reason) });
  const recordNow = async (event: unknown): Promise<void> => {
    if (redisAway) throw new Error('Connection is closed.');
    await recording;
    read.push(event as RecordedEvent<'journal.read'>);
  };
  app = createArchiveApp(createStampReading({ access, guard, source, backlog, recorder: { recordNow } }));
};
beforeEach(() => serve('clients'));

const get = async (serial: string, authorization?: string, accept?: string): Promise<Response> =>
  app.request(`/v1/timestamps/${serial}`, {
    headers: {
      ...(authorization === undefined ? {} : { Authorization: authorization }),
      ...(accept === undefined ? {} : { Accept: accept }),
    },
  });
const bytesOf = async (response: Response): Promise<Buffer> => Buffer.from(await response.arrayBuffer());
const assertError = async (response: Response, status: number, code: string): Promise<void> => {
  assert.equal(response.status, status);
  assert.equal(((await response.json()) as { error: string }).error, code);
};
/** A stamp in the archive. */
const archive = async (client: string, certReq = false): Promise<string> => {
  const { event, serial } = sign(laneRequest(imprintOf(`${client} ${Math.random()}`), client, certReq));
  await journal.append(event);
  return serial;
};

describe('GET /v1/timestamps/{serial}', () => {
  for (const certReq of [true, false]) {
    test(`what POST answered, bit for bit, ${certReq ? 'with' : 'without'} certificates; OpenSSL verifies it`, async () => {
      const bench = createStampingBench(tsu, { clients });
      bench.script = async (request) => {
        const { answer, event } = sign(request);
        await journal.append(event);
        return answer;
      };
      const issuing = createTimestampsApp(bench.stamping, 10);
      const data = `document ${certReq}`;
      const hash = createHash('sha256').update(data).digest('base64');
      const body = JSON.stringify({ hashes: [{ algorithm: 'sha256', hash, nonce: '-5' }], certReq });
      const posted = await issuing.request('/v1/timestamps', { method: 'POST', headers: { ...json, Authorization: 'Bearer one' }, body });
      const { timestamps } = (await posted.json()) as { timestamps: [{ serial: string; token: string }] };
      const [item] = timestamps;

      const again = await get(item.serial, 'Bearer one');
      assert.equal(again.status, 200);
      assert.deepEqual(await again.json(), item);
      const response = await get(item.serial, 'Bearer one', reply);
      assert.equal(response.headers.get('content-type'), reply);
      const der = await bytesOf(response);
      assert.equal(der.toString('hex'), Buffer.from(grantedResponse(Buffer.from(item.token, 'base64'))).toString('hex'));
      const file = pki.file(`archived-${certReq}.tsr`, der);
      const verify = ['ts', '-verify', '-data', pki.file('data', data), '-in', file, '-CAfile', hierarchy.rootFile];
      const chain = pki.file('chain.pem', tsu.identity.certificate.toString() + hierarchy.authority.certificate.toString());
      pki.openssl(...verify, ...(certReq ? [] : ['-untrusted', chain]));
    });

    test(`what /tsa answered, octet for octet, ${certReq ? 'with' : 'without'} certificates`, async () => {
      const bench = createStampingBench(tsu);
      let serial = '';
      bench.script = async (request) => {
        const { answer, event, serial: made } = sign(request);
        serial = made;
        await journal.append(event);
        return answer;
      };
      const server = createServer(createTsaListener(bench.stamping, 8_192)).listen(0, '127.0.0.1');
      await once(server, 'listening');
      try {
        const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/tsa`;
        const headers = { 'Content-Type': 'application/timestamp-query' };
        const issued = await bytesOf(await fetch(url, { method: 'POST', headers, body: new Uint8Array(makeRequest({ certReq })) }));
        serve('anonymous');
        const again = await bytesOf(await get(serial, undefined, reply));
        assert.equal(again.toString('hex'), issued.toString('hex'));
      } finally {
        server.closeAllConnections();
        server.close();
      }
    });
  }

  test('hexadecimal in either case; JSON unless the other form is preferred', async () => {
    const serial = await archive('bank-1');
    assert.equal((await get(serial.toUpperCase(), 'Bearer one')).status, 200);
    for (const [accept, type] of [
      ['*/*', 'application/json'],
      ['text/html', 'application/json'],
      [`${reply};q=0.1, application/json`, 'application/json'],
      [`application/json;q=0.1, ${reply}`, reply],
      ['Application/Timestamp-Reply', reply],
    ] as const) {
      const response = await get(serial, 'Bearer one', accept);
      assert.equal(response.headers.get('content-type'), type, accept);
      assert.equal(response.headers.get('cache-control'), 'no-store');
      assert.match(response.headers.get('vary') ?? '', /Accept/);
    }
  });

  describe('who may read', () => {
    test('the owner and an auditor; for others it does not exist', async () => {
      const serial = await archive('bank-1');
      assert.equal((await get(serial, 'Bearer one')).status, 200);
      assert.equal((await get(serial, 'Bearer eye')).status, 200);
      const foreign = await get(serial, 'Bearer two');
      const unknown = await get('41'.repeat(20), 'Bearer two');
      assert.deepEqual([foreign.status, await foreign.text()], [unknown.status, await unknown.text()]);
      assert.equal(foreign.status, 404);
      // A cache would keep a 404 by itself (RFC 9110, 15.1), also of a stamp that the journal has a second later.
      assert.equal(foreign.headers.get('cache-control'), 'no-store');
    });

    test('without a right credential 401, whether it exists or not', async () => {
      const serial = await archive('bank-1');
      for (const which of [serial, '41'.repeat(20)]) {
        for (const authorization of [undefined, 'Bearer other']) {
          const response = await get(which, authorization);
          assert.match(response.headers.get('www-authenticate') ?? '', /^Basic/);
          await assertError(response, 401, 'UNAUTHENTICATED');
        }
      }
      assert.deepEqual(refused, ['missing', 'wrong', 'missing', 'wrong']);
    });

    test('a stamp of nobody: auditors alone where clients must authenticate', async () => {
      const serial = await archive('anonymous');
      assert.equal((await get(serial, 'Bearer eye')).status, 200);
      await assertError(await get(serial, 'Bearer one'), 404, 'NOT_FOUND');
    });

    test('where anybody stamps, anybody reads what nobody owns, and nothing else', async () => {
      serve('anonymous');
      const [free, owned] = [await archive('anonymous'), await archive('bank-1')];
      assert.equal((await get(free)).status, 200);
      assert.equal((await get(free, 'Bearer two')).status, 200);
      await assertError(await get(owned), 404, 'NOT_FOUND');
      assert.equal((await get(owned, 'Bearer one')).status, 200);
      assert.equal((await get(owned, 'Bearer eye')).status, 200);
      await assertError(await get(free, 'Bearer other'), 401, 'UNAUTHENTICATED');
    });

    test('nothing is answered before Redis has the event', async () => {
      const serial = await archive('bank-1');
      const gate = createGate();
      recording = gate.passed;
      let answered = 0;
      const answers = [serial, '42'.repeat(20)].map(async (which) => {
        const { status } = await get(which, 'Bearer one');
        assert.ok(read.some(({ detail }) => detail.query === `serial=${which}`));
        answered += 1;
        return status;
      });
      await delay(200);
      assert.equal(answered, 0);
      gate.open();
      assert.deepEqual(await Promise.all(answers), [200, 404]);
    });

    test('every reading is an event, with who read what and how much', async () => {
      const serial = await archive('bank-1');
      await get(serial, 'Bearer one');
      await get(serial, 'Bearer eye');
      await get(serial, 'Bearer two');
      await get('42'.repeat(20), 'Bearer two');
      await get(serial);
      await get('xyz', 'Bearer one');
      assert.deepEqual(
        read.map(({ kind, subject, outcome, detail, by }) => [kind, subject, outcome, detail.query, detail.entries, by?.role, by?.actor]),
        [
          ['journal.read', 'timestamp', 'success', `serial=${serial}`, 1, 'client', 'bank-1'],
          ['journal.read', 'timestamp', 'success', `serial=${serial}`, 1, 'auditor', 'ms-rossi'],
          ['journal.read', 'timestamp', 'refused', `serial=${serial}`, 0, 'client', 'bank-2'],
          ['journal.read', 'timestamp', 'success', `serial=${'42'.repeat(20)}`, 0, 'client', 'bank-2'],
        ],
      );
    });
  });

  describe('what cannot be answered', () => {
    for (const serial of ['x', 'abc', '4', `${'41'.repeat(21)}`, "41' OR 1=1", '%00', '41%2f42', '0x41']) {
      test(`${serial}: 400`, async () => {
        await assertError(await get(encodeURIComponent(serial), 'Bearer one'), 400, 'REQUEST_INVALID');
        assert.deepEqual(read, []);
      });
    }

    test('405 with Allow', async () => {
      const response = await app.request(`/v1/timestamps/${'41'.repeat(20)}`, { method: 'DELETE' });
      assert.equal(response.headers.get('allow'), 'GET, HEAD');
      await assertError(response, 405, 'METHOD_NOT_ALLOWED');
    });

    test('503 with Retry-After while the store is away, and not a word of why; then it is tried anew', async () => {
      const serial = await archive('bank-1');
      let away = true;
      const source = createJournalSource(async () => {
        if (!away) return journal.client;
        const { socketClient } = await import('../../observability/journal/clickhouse.ts');
        return socketClient('/nonexistent/journal.sock');
      });
      serve('clients', source);
      const response = await get(serial, 'Bearer one');
      assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
      assert.ok(!(await response.clone().text()).includes('nonexistent'));
      await assertError(response, 503, 'JOURNAL_STORE_UNAVAILABLE');
      await source.close();
      away = false;
      serve(
        'clients',
        createJournalSource(async () => journal.client),
      );
      assert.equal((await get(serial, 'Bearer one')).status, 200);
    });

    test('503 when the certificates of its TSU are not in the journal yet, 200 when they are', async () => {
      const late = makeSoftwareTsu(pki, hierarchy, 'ec-p256', 'late');
      const { event, serial } = createSigner(late, 1_000_000)(laneRequest(imprintOf('late'), 'bank-1', true));
      await journal.append(event);
      await assertError(await get(serial, 'Bearer one'), 503, 'JOURNAL_STORE_UNAVAILABLE');
      await journal.append(publishedEvent(late));
      assert.equal((await get(serial, 'Bearer one')).status, 200);
    });

    test('503 while a reading cannot be recorded', async () => {
      const serial = await archive('bank-1');
      eventsFull = true;
      for (const authorization of ['Bearer one', 'Bearer other']) {
        const response = await get(serial, authorization);
        assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
        await assertError(response, 503, 'JOURNAL_BACKLOG');
      }
      assert.deepEqual(read, []);
      eventsFull = false;
      assert.equal((await get(serial, 'Bearer one')).status, 200);
    });

    test('503 when Redis does not take the event: nothing is shown, not even that it does not exist', async () => {
      const serial = await archive('bank-1');
      redisAway = true;
      for (const which of [serial, '41'.repeat(20)]) {
        const response = await get(which, 'Bearer one');
        assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
        await assertError(response, 503, 'REDIS_UNAVAILABLE');
      }
      redisAway = false;
      assert.equal((await get(serial, 'Bearer one')).status, 200);
      assert.equal(read.length, 1);
    });

    test('so many at once of those with a credential, so many of anybody, each apart from the other', async () => {
      const source = createJournalSource(async () => journal.client);
      const gate = createGate();
      const read = (readers: 'known' | 'anybody') => source.read(readers, () => gate.passed.then(() => readers));
      const anybody = Array.from({ length: 10 }, () => read('anybody'));
      const known = Array.from({ length: 10 }, () => read('known'));
      gate.open();
      const done = async (all: readonly ReturnType<typeof read>[]): Promise<(string | undefined)[]> =>
        (await Promise.all(all)).map((one) => one?.value);
      const expected = (readers: string, count: number) => Array.from({ length: 10 }, (_, i) => (i < count ? readers : undefined));
      assert.deepEqual([await done(anybody), await done(known)], [expected('anybody', 2), expected('known', 4)]);
      assert.deepEqual([(await read('anybody'))?.value, (await read('known'))?.value], ['anybody', 'known'], 'places come back');
    });

    test('503 when too many read at once', async () => {
      const serial = await archive('bank-1');
      const statuses = await Promise.all(Array.from({ length: 30 }, async () => (await get(serial, 'Bearer one')).status));
      assert.deepEqual([...new Set(statuses)].toSorted(), [200, 503]);
      assert.equal((await get(serial, 'Bearer one')).status, 200);
    });
  });
});
