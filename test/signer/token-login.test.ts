/** What becomes of a PIN when C_Login fails: in this process, in those that come after it, and in those that run beside it. */
import assert from 'node:assert/strict';
import { readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { openModule } from '../../signer/pkcs11-module.ts';
import { createRefusedPins } from '../../signer/refused-pins.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { LoggingIn } from '../support/faulty-module/logging-in.ts';
import { sigillo, tokenWorld } from '../support/faulty-module/token-world.ts';
import { temporaryFolder } from '../support/token-home.ts';
import { until } from '../support/until.ts';

const skip = withoutFaultyModule;
const world = tokenWorld();

/** What three processes, one after the other, get from a token whose C_Login fails with a code; and how often it was called. */
const threeStarts = (t: Parameters<typeof world.script>[0], code: number, times?: number) => {
  const faulty = world.script(t);
  const folder = temporaryFolder();
  t.after(folder.remove);
  const refusedPinFolder = join(folder.path, 'refused');
  const token = faulty.token(world.slot.label);
  token.fail('C_Login', code, times === undefined ? {} : { times });
  const outcomes = Array.from({ length: 3 }, () => {
    const module = openModule({ modulePath: faulty.modulePath, environment: faulty.environment, refusedPinFolder });
    try {
      module.login(world.slot);
      return 'ok';
    } catch (error) {
      return (error as { code?: string }).code;
    } finally {
      module.close();
    }
  });
  return { outcomes, calls: token.counters.loginCalls, left: readdirSync(refusedPinFolder) };
};

for (const [name, code] of [
  ['CKR_PIN_INCORRECT', 0xa0],
  ['CKR_FUNCTION_FAILED', 0x6],
  ['CKR_ARGUMENTS_BAD', 0x7],
  ['CKR_FUNCTION_REJECTED', 0x200],
  ['one of a vendor', 0x80000042],
] as const) {
  test(`a PIN is tried once, over three processes, when the token answers ${name}`, { skip }, (t) => {
    const { outcomes, calls } = threeStarts(t, code);
    assert.deepEqual([outcomes, calls], [['HSM_PIN_REFUSED', 'HSM_PIN_REFUSED', 'HSM_PIN_REFUSED'], 1]);
  });
}

for (const [name, code] of [
  ['CKR_DEVICE_ERROR', 0x30],
  ['CKR_DEVICE_REMOVED', 0x32],
  ['CKR_SESSION_CLOSED', 0xb0],
] as const) {
  test(`where ${name} leaves it open whether the token saw the PIN, one more process may try`, { skip }, (t) => {
    const lost = threeStarts(t, code);
    assert.deepEqual([lost.outcomes, lost.calls], [['HSM_DEVICE', 'HSM_DEVICE', 'HSM_PIN_REFUSED'], 2]);
    const passing = threeStarts(t, code, 1);
    assert.deepEqual([passing.outcomes, passing.calls, passing.left], [['HSM_DEVICE', 'ok', 'ok'], 3, []]);
  });
}

for (const [name, code] of [
  ['CKR_TOKEN_NOT_PRESENT', 0xe0],
  ['CKR_SESSION_HANDLE_INVALID', 0xb3],
  ["SoftHSM's CKR_GENERAL_ERROR", 0x5],
] as const) {
  test(`${name} comes before the PIN: it costs nothing, however often`, { skip }, (t) => {
    const { outcomes, calls, left } = threeStarts(t, code, 7);
    assert.deepEqual([outcomes, calls, left], [['HSM_DEVICE', 'ok', 'ok'], 4 + 4 + 1, []]);
  });
}

test('a kill -9 during the login costs one more try, and not two; a login that works costs none', { skip }, async (t) => {
  const faulty = world.script(t);
  const folder = temporaryFolder();
  t.after(folder.remove);
  const refusedPinFolder = join(folder.path, 'refused');
  const token = faulty.token(world.slot.label);
  const start = () =>
    LoggingIn.start(t, { modulePath: faulty.modulePath, environment: faulty.environment, refusedPinFolder, slot: world.slot });
  const killed = async (): Promise<void> => {
    const rule = token.hang('C_Login');
    const process = start();
    await until('it hangs in C_Login', () => token.counters.hanging === 1);
    await process.kill();
    rule.clear();
  };
  await killed();
  assert.equal(await start().outcome, 'ok');
  assert.deepEqual(readdirSync(refusedPinFolder), [], 'the slot is as good as before');
  await killed();
  await killed();
  const before = token.counters.loginCalls;
  assert.equal(await start().outcome, 'HSM_PIN_REFUSED');
  assert.equal(token.counters.loginCalls, before);
  for (const name of readdirSync(refusedPinFolder)) rmSync(join(refusedPinFolder, name));
  assert.equal(await start().outcome, 'ok', 'once somebody has looked');
});

test('processes that start together try a wrong PIN once between them', { skip }, async (t) => {
  const faulty = world.script(t);
  const token = faulty.token(world.slot.label);
  const folder = temporaryFolder();
  t.after(folder.remove);
  const pinFile = join(folder.path, 'wrong.pin');
  writeFileSync(pinFile, '12345678\n', { mode: 0o600 });
  const use = { modulePath: faulty.modulePath, environment: faulty.environment, refusedPinFolder: join(folder.path, 'refused') };
  const outcomes = await Promise.all(
    Array.from({ length: 4 }, () => LoggingIn.start(t, { ...use, slot: { ...world.slot, pinFile } }).outcome),
  );
  assert.deepEqual(outcomes, Array(4).fill('HSM_PIN_REFUSED'));
  assert.equal(token.counters.loginCalls, 1);
});

test('a try that cannot be written down is not made', { skip }, (t) => {
  const faulty = world.script(t);
  const token = faulty.token(world.slot.label);
  const folder = temporaryFolder();
  t.after(folder.remove);
  const refusedPinFolder = join(folder.path, 'refused');
  symlinkSync('/proc/self/fdinfo', refusedPinFolder); // where nobody can make a file
  const module = openModule({
    modulePath: faulty.modulePath,
    environment: faulty.environment,
    refusedPinFolder,
  });
  t.after(() => module.close());
  assert.throws(() => module.login(world.slot), sigillo('HSM_PIN_UNRECORDED', /refused/));
  assert.equal(token.counters.loginCalls, 0);
  rmSync(refusedPinFolder);
  module.login(world.slot);
  assert.equal(token.counters.loginCalls, 1, 'the disk has room again');
});

test('a try whose process is another one of the same number now has ended', { skip: process.platform !== 'linux' }, (t) => {
  const folder = temporaryFolder();
  t.after(folder.remove);
  const pinFile = join(folder.path, 'pin');
  writeFileSync(pinFile, '1234\n');
  const refusedPinFolder = join(folder.path, 'refused');
  createRefusedPins(refusedPinFolder).begin('a', pinFile);
  const [name] = readdirSync(refusedPinFolder);
  const by = { pid: process.pid, startedTicks: '1' };
  const text = JSON.stringify({ by, label: 'a', pinFile, triedAt: new Date().toISOString() });
  writeFileSync(join(refusedPinFolder, name as string), text);
  createRefusedPins(refusedPinFolder).begin('a', pinFile).taken();
  assert.deepEqual(readdirSync(refusedPinFolder), []);
});
