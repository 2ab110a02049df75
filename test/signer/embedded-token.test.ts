import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import type { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import { ensureEmbeddedTokens } from '../../signer/embedded-token.ts';
import { embeddedModule, openModule, resolveHsm } from '../../signer/pkcs11-module.ts';
import { configOf, temporaryFolder, withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm;
const labels = ['sigillo-authority', 'sigillo-timestamp', 'sigillo-journal'];
let folder: ReturnType<typeof temporaryFolder>;
beforeEach(() => {
  folder = temporaryFolder();
});
afterEach(() => folder.remove());

const modeOf = (path: string): string => (statSync(path).mode & 0o777).toString(8);

/** All tokens are there once, and take their PINs. */
const assertUsable = (home = folder.path): void => {
  const hsm = resolveHsm(configOf(home));
  const module = openModule(embeddedModule(configOf(home)));
  try {
    assert.deepEqual(
      module
        .tokens()
        .map(({ label }) => label)
        .filter((label) => label !== '')
        .toSorted(),
      labels.toSorted(),
    );
    for (const slot of hsm.slots) module.login(slot);
  } finally {
    module.close();
  }
};

test('makes the tokens with PINs of their own, and no file that others can read', { skip }, () => {
  const paths = homePaths(folder.path);
  assert.deepEqual(ensureEmbeddedTokens(configOf(folder.path)), labels);
  assertUsable();
  const pins = readdirSync(paths.pinFolder).map((name) => join(paths.pinFolder, name));
  assert.equal(pins.length, 6);
  const values = pins.map((file) => readFileSync(file, 'utf8'));
  assert.equal(new Set(values).size, 6);
  for (const value of values) assert.match(value, /^[a-z2-9]{32}\n$/);
  for (const file of [...pins, paths.softhsmConf]) assert.equal(modeOf(file), '600');
  for (const path of [paths.pinFolder, paths.tokenFolder]) assert.equal(modeOf(path), '700');
  for (const entry of readdirSync(paths.tokenFolder, { recursive: true, withFileTypes: true })) {
    assert.equal(modeOf(join(entry.parentPath, entry.name)), entry.isDirectory() ? '700' : '600', entry.name);
  }
  assert.deepEqual(readdirSync(folder.path).toSorted(), ['pins', 'softhsm2.conf', 'tokens']);
});

test('a second run makes nothing', { skip }, () => {
  const paths = homePaths(folder.path);
  const state = (): string[] =>
    readdirSync(paths.tokenFolder, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.object'))
      .map((name) => {
        const { mtimeMs, ino } = statSync(join(paths.tokenFolder, name));
        return `${name} ${mtimeMs} ${ino}`;
      });
  ensureEmbeddedTokens(configOf(folder.path));
  const before = state();
  assert.deepEqual(ensureEmbeddedTokens(configOf(folder.path)), []);
  assert.deepEqual(state(), before);
});

test('goes on from PIN files and staging that an interruption left, and keeps the PINs', { skip }, () => {
  const paths = homePaths(folder.path);
  for (const path of [paths.pinFolder, join(`${paths.tokenFolder}.new`, 'half-a-token')]) mkdirSync(path, { recursive: true, mode: 0o700 });
  writeFileSync(join(`${paths.tokenFolder}.new`, 'half-a-token', 'token.object'), 'torn');
  const pinFile = join(paths.pinFolder, 'sigillo-authority.pin');
  writeFileSync(pinFile, 'abcdefgh23456789abcdefgh23456789\n', { mode: 0o600 });
  writeFileSync(`${pinFile}.new`, 'abc', { mode: 0o600 });
  ensureEmbeddedTokens(configOf(folder.path));
  assert.equal(readFileSync(pinFile, 'utf8'), 'abcdefgh23456789abcdefgh23456789\n');
  assert.ok(!existsSync(`${paths.tokenFolder}.new`));
  assertUsable();
});

test('makes the one token that is missing', { skip }, () => {
  const paths = homePaths(folder.path);
  ensureEmbeddedTokens(configOf(folder.path));
  const [one] = readdirSync(paths.tokenFolder);
  rmSync(join(paths.tokenFolder, one!), { recursive: true });
  assert.equal(ensureEmbeddedTokens(configOf(folder.path)).length, 1);
  assertUsable();
});

test('a token with an SO PIN and no user PIN gets its user PIN', { skip }, () => {
  const config = configOf(folder.path);
  const paths = homePaths(folder.path);
  ensureEmbeddedTokens(config);
  rmSync(paths.tokenFolder, { recursive: true });
  mkdirSync(paths.tokenFolder, { mode: 0o700 });
  const module = openModule(embeddedModule(config));
  const [blank] = module.tokens();
  const soPin = readFileSync(join(paths.pinFolder, 'sigillo-authority.so-pin'), 'utf8').trim();
  module.lib.C_InitToken(blank!.slot.handle, soPin, 'sigillo-authority'.padEnd(32));
  module.close();
  assert.deepEqual(ensureEmbeddedTokens(config), ['sigillo-timestamp', 'sigillo-journal']);
  assertUsable();
});

test('a lost PIN file is an error that names it, and no new PIN is made', { skip }, () => {
  const pinFile = join(homePaths(folder.path).pinFolder, 'sigillo-timestamp.pin');
  ensureEmbeddedTokens(configOf(folder.path));
  rmSync(pinFile);
  const expected = (error: SigilloError): boolean => error.code === 'CONFIG_UNREADABLE' && error.message.includes(pinFile);
  assert.throws(() => ensureEmbeddedTokens(configOf(folder.path)), expected);
  assert.ok(!existsSync(pinFile));
});

test('a home folder that was moved works where it is now', { skip }, () => {
  const [from, to] = [join(folder.path, 'from'), join(folder.path, 'to here')];
  mkdirSync(from);
  ensureEmbeddedTokens(configOf(from));
  renameSync(from, to);
  assert.deepEqual(ensureEmbeddedTokens(configOf(to)), []);
  assertUsable(to);
});

test('a path that SoftHSM would misread is refused', { skip }, () => {
  const home = join(folder.path, 'a=b');
  mkdirSync(home);
  assert.throws(
    () => ensureEmbeddedTokens(configOf(home)),
    (error: SigilloError) => error.code === 'CONFIG_INVALID' && /a=b/.test(error.message),
  );
});
