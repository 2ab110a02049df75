import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { firstStart } from '../../bin/prepare-home.ts';
import { homePaths } from '../../config/home.ts';
import type { Config } from '../../config/schema.ts';
import { laneKeys } from '../../queue/keys.ts';
import { readKeyPlans, readTsus, type TsuRecord, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { openHsm } from '../../signer/hsm-modules.ts';
import { resolveHsm, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { keyState } from '../../signer/token-keys.ts';
import { mayStamp } from '../../signer/tsu-calendar.ts';
import { waitingEvents } from '../support/clients.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { configOf, type Finished, finished, temporaryFolder, withoutSofthsm } from '../support/token-home.ts';

const day = 86_400_000;
const start = Date.parse('2026-11-22T10:00:00Z');
const every = process.env['TEST_LONG'] === undefined ? 5 : 1;
/** A short life: some hundred of them fit into that of the timestamp CA. */
const tsu = { usageMsMax: day, leadDays: 0.1, switchDays: 0.01, graceDays: 1 };
/** More steps than a look has; the test ends where the count does. */
const stepsMax = 200;

describe('a process that is killed between any two steps', { skip: withoutSofthsm || redisServerMissing() }, () => {
  const folder = temporaryFolder();
  const paths = homePaths(folder.path);
  let server: TestRedis;
  let redis: Redis;
  let config: Config;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    config = configOf(folder.path, { tsu });
    await firstStart(config, () => undefined, { now: () => new Date(start) });
  });
  after(async () => {
    await server.close();
    folder.remove();
  });

  const look = (now: Date, kill?: { at: number; when: 'before' | 'after' }): Promise<Finished> => {
    const own = Object.entries(process.env).filter(([name]) => !name.startsWith('SIGILLO_') && name !== 'NODE_TEST_CONTEXT');
    const preload = kill === undefined ? [] : ['--import', join(import.meta.dirname, '../support/kill-at-step.mjs')];
    const env = {
      ...Object.fromEntries(own),
      SIGILLO_HOME: folder.path,
      LOOK_AT: now.toISOString(),
      LOOK_REDIS: server.socket,
      SIGILLO__TSU: JSON.stringify(tsu),
    };
    const killed = kill === undefined ? {} : { KILL_AT: String(kill.at), KILL_WHEN: kill.when };
    const program = join(import.meta.dirname, 'fixtures/look-once.ts');
    return finished(spawn(process.execPath, [...preload, program], { env: { ...env, ...killed }, stdio: ['ignore', 'pipe', 'pipe'] }));
  };

  /** What the token holds of these keys. */
  const inToken = (labels: readonly string[]): Map<string, string> => {
    const hsm = resolveHsm(config);
    const module = openHsm(hsm);
    try {
      const slot = slotForPurpose(hsm, 'timestamp');
      module.login(slot);
      const session = module.openSession(slot.label, { readWrite: false });
      return new Map(labels.map((label) => [label, keyState(session, label)]));
    } finally {
      module.close();
    }
  };

  const assertWhole = async (now: Date, when: string): Promise<void> => {
    const { tsus } = await readTsus(redis);
    const told = tsus.map(({ keyLabel, state, activateAt, usableUntil }) => `${keyLabel} ${state} ${activateAt} ${usableUntil}`).join('; ');
    assert.equal(tsus.filter((record) => mayStamp(record, now)).length, 1, `${when}, at ${now.toISOString()}: ${told}`);
    assert.equal((await readKeyPlans(redis)).size, 0, when);
    const states = inToken(tsus.map(({ keyLabel }) => keyLabel));
    const events = (await waitingEvents(redis, tsuRegisterKeys.journal)).map(({ kind, subject }) => `${kind} ${subject}`);
    for (const { keyLabel, state, activateAt, chain } of tsus) {
      assert.equal(states.get(keyLabel), state === 'destroyed' ? 'absent' : 'whole', `${when}: ${keyLabel} is ${state}`);
      assert.ok(activateAt !== undefined && chain !== undefined && existsSync(join(paths.pkiFolder, `${keyLabel}.pem`)), when);
      const once = (kind: string): number => events.filter((event) => event === `${kind} ${keyLabel}`).length;
      assert.equal(once('key.generated') + once('key.registered'), 1, `${when}: ${keyLabel}`);
      for (const kind of ['key.scheduled', 'key.activated', 'key.retired', 'key.destroyed'])
        assert.ok(once(kind) <= 1, `${when}: ${kind} ${keyLabel}`);
    }
    // No key has been made for nothing: numbers without a gap.
    assert.deepEqual(
      tsus.map(({ keyLabel }: TsuRecord) => Number(keyLabel.split('-').at(-1))).sort((a, b) => a - b),
      tsus.map((_, i) => i + 1),
      when,
    );
    assert.equal(await redis.hlen(laneKeys('timestamp').chains), tsus.length, `${when}: every chain is published`);
  };

  test('the next look finishes what was begun, once', async (context) => {
    let now = new Date(start);
    assert.equal((await look(now)).code, 0);
    let killed = 0;
    for (let at = 1; at <= stepsMax; at += every) {
      // Whole lives pass: one is retired, another one made and begun, the one before destroyed.
      now = new Date(now.getTime() + 3 * day);
      const when = at % 2 === 0 ? 'before' : 'after';
      const { signal, code, stderr } = await look(now, { at, when });
      if (signal === null) {
        assert.equal(code, 0, stderr);
        break;
      }
      killed += 1;
      const next = await look(now);
      assert.equal(next.code, 0, next.stderr);
      assert.equal(next.stdout + next.stderr, '', `killed ${when} step ${at}`);
      await assertWhole(now, `killed ${when} step ${at}`);
    }
    context.diagnostic(`killed ${killed} times`);
    assert.ok(killed >= 8, `killed only ${killed} times`);
  });
});
