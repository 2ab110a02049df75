/**
 * Two PKCS#11 modules in one service, each with a token of its own that has the key: SoftHSM, and another library that fails as it is
 * told to. What takes one of them down is nothing to the other, and it comes back without a restart.
 */
import assert from 'node:assert/strict';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import pkcs11 from 'pkcs11js';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import type { FaultyToken } from '../support/faulty-module/faulty-token.ts';
import { assertAnswersFit, assertVerify, spreadOver } from '../support/judged-stamps.ts';
import { opensslMissing, RelyingParty } from '../support/openssl-ts.ts';
import { makeOperatorPki, OperatorTokens } from '../support/operator-tokens.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { describeLoad, startLoad } from '../support/stamp-load.ts';
import { softhsmPath } from '../support/token-home.ts';

const skip = withoutFaultyModule || redisServerMissing() || (await opensslMissing());
const deadlineMs = 60_000;

describe('two modules in one service', { skip }, () => {
  const folder = new ServiceFolder();
  const [steady, failing] = ['steady token', 'failing token'] as const;
  let service: Service;
  let module: FaultyModule;
  let token: FaultyToken;
  let party: RelyingParty;

  before(async () => {
    const [ours, theirs] = [new OperatorTokens(join(folder.path, 'ours')), new OperatorTokens(join(folder.path, 'theirs'))];
    await ours.addToken(steady);
    await theirs.addToken(failing);
    const { keyFile, chainFile, rootsFile } = makeOperatorPki(ours.path, 'ec-p256');
    await ours.importKey(steady, keyFile, 'our tsu');
    await theirs.importKey(failing, keyFile, 'our tsu');
    // A library is loaded once into a process, by its file: behind the other module there is another one.
    const copy = join(theirs.path, 'libsofthsm2.so');
    copyFileSync(softhsmPath as string, copy);
    module = new FaultyModule({ modulePath: copy, environment: theirs.environment }, theirs.path);
    token = module.token(failing);
    service = await folder.start({
      settings: {
        hsm: {
          mode: 'module',
          module: softhsmPath,
          environment: ours.environment,
          slots: [
            { label: steady, purposes: ['timestamp', 'journal'], pinFile: ours.pinFile },
            {
              label: failing,
              purposes: ['timestamp'],
              pinFile: theirs.pinFile,
              module: module.modulePath,
              environment: module.environment,
            },
          ],
        },
        signer: { reinitialiseMsMax: 500 },
        timestamp: { tsu: { source: 'installed', keyLabel: 'our tsu', chainFile } },
        trust: { rootsFile },
      },
    });
    await untilUp(steady);
    await untilUp(failing);
    party = new RelyingParty(folder.path);
    await party.fetchFrom(service.origin);
  });
  after(async () => {
    module?.reset();
    if (service !== undefined && !service.hasEnded) assert.equal(await service.stop(), 0, service.lastOutput);
    module?.close();
    await folder.remove();
  });
  beforeEach(() => module.reset());

  const isUp = async (label: string): Promise<boolean> =>
    (await service.readiness())?.dependencies.some(({ name, ok }) => name === `token ${label}` && ok) === true;
  const untilUp = (label: string): Promise<unknown> =>
    until(
      () => `${label} is served${service.lastOutput}`,
      () => isUp(label),
      deadlineMs,
    );
  const untilSigns = (): Promise<unknown> => {
    const from = token.counters.signatures;
    return until(
      () => `the other module signs${service.lastOutput}`,
      () => token.counters.signatures > from + 20,
      deadlineMs,
    );
  };

  const outages = [
    { name: 'fails', begin: () => void token.fail('C_Sign', pkcs11.CKR_DEVICE_ERROR), end: () => token.reset() },
    { name: 'loses its token', begin: () => token.vanish(), end: () => token.giveBack('until-reinitialised') },
    {
      name: 'cannot be initialised',
      begin: () => {
        module.fail('C_Initialize', pkcs11.CKR_GENERAL_ERROR);
        token.fail('C_Sign', pkcs11.CKR_DEVICE_REMOVED, { times: 1 });
      },
      end: () => module.reset(),
    },
  ];
  for (const { name, begin, end } of outages) {
    test(`one ${name}: the other goes on, no request is lost, and it comes back by itself`, async (context) => {
      const load = await startLoad({ port: service.port, connections: 8, keep: true });
      try {
        await untilSigns();
        const pids = { steady: service.requirePid('signer-1'), failing: service.requirePid('signer-2') };
        begin();
        await until('it is down', async () => service.pidOf('signer-2') !== pids.failing && !(await isUp(failing)), deadlineMs);
        const { signatures } = token.counters;
        await load.untilGranted(load.granted() + 200, deadlineMs);
        assert.equal(token.counters.signatures, signatures, 'nothing of it while it is away');
        assert.equal((await service.readiness())?.status, 200);
        end();
        await untilUp(failing);
        await untilSigns();
        assert.equal(service.pidOf('signer-1'), pids.steady, 'that is its affair alone');
        const result = await load.stop();
        context.diagnostic(describeLoad(result));
        assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result) + service.lastOutput);
        assertAnswersFit(result.kept);
        await assertVerify(party, spreadOver(result.kept, 40), { withChain: true });
      } finally {
        load.abort();
      }
    });
  }

  test('commands see the tokens of both', async () => {
    const { code, stdout, stderr } = await folder.command(service, 'hsm', 'list', '--json');
    assert.equal(code, 0, stderr);
    for (const label of [steady, failing]) assert.match(stdout, new RegExp(`"${label}"`));
  });
});
