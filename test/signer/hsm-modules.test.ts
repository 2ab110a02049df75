/** Modules of a configuration, each opened once, whatever names its file has. */
import assert from 'node:assert/strict';
import { copyFileSync, linkSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openHsm } from '../../signer/hsm-modules.ts';
import type { HsmSlot } from '../../signer/pkcs11-module.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import { OperatorTokens } from '../support/operator-tokens.ts';
import { softhsmPath, temporaryFolder } from '../support/token-home.ts';

const skip = withoutFaultyModule;
const folder = temporaryFolder();
const [one, two] = ['slot one', 'slot two'] as const;
const file = (name: string): string => join(folder.path, name);
let tokens: OperatorTokens;
let faulty: FaultyModule;

before(async () => {
  if (skip !== false) return;
  tokens = new OperatorTokens(file('hsm'));
  for (const label of [one, two]) await tokens.addToken(label);
  faulty = new FaultyModule({ modulePath: softhsmPath as string, environment: tokens.environment }, folder.path);
  symlinkSync(faulty.modulePath, file('symlink.so'));
  copyFileSync(faulty.modulePath, file('copy.so'));
  linkSync(file('copy.so'), file('link.so'));
});
after(() => {
  faulty?.close();
  folder.remove();
});

const slotOf = (label: string, modulePath: string, environment = faulty.environment): HsmSlot => ({
  label,
  purposes: ['timestamp'],
  pinFile: tokens.pinFile,
  modulePath,
  environment,
});
const hsmOf = (...slots: readonly HsmSlot[]) => openHsm({ slots, refusedPinFolder: file('refused-pins') });

for (const [name, first, second] of [
  ['a symbolic link', () => faulty.modulePath, () => file('symlink.so')],
  ['a hard link', () => file('copy.so'), () => file('link.so')],
  ['a roundabout path', () => file('copy.so'), () => `${folder.path}/./copy.so`],
] as const) {
  test(`${name} to a module that is open is that module: it is initialised once, and both slots work`, { skip }, () => {
    faulty.reset();
    const hsm = hsmOf(slotOf(one, first()), slotOf(two, second()));
    try {
      for (const label of [one, two]) {
        hsm.login(slotOf(label, first()));
        hsm.openSession(label, { readWrite: false }).close();
      }
      assert.equal(faulty.initializeCalls, 1);
      assert.equal(hsm.tokens().filter(({ label }) => label === one).length, 1);
    } finally {
      hsm.close();
    }
    assert.equal(faulty.finalizeCalls, 1);
  });
}

test('one file with two environments is refused, and the slot that was first goes on', { skip }, () => {
  const hsm = hsmOf(slotOf(one, faulty.modulePath), slotOf(two, file('symlink.so'), { ...faulty.environment, OTHER: 'x' }));
  try {
    hsm.findSlot(one);
    assert.throws(() => hsm.findSlot(two), { code: 'CONFIG_INVALID', message: /symlink\.so.*environment/ });
    hsm.findSlot(one);
  } finally {
    hsm.close();
  }
});
