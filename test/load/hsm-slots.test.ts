/**
 * Two slots that hold the same key: what fails in one of them under load costs no request, whatever it is, and the slot comes back by
 * itself. The module is SoftHSM behind one of our own that fails as it is told to (test/support/faulty-module).
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import pkcs11 from 'pkcs11js';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import { answersDuring, assertAnswersFit, assertVerify, spreadOver } from '../support/judged-stamps.ts';
import { opensslMissing, RelyingParty } from '../support/openssl-ts.ts';
import { makeOperatorPki, OperatorTokens } from '../support/operator-tokens.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { describeLoad, type LoadResult, nowMs, type RunningLoad, startLoad } from '../support/stamp-load.ts';
import { softhsmPath } from '../support/token-home.ts';

const skip = withoutFaultyModule || redisServerMissing() || (await opensslMissing());
const connections = 32;
const long = process.env['TEST_LONG'] !== undefined;
/** So many of the stamps that were under way when the fault struck, while it was on, and at all, are shown to OpenSSL. */
const judged = long ? { struck: connections, during: 5_000, all: 1_000 } : { struck: connections, during: 120, all: 60 };

describe('a slot of two fails under load', { skip }, () => {
  const folder = new ServiceFolder();
  const [one, two] = ['slot one', 'slot two'] as const;
  let module: FaultyModule;
  let service: Service;
  let settings: Record<string, unknown>;
  let party: RelyingParty;

  before(async () => {
    const tokens = new OperatorTokens(join(folder.path, 'hsm'));
    for (const label of [one, two, 'records']) await tokens.addToken(label);
    const { keyFile, chainFile, rootsFile } = makeOperatorPki(tokens.path, 'ec-p256');
    for (const label of [one, two]) await tokens.importKey(label, keyFile, 'our tsu');
    module = new FaultyModule({ modulePath: softhsmPath as string, environment: tokens.environment }, join(folder.path, 'hsm'));
    const pinFile = join(folder.path, 'pin of slot two');
    writeFileSync(pinFile, 'operators-pin\n', { mode: 0o600 });
    settings = {
      hsm: {
        mode: 'module',
        module: module.modulePath,
        environment: module.environment,
        slots: [
          { label: one, purposes: ['timestamp'], pinFile: tokens.pinFile },
          { label: two, purposes: ['timestamp'], pinFile },
          { label: 'records', purposes: ['journal'], pinFile: tokens.pinFile },
        ],
      },
      // The slot fails so often here that the pauses would grow.
      signer: { reinitialiseMsMax: 500 },
      timestamp: { tsu: { source: 'installed', keyLabel: 'our tsu', chainFile } },
      trust: { rootsFile },
    };
    service = await folder.start({ settings });
    await bothStamp();
    party = new RelyingParty(folder.path);
    await party.fetchFrom(service.origin);
  });
  after(async () => {
    if (service !== undefined && !service.hasEnded) assert.equal(await service.stop(), 0, service.lastOutput);
    module?.close();
    await folder.remove();
  });
  beforeEach(() => module.reset());

  const isReady = async (name: string): Promise<boolean> =>
    (await service.readiness())?.dependencies.some((item) => item.name === name && item.ok) === true;
  const bothStamp = async (): Promise<void> => {
    for (const label of [one, two])
      await until(
        () => `${label} is served${service.lastOutput}`,
        () => isReady(`token ${label}`),
        60_000,
      );
  };

  /** No answer is wrong; above all none of those that a fault could have touched. */
  const judge = async ({ kept }: LoadResult, fault: { readonly struckAt: number; readonly overAt: number }): Promise<void> => {
    assertAnswersFit(kept);
    const some = [
      ...spreadOver(answersDuring(kept, fault.struckAt, fault.struckAt), judged.struck),
      ...spreadOver(answersDuring(kept, fault.struckAt, fault.overAt), judged.during),
      ...spreadOver(kept, judged.all),
    ];
    await assertVerify(party, [...new Set(some)], { withChain: true });
  };

  /** Load before, over and after a fault of slot two. @param fault outcomes beside `granted` that it brings */
  const loadOver = async (
    strike: (load: RunningLoad) => Promise<void>,
    fault: { readonly refusals?: string } = {},
  ): Promise<LoadResult> => {
    const load = await startLoad({ port: service.port, connections, keep: true });
    try {
      await load.untilGranted(1_000, 60_000);
      const struckAt = nowMs();
      await strike(load);
      const overAt = nowMs();
      await load.untilGranted(load.granted() + 1_000, 60_000);
      const result = await load.stop();
      const outcomes = ['granted', ...(fault.refusals === undefined ? [] : [fault.refusals])];
      assert.deepEqual(Object.keys(result.counts).toSorted(), outcomes, describeLoad(result) + service.lastOutput);
      await judge(result, { struckAt, overAt });
      return result;
    } finally {
      load.abort();
    }
  };
  const signaturesOf = (label: string): number => module.token(label).counters.signatures;
  const untilSigns = (label: string, more = 200): Promise<unknown> => {
    const from = signaturesOf(label);
    return until(
      () => `${label} signs${service.lastOutput}`,
      () => signaturesOf(label) >= from + more,
      60_000,
    );
  };

  test('both slots share the load of one key', async () => {
    await loadOver(async () => {
      await untilSigns(one);
      await untilSigns(two);
    });
  });

  const token = (): ReturnType<FaultyModule['token']> => module.token(two);
  interface Fault {
    readonly name: string;
    readonly strike: () => void;
    readonly heal?: () => void;
    /** The process goes on with other sessions. */
    readonly stays?: boolean;
    /** Another of the same class; only in the long run. */
    readonly another?: boolean;
  }
  const faults: readonly Fault[] = [
    { name: 'a session that is gone is opened anew', strike: () => token().killSessions(), stays: true },
    {
      name: 'CKR_SESSION_HANDLE_INVALID, now and then',
      strike: () => token().fail('C_Sign', pkcs11.CKR_SESSION_HANDLE_INVALID, { times: 20, every: 10 }),
      stays: true,
    },
    { name: 'CKR_DEVICE_ERROR, once', strike: () => token().fail('C_Sign', pkcs11.CKR_DEVICE_ERROR, { times: 1 }) },
    {
      name: 'CKR_DEVICE_MEMORY in C_SignInit, three times',
      another: true,
      strike: () => token().fail('C_SignInit', pkcs11.CKR_DEVICE_MEMORY, { times: 3 }),
    },
    { name: 'CKR_USER_NOT_LOGGED_IN, until somebody logs in', strike: () => token().logOut() },
    {
      name: 'CKR_GENERAL_ERROR for a while',
      another: true,
      strike: () => token().fail('C_Sign', pkcs11.CKR_GENERAL_ERROR),
      heal: () => token().reset(),
    },
    { name: 'a code of the vendor, once', another: true, strike: () => token().fail('C_Sign', 0x8000_0042, { times: 1 }) },
    {
      name: 'a full session table, when sessions are lost',
      another: true,
      strike: () => {
        token().limitSessions(1);
        token().killSessions({ login: 'lost' });
      },
      heal: () => token().limitSessions(0),
    },
    { name: 'the token taken away, and given back', strike: () => token().vanish(), heal: () => token().giveBack('until-reinitialised') },
    { name: 'a call that never comes back', strike: () => token().hang('C_Sign', { times: 1 }) },
  ];
  for (const { name, strike, heal, stays } of faults.filter(({ another }) => long || another !== true)) {
    test(name, async (context) => {
      const result = await loadOver(async () => {
        await untilSigns(two);
        const pid = service.requirePid('signer-2');
        strike();
        if (stays !== true)
          await until(
            () => `the process is replaced${service.lastOutput}`,
            () => service.pidOf('signer-2') !== pid,
          );
        await untilSigns(one, 500);
        heal?.();
        await bothStamp();
        await untilSigns(two);
        assert.equal(service.pidOf('signer-2') === pid, stays === true);
      });
      context.diagnostic(describeLoad(result));
    });
  }

  const refusals = [
    { name: 'what the token will not do is refused at once, and the slot stays: class request', ckr: pkcs11.CKR_DATA_LEN_RANGE },
    { name: 'a call that the module finds wrong is refused at once, and the slot stays: class bug', ckr: pkcs11.CKR_ARGUMENTS_BAD },
    { name: 'a code that the standard does not have is a bug too', ckr: 0x0000_7abc, another: true },
  ];
  for (const { name, ckr } of refusals.filter(({ another }) => long || another !== true)) {
    test(name, async (context) => {
      const result = await loadOver(
        async () => {
          await untilSigns(two);
          const pid = service.requirePid('signer-2');
          const { loginCalls } = token().counters;
          const rule = token().fail('C_Sign', ckr, { times: 5, every: 3 });
          await until('it has struck', () => rule.struck === 5);
          await untilSigns(two);
          assert.equal(service.pidOf('signer-2'), pid);
          assert.equal(token().counters.loginCalls, loginCalls);
        },
        { refusals: 'refused:systemFailure' },
      );
      context.diagnostic(describeLoad(result));
      assert.equal(result.counts['refused:systemFailure'], 5, 'one for each call that failed, and none beside');
    });
  }

  test('a slot that refuses everything, and at once, does not draw the work of the other; it comes back when it signs again', async () => {
    const pid = service.requirePid('signer-2');
    const load = await startLoad({ port: service.port, connections, keep: true });
    try {
      await untilSigns(two);
      const rule = token().fail('C_Sign', pkcs11.CKR_MECHANISM_INVALID);
      await until(
        () => `the process is replaced${service.lastOutput}`,
        () => service.pidOf('signer-2') !== pid,
      );
      await untilSigns(one, 2_000);
      rule.clear();
      await untilSigns(two);
      const { counts } = await load.stop();
      // None at all when the eighth is in the same batch as the first.
      const { granted: _granted, 'refused:systemFailure': refused = 0, ...others } = counts;
      assert.deepEqual(others, {}, JSON.stringify(counts));
      assert.ok(refused < 8, JSON.stringify(counts));
    } finally {
      load.abort();
    }
  });

  test('a PIN that is wrong after the slot failed is tried once; the other slot goes on; the right PIN in the file brings it back', async () => {
    const pinFile = join(folder.path, 'pin of slot two');
    const before = token().counters;
    await loadOver(async () => {
      writeFileSync(pinFile, `${randomBytes(4).toString('hex')}\n`);
      token().fail('C_Sign', pkcs11.CKR_DEVICE_REMOVED, { times: 1 });
      await until(
        () => `it is refused${service.lastOutput}`,
        () => token().counters.loginsRefused === before.loginsRefused + 1,
        30_000,
      );
      await until('the slot is given up', async () => !(await isReady('signer-2')) && service.pidOf('signer-2') === undefined);
      await untilSigns(one, 2_000);
    });
    assert.equal((await service.readiness())?.status, 200, 'the service does its job');
    assert.equal(token().counters.loginsRefused, before.loginsRefused + 1);
    await loadOver(async () => {
      writeFileSync(pinFile, 'operators-pin\n');
      await untilSigns(two);
    });
    assert.equal(token().counters.loginsRefused, before.loginsRefused + 1);
  });
});
