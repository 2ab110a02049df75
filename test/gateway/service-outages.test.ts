/** The gateway as a whole: without room, without Redis, and with the journal behind. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { refusalResponse } from '../../pki/tsp-refusal.ts';
import { journalKeys } from '../../queue/keys.ts';
import { waitingEvents } from '../support/clients.ts';
import { gatewayWorld } from '../support/gateway-world.ts';
import { createGate, keys } from '../support/lane-bench.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { until } from '../support/until.ts';

describe('the gateway when something is missing', { skip: redisServerMissing() }, () => {
  const world = gatewayWorld();
  const { send, stamp, start, startSigner } = world;

  test('no room in flight: 503 at once with a TimeStampResp, and all is well afterwards', async () => {
    await start({ timestamp: { inFlightMax: 4, imprintsMax: 4 } });
    const gate = createGate();
    const signer = await startSigner(gate.passed);
    const taken = Promise.all([stamp(), stamp(), stamp(), stamp()]);
    await until('they are at work', () => signer.lane.busy > 0);
    await until('all are in flight', async () => /"tsp_in_flight".*?"value":4/s.test(JSON.stringify(await world.gateway?.metrics())));
    const started = performance.now();
    const refused = await stamp();
    assert.equal(refused.status, 503);
    assert.equal(refused.body.toString('hex'), Buffer.from(refusalResponse('systemFailure')).toString('hex'));
    assert.ok(performance.now() - started < 500);
    gate.open();
    assert.deepEqual(
      (await taken).map(({ status }) => status),
      [200, 200, 200, 200],
    );
    assert.equal((await stamp()).status, 200);
  });

  test('without Redis: health says so, stamps are refused at once, and it recovers by itself', async () => {
    await start();
    await startSigner();
    assert.equal((await stamp()).status, 200);
    await world.redis.stop('SIGKILL');
    const refused = await stamp();
    assert.equal(refused.status, 503);
    assert.deepEqual(
      (await world.gateway?.health())?.map(({ ok }) => ok),
      [false, false, true],
    );
    await world.redis.start();
    const started = performance.now();
    await until('stamps are granted again', async () => (await stamp()).status === 200);
    assert.ok(performance.now() - started < 5_000);
    assert.deepEqual(
      (await world.gateway?.health())?.map(({ ok }) => ok),
      [true, true, true],
    );
  });

  test('while Redis is away nobody is told that a credential is wrong: 503; and 401 when it is back and has the event', async () => {
    await start({ timestamp: { access: 'clients' } });
    await world.bench.look.del(journalKeys.events);
    await world.redis.stop('SIGKILL');
    const refused = await stamp();
    assert.equal(refused.status, 503);
    assert.deepEqual(Buffer.from(refused.body), Buffer.from(refusalResponse('systemFailure')));
    await world.redis.start();
    await until('credentials are refused again', async () => (await stamp()).status === 401);
    const events = await waitingEvents(world.bench.look, journalKeys.events);
    assert.deepEqual(
      events.map(({ kind }) => kind).filter((kind) => kind === 'authentication.failed'),
      ['authentication.failed'],
    );
    assert.match(JSON.stringify(await world.gateway?.metrics()), /"journal_events_lost_total".*?"value":0/s);
  });

  test('the journal too far behind: new stamps are refused with 503, health says why, and it resumes', async () => {
    await world.bench.look.del(keys.journal);
    await start();
    await startSigner();
    assert.equal((await stamp()).status, 200);
    // The default bound is 20,000 entries.
    for (let i = 0; i < 21; i += 1) {
      const pipeline = world.bench.look.pipeline();
      for (let k = 0; k < 1_000; k += 1) pipeline.xadd(keys.journal, '*', 'b', 'x');
      await pipeline.exec();
    }
    await until('stamps are refused', async () => (await stamp()).status === 503);
    const many = await send(
      '/v1/timestamps',
      { 'Content-Type': 'application/json' },
      JSON.stringify({ hashes: [{ algorithm: 'sha256', hash: Buffer.alloc(32).toString('base64') }] }),
    );
    assert.equal(many.status, 503);
    assert.match(many.body.toString(), /JOURNAL_BACKLOG/);
    const item = (await world.gateway?.health())?.find(({ name }) => name === 'journal backlog');
    assert.equal(item?.ok, false);
    await world.bench.look.del(keys.journal);
    await until('stamps are granted again', async () => (await stamp()).status === 200);
    assert.equal((await world.gateway?.health())?.find(({ name }) => name === 'journal backlog')?.ok, true);
  });
});
