/** The journal's key on a thread of its own: what hangs in its token hangs nowhere else, and comes back when it does. */
import assert from 'node:assert/strict';
import { createPublicKey, verify } from 'node:crypto';
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, type TestContext, test } from 'node:test';
import type { SigilloError } from '../../config/errors.ts';
import { checkpointText } from '../../observability/journal/checkpoint.ts';
import { journalKeyLabel } from '../../signer/checkpoint-key.ts';
import { CheckpointThread, type CheckpointThreadOptions } from '../../signer/checkpoint-thread.ts';
import { openModule } from '../../signer/pkcs11-module.ts';
import { generateKeyPair } from '../../signer/token-keys.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import type { FaultyToken } from '../support/faulty-module/faulty-token.ts';
import { scheme, sigillo, tokenWorld } from '../support/faulty-module/token-world.ts';
import { until } from '../support/until.ts';

const skip = withoutFaultyModule;
const world = tokenWorld();
const origin = 'example.org/journal';
const textOf = (size: number): string => checkpointText({ origin, size, root: new Uint8Array(32).fill(1) });

before(() => {
  if (withoutFaultyModule !== false) return;
  const module = openModule(world.neighbour);
  module.login(world.neighbour);
  generateKeyPair(module.openSession(world.neighbour.label, { readWrite: true }), { label: journalKeyLabel, scheme });
  module.close();
});

interface Told {
  readonly failed: string[];
  readonly handedOver: SigilloError[];
}

interface Started {
  readonly thread: CheckpointThread;
  readonly token: FaultyToken;
  readonly told: Told;
  /** When nothing hangs any more. */
  readonly close: () => Promise<void>;
}

interface Options extends Partial<Pick<CheckpointThreadOptions, 'handOverAfterMs' | 'askAgainMs'>> {
  readonly script?: (token: FaultyToken) => void;
  readonly pinFile?: string;
}

/** A thread on the journal's token, beside a main thread that has the module. */
const start = (t: TestContext, { script, pinFile, ...options }: Options = {}): Started => {
  const { faulty } = world.open(t);
  const token = faulty.token(world.neighbour.label);
  script?.(token);
  const told: Told = { failed: [], handedOver: [] };
  const { modulePath, environment } = faulty;
  const thread = new CheckpointThread({
    slot: { ...world.neighbour, modulePath, environment, ...(pinFile === undefined ? {} : { pinFile }) },
    origin,
    refusedPinFolder: join(world.home.path, 'refused-pins'),
    shared: 'module',
    callMsMax: 300,
    onFailed: ({ code }) => told.failed.push(code),
    onHandOver: (error) => told.handedOver.push(error),
    ...options,
  });
  const close = async (): Promise<void> => {
    token.reset();
    await until('nothing hangs', () => !thread.stuck);
    await thread.close();
  };
  return { thread, token, told, close };
};

test('signs, and answers with the code of what it will not sign', { skip }, async (t) => {
  const { thread, told, close } = start(t);
  const text = textOf(7);
  const { signature, spki } = await thread.sign(text);
  assert.ok(verify('sha256', Buffer.from(text), createPublicKey({ key: spki, format: 'der', type: 'spki' }), signature));
  assert.equal(thread.up, true);
  await assert.rejects(thread.sign(textOf(6)), sigillo('JOURNAL_CHECKPOINT_REFUSED', /7 was signed/));
  await assert.rejects(thread.sign('anything'), sigillo('JOURNAL_MALFORMED'));
  assert.deepEqual(told, { failed: [], handedOver: [] });
  await close();
});

test('a call that hangs is given up, told once, and asked no more; checkpoints are signed again when it comes back', {
  skip,
}, async (t) => {
  const { thread, token, told, close } = start(t);
  await thread.sign(textOf(1));
  const hang = token.hang('C_Sign', { times: 1 });
  await assert.rejects(thread.sign(textOf(2)), sigillo('HSM_DEVICE', /has not come back/));
  assert.deepEqual([thread.up, thread.stuck, told.failed], [false, true, ['HSM_DEVICE']]);
  const { signCalls } = token.counters;
  await assert.rejects(thread.sign(textOf(3)), sigillo('HSM_DEVICE', /has not come back/));
  assert.equal(token.counters.signCalls, signCalls);
  hang.clear();
  await until('it has come back', () => thread.up);
  await thread.sign(textOf(3));
  assert.deepEqual(told, { failed: ['HSM_DEVICE'], handedOver: [] });
  await close();
});

for (const call of ['C_OpenSession', 'C_Login', 'C_Sign'] as const) {
  test(`${call} hangs while the key is loaded: nobody waits, and the key is there when it comes back`, { skip }, async (t) => {
    const { thread, token, told, close } = start(t, { script: (scripted) => void scripted.hang(call) });
    await until('it hangs', () => thread.stuck);
    assert.deepEqual([thread.up, told.failed], [false, ['HSM_DEVICE']]);
    token.reset();
    await until('it is up', () => thread.up);
    await close();
  });
}

test('a call that does not come back for long is for another process, and the end of this one does not wait for it', {
  skip,
}, async (t) => {
  const { thread, token, told } = start(t, { handOverAfterMs: 600 });
  await thread.sign(textOf(1));
  token.hang('C_Sign');
  await assert.rejects(thread.sign(textOf(2)), sigillo('HSM_DEVICE'));
  await until('it is told', () => told.handedOver.length > 0);
  await thread.close();
  assert.equal(thread.stuck, true);
  assert.equal(token.counters.hanging, 1);
  assert.deepEqual(
    told.handedOver.map(({ code }) => code),
    ['HSM_DEVICE'],
  );
  token.reset();
  await until('the call is over', () => token.counters.hanging === 0);
});

test('a PIN that is refused is told, and not tried again; the one that its file has later is', { skip }, async (t) => {
  const pinFile = join(world.home.path, 'wrong-pin');
  writeFileSync(pinFile, 'wrong-pin\n', { mode: 0o600 });
  const { thread, token, told, close } = start(t, { pinFile, askAgainMs: 0 });
  await until('it is refused', () => told.failed.length > 0);
  for (let i = 0; i < 3; i += 1) await assert.rejects(thread.sign(textOf(1)), sigillo('HSM_PIN_REFUSED'));
  assert.deepEqual([new Set(told.failed), thread.up, token.counters.loginsRefused], [new Set(['HSM_PIN_REFUSED']), false, 1]);
  copyFileSync(world.neighbour.pinFile, pinFile);
  await thread.sign(textOf(1));
  assert.deepEqual([thread.up, token.counters.loginsRefused], [true, 1]);
  await close();
});
