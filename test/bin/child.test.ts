import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { exitTokenFailed } from '../../bin/child-messages.ts';
import { freePort } from '../support/service.ts';
import { finished, temporaryFolder } from '../support/token-home.ts';
import { until } from '../support/until.ts';

describe('a service process alone', () => {
  const folder = temporaryFolder();
  after(folder.remove);

  const run = async (behaviour: string, stop: NodeJS.Signals | undefined): Promise<{ code: number | null; stdout: string }> => {
    const opsPort = await freePort();
    const env = {
      ...process.env,
      NODE_TEST_CONTEXT: undefined,
      SIGILLO_HOME: folder.path,
      SIGILLO_OPS_PORT: String(opsPort),
      FIXTURE_LOG: join(folder.path, 'log'),
      FIXTURE_SIGNER: behaviour,
    };
    const child = spawn(process.execPath, [join(import.meta.dirname, 'fixtures/signer.ts')], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    const end = finished(child);
    if (stop !== undefined) {
      const serves = (): Promise<boolean> => fetch(`http://127.0.0.1:${opsPort}/readyz`).then(Boolean, () => false);
      await until('it serves', serves, 20_000);
      child.kill(stop);
    }
    return end;
  };

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    test(`is told that ${signal} stops it`, async () => {
      const { code, stdout } = await run('tell-reason', signal);
      assert.equal(stdout, `reason: ${signal}\n`);
      assert.equal(code, 0);
    });
  }

  test('that cannot write down the try of a PIN is to be started again: a disk that is full may have room later', async () => {
    assert.equal((await run('full-disk', undefined)).code, exitTokenFailed);
  });

  test('that gives up is told its own reason, and ends with an error', async () => {
    const { code, stdout } = await run('tell-reason-fail', undefined);
    assert.equal(stdout, 'reason: The token failed while it was used. fixture\n');
    assert.equal(code, exitTokenFailed);
  });
});
