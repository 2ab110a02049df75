/** The faulty module itself: without rules it is the real one, with rules it fails as it is told, and it counts. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import pkcs11 from 'pkcs11js';
import { classifyPkcs11Error } from '../../signer/pkcs11-errors.ts';
import { openModule } from '../../signer/pkcs11-module.ts';
import { findKey, generateKeyPair, keyState, selfTest } from '../../signer/token-keys.ts';
import { buildFaultyModule, withoutFaultyModule } from '../support/faulty-module/build.ts';
import type { FaultyToken } from '../support/faulty-module/faulty-token.ts';
import { ckr, hash, keyLabel, scheme, sigillo, sign, tokenWorld } from '../support/faulty-module/token-world.ts';

const skip = withoutFaultyModule;
const world = tokenWorld();

test('it is compiled once, however many ask for it', { skip }, () => {
  assert.equal(buildFaultyModule(), buildFaultyModule());
});

test('without rules it is the real module, and counts', { skip }, (t) => {
  const { faulty, token, module, lib, open, keySession } = world.open(t);
  const session = module.openSession(world.slot.label, { readWrite: true });
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
  const faulty = world.script(t);
  const token = faulty.token(world.slot.label);
  const first = openModule(faulty);
  assert.deepEqual(faulty.processes, [process.pid]);
  const pinFile = join(world.home.path, 'wrong.pin');
  writeFileSync(pinFile, '12345678\n', { mode: 0o600 });
  assert.throws(() => first.login({ ...world.slot, pinFile }), sigillo('HSM_PIN_REFUSED'));
  first.close();
  assert.deepEqual(faulty.processes, []);
  const second = openModule(faulty);
  second.login(world.slot);
  const session = second.openSession(world.slot.label, { readWrite: false });
  assert.throws(() => session.login('any'), ckr('CKR_USER_ALREADY_LOGGED_IN'));
  second.close();
  assert.deepEqual([token.counters.loginCalls, token.counters.loginsRefused, token.counters.sessions], [3, 1, 0]);
  assert.deepEqual([faulty.initializeCalls, faulty.finalizeCalls], [2, 2]);
});

test('a function fails with the code it is given: so many times, each n-th time, or until it is cleared', { skip }, (t) => {
  const { token, lib, open } = world.open(t);
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
  const { faulty, token, module, lib, open, slotHandle } = world.open(t);
  const session = module.openSession(world.slot.label, { readWrite: true });
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
  assert.throws(() => module.tokens(), sigillo('HSM_DEVICE', /CKR_FUNCTION_FAILED/));
  assert.equal(listed.struck, 1);
  module.findSlot(world.slot.label);
});

test('C_Initialize and C_Finalize can fail', { skip }, (t) => {
  const faulty = world.script(t);
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
  const faulty = world.script(t);
  const file = join(world.home.path, 'no.control');
  const { environment } = faulty;
  const wrong = { ...faulty, modulePath: faulty.modulePath, environment: { ...environment, FAULTY_MODULE_CONTROL: file } };
  assert.throws(() => openModule(wrong), sigillo('HSM_DEVICE', /CKR_GENERAL_ERROR/));
  writeFileSync(file, 'no control file');
  assert.throws(() => openModule(wrong), sigillo('HSM_DEVICE', /CKR_GENERAL_ERROR/));
  openModule(faulty).close();
});

test('our key session meets the codes: one of class session is retried, one of class device is thrown', { skip }, (t) => {
  const { token, keySession } = world.open(t);
  const session = keySession();
  const before = token.counters;
  const lost = token.fail('C_Sign', pkcs11.CKR_KEY_HANDLE_INVALID, { times: 1 });
  session.sign(hash);
  assert.equal(lost.struck, 1);
  assert.equal(token.counters.sessions, before.sessions); // the lost one was closed, and another opened
  token.fail('C_Sign', pkcs11.CKR_DEVICE_REMOVED, { times: 1 });
  assert.throws(() => session.sign(hash), ckr('CKR_DEVICE_REMOVED'));
  session.sign(hash);
  assert.deepEqual([token.counters.signCalls, token.counters.signatures], [before.signCalls + 4, before.signatures + 2]);
  session.close();
});

test('several sessions are lost one after the other: still the signature is made; a token whose sessions are all lost is told', {
  skip,
}, async (t) => {
  const { token, keySession } = world.open(t);
  const session = keySession();
  const before = token.counters;
  for (const signing of [async () => session.sign(hash), () => session.signLater(hash)]) {
    const lost = token.fail('C_Sign', pkcs11.CKR_KEY_HANDLE_INVALID, { times: 4 });
    await signing();
    assert.equal(lost.struck, 4);
    lost.clear();
    const all = token.fail('C_Sign', pkcs11.CKR_KEY_HANDLE_INVALID);
    await assert.rejects(signing, ckr('CKR_KEY_HANDLE_INVALID'));
    assert.equal(all.struck, 5, 'it is asked no more often than that');
    all.clear();
    await signing();
    assert.equal(token.counters.sessions, before.sessions);
  }
  session.close();
});

test('a handle that the token does not know any more is never closed: it may be that of another session by now', {
  skip,
}, async (t) => {
  const { token, keySession } = world.open(t);
  const session = keySession();
  const closed = token.fail('C_CloseSession', pkcs11.CKR_DEVICE_ERROR, { every: 1_000 });
  for (const code of [pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED]) {
    for (const [name, step] of [
      ['C_Sign', () => session.sign(hash)],
      ['C_Sign', () => session.signLater(hash)],
      ['C_GetSessionInfo', () => session.keepAlive()],
      ['C_GetSessionInfo', () => session.keepAliveLater()],
    ] as const) {
      const lost = token.fail(name, code, { times: 1 });
      await step();
      assert.deepEqual([lost.struck, closed.calls], [1, 0]);
      lost.clear();
    }
  }
  token.fail('C_Sign', pkcs11.CKR_KEY_HANDLE_INVALID, { times: 1 });
  const unopened = token.fail('C_OpenSession', pkcs11.CKR_DEVICE_ERROR);
  assert.throws(() => session.sign(hash), ckr('CKR_DEVICE_ERROR'));
  assert.throws(() => session.sign(hash), ckr('CKR_DEVICE_ERROR'));
  assert.throws(() => session.keepAlive(), ckr('CKR_DEVICE_ERROR'));
  session.prepare();
  session.close();
  assert.deepEqual([unopened.struck, closed.calls], [3, 1], 'that was no good is closed, and once');
});

test('one token fails while the other works', { skip }, (t) => {
  const { faulty, token, module, lib, open } = world.open(t);
  module.login(world.neighbour);
  const lanes = { failing: open(), working: open(world.neighbour.label) };
  const other = faulty.token(world.neighbour.label);
  token.fail('C_Sign', pkcs11.CKR_DEVICE_ERROR);
  token.killSessions();
  token.vanish();
  assert.throws(() => sign(lib, lanes.failing));
  sign(lib, lanes.working);
  assert.equal(other.counters.signatures, 1);
  other.fail('C_Sign', pkcs11.CKR_DEVICE_ERROR);
  assert.throws(() => sign(lib, lanes.working), ckr('CKR_DEVICE_ERROR'));
});

test('a token is found without a word to its neighbours once it is known', { skip }, (t) => {
  const { faulty, token, module } = world.open(t);
  const other = faulty.token(world.neighbour.label);
  const strange = other.fail('C_GetTokenInfo', pkcs11.CKR_DEVICE_ERROR);
  const info = token.fail('C_GetTokenInfo', pkcs11.CKR_DEVICE_ERROR, { every: 1_000 });
  for (let i = 0; i < 3; i += 1) module.openSession(world.slot.label, { readWrite: false }).close();
  assert.deepEqual([info.calls, strange.calls], [3, 0]);
  assert.throws(() => module.findSlot(world.neighbour.label), sigillo('HSM_TOKEN_MISSING'));
  assert.ok(strange.calls > 0, 'who looks for the one that is broken asks it');
});

test('after a reset no rule is left, and counters start at nothing', { skip }, (t) => {
  const { faulty, token, lib, open, slotHandle } = world.open(t);
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
  const faulty = world.script(t);
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
