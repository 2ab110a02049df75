/** When the process of the keys, and a signer, end for a new one that logs in again. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../../config/errors.ts';
import { checkpointText } from '../../observability/journal/checkpoint.ts';
import { awaitPin, openSlots } from '../../signer/calendar-slots.ts';
import { CheckpointKey, journalKeyLabel } from '../../signer/checkpoint-key.ts';
import type { Hsm, HsmSlot } from '../../signer/pkcs11-module.ts';
import { embeddedModule } from '../../signer/pkcs11-module.ts';
import { TokenFailures } from '../../signer/token-failures.ts';
import { generateKeyPair } from '../../signer/token-keys.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import { scheme, tokenWorld } from '../support/faulty-module/token-world.ts';
import { lifecycleEnvironment, startLifecycleProcess } from '../support/lifecycle-process.ts';
import { redisServerMissing, startTestRedis } from '../support/redis-server.ts';
import { configOf, temporaryFolder } from '../support/token-home.ts';

const device = new SigilloError('HSM_DEVICE', 'test');

test('a token that works does not hide one that fails', () => {
  const failures = new TokenFailures();
  for (let i = 1; i < 6; i += 1) {
    assert.equal(failures.failed('bad', device), false);
    failures.worked('good');
  }
  assert.ok(failures.ok);
  assert.equal(failures.failed('bad', device), true);
  assert.ok(!failures.ok);
});

test('what another process would not do better is not counted; a lost login is enough at once', () => {
  const failures = new TokenFailures();
  for (let i = 0; i < 20; i += 1) assert.equal(failures.failed('a', new SigilloError('HSM_KEY_MISSING', 'test')), false);
  assert.equal(failures.failed('a', new Error('the CA is away')), false);
  assert.equal(failures.failed('a', new SigilloError('HSM_LOGIN_LOST', 'test')), true);
  assert.ok(!failures.ok);
});

test('a refused PIN in one slot, a device that fails in another: the second is tried again', () => {
  const slot = (label: string): HsmSlot => ({ label, purposes: ['timestamp'], pinFile: '', modulePath: '', environment: {} });
  const hsm: Hsm = { slots: ['pin', 'device', 'good'].map(slot), refusedPinFolder: '' };
  const login = ({ label }: HsmSlot): void => {
    if (label === 'pin') throw new SigilloError('HSM_PIN_REFUSED', label);
    if (label === 'device') throw new SigilloError('HSM_DEVICE', label);
  };
  const log = { error: () => undefined };
  const labels = (slots: readonly HsmSlot[]): string[] => slots.map(({ label }) => label);
  const { slots, refused, failure } = openSlots(hsm, { login }, log as never);
  assert.deepEqual([labels(slots), labels(refused), failure?.code], [['good'], ['pin'], 'HSM_DEVICE']);
  assert.throws(() => openSlots({ ...hsm, slots: hsm.slots.slice(0, 2) }, { login }, log as never), { code: 'HSM_DEVICE' });
});

test('a slot is looked after from when its PIN is taken; a device that fails then is for another process', async (t) => {
  t.mock.timers.enable({ apis: ['setInterval'] });
  const slot: HsmSlot = { label: 'pin', purposes: ['timestamp'], pinFile: '', modulePath: '', environment: {} };
  const told: string[] = [];
  let error: SigilloError | undefined = new SigilloError('HSM_PIN_REFUSED', 'test');
  let asked = 0;
  const login = (): void => {
    asked += 1;
    if (error !== undefined) throw error;
  };
  const look = () => awaitPin(slot, { login }, { open: ({ label }) => told.push(label), failed: ({ code }) => told.push(code) }, 1_000);
  const [first, second, third] = [look(), look(), look()];
  t.mock.timers.tick(2_000);
  assert.deepEqual([asked, told], [6, []]);
  third();
  error = undefined;
  t.mock.timers.tick(1_000);
  assert.deepEqual([asked, told], [8, ['pin', 'pin']]);
  t.mock.timers.tick(5_000);
  assert.equal(asked, 8, 'it is open');
  error = new SigilloError('HSM_DEVICE', 'test');
  look();
  t.mock.timers.tick(5_000);
  assert.deepEqual([asked, told], [9, ['pin', 'pin', 'HSM_DEVICE']]);
  for (const end of [first, second]) end();
});

describe("the journal's key, when the login is lost", { skip: withoutFaultyModule }, () => {
  const world = tokenWorld();
  for (const how of ['killed', 'logged out'] as const) {
    test(`it is told, so that a new process logs in: ${how}`, async (t) => {
      const { token, module } = world.open(t);
      const slot: HsmSlot = { ...world.slot, purposes: ['journal'] };
      const making = module.openSession(slot.label, { readWrite: true });
      if (how === 'killed') generateKeyPair(making, { label: journalKeyLabel, scheme });
      const lost: string[] = [];
      const origin = 'example.org/journal';
      const onLoginLost = ({ code }: SigilloError): void => void lost.push(code);
      const key = new CheckpointKey({ module, slot, origin, onFailed: () => undefined, onLoginLost, askAgainMs: 0, servedMsMin: 50 });
      t.after(() => key.close());
      const sign = () => key.sign(checkpointText({ origin, size: 1, root: new Uint8Array(32) }));
      sign();
      await delay(60);
      if (how === 'killed') token.killSessions({ login: 'lost' });
      else token.logOut();
      for (let i = 0; i < 2; i += 1) assert.throws(sign);
      assert.ok(lost.length > 0, 'told');
      assert.ok(lost.every((code) => code === 'HSM_LOGIN_LOST' || code === 'HSM_DEVICE'));
    });
  }
});

test('the process of the keys ends with 75 when a login is lost', { skip: withoutFaultyModule || redisServerMissing() }, async (t) => {
  const [home, control] = [temporaryFolder(), temporaryFolder()];
  const server = await startTestRedis();
  const faulty = new FaultyModule(embeddedModule(configOf(home.path)), control.path);
  t.after(async () => {
    await server.close();
    faulty.close();
    home.remove();
    control.remove();
  });
  const token = faulty.token('sigillo-timestamp');
  const more = { ...faulty.environment, SIGILLO__HSM: `{ mode: embedded, module: "${faulty.modulePath}" }` };
  const process = await startLifecycleProcess(await lifecycleEnvironment(home.path, server.socket, more));
  t.after(() => process.stop('SIGKILL'));
  const ended = once(process.child, 'exit', { signal: AbortSignal.timeout(30_000) });
  token.killSessions({ login: 'lost' });
  assert.deepEqual(await ended, [75, null], process.output());
  assert.match(process.output(), /HSM_LOGIN_LOST/);
});
