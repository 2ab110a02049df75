/** Which TSUs a thread has open: those that are due or nearly so, as many as the token has room for, and never fewer than one that stamps. */
import assert from 'node:assert/strict';
import { before, describe, type TestContext, test } from 'node:test';
import pkcs11 from 'pkcs11js';
import { noTurns } from '../../signer/session-pace.ts';
import { createTsuMemory, writeTsus } from '../../signer/shared-tsus.ts';
import type { Tsu } from '../../signer/stamp-task.ts';
import { TsuUnits } from '../../signer/tsu-units.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { faultyTsuWorld } from '../support/faulty-module/tsu-world.ts';

describe('the TSUs of a thread', { skip: withoutFaultyModule }, () => {
  const hsm = faultyTsuWorld();
  /** After the beginning of the certificate's period. */
  let start: number;
  before(() => {
    start = Date.now() + 1_000;
  });

  const world = (t: TestContext, ...tsus: readonly Tsu[]) => {
    const tsuMemory = createTsuMemory(tsus);
    t.mock.timers.enable({ apis: ['Date'], now: start });
    const { token } = hsm;
    const before = token.counters.sessions;
    const units = new TsuUnits({ ...hsm.data, tsuMemory }, noTurns);
    const lookAt = (ms: number): string => {
      t.mock.timers.setTime(start + ms);
      units.refresh();
      return units.at(start + ms).tsu.id;
    };
    const write = (...written: readonly Tsu[]): void => writeTsus(tsuMemory, written);
    return { token, units, lookAt, write, sessions: () => token.counters.sessions - before };
  };
  const next = (inMs: number, change: Partial<Tsu> = {}): Tsu => ({
    ...hsm.tsu,
    id: 'ab'.repeat(32),
    activeFromMs: start + inMs,
    ...change,
  });

  test('one that is scheduled is opened two minutes before it stamps', (t) => {
    const { units, lookAt, sessions } = world(t, hsm.tsu, next(3_600_000));
    assert.deepEqual([lookAt(0), sessions()], [hsm.tsu.id, 1]);
    assert.deepEqual([lookAt(3_400_000), sessions()], [hsm.tsu.id, 1]);
    assert.deepEqual([lookAt(3_481_000), sessions()], [hsm.tsu.id, 2]);
    assert.deepEqual([lookAt(3_600_000), sessions()], ['ab'.repeat(32), 2]);
    units.close();
  });

  test('a token with room for one session: the successor takes the place of its predecessor, at its instant', (t) => {
    const { token, units, lookAt, sessions } = world(t, hsm.tsu, next(60_000));
    token.limitSessions(token.counters.sessions + 1);
    assert.deepEqual([lookAt(0), sessions()], [hsm.tsu.id, 1]);
    assert.match(units.setAside.join(), /CKR_SESSION_COUNT/, 'and it is told while there is time');
    assert.deepEqual([lookAt(59_999), sessions()], [hsm.tsu.id, 1]);
    assert.deepEqual([lookAt(60_000), sessions()], ['ab'.repeat(32), 1]);
    assert.deepEqual([lookAt(80_001), sessions(), units.setAside], ['ab'.repeat(32), 1, []], 'the predecessor is not missed');
    units.close();
  });

  test('a token with room for one session: the successor takes the place of one that is not to stamp any more', (t) => {
    const { token, units, lookAt, write, sessions } = world(t, hsm.tsu, next(60_000));
    token.limitSessions(token.counters.sessions + 1);
    assert.deepEqual([lookAt(0), sessions()], [hsm.tsu.id, 1]);
    write(next(500));
    assert.deepEqual([lookAt(1_000), sessions(), units.setAside], ['ab'.repeat(32), 1, []]);
    units.close();
  });

  test('what is not in the list any more does not stamp, before the next look either', (t) => {
    const { units, lookAt, write, sessions } = world(t, hsm.tsu);
    assert.deepEqual([lookAt(0), sessions()], [hsm.tsu.id, 1]);
    write(hsm.tsu, next(60_000));
    assert.deepEqual([units.isDue(start), units.canStampAt(start), sessions()], [true, true, 1], 'another one does not hold it up');
    assert.equal(units.canStampAt(start + 60_000), false, 'until its instant');
    write(next(60_000));
    assert.deepEqual([units.isDue(start), units.canStampAt(start), sessions()], [true, false, 0]);
    assert.throws(() => units.at(start), { code: 'TSU_NONE_ACTIVE' });
    units.close();
  });

  test('a successor whose key is not found is set aside, and taken when it is there', (t) => {
    const { token, units, lookAt, sessions } = world(t, hsm.tsu, next(60_000, { keyLabel: 'not-yet' }));
    assert.deepEqual([lookAt(0), sessions()], [hsm.tsu.id, 1]);
    assert.match(units.setAside.join(), /not-yet/);
    const looks = token.fail('C_OpenSession', pkcs11.CKR_DEVICE_ERROR, { every: 1_000 });
    for (let i = 0; i < 100; i += 1) lookAt(i);
    assert.equal(looks.calls, 0, 'not at every stamp');
    assert.deepEqual([lookAt(120_000), sessions()], [hsm.tsu.id, 1], 'also when it is due: the other may stamp still');
    units.close();
  });

  test('the last one that may stamp is not set aside, and a token that fails is a failure', (t) => {
    const alone = world(t, { ...hsm.tsu, keyLabel: 'gone' });
    assert.throws(() => alone.units.refresh(), { code: 'HSM_KEY_MISSING' });
    assert.equal(alone.sessions(), 0);
    t.mock.timers.reset();
    const { token, units, sessions } = world(t, hsm.tsu, next(1_000));
    token.fail('C_OpenSession', pkcs11.CKR_DEVICE_ERROR, { every: 2, times: 1 });
    assert.throws(() => units.refresh(), { name: 'Pkcs11Error' });
    assert.equal(sessions(), 0);
    units.refresh();
    assert.equal(sessions(), 2);
    units.close();
  });
});
