import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import type { Session } from 'graphene-pk11';
import type { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import { keyScheme } from '../../pki/algorithms.ts';
import { ensureEmbeddedTokens, restoreEmbeddedTokens } from '../../signer/embedded-token.ts';
import { embeddedModule, openModule, resolveHsm, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { keepTokenFile } from '../../signer/token-copies.ts';
import { findKey, generateKeyPair } from '../../signer/token-keys.ts';
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

/** The file that SoftHSM empties at a login, of the token with this label. */
const tokenFile = (label: string): string => {
  const { tokenFolder } = homePaths(folder.path);
  const files = readdirSync(tokenFolder).map((name) => join(tokenFolder, name, 'token.object'));
  const found = files.find((file) => readFileSync(file).includes(label));
  assert.ok(found !== undefined);
  return found;
};

describe('a process that was killed while it logged in has emptied the file of its token', { skip }, () => {
  const label = 'sigillo-timestamp';
  const scheme = keyScheme('ec-p256');
  const inToken = <T>(use: (session: Session) => T): T => {
    const module = openModule(embeddedModule(configOf(folder.path)));
    try {
      module.login(slotForPurpose(resolveHsm(configOf(folder.path)), 'timestamp'));
      return use(module.openSession(label, { readWrite: true }));
    } finally {
      module.close();
    }
  };
  const damages: Record<string, (file: string) => void> = {
    emptied: (file) => truncateSync(file),
    'cut off': (file) => truncateSync(file, statSync(file).size - 1),
    'zeros, as after a power cut': (file) => writeFileSync(file, Buffer.alloc(statSync(file).size)),
    gone: (file) => rmSync(file),
  };
  for (const [name, damage] of Object.entries(damages)) {
    test(`${name}: the next start has its keys`, () => {
      ensureEmbeddedTokens(configOf(folder.path));
      const { spki } = inToken((session) => generateKeyPair(session, { label: 'a key', scheme }));
      damage(tokenFile(label));
      assert.deepEqual(ensureEmbeddedTokens(configOf(folder.path)), []);
      assertUsable();
      assert.deepEqual(
        inToken((session) => findKey(session, 'a key', scheme)?.spki),
        spki,
      );
    });
  }

  test('the next process has them too, and says so; a file that is whole is left alone', () => {
    ensureEmbeddedTokens(configOf(folder.path));
    const lines: object[] = [];
    const log = { warn: (line: object) => lines.push(line) };
    const file = tokenFile(label);
    const before = statSync(file).ino;
    restoreEmbeddedTokens(configOf(folder.path), log as never);
    assert.deepEqual([lines, statSync(file).ino], [[], before]);
    truncateSync(file);
    restoreEmbeddedTokens(configOf(folder.path), log as never);
    assert.deepEqual(lines, [{ files: [file] }]);
    assertUsable();
  });

  test('the copy follows a PIN that was changed with other tools, and never a file that is damaged', () => {
    ensureEmbeddedTokens(configOf(folder.path));
    const user = join(homePaths(folder.path).pinFolder, `${label}.pin`);
    const [oldPin, newPin] = [readFileSync(user, 'utf8').trim(), 'another-pin'];
    inToken((session) => session.lib.C_SetPIN(session.handle, oldPin, newPin));
    writeFileSync(user, `${newPin}\n`);
    ensureEmbeddedTokens(configOf(folder.path));
    const copy = join(dirname(tokenFile(label)), 'token.copy');
    const kept = readFileSync(copy);
    const file = tokenFile(label);
    truncateSync(file);
    keepTokenFile(dirname(file));
    assert.deepEqual(readFileSync(copy), kept);
    ensureEmbeddedTokens(configOf(folder.path));
    assertUsable();
  });

  test('what else is in the folder of the tokens is left alone', () => {
    ensureEmbeddedTokens(configOf(folder.path));
    const { tokenFolder } = homePaths(folder.path);
    mkdirSync(join(tokenFolder, 'lost+found'));
    writeFileSync(join(tokenFolder, 'note'), 'mine');
    assert.deepEqual(ensureEmbeddedTokens(configOf(folder.path)), []);
    assert.equal(readdirSync(tokenFolder).length, 5);
  });

  test('without a copy it is an error, and no token is made in its place', () => {
    ensureEmbeddedTokens(configOf(folder.path));
    const file = tokenFile(label);
    rmSync(join(dirname(file), 'token.copy'));
    truncateSync(file);
    assert.throws(
      () => ensureEmbeddedTokens(configOf(folder.path)),
      (error: SigilloError) => error.code === 'HSM_TOKEN_MISSING' && /backup/.test(error.message),
    );
    assert.equal(readdirSync(homePaths(folder.path).tokenFolder).length, 3);
  });
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
