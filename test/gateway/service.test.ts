/** The gateway as a whole: what it serves, and what it tells the journal. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { oid } from '../../pki/der.ts';
import { readTimeStampResp } from '../../pki/tsp-read.ts';
import { journalKeys } from '../../queue/keys.ts';
import { decodeStampRequests } from '../../queue/stamp-messages.ts';
import { addClient, waitingEvents } from '../support/clients.ts';
import { gatewayWorld, query } from '../support/gateway-world.ts';
import { keys } from '../support/lane-bench.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { makeRequest } from '../support/tsp-requests.ts';
import { until } from '../support/until.ts';

describe('the gateway', { skip: redisServerMissing() }, () => {
  const world = gatewayWorld();
  const { send, stamp, start, startSigner } = world;

  test('a stamp, a batch of stamps, the repository and nothing else', async () => {
    await start();
    await startSigner();
    const answer = await stamp();
    assert.equal(answer.status, 200);
    assert.equal(readTimeStampResp(answer.body).status, 'granted');
    const hash = Buffer.alloc(32, 1).toString('base64');
    const many = await send(
      '/v1/timestamps',
      { 'Content-Type': 'application/json' },
      JSON.stringify({ hashes: [{ algorithm: 'sha256', hash }] }),
    );
    assert.equal(many.status, 200);
    const chain = await fetch(`http://127.0.0.1:${world.port}/repository/tsa-chain.pem`);
    assert.equal((await chain.text()).split('BEGIN').length, 3);
    for (const path of ['/', '/ts', '/tsa/', '/tsax', '/v1', '/v1/timestamps/', '/healthz', '/metrics']) {
      const other = await fetch(`http://127.0.0.1:${world.port}${path}`);
      assert.equal(other.status, 404, path);
      assert.match(await other.text(), /^NOT_FOUND: [^\n]+\n$/, path);
    }
  });

  test('a target in absolute form, as RFC 9112, 3.2.2 obliges a server to take it', async () => {
    await start();
    await startSigner();
    assert.equal((await send(`http://127.0.0.1:${world.port}/tsa`, query, makeRequest())).status, 200);
  });

  test('a chain that does not lead to a configured root: no token with it, and it is said', async () => {
    await start();
    await startSigner();
    await world.bench.look.del(keys.certificates);
    assert.equal((await stamp()).status, 503);
    assert.equal((await send('/tsa', query, makeRequest())).status, 200);
  });

  test('it tells the journal that it starts and stops, and whom it did not let in', async () => {
    await start({ timestamp: { access: 'clients' } });
    const { secret } = await addClient(world.bench.look, 'ms-rossi', 'auditor');
    const authorization = (credential: string) => ({ Authorization: `Basic ${Buffer.from(credential).toString('base64')}` });
    await until('the auditor is known', async () => {
      const { status } = await send('/tsa', { ...query, ...authorization(`ms-rossi:${secret}`) }, makeRequest());
      return status === 403;
    });
    assert.equal((await send('/tsa', { ...query, ...authorization('bank-1:guess') }, makeRequest())).status, 401);
    assert.equal((await send('/v1/timestamps', { 'Content-Type': 'application/json' }, '{}')).status, 401);
    assert.equal((await send('/tsa', { ...query, ...authorization(`ms-rossi:${secret}`) }, makeRequest())).status, 403);
    const stopping = world.stop('SIGTERM');
    await stopping;
    const all = await waitingEvents(world.bench.look, journalKeys.events);
    const events = all.slice(all.findIndex(({ subject }) => subject === 'bank-1'));
    assert.deepEqual(
      events.map(({ kind, actor, subject, detail }) => [kind, actor, subject, 'reason' in detail ? detail.reason : undefined]),
      [
        ['authentication.failed', 'gateway', 'bank-1', 'unknown'],
        ['authentication.failed', 'gateway', '', 'missing'],
        ['authentication.failed', 'gateway', 'ms-rossi', 'role'],
        ['service.stopped', 'gateway', 'gateway', 'SIGTERM'],
        ['service.logStopped', 'gateway', 'gateway', 'SIGTERM'],
      ],
    );
    for (const event of events.slice(0, 3)) assert.match(JSON.stringify(event.detail), /"address":"(::ffff:)?127\.0\.0\.1"/);
  });

  test('its start is an event with release and configuration', async () => {
    await world.bench.look.del(journalKeys.events);
    await start();
    await until('it is told', async () => (await waitingEvents(world.bench.look, journalKeys.events)).length >= 2);
    const [started] = await waitingEvents(world.bench.look, journalKeys.events);
    assert.equal(started?.kind, 'service.started');
    assert.deepEqual([started?.subject, started?.actor], ['gateway', 'gateway']);
  });

  test('the archive and the proofs are there; without a journal they say so', async () => {
    await start();
    const at = (path: string): Promise<Response> => fetch(`http://127.0.0.1:${world.port}${path}`);
    for (const [path, status, code] of [
      [`/v1/timestamps/${'41'.repeat(20)}`, 503, 'JOURNAL_STORE_UNAVAILABLE'],
      ['/v1/timestamps/xyz', 400, 'REQUEST_INVALID'],
      ['/journal/checkpoint', 503, 'JOURNAL_UNCHECKPOINTED'],
      ['/journal/proof/inclusion?sequence=0', 503, 'JOURNAL_UNCHECKPOINTED'],
    ] as const) {
      const response = await at(path);
      assert.equal(response.status, status, path);
      assert.equal(((await response.json()) as { error: string }).error, code, path);
    }
  });

  test('the policy of the token is the configured one', async () => {
    const policy = '1.3.6.1.4.1.32473.9';
    await start({ timestamp: { policies: [policy] } });
    let seen = '';
    await world.bench.responder({
      work: async (entry) => {
        seen = decodeStampRequests(entry.payload)[0]?.policy.toString('hex') ?? '';
        throw new Error('scripted');
      },
    });
    await stamp();
    assert.equal(seen, Buffer.from(oid(policy)).toString('hex'));
  });
});
