import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, afterEach, before, describe, test } from 'node:test';
import { createRefusalRecording, type RefusedRequest } from '../../gateway/refusal-recording.ts';
import { createTimestampsApp } from '../../gateway/timestamps-app.ts';
import { createTsaListener } from '../../gateway/tsa-listener.ts';
import { decodeDrafts } from '../../observability/journal/draft-block.ts';
import type { EventDraft } from '../../observability/journal/events.ts';
import { JournalRecorder, type RecordedEvent } from '../../observability/journal/recorder.ts';
import { entryJson, searchEntries } from '../../observability/journal/search.ts';
import { derNull, integer, oid } from '../../pki/der.ts';
import { refusalResponse } from '../../pki/tsp-refusal.ts';
import type { FailInfo } from '../../pki/tsp-request.ts';
import { journalKeys } from '../../queue/keys.ts';
import { EmbeddedJournal } from '../support/embedded-journal.ts';
import { createGate } from '../support/lane-bench.ts';
import { redisServerMissing, startTestRedis } from '../support/redis-server.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareTsu } from '../support/software-tsu.ts';
import { createStampingBench, type StampingBench, type StampingBenchOptions } from '../support/stamping-bench.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';
import { extensionDer, makeRequest, messageImprint } from '../support/tsp-requests.ts';
import { until } from '../support/until.ts';

const sha256 = '2.16.840.1.101.3.4.2.1';
const sha1 = '1.3.14.3.2.26';
const hex = (octets: Uint8Array | undefined): string | undefined =>
  octets === undefined ? undefined : Buffer.from(octets).toString('hex');

let pki: TestPki;
let tsu: SoftwareTsu;
before(() => {
  pki = new TestPki();
  tsu = makeSoftwareTsu(pki, makeHierarchy(pki), 'ec-p256');
});
after(() => pki.close());

const servers: Server[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

interface Gateway {
  readonly bench: StampingBench;
  tsa(body: Uint8Array, authorization?: string): Promise<Response>;
  bulk(body: unknown, authorization?: string): Promise<Response>;
}

const imprintsMax = 3_000;
const serve = async (options: StampingBenchOptions = {}): Promise<Gateway> => {
  const bench = createStampingBench(tsu, options);
  const server = createServer(createTsaListener(bench.stamping, 8_192)).listen(0, '127.0.0.1');
  servers.push(server);
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/tsa`;
  const app = createTimestampsApp(bench.stamping, imprintsMax);
  const send = (type: string, authorization: string | undefined, body: string | Uint8Array) => ({
    method: 'POST',
    headers: { 'Content-Type': type, ...(authorization === undefined ? {} : { Authorization: authorization }) },
    body: typeof body === 'string' ? body : new Uint8Array(body),
  });
  return {
    bench,
    tsa: (body, authorization) => fetch(url, send('application/timestamp-query', authorization, body)),
    bulk: async (body, authorization) => app.request('/v1/timestamps', send('application/json', authorization, JSON.stringify(body))),
  };
};

const assertRefused = async (response: Response, failInfo: FailInfo): Promise<void> => {
  assert.equal(response.status, 200);
  assert.equal(hex(new Uint8Array(await response.arrayBuffer())), hex(refusalResponse(failInfo)));
};
const assertOverload = async (response: Response): Promise<void> => {
  assert.equal(response.status, 503);
  assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
  assert.equal(hex(new Uint8Array(await response.arrayBuffer())), hex(refusalResponse('systemFailure')));
};
const fieldsOf = ({ kind, subject, outcome, by, at, detail }: RecordedEvent<'timestamp.refused'>) => {
  // What is known about the clock is the recorder's to say.
  assert.deepEqual([kind, subject, outcome, by?.role, at?.clock], ['timestamp.refused', '', 'refused', 'client', undefined]);
  assert.ok(Math.abs((at?.unixMicros ?? 0) / 1_000 - Date.now()) < 60_000);
  return [by?.actor, detail.reason, hex(detail.policy), hex(detail.messageImprint), detail.count];
};

const right = messageImprint(sha256, new Uint8Array(32).fill(0xab));
const unknown = messageImprint(sha1, new Uint8Array(20));
const short = messageImprint(sha256, new Uint8Array(31));
const policy = oid('2.999');
const long = `2.999.${Array.from({ length: 130 }, () => 1).join('.')}`;

describe('a refusal of the gateway is an event', () => {
  /** What is refused, why, and what its event tells of it. */
  const refused: readonly (readonly [string, FailInfo, Uint8Array, Uint8Array | undefined, Uint8Array | undefined])[] = [
    ['a digest that is not known', 'badAlg', makeRequest({ imprint: unknown }), undefined, unknown],
    ['the same under a policy', 'badAlg', makeRequest({ imprint: unknown, policy: '1.3.6.1.4.1.32473.1.1' }), undefined, unknown],
    ['another version', 'badRequest', makeRequest({ version: integer(2), policy: '2.999' }), undefined, undefined],
    ['nothing', 'badDataFormat', new Uint8Array(), undefined, undefined],
    ['no DER', 'badDataFormat', Buffer.from('hello'), undefined, undefined],
    ['cut off', 'badDataFormat', makeRequest().subarray(0, 20), undefined, undefined],
    ['octets behind the end', 'badDataFormat', Buffer.concat([makeRequest({ policy: '2.999' }), Buffer.of(0)]), policy, right],
    ['a value too much', 'badDataFormat', makeRequest({ policy: '2.999', tail: [derNull] }), policy, right],
    ['a hash that is too short', 'badDataFormat', makeRequest({ imprint: short, policy: '2.999' }), policy, short],
    ['no imprint', 'badDataFormat', makeRequest({ imprint: derNull, policy: '2.999' }), undefined, undefined],
    ['a policy that is not served', 'unacceptedPolicy', makeRequest({ policy: '2.999' }), policy, right],
    ['an extension', 'unacceptedExtension', makeRequest({ extensions: [extensionDer('1.2.3', new Uint8Array(1))] }), undefined, right],
    ['a policy longer than any', 'unacceptedPolicy', makeRequest({ policy: long }), undefined, right],
    ['a hash longer than any', 'badAlg', makeRequest({ algorithm: sha1, hashedMessage: new Uint8Array(4_000) }), undefined, undefined],
  ];
  for (const [name, failInfo, bytes, toldPolicy, toldImprint] of refused) {
    test(`${failInfo}: ${name}`, async () => {
      const { bench, tsa } = await serve({ timestamp: { policies: ['1.3.6.1.4.1.32473.1.1'] } });
      await assertRefused(await tsa(bytes), failInfo);
      const wanted = name === 'the same under a policy' ? oid('1.3.6.1.4.1.32473.1.1') : toldPolicy;
      assert.deepEqual(bench.refusals.map(fieldsOf), [['anonymous', failInfo, hex(wanted), hex(toldImprint), undefined]]);
      assert.deepEqual(await bench.outcomes(), { [failInfo]: 1 });
    });
  }

  test('of the client that was refused', async () => {
    const { bench, tsa, bulk } = await serve({ clients: { 'Bearer key': 'bank.one' } });
    await assertRefused(await tsa(new Uint8Array(), 'Bearer key'), 'badDataFormat');
    await bulk({ hashes: [{ algorithm: 'md5', hash: '' }] }, 'Bearer key');
    assert.deepEqual(
      bench.refusals.map((event) => fieldsOf(event)[0]),
      ['bank.one', 'bank.one'],
    );
  });

  test('each imprint of a bulk request that is refused, and no other', async () => {
    const { bench, bulk } = await serve({ timestamp: { digests: ['sha256'], policies: ['1.2.3'] } });
    const base64 = (octets: number): string => Buffer.alloc(octets, 0xab).toString('base64');
    const sha384 = '2.16.840.1.101.3.4.2.2';
    const hashes = [
      { algorithm: 'sha256', hash: base64(32) },
      { algorithm: 'sha1', hash: base64(20) },
      { algorithm: 'sha384', hash: base64(48) },
      { algorithm: 'sha256', hash: base64(31) },
      { algorithm: 'sha256', hash: '*' },
    ];
    const response = await bulk({ hashes, policy: '1.2.3' });
    const { timestamps } = (await response.json()) as { timestamps: { failInfo?: string; status: string }[] };
    const failInfos = ['badAlg', 'badAlg', 'badDataFormat', 'badDataFormat'];
    assert.deepEqual(
      timestamps.map(({ failInfo, status }) => failInfo ?? status),
      ['granted', ...failInfos],
    );
    const imprints = [
      undefined,
      messageImprint(sha384, new Uint8Array(48).fill(0xab)),
      messageImprint(sha256, new Uint8Array(31).fill(0xab)),
    ];
    assert.deepEqual(
      bench.refusals.map(fieldsOf),
      failInfos.map((failInfo, i) => ['anonymous', failInfo, hex(oid('1.2.3')), hex(imprints[i]), undefined]),
    );
    bench.refusals.length = 0;
    await bulk({ hashes: hashes.slice(0, 1), policy: '2.999' });
    assert.deepEqual(bench.refusals.map(fieldsOf), [['anonymous', 'unacceptedPolicy', hex(policy), hex(right), undefined]]);
  });

  test('before it is answered', async () => {
    const { bench, tsa, bulk } = await serve();
    const gate = createGate();
    bench.recording = () => gate.passed;
    let answered = 0;
    const asked = [tsa(new Uint8Array()), bulk({ hashes: [{ algorithm: 'md5', hash: '' }] })] as const;
    const answers = asked.map(async (asking, i) => {
      const response = await asking;
      const reason = i === 0 ? 'badDataFormat' : 'badAlg';
      assert.ok(bench.refusals.some(({ detail }) => detail.reason === reason));
      answered += 1;
      return response.status;
    });
    // A request behind them is served meanwhile.
    assert.equal((await tsa(makeRequest())).status, 200);
    assert.equal(answered, 0);
    gate.open();
    assert.deepEqual(await Promise.all(answers), [200, 200]);
  });

  test('a request that is granted, or refused by a signer, costs nothing of it', async () => {
    const { bench, tsa, bulk } = await serve();
    const hashes = [{ algorithm: 'sha256', hash: createHash('sha256').update('x').digest('base64') }];
    const serveBoth = async (): Promise<void> => {
      assert.equal((await tsa(makeRequest())).status, 200);
      assert.equal((await bulk({ hashes })).status, 200);
    };
    await serveBoth();
    bench.script = () => ({ kind: 'refused', failInfo: 'timeNotAvailable' });
    await serveBoth();
    assert.equal(bench.asked.length, 4);
    // The signer's are in the journal with its answers: here they would be there twice.
    assert.deepEqual([bench.refusals, bench.eventsLooks], [[], 0]);
  });
});

describe('a refusal that is not recorded is not given: 503', () => {
  test('the journal has no room for events, on both sides of the bound', async () => {
    const { bench, tsa, bulk } = await serve();
    bench.eventsBacklogged = true;
    await assertOverload(await tsa(new Uint8Array()));
    await assertOverload(await tsa(makeRequest({ policy: '2.999' })));
    const answer = await bulk({ hashes: [{ algorithm: 'md5', hash: '' }] });
    assert.deepEqual([answer.status, ((await answer.json()) as { error: string }).error], [503, 'JOURNAL_BACKLOG']);
    assert.deepEqual(bench.refusals, []);
    assert.deepEqual(await bench.outcomes(), { backlog: 3 });
    assert.equal((await tsa(makeRequest())).status, 200, 'what is right is stamped');
    bench.eventsBacklogged = false;
    await assertRefused(await tsa(new Uint8Array()), 'badDataFormat');
    assert.equal(bench.refusals.length, 1);
  });

  test('as many wait for Redis as stamps may be in flight; one more does not', async () => {
    const { bench, tsa } = await serve({ timestamp: { inFlightMax: 5, imprintsMax: 5 } });
    const gate = createGate();
    bench.recording = () => gate.passed;
    const answers = Array.from({ length: 7 }, async () => (await tsa(new Uint8Array())).status);
    await until('two are refused', async () => (await bench.outcomes())['overloaded'] === 2);
    gate.open();
    assert.deepEqual((await Promise.all(answers)).toSorted(), [200, 200, 200, 200, 200, 503, 503]);
    assert.equal(bench.refusals.length, 5);
    await assertRefused(await tsa(new Uint8Array()), 'badDataFormat');
  });

  test('Redis does not take it', async () => {
    const { bench, tsa } = await serve();
    bench.recording = () => Promise.reject(new Error('Connection is closed.'));
    await assertOverload(await tsa(new Uint8Array()));
    assert.deepEqual(await bench.outcomes(), { unavailable: 1 });
    bench.recording = async () => undefined;
    await assertRefused(await tsa(new Uint8Array()), 'badDataFormat');
  });

  test('Redis does not answer by the deadline', async () => {
    const { bench, tsa } = await serve({ timestamp: { deadlineMs: 300 } });
    bench.recording = () => new Promise(() => undefined);
    await assertOverload(await tsa(new Uint8Array()));
    assert.deepEqual(await bench.outcomes(), { expired: 1 });
    bench.recording = async () => undefined;
    await assertRefused(await tsa(new Uint8Array()), 'badDataFormat');
  });
});

describe('a flood of refusals', () => {
  const request = (client: string, number: number): RefusedRequest => ({
    client,
    failInfo: number % 2 === 0 ? 'badAlg' : 'unacceptedPolicy',
    policy,
    messageImprint: right,
  });
  const flooded = () => {
    const writes: RecordedEvent<'timestamp.refused'>[][] = [];
    const recordAllNow = async (events: readonly unknown[]): Promise<void> => void writes.push([...events] as never);
    const recording = createRefusalRecording({
      recorder: { recordAllNow },
      backlog: { areEventsFull: false },
      waitingMax: 100_000,
      deadlineMs: 5_000,
    });
    return { writes, recording };
  };
  const countOf = (events: readonly RecordedEvent<'timestamp.refused'>[]): number =>
    events.reduce((sum, { detail }) => sum + (detail.count ?? 1), 0);

  test('each is counted, a thousand of a client within a second are told by themselves, and others keep theirs', async () => {
    const { writes, recording } = flooded();
    const all = Array.from({ length: 20_000 }, (_, i) => recording.record(request('flood', i)));
    all.push(...Array.from({ length: 50 }, (_, i) => recording.record(request('bank', i))));
    assert.deepEqual(new Set(await Promise.all(all)), new Set([undefined]));
    const events = writes.flat();
    assert.equal(writes.length, 1, 'what comes at once travels together');
    assert.equal(countOf(events), 20_050);
    const of = (name: string) => events.filter(({ by }) => by?.actor === name);
    assert.deepEqual([of('bank').length, countOf(of('bank'))], [50, 50]);
    assert.deepEqual(of('flood').slice(1_000).map(fieldsOf), [
      ['flood', 'badAlg', undefined, undefined, 9_500],
      ['flood', 'unacceptedPolicy', undefined, undefined, 9_500],
    ]);
    assert.ok(
      of('flood')
        .slice(0, 1_000)
        .every(({ detail }) => detail.count === undefined && detail.messageImprint !== undefined),
    );
  });

  test('many clients together are told by themselves up to a bound', async () => {
    const { writes, recording } = flooded();
    await Promise.all(Array.from({ length: 5_000 }, (_, i) => recording.record(request(`client-${i % 10}`, 0))));
    assert.equal(countOf(writes.flat()), 5_000);
    assert.equal(writes.flat().filter(({ detail }) => detail.count === undefined).length, 2_000);
  });

  test('is at most a hundred writes a second', async () => {
    const { writes, recording } = flooded();
    const started = performance.now();
    // One behind the other: without a pace each would be a write of its own within microseconds.
    for (let i = 0; i < 20; i += 1) await recording.record(request('flood', i));
    assert.equal(writes.length, 20);
    assert.ok(performance.now() - started > 19 * 10 - 20, `${performance.now() - started} ms`);
  });
});

describe('from the gateway into the journal', { skip: redisServerMissing() }, () => {
  test('Redis has refusals when they are answered, and the search of the journal finds them', async () => {
    const server = await startTestRedis({ appendOnly: true });
    const redis = server.connect({ enableOfflineQueue: false });
    const journal = await EmbeddedJournal.open();
    try {
      await until('Redis is there', () => redis.status === 'ready');
      const recording = createRefusalRecording({
        recorder: new JournalRecorder({ redis, actor: 'gateway' }),
        backlog: { areEventsFull: false },
        waitingMax: 4_096,
        deadlineMs: 5_000,
      });
      const bare: RefusedRequest = { client: 'bank', failInfo: 'badDataFormat', policy: undefined, messageImprint: undefined };
      const refused = Array.from({ length: 1_230 }, (_, i) => (i === 0 ? { ...bare, policy, messageImprint: right } : bare));
      await Promise.all(refused.map((one) => recording.record(one)));
      const entries = (await redis.xrangeBuffer(journalKeys.events, '-', '+')) as [Buffer, Buffer[]][];
      assert.equal(entries.length, 11, 'a hundred events an entry');
      const drafts: EventDraft[] = entries.flatMap(([, fields]) => decodeDrafts(fields[1] as Buffer));
      assert.equal(drafts.length, 1_001);

      await journal.append(...drafts);
      const found: Record<string, unknown>[] = [];
      for await (const one of searchEntries(journal.client, { kinds: ['timestamp.refused'], actor: 'bank', limit: 2_000 })) {
        found.push(entryJson(one) as Record<string, unknown>);
      }
      assert.equal(found.length, 1_001);
      const base64 = (octets: Uint8Array): string => Buffer.from(octets).toString('base64');
      assert.deepEqual(
        [found.at(-1)?.['detail'], found.at(-2)?.['detail'], found[0]?.['detail']],
        [
          { reason: 'badDataFormat', policy: base64(policy), messageImprint: base64(right) },
          { reason: 'badDataFormat' },
          { reason: 'badDataFormat', count: 230 },
        ],
      );
      assert.deepEqual([found[0]?.['role'], found[0]?.['outcome'], found[0]?.['retention']], ['client', 'refused', 'service']);
      await server.stop();
      await until('the connection is gone', () => redis.status !== 'ready');
      assert.equal(await recording.record(bare), 'unavailable');
    } finally {
      await journal.close();
      await server.close();
    }
  });
});
