/** What becomes of a PIN when C_Login fails: in this process, in those that come after it, and in those that run beside it. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { openModule } from '../../signer/pkcs11-module.ts';
import { createRefusedPins } from '../../signer/refused-pins.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { LoggingIn } from '../support/faulty-module/logging-in.ts';
import { sigillo, tokenWorld } from '../support/faulty-module/token-world.ts';
import { temporaryFolder } from '../support/token-home.ts';
import { until } from '../support/until.ts';

const skip = withoutFaultyModule;
const world = tokenWorld();

/** What is remembered of PINs: the salt stays. */
const recordsIn = (folder: string): string[] => readdirSync(folder).filter((name) => !name.endsWith('.salt'));

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
  return { outcomes, calls: token.counters.loginCalls, left: recordsIn(refusedPinFolder) };
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
  assert.deepEqual(recordsIn(refusedPinFolder), [], 'the slot is as good as before');
  await killed();
  await killed();
  const before = token.counters.loginCalls;
  assert.equal(await start().outcome, 'HSM_PIN_REFUSED');
  assert.equal(token.counters.loginCalls, before);
  for (const name of recordsIn(refusedPinFolder)) rmSync(join(refusedPinFolder, name));
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
  const [name] = recordsIn(refusedPinFolder);
  const by = { pid: process.pid, startedTicks: '1' };
  const text = JSON.stringify({ by, label: 'a', pinFile, triedAt: new Date().toISOString() });
  writeFileSync(join(refusedPinFolder, name as string), text);
  createRefusedPins(refusedPinFolder).begin('a', pinFile).taken();
  assert.deepEqual(recordsIn(refusedPinFolder), []);
});

describe('what is remembered of a PIN', () => {
  const pinOf = (t: TestContext) => {
    const folder = temporaryFolder();
    t.after(folder.remove);
    const pinFile = join(folder.path, 'pin');
    const refusedPinFolder = join(folder.path, 'refused');
    const write = (pin: string, changedAt: number): void => {
      writeFileSync(pinFile, `${pin}\n`);
      utimesSync(pinFile, changedAt, changedAt);
    };
    write('1234', 1_700_000_000);
    return { pinFile, refusedPinFolder, write, begin: () => createRefusedPins(refusedPinFolder).begin('a', pinFile) };
  };
  const refused = sigillo('HSM_PIN_REFUSED');

  test('each PIN that was refused, until one is taken: an operator who tries two in turn locks no token', (t) => {
    const { begin, write } = pinOf(t);
    begin().refused('test');
    write('5678', 1_700_000_001);
    begin().refused('test');
    write('1234', 1_700_000_002);
    assert.throws(begin, refused);
    write('9012', 1_700_000_002);
    begin().taken();
    write('1234', 1_700_000_003);
    assert.equal(begin().pin, '1234');
  });

  test('two tries without a known end, whatever the time of the file', (t) => {
    const { begin, write } = pinOf(t);
    for (let n = 0; n < 2; n += 1) {
      write('1234', 1_700_000_000 + n);
      begin().unclear('test');
    }
    write('1234', 1_700_000_009);
    assert.throws(begin, refused);
  });

  /** As releases have written it that knew a PIN by the time of its file. */
  const digest = (text: string, digits: number): string => createHash('sha256').update(text).digest('hex').slice(0, digits);

  test('a refusal of the older form counts as long as the file is as it was', (t) => {
    const { pinFile, refusedPinFolder, begin, write } = pinOf(t);
    mkdirSync(refusedPinFolder);
    const record = { label: 'a', pinFile, changedAtMs: 1_700_000_000_000, refusedAt: new Date().toISOString(), reason: 'test' };
    writeFileSync(join(refusedPinFolder, `${digest('a', 32)}.json`), JSON.stringify(record));
    assert.throws(begin, refused);
    write('5678', 1_700_000_001);
    begin().taken();
    assert.deepEqual(recordsIn(refusedPinFolder), []);
  });

  test('a try of the older form counts as one of two', (t) => {
    const { pinFile, refusedPinFolder, begin } = pinOf(t);
    mkdirSync(refusedPinFolder);
    const text = JSON.stringify({ by: { pid: process.pid }, label: 'a', pinFile, triedAt: new Date().toISOString(), unclear: 'test' });
    writeFileSync(join(refusedPinFolder, `${digest('a', 32)}.${digest(`${pinFile}\0${1_700_000_000_000}`, 16)}.try1`), text);
    begin().unclear('test');
    assert.throws(begin, refused);
  });
});
