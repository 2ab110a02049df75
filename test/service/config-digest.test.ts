/** The digest of the configuration that an operator sees is the one that every process of the service has put into the journal. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { withoutSofthsm } from '../support/token-home.ts';

interface Started {
  readonly subject: string;
  readonly detail: { readonly configSha256: string };
}

describe('the digest of the configuration', { skip: withoutSofthsm || redisServerMissing() }, () => {
  const folder = new ServiceFolder();
  let service: Service;
  before(async () => {
    service = await folder.start();
  });
  after(async () => {
    await service?.stop();
    folder.remove();
  });

  test('`sigillo config digest` prints what service.started carries', async () => {
    const digest = await folder.command(service, 'config', 'digest');
    assert.equal(digest.code, 0, digest.stderr);
    let started: Started[] = [];
    await until('every process has told that it started', async () => {
      const { stdout } = await folder.command(service, 'journal', 'search', '--kind', 'service.started', '--json');
      started = stdout.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line) as Started]));
      return new Set(started.map(({ subject }) => subject)).size === 4;
    });
    assert.deepEqual(started.map(({ subject }) => subject).toSorted(), ['gateway', 'journal', 'lifecycle', 'signer']);
    for (const { subject, detail } of started)
      assert.equal(Buffer.from(detail.configSha256, 'base64').toString('hex'), digest.stdout.trim(), subject);
  });
});
