/**
 * One signer, whose key for stamps and key for the journal are in different tokens, and the journal's token hangs: checkpoints wait for
 * it, stamps do not, whether the signer was there before or begins meanwhile.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import { opensslMissing } from '../support/openssl-ts.ts';
import { makeOperatorPki, OperatorTokens } from '../support/operator-tokens.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { describeLoad, startLoad } from '../support/stamp-load.ts';
import { softhsmPath } from '../support/token-home.ts';

const long = process.env['TEST_LONG'] !== undefined;
const skip = withoutFaultyModule || redisServerMissing() || (await opensslMissing());

describe("the journal's token hangs", { skip }, () => {
  const folder = new ServiceFolder();
  let module: FaultyModule;
  let service: Service;

  before(async () => {
    const tokens = new OperatorTokens(join(folder.path, 'hsm'));
    for (const label of ['stamps', 'records']) await tokens.addToken(label);
    const { keyFile, chainFile, rootsFile } = makeOperatorPki(tokens.path, 'ec-p256');
    await tokens.importKey('stamps', keyFile, 'our tsu');
    module = new FaultyModule({ modulePath: softhsmPath as string, environment: tokens.environment }, join(folder.path, 'hsm'));
    service = await folder.start({
      settings: {
        hsm: {
          mode: 'module',
          module: module.modulePath,
          environment: module.environment,
          slots: [
            { label: 'stamps', purposes: ['timestamp'], pinFile: tokens.pinFile },
            { label: 'records', purposes: ['journal'], pinFile: tokens.pinFile },
          ],
        },
        timestamp: { tsu: { source: 'installed', keyLabel: 'our tsu', chainFile } },
        trust: { rootsFile },
        journal: { checkpoint: { seconds: 1 } },
      },
    });
  });
  after(async () => {
    // A process that is in a call for ever could not end in order.
    module?.reset();
    if (service !== undefined && !service.hasEnded) assert.equal(await service.stop(), 0, service.lastOutput);
    module?.close();
    await folder.remove();
  });

  const keyUp = async (): Promise<boolean> => /^journal_key_up 1$/m.test(await service.metrics());
  const checkpoint = async (): Promise<number> => {
    const response = await fetch(`${service.origin}/journal/checkpoint`);
    return response.status === 200 ? Number((await response.text()).split('\n')[1]) : 0;
  };

  test('every stamp is granted, also by a signer that begins meanwhile; checkpoints are made again when the token is', async (context) => {
    await until(() => `a checkpoint${service.lastOutput}`, checkpoint);
    const pid = service.requirePid('signer');
    const load = await startLoad({ port: service.port, connections: 16 });
    try {
      await load.untilGranted(500, 60_000);
      const records = module.token('records');
      records.hang('C_Sign');
      await until(
        () => `a checkpoint hangs${service.lastOutput}`,
        () => records.counters.hanging > 0,
      );
      await load.untilGranted(load.granted() + 500, 60_000);
      await until(
        () => `it is told${service.lastOutput}`,
        async () => !(await keyUp()),
      );
      const last = await checkpoint();
      await load.untilGranted(load.granted() + 500, 60_000);
      assert.equal(service.pidOf('signer'), pid, service.lastOutput);

      process.kill(pid, 'SIGKILL');
      await until('another signer', () => ![undefined, pid].includes(service.pidOf('signer')));
      await load.untilGranted(load.granted() + 500, 60_000);
      const next = service.requirePid('signer');
      assert.equal(await keyUp(), false);
      assert.equal(await checkpoint(), last, 'nobody signs any');

      module.reset();
      await until(
        () => `a checkpoint again${service.lastOutput}`,
        async () => (await checkpoint()) > last,
        60_000,
      );
      assert.equal(service.pidOf('signer'), next, service.lastOutput);
      assert.equal(await keyUp(), true);
      const result = await load.stop();
      context.diagnostic(describeLoad(result));
      assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result) + service.lastOutput);
    } finally {
      load.abort();
    }
  });

  const untilHangs = (): Promise<unknown> => {
    module.token('records').hang('C_Sign');
    return until(
      () => `it is told${service.lastOutput}`,
      async () => !(await keyUp()),
    );
  };

  test('a call that has not come back for five minutes: another process, and no request is refused', { skip: !long }, async (context) => {
    const pid = service.requirePid('signer');
    await untilHangs();
    const load = await startLoad({ port: service.port, connections: 4, pauseMs: 100 });
    try {
      await until('another signer', () => ![undefined, pid].includes(service.pidOf('signer')), 360_000);
      await load.untilGranted(load.granted() + 500, 60_000);
      const result = await load.stop();
      context.diagnostic(describeLoad(result));
      assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result) + service.lastOutput);
    } finally {
      load.abort();
      module.reset();
    }
    await until(() => `the key is there again${service.lastOutput}`, keyUp);
  });

  test('the service stops in order while it hangs', async () => {
    await untilHangs();
    assert.equal(await service.stop(), 0, service.lastOutput);
    assert.doesNotMatch(service.output, /does not stop in time/);
  });
});
