import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { journalSources } from '../../observability/journal/sources.ts';
import { rotationOrderEvent } from '../../observability/journal/tsu-events.ts';
import {
  addTsu,
  changeTsu,
  findTsu,
  orderRotation,
  planKey,
  readKeyPlans,
  readRotationOrders,
  readTsus,
  readTsusVersion,
  type TsuChange,
  type TsuRecord,
  tsuRegisterKeys,
  tsusMax,
} from '../../queue/tsu-register.ts';
import { waitingEvents } from '../support/clients.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { generatedRecord, tellTsu } from '../support/tsu-records.ts';

const retired = (record: TsuRecord): TsuChange => ({
  kind: 'retired',
  record: { ...record, state: 'retired', retiredAt: '2026-11-23T10:00:00.000Z' },
});

describe('register of TSUs', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let redis: Redis;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
  });
  after(() => server.close());
  beforeEach(() => redis.flushall());

  const events = async () => (await waitingEvents(redis, tsuRegisterKeys.journal)).map(({ kind, subject }) => [kind, subject]);

  test('a record, its version and its event come together', async () => {
    const record = generatedRecord();
    assert.equal(await addTsu(redis, { kind: 'generated', record }, tellTsu), true);
    assert.deepEqual(await readTsus(redis), { version: '1', tsus: [record] });
    await changeTsu(redis, record.id, (now) => [retired(now)], tellTsu);
    assert.equal(await readTsusVersion(redis), '2');
    assert.equal((await readTsus(redis)).tsus[0]?.state, 'retired');
    assert.deepEqual(await events(), [
      ['key.generated', 'tsu-ec-p256-1'],
      ['key.retired', 'tsu-ec-p256-1'],
    ]);
    assert.ok(journalSources.some(({ key }) => key === tsuRegisterKeys.journal));
  });

  test('of many that add the same key, one does', async () => {
    const record = generatedRecord();
    const added = await Promise.all(Array.from({ length: 20 }, () => addTsu(redis, { kind: 'generated', record }, tellTsu)));
    assert.equal(added.filter(Boolean).length, 1);
    assert.equal((await events()).length, 1);
  });

  test('of many that do the same step, one does; the others find it done', async () => {
    const record = generatedRecord();
    await addTsu(redis, { kind: 'generated', record }, tellTsu);
    const once = (now: TsuRecord): TsuChange[] => (now.state === 'generated' ? [retired(now)] : []);
    await Promise.all(Array.from({ length: 20 }, () => changeTsu(redis, record.id, once, tellTsu)));
    assert.equal((await events()).length, 2);
    assert.equal(await readTsusVersion(redis), '2');
  });

  test('different changes at once are all applied', async () => {
    const record = generatedRecord();
    await addTsu(redis, { kind: 'generated', record }, tellTsu);
    await Promise.all([
      changeTsu(
        redis,
        record.id,
        (now) => [{ kind: 'reminded', daysLeft: 7, record: { ...now, usableUntil: '2027-01-01T00:00:00Z', remindedDays: 7 } }],
        tellTsu,
      ),
      changeTsu(
        redis,
        record.id,
        (now) => [{ kind: 'compromised', reason: 'lost', record: { ...now, compromised: { at: '2026-12-01T00:00:00Z', reason: 'lost' } } }],
        tellTsu,
      ),
    ]);
    const [now] = (await readTsus(redis)).tsus;
    assert.equal(now?.remindedDays, 7);
    assert.equal(now?.compromised?.reason, 'lost');
  });

  test('what is no record is not stored, and what is none is named', async () => {
    const bad = { ...generatedRecord(), activateAt: 'tomorrow' };
    await assert.rejects(addTsu(redis, { kind: 'generated', record: bad }, tellTsu));
    assert.equal(await redis.exists(tsuRegisterKeys.tsus), 0);
    await redis.hset(tsuRegisterKeys.tsus, 'broken', '{"version":2}');
    await assert.rejects(readTsus(redis), { code: 'INTERNAL', message: /broken/ });
    await assert.rejects(
      changeTsu(redis, 'f'.repeat(64), () => [], tellTsu),
      { code: 'TSU_UNKNOWN' },
    );
  });

  test('the register is bounded, and a TSU in it can still be changed', async () => {
    const record = generatedRecord();
    await addTsu(redis, { kind: 'generated', record }, tellTsu);
    const pipeline = redis.pipeline();
    for (let i = 1; i < tsusMax; i += 1) pipeline.hset(tsuRegisterKeys.tsus, `filler-${i}`, '{}');
    await pipeline.exec();
    await assert.rejects(addTsu(redis, { kind: 'generated', record: generatedRecord() }, tellTsu), { code: 'TSU_LIMIT' });
    await changeTsu(redis, record.id, (now) => [retired(now)], tellTsu);
  });

  test('one plan for a token at a time; the record carries it out, and who looked before it makes no other', async () => {
    const wanted = (n: number) => ({ keyLabel: `tsu-ec-p256-${n}`, algorithm: 'ec-p256', at: '2026-11-22T10:00:00.000Z' }) as const;
    const plans = await Promise.all(Array.from({ length: 10 }, (_, i) => planKey(redis, 't', wanted(i + 1), '0')));
    assert.equal(new Set(plans.map((plan) => plan?.keyLabel)).size, 1);
    assert.deepEqual((await readKeyPlans(redis)).get('t'), plans[0]);
    await addTsu(redis, { kind: 'generated', record: generatedRecord({ token: 't' }) }, tellTsu, { plan: 't' });
    assert.equal((await readKeyPlans(redis)).size, 0);
    assert.equal(await planKey(redis, 't', wanted(2), '0'), undefined);
    assert.equal((await planKey(redis, 't', wanted(2), '1'))?.keyLabel, 'tsu-ec-p256-2');
  });

  test('an order of rotation is told with it, and seen as a new version', async () => {
    const at = new Date('2026-11-22T10:00:00.000Z');
    await orderRotation(redis, 't', at, rotationOrderEvent('t', 'ec-p256', { role: 'operator', actor: 'ms-rossi' }));
    assert.deepEqual([...(await readRotationOrders(redis))], [['t', at.toISOString()]]);
    assert.equal(await readTsusVersion(redis), '1');
    assert.deepEqual(await events(), [['key.rotationOrdered', 't']]);
  });

  test('an operator names a TSU by key or by id, as long as it is one', () => {
    const [a, b, c] = [generatedRecord(), generatedRecord({ keyLabel: 'tsu-ec-p256-2' }), generatedRecord({ token: 'other' })];
    assert.equal(findTsu([a, b], 'tsu-ec-p256-2'), b);
    assert.equal(findTsu([a, b, c], a.id.slice(0, 12)), a);
    for (const name of ['tsu-ec-p256-1', 'nothing', '', 'abc']) assert.throws(() => findTsu([a, b, c], name), { code: 'TSU_UNKNOWN' });
  });
});
