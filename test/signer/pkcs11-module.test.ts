import assert from 'node:assert/strict';
import { copyFileSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { TokenFlag } from 'graphene-pk11';
import type { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import { ensureEmbeddedTokens } from '../../signer/embedded-token.ts';
import { embeddedModule, type HsmModule, type HsmSlot, openModule, resolveHsm, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { configOf, temporaryFolder, withoutSofthsm } from '../support/token-home.ts';

const folder = temporaryFolder();
const config = configOf(folder.path);
const paths = homePaths(folder.path);
const opened: HsmModule[] = [];
const open = (): HsmModule => {
  const module = openModule(embeddedModule(config));
  opened.push(module);
  return module;
};
const close = (): void => {
  for (const module of opened.splice(0)) module.close();
};
const code =
  (expected: string, message = /./) =>
  (error: SigilloError) =>
    error.code === expected && message.test(error.message);
const skip = withoutSofthsm;

before(() => {
  if (skip === false) ensureEmbeddedTokens(config);
});
afterEach(close);
after(folder.remove);

test('a module that is not there, and a file that is none, are HSM_MODULE_MISSING', () => {
  assert.throws(() => openModule({ modulePath: '/nonexistent/module.so', environment: {} }), code('HSM_MODULE_MISSING', /nonexistent/));
  const file = join(folder.path, 'module.so');
  writeFileSync(file, 'no library');
  assert.throws(() => openModule({ modulePath: file, environment: {} }), code('HSM_MODULE_MISSING', /module\.so/));
});

test('both ways to configure an HSM have one shape', { skip }, () => {
  const embedded = resolveHsm(config);
  for (const { environment } of embedded.slots) assert.deepEqual(environment, { SOFTHSM2_CONF: paths.softhsmConf });
  assert.equal(slotForPurpose(embedded, 'authority').label, 'sigillo-authority');
  assert.equal(slotForPurpose(embedded, 'timestamp').pinFile, join(paths.pinFolder, 'sigillo-timestamp.pin'));
  assert.throws(() => slotForPurpose(embedded, 'ocsp'), code('CONFIG_INVALID', /ocsp/));
  const one = { label: 'one', purposes: ['timestamp', 'journal'], pinFile: '/pin' };
  const two = { label: 'two', purposes: ['timestamp'], pinFile: '/pin', module: '/n.so', environment: { C: 'd' }, sessions: 4 };
  const hsm = { mode: 'module', module: '/m.so', slots: [one, two], environment: { A: 'b' } };
  assert.deepEqual(resolveHsm(configOf(folder.path, { hsm })).slots, [
    { ...one, modulePath: '/m.so', environment: { A: 'b' } },
    { ...two, modulePath: '/n.so', environment: { A: 'b', C: 'd' } },
  ]);
});

test('slots are found by label, and the message names the labels there are', { skip }, () => {
  const module = open();
  assert.equal(module.findSlot('sigillo-authority').getToken().label.trim(), 'sigillo-authority');
  assert.throws(() => module.findSlot('sigillo'), code('HSM_TOKEN_MISSING', /"sigillo-authority"/));
});

const countLogins = (module: HsmModule): (() => number) => {
  let calls = 0;
  const original = module.lib.C_Login.bind(module.lib);
  module.lib.C_Login = (...args) => {
    calls += 1;
    original(...args);
  };
  return () => calls;
};

test('a wrong PIN is tried exactly once', { skip }, () => {
  const module = open();
  const logins = countLogins(module);
  const pinFile = join(folder.path, 'wrong.pin');
  writeFileSync(pinFile, '12345678\n', { mode: 0o600 });
  const slot: HsmSlot = { ...embeddedModule(config), label: 'sigillo-timestamp', purposes: ['timestamp'], pinFile };
  for (let i = 0; i < 3; i += 1) assert.throws(() => module.login(slot), code('HSM_PIN_REFUSED', /CKR_PIN_INCORRECT/));
  assert.equal(logins(), 1);
});

test('after a refusal the process tries what is written into the file later, and a PIN that it had before never again', { skip }, () => {
  const embedded = embeddedModule(config);
  const module = openModule({ ...embedded, refusedPinFolder: join(folder.path, 'refused later') });
  opened.push(module);
  const logins = countLogins(module);
  const pinFile = join(folder.path, 'later.pin');
  const slot: HsmSlot = { ...embedded, label: 'sigillo-timestamp', purposes: ['timestamp'], pinFile };
  const refusedWith = (pin: string, tried: number): void => {
    writeFileSync(pinFile, `${pin}\n`, { mode: 0o600 });
    for (let i = 0; i < 2; i += 1) assert.throws(() => module.login(slot), code('HSM_PIN_REFUSED'));
    assert.equal(logins(), tried, pin);
  };
  refusedWith('12345678', 1);
  refusedWith('12345678', 1);
  refusedWith('87654321', 2);
  refusedWith('12345678', 2);
  copyFileSync(slotForPurpose(resolveHsm(config), 'timestamp').pinFile, pinFile);
  module.login(slot);
  assert.equal(logins(), 3);
});

test('a wrong PIN is not tried by another process either, until its file has another one', { skip }, () => {
  const pinFile = join(folder.path, 'changed.pin');
  writeFileSync(pinFile, '12345678\n', { mode: 0o600 });
  const slot: HsmSlot = { ...embeddedModule(config), label: 'sigillo-timestamp', purposes: ['timestamp'], pinFile };
  const refusedPinFolder = join(folder.path, 'refused');
  let logins = 0;
  const login = (): void => {
    const module = openModule({ ...embeddedModule(config), refusedPinFolder });
    const count = countLogins(module);
    try {
      module.login(slot);
    } finally {
      logins += count();
      module.close();
    }
  };
  assert.throws(login, code('HSM_PIN_REFUSED', /CKR_PIN_INCORRECT/));
  for (let i = 0; i < 3; i += 1) assert.throws(login, code('HSM_PIN_REFUSED', /not tried again/));
  assert.equal(logins, 1);
  for (const at of [1_700_000_000, 1_800_000_000]) {
    utimesSync(pinFile, at, at); // a secret that is made anew at each restart of a container
    assert.throws(login, code('HSM_PIN_REFUSED', /not tried again/));
  }
  assert.equal(logins, 1, 'the same PIN, whatever the time of its file');
  const names = readdirSync(refusedPinFolder);
  for (const name of names) {
    assert.ok(!readFileSync(join(refusedPinFolder, name), 'utf8').includes('12345678'), 'the PIN is not told');
    assert.equal(statSync(join(refusedPinFolder, name)).mode & 0o777, 0o600);
  }
  assert.equal(names.length, 2);
  writeFileSync(pinFile, readFileSync(join(paths.pinFolder, 'sigillo-timestamp.pin')));
  utimesSync(pinFile, 1_800_000_000, 1_800_000_000);
  login();
  assert.equal(logins, 2, 'another PIN, at the same time');
  assert.deepEqual(
    readdirSync(refusedPinFolder).filter((name) => !name.endsWith('.salt')),
    [],
    'a PIN that was taken is forgotten',
  );
});

test('the right PIN is sent once, and a login by somebody else in the process is as good', { skip }, () => {
  const module = open();
  const logins = countLogins(module);
  const slot = slotForPurpose(resolveHsm(config), 'timestamp');
  module.login(slot);
  module.login(slot);
  assert.equal(logins(), 1);
  const session = module.openSession(slot.label, { readWrite: true });
  const info = module.lib.C_GetSessionInfo(session.handle);
  assert.equal(info.state, 3); // CKS_RW_USER_FUNCTIONS

  const authority = slotForPurpose(resolveHsm(config), 'authority');
  module.openSession(authority.label, { readWrite: false }).login(readFileSync(authority.pinFile, 'latin1').trim());
  module.login(authority);
});

test('an empty or missing PIN file never reaches the token', { skip }, () => {
  const module = open();
  const logins = countLogins(module);
  const empty = join(folder.path, 'empty.pin');
  writeFileSync(empty, '');
  const slot: HsmSlot = { ...embeddedModule(config), label: 'sigillo-timestamp', purposes: ['timestamp'], pinFile: empty };
  assert.throws(() => module.login(slot), code('CONFIG_INVALID'));
  assert.throws(() => module.login({ ...slot, pinFile: `${empty}.none` }), code('CONFIG_UNREADABLE'));
  assert.equal(logins(), 0);
});

test('two tokens with one label are an error', { skip }, () => {
  const module = open();
  const blank = module.tokens().find(({ token }) => (token.flags & TokenFlag.TOKEN_INITIALIZED) === 0);
  module.lib.C_InitToken(blank!.slot.handle, 'abcdefgh', 'sigillo-authority'.padEnd(32));
  assert.throws(() => module.findSlot('sigillo-authority'), code('HSM_TOKEN_MISSING', /two tokens/));
});
