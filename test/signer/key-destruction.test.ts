/** A key that lies in several slots is destroyed in all of them; one that only has its name stays. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { destroyCopies, destroyKeyPair, destroyRemains } from '../../signer/key-destruction.ts';
import { findKey, keyState } from '../../signer/token-keys.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { keyLabel as label, scheme, tokenWorld } from '../support/faulty-module/token-world.ts';

const skip = withoutFaultyModule;
const world = tokenWorld();

test('another key of the same label stays, a copy goes, and what shows as gone then is no alarm', { skip }, (t) => {
  const { module, token } = world.open(t);
  module.login(world.neighbour);
  const [session, sameToken, other] = [world.slot, world.slot, world.neighbour].map((slot) =>
    module.openSession(slot.label, { readWrite: true }),
  ) as [ReturnType<typeof module.openSession>, ReturnType<typeof module.openSession>, ReturnType<typeof module.openSession>];
  const doomed = { label, scheme, spki: findKey(session, label, scheme)!.spki };
  assert.deepEqual(destroyCopies([{ label: 'neighbour', session: other }], doomed), []);
  assert.equal(keyState(other, label), 'whole');
  assert.throws(() => destroyKeyPair(other, doomed), { code: 'HSM_KEY_MISMATCH' });
  assert.throws(() => destroyRemains(other, label, doomed), { code: 'HSM_KEY_MISMATCH' });
  assert.throws(() => destroyRemains(other, label), { code: 'HSM_KEY_MISMATCH' });
  assert.equal(keyState(other, label), 'whole');
  // The same objects by way of another session, as members of a group show them in slots of their own.
  assert.deepEqual(destroyCopies([{ label: 'copy', session: sameToken }], doomed), ['copy']);
  assert.equal(keyState(session, label), 'absent');
  destroyRemains(session, label, doomed);
  assert.throws(() => destroyKeyPair(session, doomed), { code: 'HSM_KEY_MISSING' });
  token.killSessions({ login: 'lost' });
  const lost = module.openSession(world.slot.label, { readWrite: true });
  assert.throws(() => destroyCopies([{ label: 'lost', session: lost }], doomed), { code: 'HSM_LOGIN_LOST' });
  assert.throws(() => destroyRemains(lost, label, doomed), { code: 'HSM_LOGIN_LOST' });
});

test('a copy that has another label in its slot goes too', { skip }, (t) => {
  const { module } = world.open(t);
  module.login(world.neighbour);
  const session = module.openSession(world.neighbour.label, { readWrite: true });
  const { spki } = findKey(session, label, scheme)!;
  const doomed = { label: 'as it is called elsewhere', scheme, spki };
  assert.deepEqual(destroyCopies([{ label: 'neighbour', session }], doomed), ['neighbour']);
  assert.equal(keyState(session, label), 'absent');
});
