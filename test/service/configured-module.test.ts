/** The embedded token is replaced by another module, with keys of its own or of an operator, by configuration alone. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, describe, test } from 'node:test';
import { homePaths } from '../../config/home.ts';
import { opensslMissing } from '../support/openssl-ts.ts';
import { makeOperatorPki, OperatorTokens, operatorsPin } from '../support/operator-tokens.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { ServiceFolder } from '../support/service.ts';
import { serviceChecks } from '../support/service-checks.ts';
import { softhsmPath, withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing() || (await opensslMissing());

/** One home for most tests of this file: its keys are made once. */
const folder = new ServiceFolder();
after(folder.remove);
// A test that fails must not take the next one with it.
afterEach(folder.killAll);

const { withService, assertStamps, assertLoad } = serviceChecks(folder);

describe('a PKCS#11 module by configuration alone', { skip }, () => {
  const makeToken = async (name: string, label: string): Promise<OperatorTokens> => {
    const tokens = new OperatorTokens(join(folder.path, name));
    await tokens.addToken(label);
    return tokens;
  };
  const hsmOf = (tokens: OperatorTokens, label: string, purposes: readonly string[]): Record<string, unknown> => ({
    mode: 'module',
    module: softhsmPath,
    environment: tokens.environment,
    slots: [{ label, purposes, pinFile: tokens.pinFile }],
  });

  test('demonstration keys in a token of the operator', async () => {
    const token = await makeToken('own-token', 'our token');
    const home = new ServiceFolder();
    try {
      const settings = { hsm: hsmOf(token, 'our token', ['authority', 'timestamp', 'journal']) };
      const service = await withService({ settings }, assertStamps, home);
      assert.ok(!existsSync(homePaths(service.home).tokenFolder), 'no token of our own beside it');
      assert.ok(!service.output.includes(operatorsPin));
      await withService(
        { settings },
        async (second) => {
          assert.doesNotMatch(second.output, /made:/);
          await assertStamps(second);
        },
        home,
      );
    } finally {
      await home.remove();
    }
  });

  for (const algorithm of ['ec-p256', 'rsa-3072'] as const) {
    test(`an installed ${algorithm} key under the CA of the operator`, async () => {
      const token = await makeToken(`installed-${algorithm}`, 'tsa hsm');
      const { keyFile, chainFile, rootsFile } = makeOperatorPki(token.path, algorithm);
      await token.importKey('tsa hsm', keyFile, 'our tsu');
      const settings = {
        hsm: hsmOf(token, 'tsa hsm', ['timestamp', 'journal']),
        timestamp: { algorithm, tsu: { source: 'installed', keyLabel: 'our tsu', chainFile } },
        trust: { rootsFile },
      };
      const home = new ServiceFolder();
      try {
        await withService(
          { settings },
          async (service) => {
            assert.equal(
              await fetch(`${service.origin}/repository/trust.pem`).then((response) => response.text()),
              readFileSync(rootsFile, 'utf8').replace(/^.*?(?=-----BEGIN)/s, ''),
            );
            await assertStamps(service);
            await assertLoad(service, 200);
          },
          home,
        );
      } finally {
        await home.remove();
      }
    });
  }
});
