/** The slot with the CA's key is told of in Redis, by the process that has it. */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { pino } from 'pino';
import { SigilloError } from '../../config/errors.ts';
import { readSlots, type SlotStatus } from '../../queue/slot-status.ts';
import { type EmbeddedAuthority, openAuthoritySlot } from '../../signer/authority-slot.ts';
import type { OpenHsm } from '../../signer/hsm-modules.ts';
import type { Hsm } from '../../signer/pkcs11-module.ts';
import { lifecycleEnvironment, startLifecycleProcess } from '../support/lifecycle-process.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../support/redis-server.ts';
import { temporaryFolder, withoutSofthsm } from '../support/token-home.ts';
import { until } from '../support/until.ts';

describe("the slot of the CA's key", { skip: redisServerMissing() }, () => {
  const log = pino({ level: 'silent' });
  let server: TestRedis;
  let redis: Redis;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
  });
  after(() => server.close());
  beforeEach(() => redis.flushall());

  const told = async (): Promise<SlotStatus | undefined> =>
    (await readSlots(redis)).find(({ status }) => status.purpose === 'authority')?.status;
  const slot = { label: 'ca', purposes: ['authority' as const], pinFile: '/pin', modulePath: '/m.so', environment: {} };
  const hsm: Hsm = { slots: [slot], refusedPinFolder: '/nowhere' };
  const unused = {} as OpenHsm;
  const notCalled = () => assert.fail('not asked for');

  test('it serves, fails and serves again, as it is looked at; and is counted', async () => {
    let failure: Error | undefined;
    const authority: EmbeddedAuthority = {
      signatures: 3,
      look() {
        if (failure !== undefined) throw failure;
      },
      certify: notCalled,
      keep: notCalled,
    };
    const opened = await openAuthoritySlot(async () => authority, { redis, module: unused, hsm, log, lookEveryMs: 0 });
    const untilState = (state: string): Promise<number> => until(state, async () => (await told())?.state === state);
    await untilState('serving');
    const first = await told();
    assert.deepEqual([first?.slot, first?.process, first?.signatures.total], ['ca', 'lifecycle', 3]);
    failure = new SigilloError('HSM_DEVICE', 'away');
    for (let looks = 0; looks < 3; looks += 1) opened?.look();
    await untilState('failed');
    assert.deepEqual((await told())?.failures, { device: 1 }, 'the same error once');
    failure = undefined;
    opened?.look();
    await untilState('serving');
    assert.equal((await told())?.lastError?.code, 'HSM_DEVICE');
    await opened?.end();
    assert.equal((await told())?.state, 'stopped');
  });

  test('one that cannot be opened is told of, and there is none where an outside CA certifies', async () => {
    const refused = new SigilloError('HSM_PIN_REFUSED', 'no');
    const open = () => Promise.reject(refused);
    await assert.rejects(openAuthoritySlot(open, { redis, module: unused, hsm, log }), refused);
    assert.equal((await told())?.state, 'pin-refused');
    assert.equal(await openAuthoritySlot(undefined, { redis, module: unused, hsm, log }), undefined);
  });

  test('a lifecycle process tells of it', { skip: withoutSofthsm }, async (t) => {
    const home = temporaryFolder();
    t.after(() => home.remove());
    const process = await startLifecycleProcess(await lifecycleEnvironment(home.path, server.socket));
    t.after(() => process.stop('SIGKILL'));
    await until('it serves', async () => (await told())?.state === 'serving');
    const { slot: label, process: name } = (await told()) as SlotStatus;
    assert.deepEqual([label, name], ['sigillo-authority', 'lifecycle']);
    await process.stop();
    assert.equal((await told())?.state, 'stopped', process.output());
  });
});
