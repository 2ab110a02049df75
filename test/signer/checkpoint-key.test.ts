import assert from 'node:assert/strict';
import { createPublicKey } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { SigilloError } from '../../config/errors.ts';
import { checkpointText, signedCheckpoint, verifyCheckpoint } from '../../observability/journal/checkpoint.ts';
import { keyScheme } from '../../pki/algorithms.ts';
import { CheckpointKey, journalKeyLabel } from '../../signer/checkpoint-key.ts';
import { ensureEmbeddedTokens } from '../../signer/embedded-token.ts';
import { embeddedModule, type Hsm, type HsmModule, openModule, resolveHsm, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { generateKeyPair } from '../../signer/token-keys.ts';
import { configOf, openssl, temporaryFolder, withoutSofthsm } from '../support/token-home.ts';

const origin = 'example.org/journal';
const root = (octet: number): Uint8Array => new Uint8Array(32).fill(octet);
const textOf = (size: number, octet = 1, of = origin): string => checkpointText({ origin: of, size, root: root(octet) });
const refusal =
  (code: string, message = /./) =>
  (error: SigilloError) =>
    error.code === code && message.test(error.message);

describe("the journal's key", { skip: withoutSofthsm }, () => {
  const folder = temporaryFolder();
  let hsm: Hsm;
  let module: HsmModule;
  const failures: string[] = [];
  const keys: CheckpointKey[] = [];
  const open = (more: { askAgainMs?: number } = {}): CheckpointKey => {
    const slot = slotForPurpose(hsm, 'journal');
    const key = new CheckpointKey({ module, slot, origin, onFailed: ({ code }) => failures.push(code), ...more });
    keys.push(key);
    return key;
  };
  before(() => {
    const config = configOf(folder.path);
    ensureEmbeddedTokens(config);
    hsm = resolveHsm(config);
    module = openModule(embeddedModule(config));
  });
  after(() => {
    for (const key of keys) key.close();
    module?.close();
    folder.remove();
  });

  test('a key that is not there yet: said once, asked again only after a while, then used', () => {
    const patient = open();
    const impatient = open({ askAgainMs: 0 });
    assert.deepEqual([patient.up, impatient.up], [false, false]);
    assert.throws(() => patient.sign(textOf(1)), refusal('HSM_KEY_MISSING', /sigillo-journal/));
    assert.deepEqual(failures.splice(0), ['HSM_KEY_MISSING', 'HSM_KEY_MISSING']);
    const slot = slotForPurpose(hsm, 'journal');
    module.login(slot);
    const session = module.openSession(slot.label, { readWrite: true });
    generateKeyPair(session, { label: journalKeyLabel, scheme: keyScheme('ec-p256') });
    session.close();
    assert.throws(() => patient.sign(textOf(1)), refusal('HSM_KEY_MISSING'));
    impatient.sign(textOf(1));
    assert.equal(impatient.up, true);
    assert.deepEqual(failures, []);
  });

  test('signs a checkpoint that everybody can verify, openssl included', () => {
    const checkpoint = { origin, size: 20_852_163, root: root(9) };
    const { signature, spki } = open().sign(checkpointText(checkpoint));
    const note = signedCheckpoint(checkpoint, spki, signature);
    assert.deepEqual(verifyCheckpoint(note, { name: origin, spki }).kind, 'valid');
    const file = (name: string, content: string | Uint8Array): string => {
      writeFileSync(join(folder.path, name), content);
      return join(folder.path, name);
    };
    const pem = file('journal.pem', createPublicKey({ key: spki, format: 'der', type: 'spki' }).export({ format: 'pem', type: 'spki' }));
    const said = openssl(
      'dgst',
      '-sha256',
      '-verify',
      pem,
      '-signature',
      file('signature', signature),
      file('text', checkpointText(checkpoint)),
    );
    assert.match(said, /Verified OK/);
  });

  test('nothing but a checkpoint of its journal is signed', () => {
    const key = open();
    for (const text of [
      '',
      'anything',
      textOf(1).slice(0, -1),
      `${textOf(1)}extension\n`,
      `\n${textOf(1)}`,
      textOf(1).replace('\n1\n', '\n01\n'),
    ])
      assert.throws(() => key.sign(text), refusal('JOURNAL_MALFORMED'), JSON.stringify(text));
    assert.throws(() => key.sign(textOf(1, 1, 'example.org/other')), refusal('JOURNAL_CHECKPOINT_REFUSED', /other/));
    assert.equal(key.up, true);
  });

  test('what was signed is not taken back', () => {
    const key = open();
    key.sign(textOf(10));
    key.sign(textOf(10));
    assert.throws(() => key.sign(textOf(9)), refusal('JOURNAL_CHECKPOINT_REFUSED', /10 was signed/));
    assert.throws(() => key.sign(textOf(10, 2)), refusal('JOURNAL_CHECKPOINT_REFUSED', /Another tree/));
    key.sign(textOf(11, 2));
    open().sign(textOf(9)); // another process knows nothing of it
  });

  test('a token that lost its login: the request is answered with the reason, and the key is down', () => {
    const key = open();
    module.lib.C_CloseAllSessions(module.findSlot('sigillo-journal').handle);
    // The login went with the last session.
    assert.throws(() => key.sign(textOf(1)), refusal('HSM_KEY_MISSING'));
    assert.equal(key.up, false);
  });

  test('a slot that is not for the journal, and a wrong PIN', () => {
    const timestamp = slotForPurpose(hsm, 'timestamp');
    failures.splice(0);
    const wrong = new CheckpointKey({ module, slot: timestamp, origin, onFailed: ({ code }) => failures.push(code) });
    assert.equal(wrong.up, false);
    assert.deepEqual(failures, ['HSM_KEY_PURPOSE']);
    const pinFile = join(folder.path, 'wrong-pin');
    writeFileSync(pinFile, 'wrong-pin\n');
    const slot = { ...timestamp, pinFile, purposes: ['journal' as const] };
    const refused = new CheckpointKey({ module, slot, origin, onFailed: ({ code }) => failures.push(code) });
    assert.throws(() => refused.sign(textOf(1)), refusal('HSM_PIN_REFUSED'));
    assert.deepEqual([refused.up, ...failures], [false, 'HSM_KEY_PURPOSE', 'HSM_PIN_REFUSED']);
  });
});
