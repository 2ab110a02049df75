import assert from 'node:assert/strict';
import { createHash, generateKeyPairSync, sign as signText } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Hono } from 'hono';
import type { Redis } from 'ioredis';
import { createJournalApp } from '../../gateway/journal-app.ts';
import { createJournalSource } from '../../gateway/journal-source.ts';
import { createCheckpointSource } from '../../gateway/published-checkpoint.ts';
import { createStampReading } from '../../gateway/stamp-reading.ts';
import { signedCheckpoint, verifyCheckpoint } from '../../observability/journal/checkpoint.ts';
import { hashEvent } from '../../observability/journal/event-encoding.ts';
import { MerkleTree, verifyConsistency, verifyInclusion } from '../../observability/journal/merkle.ts';
import type { RecordedEvent } from '../../observability/journal/recorder.ts';
import { journalKeys } from '../../queue/keys.ts';
import { createSigner, laneRequest, type SignedStamp } from '../support/archived-stamps.ts';
import { EmbeddedJournal } from '../support/embedded-journal.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { scriptedGuard } from '../support/scripted-guard.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareHierarchy, type SoftwareTsu } from '../support/software-tsu.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';
import { messageImprint } from '../support/tsp-requests.ts';

const sha256 = '2.16.840.1.101.3.4.2.1';
const origin = 'test.example/journal';
const stampsMade = 300;
const covered = 290;

interface Inclusion {
  readonly sequence: number;
  readonly size: number;
  readonly leafHash: string;
  readonly path: readonly string[];
  readonly checkpoint?: string;
  readonly entry?: string;
}
const octets = (text: string | undefined): Buffer => Buffer.from(text ?? '', 'base64');

describe('GET /journal/...', { skip: redisServerMissing() }, () => {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const spki = publicKey.export({ format: 'der', type: 'spki' });
  let pki: TestPki;
  let hierarchy: SoftwareHierarchy;
  let tsu: SoftwareTsu;
  let server: TestRedis;
  let redis: Redis;
  let journal: EmbeddedJournal;
  let stamps: SignedStamp[];
  let app: Hono;
  let read: RecordedEvent<'journal.read'>[];
  let redisAway: boolean;
  let keyFile: string;

  before(async () => {
    pki = new TestPki();
    hierarchy = makeHierarchy(pki);
    tsu = makeSoftwareTsu(pki, hierarchy, 'ec-p256');
    server = await startTestRedis();
    redis = server.connect({ enableOfflineQueue: false, lazyConnect: true });
    await redis.connect();
    journal = await EmbeddedJournal.open();
    const sign = createSigner(tsu);
    const first = sign(laneRequest(messageImprint(sha256, Buffer.alloc(32, 7)), 'bank-1'));
    stamps = Array.from({ length: stampsMade }, (_, i) => {
      const serial = i.toString(16).padStart(40, '0');
      return { ...first, serial, event: { ...first.event, subject: serial, actor: i % 2 === 0 ? 'bank-1' : 'anonymous' } };
    });
    await journal.append(...stamps.map(({ event }) => event));
  });
  after(async () => {
    await journal?.close();
    await server?.close();
    pki.close();
  });

  const rootOf = (size: number): Uint8Array => {
    const tree = new MerkleTree();
    for (const { octets: entry } of journal.entries.slice(0, size)) tree.append(hashEvent(entry));
    return tree.root();
  };
  const noteOf = (size: number): string => {
    const checkpoint = { origin, size, root: rootOf(size) };
    const text = `${origin}\n${size}\n${Buffer.from(checkpoint.root).toString('base64')}\n`;
    return signedCheckpoint(checkpoint, spki, signText('sha256', Buffer.from(text), privateKey));
  };
  const publish = async (size: number, token: string | null = null): Promise<string> => {
    const note = noteOf(size);
    await redis.set(journalKeys.checkpoint, JSON.stringify({ note, token, size }));
    return note;
  };
  const serve = (access: 'clients' | 'anonymous'): void => {
    read = [];
    redisAway = false;
    const guard = scriptedGuard({
      authenticate: (header) => {
        const [, role, name] = /^Bearer (client|auditor)-(.*)$/.exec(header ?? '') ?? [];
        if (name === undefined) return { kind: 'refused', reason: 'missing', name: '' };
        return { kind: 'client', name, role: role as 'client' | 'auditor' };
      },
    });
    const source = createJournalSource(async () => journal.client);
    const recordNow = async (event: unknown): Promise<void> => {
      if (redisAway) throw new Error('Connection is closed.');
      read.push(event as RecordedEvent<'journal.read'>);
    };
    const reading = createStampReading({ access, guard, source, backlog: { areEventsFull: false }, recorder: { recordNow } });
    app = createJournalApp({ checkpoints: createCheckpointSource(redis), source, reading, keyFile });
  };
  beforeEach(async () => {
    keyFile = join(pki.folder, 'journal.pem');
    await redis.flushall();
    serve('clients');
  });
  const get = async (path: string, headers: Record<string, string> = {}): Promise<Response> => app.request(`/journal/${path}`, { headers });
  const assertError = async (response: Response, status: number, code: string, message = /./): Promise<void> => {
    assert.equal(response.status, status);
    const body = (await response.json()) as { error: string; message: string };
    assert.equal(body.error, code);
    assert.match(body.message, message);
  };

  describe('checkpoint', () => {
    test('503 with Retry-After until there is one', async () => {
      for (const path of ['checkpoint', 'checkpoint.tsr', 'proof/inclusion?sequence=0', 'proof/consistency?from=1']) {
        const response = await get(path);
        assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
        await assertError(response, 503, 'JOURNAL_UNCHECKPOINTED');
      }
    });

    test('the newest note, as it was signed', async () => {
      const note = await publish(covered);
      const response = await get('checkpoint');
      assert.match(response.headers.get('content-type') ?? '', /^text\/plain; charset=utf-8$/i);
      assert.match(response.headers.get('cache-control') ?? '', /max-age=1$/);
      const text = await response.text();
      assert.equal(text, note);
      const verdict = verifyCheckpoint(text, { name: origin, spki });
      assert.ok(verdict.kind === 'valid' && verdict.checkpoint.size === covered);
      assert.deepEqual(await (await get('checkpoint', { Accept: 'application/json' })).json(), { note, token: null, size: covered });
    });

    test('what was read last stays while Redis is away; with nothing read, 503', async () => {
      const note = await publish(covered);
      await get('checkpoint');
      redis.disconnect();
      try {
        await new Promise((resolve) => setTimeout(resolve, 600));
        assert.equal(await (await get('checkpoint')).text(), note);
        serve('clients');
        await assertError(await get('checkpoint'), 503, 'REDIS_UNAVAILABLE');
      } finally {
        await redis.connect();
      }
    });

    test('its timestamp is one that OpenSSL verifies; 404 when none could be had', async () => {
      // Each signing makes another note: this one is stamped and published.
      const note = noteOf(covered);
      const stamped = createSigner(tsu, 900)(laneRequest(messageImprint(sha256, createHash('sha256').update(note).digest()), 'journal'));
      const token = Buffer.from(stamped.answer.token).toString('base64');
      await redis.set(journalKeys.checkpoint, JSON.stringify({ note, token, size: covered }));
      const response = await get('checkpoint.tsr');
      assert.equal(response.headers.get('content-type'), 'application/timestamp-reply');
      const tsr = pki.file('checkpoint.tsr', Buffer.from(await response.arrayBuffer()));
      const data = pki.file('checkpoint', await (await get('checkpoint')).text());
      const chain = pki.file('chain.pem', tsu.identity.certificate.toString() + hierarchy.authority.certificate.toString());
      pki.openssl('ts', '-verify', '-data', data, '-in', tsr, '-CAfile', hierarchy.rootFile, '-untrusted', chain);
      serve('clients');
      await publish(covered);
      await assertError(await get('checkpoint.tsr'), 404, 'NOT_FOUND');
    });
  });

  test('the key, when this gateway has it', async () => {
    keyFile = join(pki.folder, 'nothing.pem');
    serve('clients');
    await assertError(await get('key'), 404, 'NOT_FOUND');
    const pem = publicKey.export({ format: 'pem', type: 'spki' }) as string;
    writeFileSync(keyFile, pem);
    const response = await get('key');
    assert.equal(response.headers.get('content-type'), 'application/x-pem-file');
    assert.equal(await response.text(), pem);
  });

  describe('proof of inclusion', () => {
    const verified = (proof: Inclusion, size: number): boolean =>
      verifyInclusion(octets(proof.leafHash), { index: proof.sequence, size }, proof.path.map(octets), rootOf(size));

    test('by number, for everybody: to the newest checkpoint, or to an older size', async () => {
      const note = await publish(covered);
      for (const sequence of [0, 1, 255, 256, covered - 1]) {
        const response = await get(`proof/inclusion?sequence=${sequence}`);
        assert.equal(response.status, 200);
        assert.equal(response.headers.get('cache-control'), 'no-store');
        const proof = (await response.json()) as Inclusion;
        assert.deepEqual([proof.sequence, proof.size, proof.checkpoint, proof.entry], [sequence, covered, note, undefined]);
        assert.ok(verified(proof, covered));
      }
      const older = (await (await get('proof/inclusion?sequence=5&size=6')).json()) as Inclusion;
      assert.deepEqual([older.size, older.checkpoint], [6, undefined]);
      assert.ok(verified(older, 6));
      assert.deepEqual(read, []);
    });

    test('by serial number, for who may read the stamp: with the entry, whose hash is the leaf', async () => {
      await publish(covered);
      const { serial } = stamps[10] as SignedStamp;
      for (const who of ['client-bank-1', 'auditor-ms-rossi']) {
        const proof = (await (await get(`proof/inclusion?serial=${serial}`, { Authorization: `Bearer ${who}` })).json()) as Inclusion;
        assert.equal(proof.sequence, 10);
        assert.equal(hashEvent(octets(proof.entry)).toString('base64'), proof.leafHash);
        assert.ok(verified(proof, covered));
      }
      await assertError(await get(`proof/inclusion?serial=${serial}`), 401, 'UNAUTHENTICATED');
      await assertError(await get(`proof/inclusion?serial=${serial}`, { Authorization: 'Bearer client-other' }), 404, 'NOT_FOUND');
      assert.deepEqual(
        read.map(({ by, outcome, detail }) => [by?.actor, outcome, detail.entries]),
        [
          ['bank-1', 'success', 1],
          ['ms-rossi', 'success', 1],
          ['other', 'refused', 0],
        ],
      );
      serve('anonymous');
      assert.equal((await get(`proof/inclusion?serial=${stamps[11]?.serial}`)).status, 200);
    });

    test('many proofs for everybody keep nobody with a credential from its stamp', async () => {
      await publish(covered);
      const answers = Array.from({ length: 40 }, (_, i) => get(`proof/inclusion?sequence=${i}`));
      const serial = stamps[10]?.serial;
      const own = await Promise.all(
        Array.from({ length: 4 }, () => get(`proof/inclusion?serial=${serial}`, { Authorization: 'Bearer client-bank-1' })),
      );
      assert.deepEqual(
        own.map(({ status }) => status),
        [200, 200, 200, 200],
      );
      const flood = await Promise.all(answers);
      assert.ok(flood.some(({ status }) => status === 200));
      for (const response of flood.filter(({ status }) => status !== 200)) await assertError(response, 503, 'OVERLOADED');
      assert.equal((await get('proof/consistency?from=1')).status, 200);
    });

    test('many readings with a credential keep nobody from a proof', async () => {
      await publish(covered);
      const headers = { Authorization: 'Bearer client-bank-1' };
      const answers = Array.from({ length: 40 }, () => get(`proof/inclusion?serial=${stamps[10]?.serial}`, headers));
      assert.equal((await get('proof/inclusion?sequence=10')).status, 200);
      assert.deepEqual([...new Set((await Promise.all(answers)).map(({ status }) => status))].toSorted(), [200, 503]);
    });

    test('503 by serial number when Redis does not take the event of the reading; proofs that tell nothing need none', async () => {
      await publish(covered);
      redisAway = true;
      const reading = await get(`proof/inclusion?serial=${stamps[10]?.serial}`, { Authorization: 'Bearer client-bank-1' });
      assert.match(reading.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
      await assertError(reading, 503, 'REDIS_UNAVAILABLE');
      assert.equal((await get('proof/inclusion?sequence=10')).status, 200);
    });

    test('404 for what the newest checkpoint does not cover yet', async () => {
      await publish(covered);
      const uncovered = await get(`proof/inclusion?sequence=${covered}`);
      assert.equal(uncovered.headers.get('cache-control'), 'no-store');
      await assertError(uncovered, 404, 'NOT_FOUND', /290 entries/);
      await assertError(await get(`proof/inclusion?sequence=0&size=${covered + 1}`), 404, 'NOT_FOUND', /290 entries/);
      const headers = { Authorization: 'Bearer auditor-x' };
      await assertError(await get(`proof/inclusion?serial=${stamps[covered]?.serial}`, headers), 404, 'NOT_FOUND', /290 entries/);
      await assertError(await get(`proof/inclusion?serial=${stamps[50]?.serial}&size=50`, headers), 404, 'NOT_FOUND');
    });

    test('503 when the store is behind the checkpoint', async () => {
      await redis.set(journalKeys.checkpoint, JSON.stringify({ note: 'x', token: null, size: stampsMade + 5 }));
      await assertError(await get('proof/inclusion?sequence=0'), 503, 'JOURNAL_STORE_UNAVAILABLE');
      await assertError(await get('proof/consistency?from=1'), 503, 'JOURNAL_STORE_UNAVAILABLE');
    });

    for (const [query, message] of [
      ['', /either serial or sequence/],
      ['sequence=1&serial=41', /either serial or sequence/],
      ['sequence=-1', /sequence/],
      ['sequence=01', /sequence/],
      ['sequence=1e3', /sequence/],
      ['sequence=9007199254740993', /sequence/],
      ['sequence=', /sequence/],
      ['serial=xyz', /serial/],
      ['sequence=5&size=0', /size/],
      ['sequence=5&size=5', /sequence: must be below size/],
      ['sequence=5&tree=6', /tree/],
    ] as const) {
      test(`?${query}: 400`, async () => {
        await publish(covered);
        await assertError(await get(`proof/inclusion?${query}`), 400, 'REQUEST_INVALID', message);
      });
    }
  });

  describe('proof of consistency', () => {
    test('between any two sizes, the newest by default', async () => {
      const note = await publish(covered);
      for (const [from, to] of [
        [1, covered],
        [256, covered],
        [covered, covered],
        [3, 7],
        [100, 257],
      ] as const) {
        const response = await get(`proof/consistency?from=${from}${to === covered ? '' : `&to=${to}`}`);
        assert.equal(response.status, 200);
        const proof = (await response.json()) as { from: number; to: number; path: string[]; checkpoint?: string };
        assert.deepEqual([proof.from, proof.to, proof.checkpoint], [from, to, to === covered ? note : undefined]);
        assert.ok(
          verifyConsistency({ size: from, root: rootOf(from) }, { size: to, root: rootOf(to) }, proof.path.map(octets)),
          `${from} to ${to}`,
        );
      }
    });

    test('404 beyond the newest checkpoint', async () => {
      await publish(covered);
      await assertError(await get(`proof/consistency?from=1&to=${covered + 1}`), 404, 'NOT_FOUND');
      await assertError(await get(`proof/consistency?from=${covered + 1}`), 404, 'NOT_FOUND');
    });

    for (const query of ['', 'to=5', 'from=0', 'from=5&to=4', 'from=a', 'from=1&size=5']) {
      test(`?${query}: 400`, async () => {
        await publish(covered);
        await assertError(await get(`proof/consistency?${query}`), 400, 'REQUEST_INVALID');
      });
    }
  });

  test('nothing else: 404, and 405 for writing', async () => {
    await assertError(await get('entries'), 404, 'NOT_FOUND');
    const response = await app.request('/journal/checkpoint', { method: 'POST' });
    assert.equal(response.headers.get('allow'), 'GET, HEAD');
    await assertError(response, 405, 'METHOD_NOT_ALLOWED');
  });
});
