/** What is not let in is in the journal before it is answered: by every protocol, and when Redis is away. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { Hono } from 'hono';
import { createAccessGuard } from '../../gateway/access-guard.ts';
import { createArchiveApp } from '../../gateway/archive-app.ts';
import { createAuthenticationRecording } from '../../gateway/authentication-recording.ts';
import { createEntrySearching } from '../../gateway/entry-search.ts';
import { createJournalEntriesApp } from '../../gateway/journal-entries-app.ts';
import { createJournalSource } from '../../gateway/journal-source.ts';
import { createStampReading } from '../../gateway/stamp-reading.ts';
import { createTimestampsApp } from '../../gateway/timestamps-app.ts';
import { createTsaListener } from '../../gateway/tsa-listener.ts';
import { JournalRecorder } from '../../observability/journal/recorder.ts';
import { refusalResponse } from '../../pki/tsp-refusal.ts';
import { journalKeys } from '../../queue/keys.ts';
import { addClient, basic, setClientState, waitingEvents } from '../support/clients.ts';
import { createGate } from '../support/lane-bench.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { scriptedAccess } from '../support/scripted-guard.ts';
import { freePort } from '../support/service.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareHierarchy, type SoftwareTsu } from '../support/software-tsu.ts';
import { createStampingBench, type StampingBench } from '../support/stamping-bench.ts';
import { TestPki } from '../support/timestamp-fixtures.ts';
import { temporaryFolder } from '../support/token-home.ts';
import { makeRequest } from '../support/tsp-requests.ts';
import { until } from '../support/until.ts';

let pki: TestPki;
let hierarchy: SoftwareHierarchy;
let tsu: SoftwareTsu;
before(() => {
  pki = new TestPki();
  hierarchy = makeHierarchy(pki);
  tsu = makeSoftwareTsu(pki, hierarchy, 'ec-p256');
});
after(() => pki.close());

const servers: Server[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
});

const clients = { 'Bearer key': 'bank.one', 'Bearer eye': 'ms.rossi' };
const serial = '41'.repeat(20);

interface Protocols {
  readonly bench: StampingBench;
  /** Every request that may not be let in, with this credential. */
  readonly asking: Readonly<Record<string, (authorization?: string) => Promise<Response>>>;
}

/** All that asks for a credential, in front of one journal that the test scripts. */
const serve = async (timestamp: Record<string, unknown> = {}): Promise<Protocols> => {
  const bench = createStampingBench(tsu, { timestamp, clients, auditors: ['ms.rossi'] });
  const server = createServer(createTsaListener(bench.stamping, 8_192)).listen(0, '127.0.0.1');
  servers.push(server);
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/tsa`;
  const never = async (): Promise<never> => assert.fail('the journal is not read for who was not let in');
  const { guard } = bench;
  const recorder = { recordNow: never };
  const reading = createStampReading({ access: 'clients', guard, source: createJournalSource(never), backlog: bench.backlog, recorder });
  const app = new Hono();
  app.route('/', createTimestampsApp(bench.stamping, 10));
  app.route('/', createArchiveApp(reading));
  app.route('/', createJournalEntriesApp({ guard, searching: createEntrySearching(never), backlog: bench.backlog, recorder }));
  const headers = (authorization: string | undefined, type: string) => ({
    'Content-Type': type,
    ...(authorization === undefined ? {} : { Authorization: authorization }),
  });
  const at =
    (path: string, method = 'GET') =>
    async (authorization?: string): Promise<Response> =>
      app.request(path, { method, headers: headers(authorization, 'application/json'), ...(method === 'POST' ? { body: '{}' } : {}) });
  return {
    bench,
    asking: {
      '/tsa': (authorization) =>
        fetch(url, {
          method: 'POST',
          headers: headers(authorization, 'application/timestamp-query'),
          body: new Uint8Array(makeRequest()),
        }),
      '/v1/timestamps': at('/v1/timestamps', 'POST'),
      '/v1/timestamps/{serial}': at(`/v1/timestamps/${serial}`),
      '/journal/entries': at('/journal/entries'),
    },
  };
};
const paths = ['/tsa', '/v1/timestamps', '/v1/timestamps/{serial}', '/journal/entries'] as const;

/** `/tsa` answers in its protocol, which has one failInfo for all of them. */
const assertOverload = async (response: Response, code: string): Promise<void> => {
  assert.equal(response.status, 503);
  assert.match(response.headers.get('retry-after') ?? '', /^[1-9]\d*$/);
  assert.equal(response.headers.get('www-authenticate'), null);
  const body = Buffer.from(await response.arrayBuffer());
  if (response.headers.get('content-type') === 'application/timestamp-reply')
    assert.deepEqual(body, Buffer.from(refusalResponse('systemFailure')));
  else assert.match(body.toString(), new RegExp(code));
};

describe('a failure of authentication is recorded before it is answered', () => {
  for (const path of paths) {
    test(path, async () => {
      const { bench, asking } = await serve();
      const gate = createGate();
      bench.recording = () => gate.passed;
      let recorded = 0;
      const answering = asking[path]?.('Bearer other').then((response) => {
        recorded = bench.failures.length;
        return response;
      });
      // A request behind it is stamped meanwhile.
      assert.equal((await asking['/tsa']?.('Bearer key'))?.status, 200);
      assert.deepEqual([bench.failures.length, recorded], [0, 0]);
      gate.open();
      assert.equal((await answering)?.status, 401);
      assert.equal(recorded, 1);
    });

    test(`${path}: 503 for as long as it cannot be recorded, which says nothing of the credential`, async () => {
      const { bench, asking } = await serve({ deadlineMs: 300 });
      const ask = asking[path] as (authorization?: string) => Promise<Response>;
      for (const authorization of [undefined, 'Bearer other']) {
        bench.recording = () => Promise.reject(new Error('Connection is closed.'));
        await assertOverload(await ask(authorization), 'REDIS_UNAVAILABLE');
        bench.recording = () => new Promise(() => undefined);
        await assertOverload(await ask(authorization), 'DEADLINE_EXCEEDED');
        bench.recording = async () => undefined;
        bench.eventsBacklogged = true;
        await assertOverload(await ask(authorization), 'JOURNAL_BACKLOG');
        bench.eventsBacklogged = false;
        assert.equal((await ask(authorization)).status, 401);
      }
      assert.equal(bench.failures.length, 2);
    });
  }

  test('who may not act in a role is recorded the same way', async () => {
    const { bench, asking } = await serve();
    bench.recording = () => Promise.reject(new Error('Connection is closed.'));
    await assertOverload((await asking['/tsa']?.('Bearer eye')) as Response, 'REDIS_UNAVAILABLE');
    bench.recording = async () => undefined;
    assert.equal((await asking['/tsa']?.('Bearer eye'))?.status, 403);
    assert.deepEqual(await bench.outcomes(), { unavailable: 1, forbidden: 1 });
  });

  test('as many wait for Redis as stamps may be in flight; one more does not, and who is let in is served', async () => {
    const { bench, asking } = await serve({ inFlightMax: 5, imprintsMax: 5 });
    const gate = createGate();
    bench.recording = () => gate.passed;
    const answers = Array.from({ length: 7 }, async () => (await asking['/tsa']?.('Bearer other'))?.status);
    await until('two are refused', async () => (await bench.outcomes())['overloaded'] === 2);
    assert.equal((await asking['/tsa']?.('Bearer key'))?.status, 200);
    gate.open();
    assert.deepEqual((await Promise.all(answers)).toSorted(), [401, 401, 401, 401, 401, 503, 503]);
    assert.equal(bench.failures.length, 5);
  });

  test('it takes nothing from refused requests: those have room of their own', async () => {
    const { bench, asking } = await serve({ inFlightMax: 1, imprintsMax: 1 });
    const gate = createGate();
    bench.recording = () => gate.passed;
    const failing = asking['/tsa']?.('Bearer other');
    const refusing = bench.stamping.refuse('badAlg', { messageImprint: undefined, policy: undefined }, 'bank.one');
    gate.open();
    assert.deepEqual(await refusing, { kind: 'refused', failInfo: 'badAlg' });
    assert.equal((await failing)?.status, 401);
  });

  test('a client that goes away meanwhile disturbs nobody', async () => {
    const { bench, asking } = await serve();
    const gate = createGate();
    let writes = 0;
    bench.recording = () => {
      writes += 1;
      return gate.passed;
    };
    const [server] = servers as [Server];
    const gone = new Promise((resolve) => server.once('connection', (socket) => socket.once('close', resolve)));
    const failing = asking['/tsa']?.('Bearer other').catch(() => 'gone');
    await until('it is on its way', () => writes === 1);
    server.closeAllConnections();
    await gone;
    assert.equal(await failing, 'gone');
    gate.open();
    await until('it is counted', async () => (await bench.outcomes())['disconnected'] === 1);
    assert.equal(bench.failures.length, 1);
    assert.equal((await asking['/tsa']?.('Bearer key'))?.status, 200);
  });
});

describe('into Redis', { skip: redisServerMissing() }, () => {
  let redis: TestRedis;
  let gateway: ChildProcess | undefined;
  const folder = temporaryFolder();
  before(async () => {
    redis = await startTestRedis({ appendOnly: true });
  });
  afterEach(async () => {
    if (gateway?.exitCode === null && gateway.signalCode === null) {
      gateway.kill('SIGKILL');
      await once(gateway, 'exit');
    }
  });
  after(async () => {
    await redis.close();
    folder.remove();
  });

  /** A gateway as a process of its own. @returns its address, when it serves */
  const startGateway = async (): Promise<string> => {
    const port = await freePort();
    const child = spawn(process.execPath, [join(import.meta.dirname, '../../bin/gateway.ts')], {
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      env: {
        ...process.env,
        SIGILLO_HOME: folder.path,
        SIGILLO__PUBLIC__PORT: String(port),
        SIGILLO__REDIS: JSON.stringify({ mode: 'url', url: `unix://${redis.socket}` }),
        SIGILLO__TRUST: JSON.stringify({ rootsFile: hierarchy.rootFile }),
        SIGILLO__TIMESTAMP__ACCESS: 'clients',
      },
    });
    gateway = child;
    await Promise.race([once(child, 'message'), once(child, 'exit').then(([status]) => assert.fail(`it ended with ${status}`))]);
    return `http://127.0.0.1:${port}`;
  };

  test('kill -9 of gateway and Redis right after the answer loses nothing', async () => {
    const look = redis.connect();
    const { secret } = await addClient(look, 'ms.rossi', 'auditor');
    await addClient(look, 'bank.one');
    const off = await addClient(look, 'bank.two');
    await setClientState(look, 'bank.two', 'disabled');
    const url = await startGateway();
    const ask = (path: string, authorization?: string): Promise<Response> =>
      fetch(`${url}${path}`, {
        method: path.startsWith('/journal') ? 'GET' : 'POST',
        headers: {
          'Content-Type': path === '/tsa' ? 'application/timestamp-query' : 'application/json',
          ...(authorization === undefined ? {} : { Authorization: authorization }),
        },
      });
    await until('the register is read', async () => (await ask('/tsa', basic('ms.rossi', secret))).status === 403);
    await look.del(journalKeys.events);
    const asked = [
      ['/journal/entries', undefined, 401],
      ['/v1/timestamps', 'Basic !', 401],
      ['/tsa', basic('bank.two', off.secret), 401],
      ['/tsa', basic('nobody', secret), 401],
      ['/tsa', basic('ms.rossi', secret), 403],
      ['/tsa', basic('bank.one', secret), 401],
    ] as const;
    for (const [path, authorization, status] of asked) assert.equal((await ask(path, authorization)).status, status);
    gateway?.kill('SIGKILL');
    await redis.stop('SIGKILL');
    await redis.start();
    // It tells also that it started, when it gets to it.
    const events = (await waitingEvents(redis.connect(), journalKeys.events)).filter(({ kind }) => kind === 'authentication.failed');
    assert.deepEqual(
      events.map(({ kind, actor, subject, outcome, detail }) => [kind, actor, subject, outcome, 'reason' in detail && detail.reason]),
      [
        ['', 'missing'],
        ['', 'malformed'],
        ['bank.two', 'disabled'],
        ['nobody', 'unknown'],
        ['ms.rossi', 'role'],
        ['bank.one', 'wrong'],
      ].map(([name, reason]) => ['authentication.failed', 'gateway', name, 'refused', reason]),
    );
    for (const { detail } of events) assert.match(JSON.stringify(detail), /"address":"(::ffff:)?127\.0\.0\.1"/);
  });

  test('with Redis away nobody is refused, and with Redis back everybody again', async () => {
    const client = redis.connect({ enableOfflineQueue: false });
    await until('Redis is there', () => client.status === 'ready');
    const guard = createAccessGuard({
      access: scriptedAccess(clients),
      failures: createAuthenticationRecording({
        recorder: new JournalRecorder({ redis: client, actor: 'gateway' }),
        backlog: { areEventsFull: false },
        waitingMax: 100,
        deadlineMs: 5_000,
      }),
      metrics: { authenticationFailure: () => undefined },
    });
    await redis.stop('SIGKILL');
    await until('the connection is gone', () => client.status !== 'ready');
    assert.deepEqual(await guard.require('any', 'Bearer other', undefined), {
      kind: 'refused',
      code: 'REDIS_UNAVAILABLE',
      outcome: 'unavailable',
    });
    assert.deepEqual(guard.require('any', 'Bearer key', undefined), { kind: 'client', name: 'bank.one', role: 'client' });
    await redis.start();
    await until('Redis is back', () => client.status === 'ready');
    assert.equal((await guard.require('any', 'Bearer other', undefined)).kind, 'refused');
    const last = (await waitingEvents(client, journalKeys.events)).at(-1);
    assert.deepEqual([last?.kind, last?.detail], ['authentication.failed', { reason: 'wrong' }]);
  });
});
