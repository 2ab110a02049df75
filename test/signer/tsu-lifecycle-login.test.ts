/** A token that has lost its login shows no private key: nothing that is not seen then is taken for gone. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { openEmbeddedAuthority } from '../../bin/embedded-authority.ts';
import { SigilloError } from '../../config/errors.ts';
import { readTsus, tsuRegisterKeys } from '../../queue/tsu-register.ts';
import { openHsm } from '../../signer/hsm-modules.ts';
import { embeddedModule, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { findObjects, keyState } from '../../signer/token-keys.ts';
import { waitingEvents } from '../support/clients.ts';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import type { FaultyToken } from '../support/faulty-module/faulty-token.ts';
import { type LifecycleWorld, openLifecycleWorld } from '../support/lifecycle-world.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { configOf, temporaryFolder } from '../support/token-home.ts';

const day = 86_400_000;
const start = new Date('2026-11-22T10:00:00Z');

describe('keys and a login that is lost', { skip: withoutFaultyModule || redisServerMissing() }, () => {
  const folder = temporaryFolder();
  const control = temporaryFolder();
  let server: TestRedis;
  let redis: Redis;
  let world: LifecycleWorld;
  let faulty: FaultyModule;
  let token: FaultyToken;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
    faulty = new FaultyModule(embeddedModule(configOf(folder.path)), control.path);
    Object.assign(process.env, faulty.environment);
    token = faulty.token('sigillo-timestamp');
    const hsm = { mode: 'embedded', module: faulty.modulePath };
    const config = configOf(folder.path, { hsm, redis: { mode: 'url', url: `unix://${server.socket}` } });
    world = await openLifecycleWorld(config, redis, start);
    await world.work();
    await untilDue(1);
  });
  after(async () => {
    await server.close();
    faulty.reset();
    world.close();
    faulty.close();
    folder.remove();
    control.remove();
  });

  const [first, second, third] = ['tsu-ec-p256-1', 'tsu-ec-p256-2', 'tsu-ec-p256-3'] as const;
  /** Looks that often that the n-th key is followed and retired; it is to be destroyed then, which nobody has looked at. */
  const untilDue = async (n: number): Promise<void> => {
    for (const days of [-7, 0, 2, 10]) {
      world.now = new Date(start.getTime() + (89 * n + days) * day);
      if (days < 10) await world.work();
    }
  };
  const stateOf = async (label: string): Promise<string | undefined> =>
    (await readTsus(redis)).tsus.find(({ keyLabel }) => keyLabel === label)?.state;
  const destroyedEvents = async (): Promise<string[]> =>
    (await waitingEvents(redis, tsuRegisterKeys.journal)).filter(({ kind }) => kind === 'key.destroyed').map(({ subject }) => subject);
  const logInAgain = async (): Promise<void> => {
    faulty.reset();
    world.module.close();
    world.module = openHsm(world.hsm);
    world.module.login(slotForPurpose(world.hsm, 'timestamp'));
    world.authority = await openEmbeddedAuthority(world.config, world.module, world.hsm, () => world.now);
  };
  const inToken = (label: string): string => {
    const session = world.module.openSession(world.label, { readWrite: false });
    try {
      return keyState(session, label);
    } finally {
      session.close();
    }
  };
  /** What the journal says of the key, and what a fresh login sees of it. */
  const lookWith = async (label: string): Promise<void> => {
    await world.work().catch(() => undefined); // what it throws is another test's business
    await logInAgain();
    const state = await stateOf(label);
    assert.equal(inToken(label), state === 'destroyed' ? 'absent' : 'whole', `the register says ${state}`);
    assert.equal((await destroyedEvents()).includes(label), state === 'destroyed');
  };

  test('the sessions are dead and the login is lost: the key is not destroyed, and not said to be', async () => {
    assert.equal(await stateOf(first), 'retired');
    token.killSessions({ login: 'lost' });
    await assert.rejects(world.work(), { code: 'HSM_LOGIN_LOST' });
    await logInAgain();
    assert.equal(await stateOf(first), 'retired');
    assert.equal(inToken(first), 'whole');
    assert.deepEqual(await destroyedEvents(), []);
  });

  test('the token was away, and has forgotten its logins: register, journal and token say one thing', async () => {
    token.vanish();
    token.giveBack('sessions-and-logins');
    await lookWith(first);
  });

  test('with the login back it is destroyed', async () => {
    await world.work();
    assert.equal(await stateOf(first), 'destroyed');
    assert.equal(inToken(first), 'absent');
    assert.deepEqual(await destroyedEvents(), [first]);
  });

  test('a slot that does not show whether it has a copy: nothing is destroyed', async () => {
    await untilDue(2);
    const withOtherSlots = (): never => {
      throw new SigilloError('HSM_PIN_REFUSED', 'another slot');
    };
    await world.work({ withOtherSlots });
    assert.equal(await stateOf(second), 'retired');
    assert.equal(inToken(second), 'whole');
  });

  test('a login that a token has forgotten in silence', async () => {
    assert.equal(await stateOf(second), 'retired');
    token.logOut();
    await lookWith(second);
    await world.work();
    assert.equal(await stateOf(second), 'destroyed');
    assert.equal(inToken(second), 'absent');
  });

  test('a key that somebody else took away is an alarm, and not told as destroyed', async () => {
    await untilDue(3);
    assert.equal(await stateOf(third), 'retired');
    const session = world.module.openSession(world.label, { readWrite: true });
    for (const object of findObjects(session, { label: third })) object.destroy();
    session.close();
    world.log.length = 0;
    await world.work();
    assert.equal(await stateOf(third), 'retired');
    assert.ok(!(await destroyedEvents()).includes(third));
    assert.ok(world.log.some(({ msg, err }) => msg.startsWith('tsu: destroy failed') && err?.code === 'HSM_KEY_MISSING'));
  });
});
