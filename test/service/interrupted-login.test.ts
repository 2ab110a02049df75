/** A signer that is killed while it logs in leaves a token without its file (signer/token-copies.ts): the next one must have its keys. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { homePaths } from '../../config/home.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { ServiceFolder, until } from '../support/service.ts';
import { serviceChecks } from '../support/service-checks.ts';
import { withoutSofthsm } from '../support/token-home.ts';

describe('a token that a killed login has emptied', { skip: withoutSofthsm || redisServerMissing() }, () => {
  const folder = new ServiceFolder();
  after(folder.remove);

  test('is put back by the signer that follows, which stamps with the same key', async () => {
    const service = await folder.start();
    const { assertStamps } = serviceChecks(folder);
    await assertStamps(service);
    const { tokenFolder } = homePaths(folder.home);
    const files = readdirSync(tokenFolder).map((name) => join(tokenFolder, name, 'token.object'));
    const file = files.find((one) => readFileSync(one).includes('sigillo-timestamp'));
    assert.ok(file !== undefined);
    const pid = service.requirePid('signer');
    process.kill(pid, 'SIGKILL');
    truncateSync(file);
    await until('another signer', () => service.pidOf('signer') !== pid);
    await service.untilReady();
    await assertStamps(service);
    assert.match(service.lastOutput, /a login was interrupted/);
  });
});
