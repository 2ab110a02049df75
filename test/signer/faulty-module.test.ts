import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, type TestContext, test } from 'node:test';
import pkcs11 from 'pkcs11js';
import type { SigilloError } from '../../config/errors.ts';
import { readSecretFile } from '../../config/secrets.ts';
import { keyScheme } from '../../pki/algorithms.ts';
import { ensureEmbeddedTokens } from '../../signer/embedded-token.ts';
import { type KeySession, openKeySession } from '../../signer/key-session.ts';
import { classifyPkcs11Error } from '../../signer/pkcs11-errors.ts';
import { type Hsm, type HsmModule, type HsmSlot, openModule, resolveHsm, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { findKey, generateKeyPair, keyState, selfTest } from '../../signer/token-keys.ts';
import { buildFaultyModule, withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import type { FaultyToken } from '../support/faulty-module/faulty-token.ts';
import type { Order, Report, TokenUse } from '../support/faulty-module/fixtures/token-user.ts';
import { configOf, temporaryFolder } from '../support/token-home.ts';
import { until } from '../support/until.ts';

const skip = withoutFaultyModule;
const home = temporaryFolder();
const config = configOf(home.path);
const scheme = keyScheme('ec-p256');
const keyLabel = 'signing';
const hash = Buffer.alloc(32, 7);
/** CKF_TOKEN_PRESENT, which the binding does not name. */
const tokenPresent = 1;
const ecdsa = { mechanism: pkcs11.CKM_ECDSA };
let hsm: Hsm;
let slot: HsmSlot;
let neighbour: HsmSlot;

before(() => {
  if (skip !== false) return;
  ensureEmbeddedTokens(config);
  hsm = resolveHsm(config);
  slot = slotForPurpose(hsm, 'timestamp');
  neighbour = slotForPurpose(hsm, 'journal');
  const module = openModule(slot);
  for (const each of [slot, neighbour]) {
    module.login(each);
    generateKeyPair(module.openSession(each.label, { readWrite: true }), { label: keyLabel, scheme });
  }
  module.close();
});
after(home.remove);

/** A faulty module with a control file of its own, for the time of the test; `users` are closed when nothing hangs any more. */
const script = (t: TestContext, users: { close: () => void }[] = []): FaultyModule => {
  const folder = temporaryFolder();
  const faulty = new FaultyModule(slot, folder.path);
  t.after(() => {
    faulty.reset();
    for (const user of users) user.close();
    faulty.close();
    folder.remove();
  });
  return faulty;
};

interface World {
  readonly faulty: FaultyModule;
  readonly token: FaultyToken;
  readonly module: HsmModule;
  readonly lib: pkcs11.PKCS11;
  /** A slot by its handle, and a session with its key, as pkcs11js has them. */
  readonly slotHandle: Buffer;
  readonly open: (label?: string) => { session: Buffer; key: Buffer };
  readonly keySession: () => KeySession;
}

/** The module opened in this process, and logged in. */
const world = (t: TestContext): World => {
  const users: HsmModule[] = [];
  const faulty = script(t, users);
  const token = faulty.token(slot.label);
  const module = openModule(faulty);
  const { lib } = module;
  users.push(module);
  module.login(slot);
  const handleOf = (label: string): Buffer => module.findSlot(label).handle;
  const open = (label = slot.label): { session: Buffer; key: Buffer } => {
    const session = lib.C_OpenSession(handleOf(label), pkcs11.CKF_SERIAL_SESSION);
    lib.C_FindObjectsInit(session, [
      { type: pkcs11.CKA_CLASS, value: pkcs11.CKO_PRIVATE_KEY },
      { type: pkcs11.CKA_LABEL, value: keyLabel },
    ]);
    const [key] = lib.C_FindObjects(session, 1);
    lib.C_FindObjectsFinal(session);
    return { session, key: key! };
  };
  const keySession = (): KeySession =>
    openKeySession({ modulePath: faulty.modulePath, slot: handleOf(slot.label), keyLabel, purpose: 'timestamp', scheme, digest: 'sha256' });
  return { faulty, token, module, lib, slotHandle: handleOf(slot.label), open, keySession };
};

const sign = (lib: pkcs11.PKCS11, { session, key }: { session: Buffer; key: Buffer }): Buffer => {
  lib.C_SignInit(session, ecdsa, key);
  return lib.C_Sign(session, hash, Buffer.alloc(64));
};
const ckr = (name: `CKR_${string}`) => ({ code: (pkcs11 as unknown as Record<string, number>)[name]! });
const sigillo =
  (code: string, message = /./) =>
  (error: SigilloError) =>
    error.code === code && message.test(error.message);

/** Another process on the token of `slot`. */
class TokenUser {
  readonly child: ChildProcess;
  readonly #reports: Report[] = [];

  private constructor(child: ChildProcess) {
    this.child = child;
    child.on('message', (report: Report) => this.#reports.push(report));
  }

  static async start(t: TestContext, faulty: FaultyModule, sessions: number): Promise<TokenUser> {
    const { modulePath, environment } = faulty;
    const use: TokenUse = { modulePath, environment, slot, keyLabel, sessions };
    const file = join(import.meta.dirname, '../support/faulty-module/fixtures/token-user.ts');
    const child = fork(file, [JSON.stringify(use)], { env: { ...process.env, UV_THREADPOOL_SIZE: String(Math.max(4, sessions)) } });
    const user = new TokenUser(child);
    t.after(() => user.kill());
    await user.next('ready');
    return user;
  }

  order(order: Order): void {
    this.child.send(order);
  }

  async next<K extends Report['kind']>(kind: K): Promise<Extract<Report, { kind: K }>> {
    const at = (): number => this.#reports.findIndex((report) => report.kind === kind);
    await until(`the other process reports ${kind}`, () => at() >= 0 || this.child.exitCode !== null, 20_000);
    assert.equal(this.child.exitCode, null, 'the other process has ended');
    return this.#reports.splice(at(), 1)[0] as Extract<Report, { kind: K }>;
  }

  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, 'exit');
    this.child.kill('SIGKILL');
    await ended;
  }
}

test('it is compiled once, however many ask for it', { skip }, () => {
  assert.equal(buildFaultyModule(), buildFaultyModule());
});

test('without rules it is the real module, and counts', { skip }, (t) => {
  const { faulty, token, module, lib, open, keySession } = world(t);
  const session = module.openSession(slot.label, { readWrite: true });
  selfTest(findKey(session, keyLabel, scheme)!);
  faulty.reset();
  const one = keySession();
  one.sign(hash);
  one.close();
  sign(lib, open());
  const { counters } = token;
  assert.deepEqual([counters.signCalls, counters.signatures], [2, 2]);
  assert.deepEqual([counters.sessions, counters.sessionsMost], [3, 3]); // the module's login session is one of them
  assert.deepEqual([counters.signing, counters.signingMost, counters.hanging], [0, 1, 0]);
  assert.ok(counters.signNanoseconds > 0);
  assert.deepEqual([faulty.initializeCalls, faulty.finalizeCalls, faulty.processes], [0, 0, [process.pid]]);
});

test('logins, refused logins, and the start and end of the module are counted', { skip }, (t) => {
  const faulty = script(t);
  const token = faulty.token(slot.label);
  const first = openModule(faulty);
  assert.deepEqual(faulty.processes, [process.pid]);
  const pinFile = join(home.path, 'wrong.pin');
  writeFileSync(pinFile, '12345678\n', { mode: 0o600 });
  assert.throws(() => first.login({ ...slot, pinFile }), sigillo('HSM_PIN_REFUSED'));
  first.close();
  assert.deepEqual(faulty.processes, []);
  const second = openModule(faulty);
  second.login(slot);
  const session = second.openSession(slot.label, { readWrite: false });
  assert.throws(() => session.login('any'), ckr('CKR_USER_ALREADY_LOGGED_IN'));
  second.close();
  assert.deepEqual([token.counters.loginCalls, token.counters.loginsRefused, token.counters.sessions], [3, 1, 0]);
  assert.deepEqual([faulty.initializeCalls, faulty.finalizeCalls], [2, 2]);
});

test('a function fails with the code it is given: so many times, each n-th time, or until it is cleared', { skip }, (t) => {
  const { token, lib, open } = world(t);
  const lane = open();
  const outcomes = (calls: number): string =>
    Array.from({ length: calls }, () => {
      try {
        sign(lib, lane);
        return '.';
      } catch (error) {
        return classifyPkcs11Error(error) === 'device' ? 'x' : '?';
      }
    }).join('');
  const twice = token.fail('C_Sign', pkcs11.CKR_DEVICE_ERROR, { times: 2 });
  assert.equal(outcomes(5), 'xx...');
  assert.deepEqual([twice.calls, twice.struck], [5, 2]);
  twice.clear();
  const third = token.fail('C_SignInit', pkcs11.CKR_DEVICE_MEMORY, { times: 2, every: 3 });
  assert.equal(outcomes(10), '..x..x....');
  assert.deepEqual([third.calls, third.struck], [10, 2]);
  third.clear();
  third.clear();
  const always = token.fail('C_Sign', pkcs11.CKR_GENERAL_ERROR);
  assert.equal(outcomes(4), 'xxxx');
  assert.deepEqual([always.calls, always.struck, third.calls], [4, 4, 0]);
  always.clear();
  assert.equal(outcomes(2), '..');
});

test('any function can fail, and the token never hears of the call', { skip }, (t) => {
  const { faulty, token, module, lib, open, slotHandle } = world(t);
  const session = module.openSession(slot.label, { readWrite: true });
  const failing = (name: Parameters<FaultyToken['fail']>[0], code: `CKR_${string}`, call: () => unknown): void => {
    const rule = token.fail(name, ckr(code).code, { times: 1 });
    assert.throws(call, ckr(code), name);
    assert.equal(rule.struck, 1);
    rule.clear();
  };
  failing('C_GetTokenInfo', 'CKR_TOKEN_NOT_RECOGNIZED', () => lib.C_GetTokenInfo(slotHandle));
  failing('C_GetSlotInfo', 'CKR_SLOT_ID_INVALID', () => lib.C_GetSlotInfo(slotHandle));
  failing('C_GetMechanismList', 'CKR_DEVICE_ERROR', () => lib.C_GetMechanismList(slotHandle));
  failing('C_OpenSession', 'CKR_SESSION_COUNT', () => open());
  failing('C_CloseSession', 'CKR_DEVICE_ERROR', () => lib.C_CloseSession(session.handle));
  failing('C_CloseAllSessions', 'CKR_DEVICE_ERROR', () => lib.C_CloseAllSessions(slotHandle));
  failing('C_GetSessionInfo', 'CKR_SESSION_CLOSED', () => lib.C_GetSessionInfo(session.handle));
  failing('C_FindObjectsInit', 'CKR_FUNCTION_FAILED', () => open());
  failing('C_GenerateRandom', 'CKR_RANDOM_NO_RNG', () => lib.C_GenerateRandom(session.handle, Buffer.alloc(4)));
  const unmade = token.fail('C_GenerateKeyPair', pkcs11.CKR_TOKEN_WRITE_PROTECTED);
  assert.throws(() => generateKeyPair(session, { label: 'unmade', scheme }));
  assert.ok(unmade.struck > 0);
  assert.equal(keyState(session, 'unmade'), 'absent');
  unmade.clear();
  const refused = token.fail('C_Login', pkcs11.CKR_PIN_LOCKED);
  const before = token.counters.loginsRefused;
  assert.throws(() => session.login('any'), ckr('CKR_PIN_LOCKED'));
  assert.equal(token.counters.loginsRefused, before + 1);
  refused.clear();
  const listed = faulty.fail('C_GetSlotList', pkcs11.CKR_FUNCTION_FAILED, { times: 1 });
  assert.throws(() => module.findSlot(slot.label), sigillo('HSM_DEVICE', /CKR_FUNCTION_FAILED/));
  assert.equal(listed.struck, 1);
  module.findSlot(slot.label);
});

test('C_Initialize and C_Finalize can fail', { skip }, (t) => {
  const faulty = script(t);
  faulty.fail('C_Initialize', pkcs11.CKR_DEVICE_ERROR, { times: 1 });
  assert.throws(() => openModule(faulty), sigillo('HSM_DEVICE', /CKR_DEVICE_ERROR/));
  const module = openModule(faulty);
  const stuck = faulty.fail('C_Finalize', pkcs11.CKR_GENERAL_ERROR);
  assert.throws(() => module.lib.C_Finalize(), ckr('CKR_GENERAL_ERROR'));
  stuck.clear();
  module.close();
  assert.deepEqual([faulty.initializeCalls, faulty.finalizeCalls], [2, 2]);
});

test('without its control file, or with another file, it does not start', { skip }, (t) => {
  const faulty = script(t);
  const file = join(home.path, 'no.control');
  const { environment } = faulty;
  const wrong = { ...faulty, modulePath: faulty.modulePath, environment: { ...environment, FAULTY_MODULE_CONTROL: file } };
  assert.throws(() => openModule(wrong), sigillo('HSM_DEVICE', /CKR_GENERAL_ERROR/));
  writeFileSync(file, 'no control file');
  assert.throws(() => openModule(wrong), sigillo('HSM_DEVICE', /CKR_GENERAL_ERROR/));
  openModule(faulty).close();
});

test('our key session meets the codes: one of class session is retried, one of class device is thrown', { skip }, (t) => {
  const { token, keySession } = world(t);
  const session = keySession();
  const before = token.counters;
  const lost = token.fail('C_Sign', pkcs11.CKR_SESSION_HANDLE_INVALID, { times: 1 });
  session.sign(hash);
  assert.equal(lost.struck, 1);
  assert.equal(token.counters.sessions, before.sessions); // the lost one was closed, and another opened
  token.fail('C_Sign', pkcs11.CKR_DEVICE_REMOVED, { times: 1 });
  assert.throws(() => session.sign(hash), ckr('CKR_DEVICE_REMOVED'));
  session.sign(hash);
  assert.deepEqual([token.counters.signCalls, token.counters.signatures], [before.signCalls + 4, before.signatures + 2]);
  session.close();
});

test('one token fails while the other works', { skip }, (t) => {
  const { faulty, token, module, lib, open } = world(t);
  module.login(neighbour);
  const lanes = { failing: open(), working: open(neighbour.label) };
  const other = faulty.token(neighbour.label);
  token.fail('C_Sign', pkcs11.CKR_DEVICE_ERROR);
  token.killSessions();
  token.vanish();
  assert.throws(() => sign(lib, lanes.failing));
  sign(lib, lanes.working);
  assert.equal(other.counters.signatures, 1);
  other.fail('C_Sign', pkcs11.CKR_DEVICE_ERROR);
  assert.throws(() => sign(lib, lanes.working), ckr('CKR_DEVICE_ERROR'));
});

for (const login of ['kept', 'lost'] as const) {
  test(`killed sessions are dead, new ones work, and the login is ${login}`, { skip }, (t) => {
    const { token, module, lib, open, keySession } = world(t);
    const lanes = [open(), open()];
    const session = keySession();
    for (const lane of lanes) sign(lib, lane);
    const pending = lanes[1]!;
    lib.C_SignInit(pending.session, ecdsa, pending.key);
    token.killSessions({ login });
    assert.equal(token.counters.sessions, 0);
    assert.throws(() => lib.C_Sign(pending.session, hash, Buffer.alloc(64)), ckr('CKR_SESSION_HANDLE_INVALID'));
    for (const lane of lanes) {
      assert.throws(() => sign(lib, lane), ckr('CKR_SESSION_HANDLE_INVALID'));
      assert.throws(() => lib.C_CloseSession(lane.session), ckr('CKR_SESSION_HANDLE_INVALID'));
    }
    if (login === 'kept') {
      session.sign(hash); // a new session, without a word to us
      sign(lib, open());
      assert.equal(token.counters.sessions, 2);
    } else {
      assert.equal(open().key, undefined); // private keys are seen by the logged-in only
      assert.throws(() => session.sign(hash), sigillo('HSM_KEY_MISSING'));
      assert.equal(token.counters.sessions, 1);
    }
    const before = token.counters.loginCalls;
    const again = module.openSession(slot.label, { readWrite: true });
    if (login === 'lost') again.login(readSecretFile(slot.pinFile));
    assert.equal(lib.C_GetSessionInfo(again.handle).state, 3); // CKS_RW_USER_FUNCTIONS
    assert.equal(token.counters.loginCalls, before + (login === 'lost' ? 1 : 0));
    sign(lib, open());
  });
}

test('a login that was kept ends with the last session all the same', { skip }, (t) => {
  const { token, lib, open, slotHandle } = world(t);
  token.killSessions();
  lib.C_CloseSession(open().session);
  assert.equal(open().key, undefined);
  lib.C_CloseAllSessions(slotHandle);
  assert.equal(token.counters.sessions, 0);
});

test('the table of sessions is full, and may tell of it', { skip }, async (t) => {
  const { faulty, token, lib, open, slotHandle } = world(t);
  assert.equal(token.counters.sessions, 1);
  token.limitSessions(3);
  assert.equal(lib.C_GetTokenInfo(slotHandle).maxSessionCount, 0); // SoftHSM says that there is no limit
  token.limitSessions(3, { reported: true });
  const lane = open();
  const other = await TokenUser.start(t, faulty, 0); // its login takes the third place
  assert.throws(() => open(), ckr('CKR_SESSION_COUNT'));
  other.order('open-one');
  assert.match((await other.next('opened')).error ?? '', /CKR_SESSION_COUNT/);
  const info = lib.C_GetTokenInfo(slotHandle);
  assert.deepEqual([info.maxSessionCount, info.sessionCount, token.counters.sessions], [3, 2, 3]);
  await other.kill();
  assert.equal(token.counters.sessions, 2); // what the dead had open is open no more
  open();
  lib.C_CloseSession(lane.session);
  open();
  assert.throws(() => open(), ckr('CKR_SESSION_COUNT'));
  assert.equal(token.counters.sessionsMost, 3);
  token.limitSessions(0);
  open();
});

test('a call hangs until it is released, here or in another process', { skip }, async (t) => {
  const { faulty, token, lib, open } = world(t);
  const lane = open();
  const other = await TokenUser.start(t, faulty, 2);
  const signing = token.hang('C_Sign', { times: 3 });
  lib.C_SignInit(lane.session, ecdsa, lane.key);
  const here = lib.C_SignAsync(lane.session, hash, Buffer.alloc(64));
  other.order('sign');
  await until('all three hang', () => token.counters.hanging === 3);
  assert.deepEqual([token.counters.signing, token.counters.signatures], [0, 0]);
  sign(lib, open()); // the fourth is free
  other.order('stop');
  signing.clear();
  assert.equal((await here).length, 64);
  assert.deepEqual((await other.next('signed')).errors, []);
  assert.equal(token.counters.hanging, 0);

  const opening = token.hang('C_OpenSession');
  other.order('open-one');
  await until('the other process hangs', () => token.counters.hanging === 1);
  opening.clear();
  assert.equal((await other.next('opened')).error, undefined);

  const listing = faulty.hang('C_GetSlotList');
  const third = TokenUser.start(t, faulty, 0);
  await until('it hangs while it starts', () => faulty.hanging === 1);
  listing.clear();
  await third;
});

test('a session that is killed while a call hangs on it is closed when the call comes out', { skip }, async (t) => {
  const { token, lib, open } = world(t);
  const lane = open();
  const rule = token.hang('C_Sign', { times: 1 });
  lib.C_SignInit(lane.session, ecdsa, lane.key);
  const hung = assert.rejects(lib.C_SignAsync(lane.session, hash, Buffer.alloc(64)), ckr('CKR_SESSION_HANDLE_INVALID'));
  await until('it hangs', () => token.counters.hanging === 1);
  token.killSessions();
  sign(lib, open());
  rule.clear();
  await hung;
  assert.throws(() => lib.C_GetSessionInfo(lane.session), ckr('CKR_SESSION_HANDLE_INVALID'));
  assert.equal(token.counters.sessions, 1);
});

const removedFrom = (w: World, lane: { session: Buffer; key: Buffer }): void => {
  assert.throws(() => w.lib.C_GetTokenInfo(w.slotHandle), ckr('CKR_TOKEN_NOT_PRESENT'));
  assert.throws(() => w.lib.C_OpenSession(w.slotHandle, pkcs11.CKF_SERIAL_SESSION), ckr('CKR_TOKEN_NOT_PRESENT'));
  assert.throws(() => w.module.findSlot(slot.label), sigillo('HSM_TOKEN_MISSING'));
  assert.throws(() => sign(w.lib, lane), ckr('CKR_DEVICE_REMOVED'));
  assert.throws(() => w.lib.C_GetSessionInfo(lane.session), ckr('CKR_DEVICE_REMOVED'));
  assert.equal(w.lib.C_GetSlotInfo(w.slotHandle).flags & tokenPresent, 0);
  const isListed = (onlyWithToken: boolean): boolean => w.lib.C_GetSlotList(onlyWithToken).some((each) => each.equals(w.slotHandle));
  assert.deepEqual([isListed(true), isListed(false)], [false, true]);
};

test('a token vanishes, and all is as it was when it is given back', { skip }, (t) => {
  const w = world(t);
  const lane = w.open();
  const session = w.keySession();
  w.lib.C_SignInit(lane.session, ecdsa, lane.key);
  w.token.vanish();
  assert.throws(() => w.lib.C_Sign(lane.session, hash, Buffer.alloc(64)), ckr('CKR_DEVICE_REMOVED'));
  removedFrom(w, lane);
  assert.throws(() => session.sign(hash), ckr('CKR_DEVICE_REMOVED'));
  w.module.findSlot(neighbour.label);
  w.token.giveBack();
  sign(w.lib, lane);
  session.sign(hash);
  w.lib.C_GetTokenInfo(w.slotHandle);
});

test('a token is given back without the sessions and logins of before', { skip }, (t) => {
  const w = world(t);
  const lane = w.open();
  w.token.vanish();
  w.token.giveBack('sessions-and-logins');
  w.module.findSlot(slot.label);
  assert.throws(() => sign(w.lib, lane), ckr('CKR_DEVICE_REMOVED'));
  const fresh = w.open();
  assert.throws(() => sign(w.lib, fresh), ckr('CKR_USER_NOT_LOGGED_IN'));
  assert.throws(() => w.lib.C_Login(fresh.session, pkcs11.CKU_USER, 'any'), ckr('CKR_USER_ALREADY_LOGGED_IN'));
  w.lib.C_Finalize();
  w.lib.C_Initialize({ flags: pkcs11.CKF_OS_LOCKING_OK });
  const after = w.lib.C_OpenSession(w.slotHandle, pkcs11.CKF_SERIAL_SESSION);
  w.lib.C_Login(after, pkcs11.CKU_USER, readSecretFile(slot.pinFile));
  sign(w.lib, w.open());
});

test('a token is given back to those only that initialise the module anew', { skip }, async (t) => {
  const w = world(t);
  const lane = w.open();
  w.token.vanish();
  w.token.giveBack('until-reinitialised');
  removedFrom(w, lane);
  await TokenUser.start(t, w.faulty, 1); // one that had not seen it before
  w.faulty.reset();
  removedFrom(w, lane);
  w.lib.C_Finalize();
  w.lib.C_Initialize({ flags: pkcs11.CKF_OS_LOCKING_OK });
  w.lib.C_GetTokenInfo(w.slotHandle);
  const after = w.lib.C_OpenSession(w.slotHandle, pkcs11.CKF_SERIAL_SESSION);
  w.lib.C_Login(after, pkcs11.CKU_USER, readSecretFile(slot.pinFile));
  sign(w.lib, w.open());
});

test('a process that is logged out signs again after its next login', { skip }, (t) => {
  const { token, lib, open, keySession } = world(t);
  const lane = open();
  const session = keySession();
  token.logOut();
  lib.C_SignInit(lane.session, ecdsa, lane.key);
  assert.throws(() => lib.C_Sign(lane.session, hash, Buffer.alloc(64)), ckr('CKR_USER_NOT_LOGGED_IN'));
  assert.throws(() => session.sign(hash), ckr('CKR_USER_NOT_LOGGED_IN'));
  assert.throws(() => lib.C_Login(lane.session, pkcs11.CKU_USER, '12345678'), ckr('CKR_PIN_INCORRECT'));
  const before = token.counters.loginsRefused;
  lib.C_Login(lane.session, pkcs11.CKU_USER, readSecretFile(slot.pinFile));
  assert.equal(token.counters.loginsRefused, before);
  sign(lib, open());
  session.sign(hash); // its key's handle is no longer valid, which is an error of class session
  session.close();
});

test('a slow token signs at most so many at once, in all processes together', { skip }, async (t) => {
  const faulty = script(t);
  const token = faulty.token(slot.label);
  // One after the other: SoftHSM writes the token's file at each login, and a process that reads it just then fails.
  const users = [await TokenUser.start(t, faulty, 12), await TokenUser.start(t, faulty, 12)];
  const delayMicros = 10_000;
  for (const limit of [1, 3, 16]) {
    faulty.reset();
    token.delaySigning(delayMicros);
    token.limitSigning(limit);
    for (const user of users) user.order('sign');
    await until(`${limit} sign at once`, () => token.counters.signingMost === limit && token.counters.signatures >= 24, 20_000);
    for (const user of users) user.order('stop');
    for (const user of users) assert.deepEqual((await user.next('signed')).errors, []);
    const { counters } = token;
    assert.deepEqual([counters.signingMost, counters.signing, counters.waiting], [limit, 0, 0]);
    assert.equal(counters.signatures, counters.signCalls);
    assert.ok(counters.signNanoseconds >= counters.signatures * delayMicros * 1_000);
  }
});

test('a process that is killed while it signs gives its turn to those that wait', { skip }, async (t) => {
  const { faulty, token, lib, open } = world(t);
  const lanes = [open(), open()];
  const killed = await TokenUser.start(t, faulty, 2);
  token.limitSigning(1);
  token.delaySigning(600_000_000); // longer than any test
  killed.order('sign');
  await until('one signs, and the other waits', () => token.counters.signing === 1 && token.counters.waiting === 1);
  const signatures = lanes.map(({ session, key }) => {
    lib.C_SignInit(session, ecdsa, key);
    return lib.C_SignAsync(session, hash, Buffer.alloc(64));
  });
  await until('two more wait', () => token.counters.waiting === 3);
  token.delaySigning(0);
  await killed.kill();
  for (const signature of signatures) assert.equal((await signature).length, 64);
  assert.deepEqual([token.counters.signing, token.counters.waiting, token.counters.signingMost], [0, 0, 1]);
  assert.deepEqual([token.counters.signCalls, token.counters.signatures], [4, 2]); // what the dead have counted stays
  assert.deepEqual(faulty.processes, [process.pid]);
});

test('a limit that is lifted lets those go on that wait', { skip }, async (t) => {
  const faulty = script(t);
  const token = faulty.token(slot.label);
  const user = await TokenUser.start(t, faulty, 4);
  token.limitSigning(1);
  token.delaySigning(600_000_000);
  user.order('sign');
  await until('three wait', () => token.counters.waiting === 3);
  token.limitSigning(0);
  await until('all four sign', () => token.counters.signing === 4 && token.counters.waiting === 0);
});

test('after a reset no rule is left, and counters start at nothing', { skip }, (t) => {
  const { faulty, token, lib, open, slotHandle } = world(t);
  const lane = open();
  token.fail('C_SignInit', pkcs11.CKR_DEVICE_ERROR);
  token.limitSessions(1, { reported: true });
  token.limitSigning(1);
  token.delaySigning(1);
  faulty.fail('C_GetSlotList', pkcs11.CKR_GENERAL_ERROR);
  token.vanish();
  assert.throws(() => sign(lib, lane));
  faulty.reset();
  const { counters } = token;
  assert.deepEqual([counters.loginCalls, counters.signCalls, counters.signNanoseconds, counters.signingMost], [0, 0, 0, 0]);
  assert.deepEqual([counters.sessions, counters.sessionsMost], [2, 2]);
  sign(lib, lane);
  open();
  assert.equal(lib.C_GetTokenInfo(slotHandle).maxSessionCount, 0);
  assert.equal(token.counters.sessionsMost, 3);
});

test('what cannot be a rule is refused where it is written', { skip }, (t) => {
  const faulty = script(t);
  const token = faulty.token('a');
  assert.equal(faulty.token('a'), token);
  assert.throws(() => faulty.token('x'.repeat(33)), RangeError);
  assert.throws(() => token.fail('C_Sign', 0), RangeError);
  assert.throws(() => token.fail('C_Sign', pkcs11.CKR_DEVICE_ERROR, { every: 0 }), RangeError);
  for (let i = 0; i < 16; i += 1) token.hang('C_Sign');
  assert.throws(() => token.hang('C_Sign'), RangeError);
  for (const label of 'bcdefgh') faulty.token(label);
  assert.throws(() => faulty.token('i'), RangeError);
});
