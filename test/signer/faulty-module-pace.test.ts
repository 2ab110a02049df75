/** How fast the token of the faulty module is: calls that hang, signatures that are slow, and so many at once in all processes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { ecdsa, hash, sign, tokenWorld } from '../support/faulty-module/token-world.ts';
import { until } from '../support/until.ts';

const skip = withoutFaultyModule;
const world = tokenWorld();

test('a call hangs until it is released, here or in another process', { skip }, async (t) => {
  const { faulty, token, lib, open } = world.open(t);
  const lane = open();
  const other = await world.startUser(t, faulty, 2);
  const signing = token.hang('C_Sign', { times: 3 });
  lib.C_SignInit(lane.session, ecdsa, lane.key);
  const here = lib.C_SignAsync(lane.session, hash, Buffer.alloc(64));
  other.order('sign');
  await until('all three hang', () => token.counters.hanging === 3);
  assert.deepEqual([token.counters.signing, token.counters.signatures], [0, 0]);
  sign(lib, open()); // the fourth is free
  other.order('stop');
  signing.clear();
  assert.equal((await here).length, 64);
  assert.deepEqual((await other.next('signed')).errors, []);
  assert.equal(token.counters.hanging, 0);

  const opening = token.hang('C_OpenSession');
  other.order('open-one');
  await until('the other process hangs', () => token.counters.hanging === 1);
  opening.clear();
  assert.equal((await other.next('opened')).error, undefined);

  const listing = faulty.hang('C_GetSlotList');
  const third = world.startUser(t, faulty, 0);
  await until('it hangs while it starts', () => faulty.hanging === 1);
  listing.clear();
  await third;
});

test('a slow token signs at most so many at once, in all processes together', { skip }, async (t) => {
  const faulty = world.script(t);
  const token = faulty.token(world.slot.label);
  // One after the other: SoftHSM writes the token's file at each login, and a process that reads it just then fails.
  const users = [await world.startUser(t, faulty, 12), await world.startUser(t, faulty, 12)];
  const delayMicros = 10_000;
  for (const limit of [1, 3, 16]) {
    faulty.reset();
    token.delaySigning(delayMicros);
    token.limitSigning(limit);
    for (const user of users) user.order('sign');
    await until(`${limit} sign at once`, () => token.counters.signingMost === limit && token.counters.signatures >= 24, 20_000);
    for (const user of users) user.order('stop');
    for (const user of users) assert.deepEqual((await user.next('signed')).errors, []);
    const { counters } = token;
    assert.deepEqual([counters.signingMost, counters.signing, counters.waiting], [limit, 0, 0]);
    assert.equal(counters.signatures, counters.signCalls);
    assert.ok(counters.signNanoseconds >= counters.signatures * delayMicros * 1_000);
  }
});

test('a process that is killed while it signs gives its turn to those that wait', { skip }, async (t) => {
  const { faulty, token, lib, open } = world.open(t);
  const lanes = [open(), open()];
  const killed = await world.startUser(t, faulty, 2);
  token.limitSigning(1);
  token.delaySigning(600_000_000); // longer than any test
  killed.order('sign');
  await until('one signs, and the other waits', () => token.counters.signing === 1 && token.counters.waiting === 1);
  const signatures = lanes.map(({ session, key }) => {
    lib.C_SignInit(session, ecdsa, key);
    return lib.C_SignAsync(session, hash, Buffer.alloc(64));
  });
  await until('two more wait', () => token.counters.waiting === 3);
  token.delaySigning(0);
  await killed.kill();
  for (const signature of signatures) assert.equal((await signature).length, 64);
  assert.deepEqual([token.counters.signing, token.counters.waiting, token.counters.signingMost], [0, 0, 1]);
  assert.deepEqual([token.counters.signCalls, token.counters.signatures], [4, 2]); // what the dead have counted stays
  assert.deepEqual(faulty.processes, [process.pid]);
});

test('a limit that is lifted lets those go on that wait', { skip }, async (t) => {
  const faulty = world.script(t);
  const token = faulty.token(world.slot.label);
  const user = await world.startUser(t, faulty, 4);
  token.limitSigning(1);
  token.delaySigning(600_000_000);
  user.order('sign');
  await until('three wait', () => token.counters.waiting === 3);
  token.limitSigning(0);
  await until('all four sign', () => token.counters.signing === 4 && token.counters.waiting === 0);
});
