/** What the faulty module takes away: sessions, logins, and whole tokens, which it gives back as real ones come back. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import pkcs11 from 'pkcs11js';
import { readSecretFile } from '../../config/secrets.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { ckr, ecdsa, hash, type OpenedModule, type SigningLane, sigillo, sign, tokenWorld } from '../support/faulty-module/token-world.ts';
import { until } from '../support/until.ts';

const skip = withoutFaultyModule;
/** CKF_TOKEN_PRESENT, which the binding does not name. */
const tokenPresent = 1;
const world = tokenWorld();

for (const login of ['kept', 'lost'] as const) {
  test(`killed sessions are dead, new ones work, and the login is ${login}`, { skip }, (t) => {
    const { token, module, lib, open, keySession } = world.open(t);
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
    const again = module.openSession(world.slot.label, { readWrite: true });
    if (login === 'lost') again.login(readSecretFile(world.slot.pinFile));
    assert.equal(lib.C_GetSessionInfo(again.handle).state, 3); // CKS_RW_USER_FUNCTIONS
    assert.equal(token.counters.loginCalls, before + (login === 'lost' ? 1 : 0));
    sign(lib, open());
  });
}

test('a login that was kept ends with the last session all the same', { skip }, (t) => {
  const { token, lib, open, slotHandle } = world.open(t);
  token.killSessions();
  lib.C_CloseSession(open().session);
  assert.equal(open().key, undefined);
  lib.C_CloseAllSessions(slotHandle);
  assert.equal(token.counters.sessions, 0);
});

test('the table of sessions is full, and may tell of it', { skip }, async (t) => {
  const { faulty, token, lib, open, slotHandle } = world.open(t);
  assert.equal(token.counters.sessions, 1);
  token.limitSessions(3);
  assert.equal(lib.C_GetTokenInfo(slotHandle).maxSessionCount, 0); // SoftHSM says that there is no limit
  token.limitSessions(3, { reported: true });
  const lane = open();
  const other = await world.startUser(t, faulty, 0); // its login takes the third place
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

test('the token tells limits that nothing keeps; that of read-write sessions holds for each process', { skip }, async (t) => {
  const { faulty, token, lib, open, slotHandle } = world.open(t);
  token.tellSessions(2);
  token.limitWriting(1);
  const writing = pkcs11.CKF_SERIAL_SESSION | pkcs11.CKF_RW_SESSION;
  const first = lib.C_OpenSession(slotHandle, writing);
  assert.throws(() => lib.C_OpenSession(slotHandle, writing), ckr('CKR_SESSION_COUNT'));
  open();
  await world.startUser(t, faulty, 1); // has a session of its own besides its login
  const info = lib.C_GetTokenInfo(slotHandle);
  assert.deepEqual([info.maxSessionCount, info.sessionCount, info.maxRwSessionCount, info.rwSessionCount], [2, 3, 1, 1]);
  const { sessions, sessionsMost, sessionsOfOneMost, writingOfOneMost } = token.counters;
  assert.deepEqual([sessions, sessionsMost, sessionsOfOneMost, writingOfOneMost], [5, 5, 3, 1]);
  lib.C_CloseSession(first);
  lib.C_CloseSession(lib.C_OpenSession(slotHandle, writing));
  token.reset();
  assert.deepEqual([token.counters.sessionsOfOneMost, token.counters.writingOfOneMost], [2, 0]);
  assert.equal(lib.C_GetTokenInfo(slotHandle).maxRwSessionCount, 0);
});

test('a session that is killed while a call hangs on it is closed when the call comes out', { skip }, async (t) => {
  const { token, lib, open } = world.open(t);
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

const removedFrom = (w: OpenedModule, lane: SigningLane): void => {
  assert.throws(() => w.lib.C_GetTokenInfo(w.slotHandle), ckr('CKR_TOKEN_NOT_PRESENT'));
  assert.throws(() => w.lib.C_OpenSession(w.slotHandle, pkcs11.CKF_SERIAL_SESSION), ckr('CKR_TOKEN_NOT_PRESENT'));
  assert.throws(() => w.module.findSlot(world.slot.label), sigillo('HSM_TOKEN_MISSING'));
  assert.throws(() => sign(w.lib, lane), ckr('CKR_DEVICE_REMOVED'));
  assert.throws(() => w.lib.C_GetSessionInfo(lane.session), ckr('CKR_DEVICE_REMOVED'));
  assert.equal(w.lib.C_GetSlotInfo(w.slotHandle).flags & tokenPresent, 0);
  const isListed = (onlyWithToken: boolean): boolean => w.lib.C_GetSlotList(onlyWithToken).some((each) => each.equals(w.slotHandle));
  assert.deepEqual([isListed(true), isListed(false)], [false, true]);
};

test('a token vanishes, and all is as it was when it is given back', { skip }, (t) => {
  const w = world.open(t);
  const lane = w.open();
  const session = w.keySession();
  w.lib.C_SignInit(lane.session, ecdsa, lane.key);
  w.token.vanish();
  assert.throws(() => w.lib.C_Sign(lane.session, hash, Buffer.alloc(64)), ckr('CKR_DEVICE_REMOVED'));
  removedFrom(w, lane);
  assert.throws(() => session.sign(hash), ckr('CKR_DEVICE_REMOVED'));
  w.module.findSlot(world.neighbour.label);
  w.token.giveBack();
  sign(w.lib, lane);
  session.sign(hash);
  w.lib.C_GetTokenInfo(w.slotHandle);
});

test('a token is given back without the sessions and logins of before', { skip }, (t) => {
  const w = world.open(t);
  const lane = w.open();
  w.token.vanish();
  w.token.giveBack('sessions-and-logins');
  w.module.findSlot(world.slot.label);
  assert.throws(() => sign(w.lib, lane), ckr('CKR_DEVICE_REMOVED'));
  const fresh = w.open();
  assert.throws(() => sign(w.lib, fresh), ckr('CKR_USER_NOT_LOGGED_IN'));
  assert.throws(() => w.lib.C_Login(fresh.session, pkcs11.CKU_USER, 'any'), ckr('CKR_USER_ALREADY_LOGGED_IN'));
  w.lib.C_Finalize();
  w.lib.C_Initialize({ flags: pkcs11.CKF_OS_LOCKING_OK });
  const after = w.lib.C_OpenSession(w.slotHandle, pkcs11.CKF_SERIAL_SESSION);
  w.lib.C_Login(after, pkcs11.CKU_USER, readSecretFile(world.slot.pinFile));
  sign(w.lib, w.open());
});

test('a token is given back to those only that initialise the module anew', { skip }, async (t) => {
  const w = world.open(t);
  const lane = w.open();
  w.token.vanish();
  w.token.giveBack('until-reinitialised');
  removedFrom(w, lane);
  await world.startUser(t, w.faulty, 1); // one that had not seen it before
  w.faulty.reset();
  removedFrom(w, lane);
  w.lib.C_Finalize();
  w.lib.C_Initialize({ flags: pkcs11.CKF_OS_LOCKING_OK });
  w.lib.C_GetTokenInfo(w.slotHandle);
  const after = w.lib.C_OpenSession(w.slotHandle, pkcs11.CKF_SERIAL_SESSION);
  w.lib.C_Login(after, pkcs11.CKU_USER, readSecretFile(world.slot.pinFile));
  sign(w.lib, w.open());
});

test('a process that is logged out signs again after its next login', { skip }, (t) => {
  const { token, lib, open, keySession } = world.open(t);
  const lane = open();
  const session = keySession();
  token.logOut();
  lib.C_SignInit(lane.session, ecdsa, lane.key);
  assert.throws(() => lib.C_Sign(lane.session, hash, Buffer.alloc(64)), ckr('CKR_USER_NOT_LOGGED_IN'));
  assert.throws(() => session.sign(hash), ckr('CKR_USER_NOT_LOGGED_IN'));
  assert.throws(() => lib.C_Login(lane.session, pkcs11.CKU_USER, '12345678'), ckr('CKR_PIN_INCORRECT'));
  const before = token.counters.loginsRefused;
  lib.C_Login(lane.session, pkcs11.CKU_USER, readSecretFile(world.slot.pinFile));
  assert.equal(token.counters.loginsRefused, before);
  sign(lib, open());
  session.sign(hash); // its key's handle is no longer valid, which is an error of class session
  session.close();
});
