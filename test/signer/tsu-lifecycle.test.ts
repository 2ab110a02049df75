import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { homePaths } from '../../config/home.ts';
import { keyScheme } from '../../pki/algorithms.ts';
import { privateKeyUsagePeriod } from '../../pki/tsu-usage.ts';
import { journalKeys, laneKeys } from '../../queue/keys.ts';
import { orderRotation, readTsus, type TsuRecord, tokenName, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { findKey, keyState } from '../../signer/token-keys.ts';
import { mayStamp } from '../../signer/tsu-calendar.ts';
import { waitingEvents } from '../support/clients.ts';
import { type LifecycleWorld, openLifecycleWorld } from '../support/lifecycle-world.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { configOf, temporaryFolder, withoutSofthsm } from '../support/token-home.ts';

const day = 86_400_000;
const start = new Date('2026-11-22T10:00:00Z');

describe('the life of the keys of a token', { skip: withoutSofthsm || redisServerMissing() }, () => {
  const folder = temporaryFolder();
  const paths = homePaths(folder.path);
  let server: TestRedis;
  let redis: Redis;
  let world: LifecycleWorld;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    const config = configOf(folder.path, { redis: { mode: 'url', url: `unix://${server.socket}` } });
    world = await openLifecycleWorld(config, redis, start);
  });
  after(async () => {
    await server.close();
    world.close();
    folder.remove();
  });

  const tsus = async (): Promise<TsuRecord[]> => (await readTsus(redis)).tsus;
  const states = async (): Promise<string[]> => (await tsus()).map(({ keyLabel, state }) => `${keyLabel} ${state}`);
  const kinds = async (): Promise<string[]> =>
    (await waitingEvents(redis, tsuRegisterKeys.journal)).map(({ kind, subject }) =>
      `${kind} ${subject.startsWith('tsu') ? subject : ''}`.trim(),
    );
  const stateInToken = (label: string): string => {
    const session = world.module.openSession(world.label, { readWrite: false });
    try {
      return keyState(session, label);
    } finally {
      session.close();
    }
  };
  const failures = (): unknown[] => world.log.filter(({ level }) => level >= 50).splice(0);

  test('the TSU of the first start comes into the register as what it is', async () => {
    await world.work();
    const [one] = await tsus();
    assert.deepEqual(await states(), ['tsu-ec-p256-1 active']);
    assert.equal(one?.activateAt, start.toISOString());
    assert.equal(one.usableUntil, new Date(start.getTime() + 90 * day).toISOString());
    assert.deepEqual([one.token, one.tokenSerial], ['sigillo-timestamp', world.serial]);
    await world.work();
    assert.deepEqual(await kinds(), ['key.registered tsu-ec-p256-1']);
  });

  test('ahead of time the next key is made, certified, published and scheduled; its certificate says when it is used', async () => {
    world.now = new Date(start.getTime() + 82 * day + 1_000);
    await world.work();
    assert.deepEqual(await states(), ['tsu-ec-p256-1 active', 'tsu-ec-p256-2 certified']);
    const next = (await tsus())[1] as TsuRecord;
    const certificate = new X509Certificate(readFileSync(join(paths.pkiFolder, 'tsu-ec-p256-2.pem')));
    assert.equal(certificate.raw.toString('base64'), next.chain?.[0]);
    assert.deepEqual(privateKeyUsagePeriod(certificate.raw), {
      notBefore: new Date(next.activateAt!),
      notAfter: new Date(next.usableUntil!),
    });
    assert.equal(next.activateAt, new Date(start.getTime() + 89 * day).toISOString());
    assert.equal(certificate.validToDate.getUTCFullYear(), certificate.validFromDate.getUTCFullYear() + 6);
    assert.ok(await redis.hexists(laneKeys('timestamp').chains, certificate.fingerprint256.replaceAll(':', '').toLowerCase()));
    assert.ok(!mayStamp(next, world.now));
    assert.deepEqual((await kinds()).slice(1), ['key.generated tsu-ec-p256-2', 'certificate.issued', 'key.scheduled tsu-ec-p256-2']);
  });

  test('it begins at its instant; the old one stands by, is retired, and its key destroyed when the grace is over', async () => {
    world.now = new Date(start.getTime() + 89 * day);
    await world.work();
    assert.deepEqual(await states(), ['tsu-ec-p256-1 active', 'tsu-ec-p256-2 active']);
    world.now = new Date(start.getTime() + 90 * day + 1);
    const waiting: string[] = [];
    const uncertain = {
      timeIsCertain: () => false,
      onStep: (kind: string, outcome: string) => void (outcome === 'waiting' && waiting.push(kind)),
    };
    await world.work(uncertain);
    assert.deepEqual(await states(), ['tsu-ec-p256-1 active', 'tsu-ec-p256-2 active'], 'the clock may be wrong, and retired is retired');
    await world.work();
    assert.deepEqual(await states(), ['tsu-ec-p256-1 retired', 'tsu-ec-p256-2 active']);
    assert.equal(stateInToken('tsu-ec-p256-1'), 'whole');
    world.now = new Date(start.getTime() + 97 * day + 1_000);
    await world.work(uncertain);
    assert.equal(stateInToken('tsu-ec-p256-1'), 'whole');
    assert.deepEqual(waiting, ['retire', 'destroy']);
    await world.work();
    assert.deepEqual(await states(), ['tsu-ec-p256-1 destroyed', 'tsu-ec-p256-2 active']);
    assert.equal(stateInToken('tsu-ec-p256-1'), 'absent');
    assert.ok(existsSync(join(paths.pkiFolder, 'tsu-ec-p256-1.pem')));
    assert.deepEqual((await kinds()).slice(4), ['key.activated tsu-ec-p256-2', 'key.retired tsu-ec-p256-1', 'key.destroyed tsu-ec-p256-1']);
    assert.deepEqual(failures(), []);
    // Chains are published for ever, also those whose key is gone.
    assert.equal(await redis.hlen(laneKeys('timestamp').chains), 2);
  });

  test('a start makes nothing while one is usable, and finds what the lifecycle made', async () => {
    await world.startAgain();
    assert.ok(!existsSync(join(paths.pkiFolder, 'tsu-ec-p256-3.pem')));
  });

  test('Redis comes back empty: the register is the same again', async () => {
    const was = await tsus();
    await redis.flushall();
    await world.work();
    assert.deepEqual(await tsus(), was);
    assert.equal(await redis.hlen(laneKeys('timestamp').chains), 0, 'published at the next connection of a signer');
  });

  test('Redis comes back empty, and the records are gone too: what may be used is used, and nothing twice', async () => {
    for (const n of [1, 2]) rmSync(join(paths.pkiFolder, `tsu-ec-p256-${n}.json`));
    await redis.flushall();
    await world.work();
    assert.deepEqual(await states(), ['tsu-ec-p256-1 destroyed', 'tsu-ec-p256-2 active']);
  });

  test('an order: a new key at once, by the order and once', async () => {
    await orderRotation(redis, tokenName(world.label, world.serial), world.now, Buffer.from([1]));
    await world.work();
    await world.work();
    assert.deepEqual((await states()).slice(1), ['tsu-ec-p256-2 active', 'tsu-ec-p256-3 active']);
    const [, , third] = await tsus();
    assert.equal(third?.activateAt, new Date(Math.floor(world.now.getTime() / 1_000) * 1_000).toISOString());
  });

  test('two leaders at once, without a lease between them: every step once', async () => {
    await redis.del(tsuRegisterKeys.journal);
    await orderRotation(redis, tokenName(world.label, world.serial), new Date(world.now.getTime() + 1_000), Buffer.from([1]));
    await redis.del(tsuRegisterKeys.journal);
    world.now = new Date(world.now.getTime() + 2_000);
    await Promise.all(Array.from({ length: 4 }, () => world.work({ leased: false })));
    assert.deepEqual(await kinds(), [
      'key.generated tsu-ec-p256-4',
      'certificate.issued',
      'key.scheduled tsu-ec-p256-4',
      'key.activated tsu-ec-p256-4',
    ]);
    const session = world.module.openSession(world.label, { readWrite: false });
    const record = (await tsus()).find(({ keyLabel }) => keyLabel === 'tsu-ec-p256-4');
    const key = findKey(session, 'tsu-ec-p256-4', keyScheme('ec-p256'));
    assert.equal(Buffer.from(key!.spki).toString('base64'), record?.spki);
    session.close();
  });

  test('with the lease one works and the others go away', async () => {
    const worked = await Promise.all(Array.from({ length: 4 }, () => world.work()));
    assert.equal(worked.filter(Boolean).length, 1);
  });

  test('the CA is away at the time of rotation: alarm in time, and at once when it is back', async () => {
    const last = (await tsus()).at(-1) as TsuRecord;
    const end = Date.parse(last.usableUntil!);
    const certify = async (): Promise<never> => {
      throw new Error('the CA is away');
    };
    for (const days of [8, 6, 2.5, 0.5]) {
      world.now = new Date(end - days * day);
      await world.work({ certify });
    }
    assert.equal((await states()).at(-1), 'tsu-ec-p256-5 generated');
    assert.deepEqual(
      (await waitingEvents(redis, tsuRegisterKeys.journal)).flatMap((event) =>
        event.kind === 'key.ending' ? [event.detail.daysLeft] : [],
      ),
      [3, 1],
    );
    await world.work();
    assert.equal((await states()).at(-1), 'tsu-ec-p256-5 active');
    assert.ok(failures().length > 4);
  });

  test('the journal has no room: nothing is done', async () => {
    const pipeline = redis.pipeline();
    for (let i = 0; i <= 20; i += 1) pipeline.xadd(journalKeys.events, '*', 'b', 'x');
    await pipeline.exec();
    const before = await states();
    world.now = new Date(world.now.getTime() + 85 * day);
    const config = { ...world.config, journal: { ...world.config.journal, waitingMax: 20 } };
    assert.equal(await world.work({ config }), false);
    assert.deepEqual(await states(), before);
    await redis.del(journalKeys.events);
  });

  test('operators must agree: nothing is made, activated or destroyed before', async () => {
    const allowed = new Set<string>();
    const asked: string[] = [];
    const approvals = {
      permit: async ({ action, keyLabel }: { action: string; keyLabel: string }) => {
        asked.push(`${action} ${keyLabel}`);
        return allowed.has(action);
      },
      executed: async () => undefined,
      agreed: async ({ action }: { action: string }) => allowed.has(action),
    };
    await world.work({ approvals });
    assert.equal((await states()).at(-1), 'tsu-ec-p256-5 active');
    allowed.add('generate');
    await world.work({ approvals });
    assert.equal((await states()).at(-1), 'tsu-ec-p256-6 certified');
    assert.equal((await tsus()).at(-1)?.activateAt, undefined);
    allowed.add('activate');
    await world.work({ approvals });
    assert.ok((await tsus()).at(-1)?.activateAt);
    const destroyed = async () => (await states()).filter((one) => one.endsWith(' destroyed')).length;
    world.now = new Date(world.now.getTime() + 20 * day);
    const before = await destroyed();
    await world.work({ approvals });
    assert.equal(await destroyed(), before);
    assert.ok((await states()).includes('tsu-ec-p256-5 retired'));
    world.now = new Date(world.now.getTime() + 8 * day);
    await world.work({ approvals });
    assert.equal(await destroyed(), before);
    allowed.add('destroy');
    await world.work({ approvals });
    assert.ok((await destroyed()) > before);
    assert.ok((await states()).includes('tsu-ec-p256-5 destroyed'));
    assert.deepEqual([...new Set(asked.map((one) => one.split(' ')[0]))].sort(), ['activate', 'destroy', 'generate']);
  });
});
