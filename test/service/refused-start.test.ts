/** What the whole service does not start with: it says so, ends, and leaves nothing behind. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { after, afterEach, describe, test } from 'node:test';
import { homePaths } from '../../config/home.ts';
import { opensslMissing, postQuery } from '../support/openssl-ts.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { ServiceFolder } from '../support/service.ts';
import { serviceChecks } from '../support/service-checks.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing() || (await opensslMissing());

/** One home for the tests of this file: its keys are made once. */
const folder = new ServiceFolder();
after(folder.remove);
// A test that fails must not take the next one with it.
afterEach(folder.killAll);

const { withService, assertStamps } = serviceChecks(folder);

describe('a start that is refused', { skip }, () => {
  test('a home that is in use is refused, and its owner does not notice', async () => {
    await withService({}, async (service) => {
      const second = await folder.spawn();
      assert.equal((await second.ended).code, 1);
      assert.match(second.output, new RegExp(`HOME_IN_USE: .*${service.pid}`));
      assert.equal((await service.readiness())?.status, 200);
      await assertStamps(service);
      assert.ok(existsSync(homePaths(service.home).lockFile));
    });
  });

  for (const [which, status] of [
    ['port', 78],
    ['opsPort', 1],
  ] as const) {
    test(`a ${which} that is taken is named, and nothing stays behind`, async () => {
      const holder = createServer().listen(0, '127.0.0.1');
      await new Promise((resolve) => holder.once('listening', resolve));
      const { port: taken } = holder.address() as { port: number };
      try {
        const ports = { port: taken, opsPort: taken };
        const variable = which === 'port' ? 'SIGILLO_OPS_PORT' : 'SIGILLO_PORT';
        const free = await folder.spawn(); // gives us a port that is certainly free, and is ended at once
        free.kill('SIGKILL');
        await free.ended;
        const service = await folder.spawn({ ports, environment: { [variable]: String(free.port) } });
        assert.equal((await service.ended).code, status, service.lastOutput);
        assert.match(service.output, new RegExp(`PORT_IN_USE: .*127\\.0\\.0\\.1:${taken}`));
        assert.deepEqual(folder.processes(), []);
      } finally {
        holder.close();
      }
    });
  }

  test('a public address of another machine is named, and the gateway is not started anew', async () => {
    const service = await folder.spawn({ environment: { SIGILLO__PUBLIC__HOST: '192.0.2.1', SIGILLO__TIMESTAMP__ACCESS: 'clients' } });
    assert.equal((await service.ended).code, 78, service.lastOutput);
    assert.match(service.output, /CONFIG_INVALID: .*public\.host, public\.port: .*192\.0\.2\.1:\d+ \(EADDRNOTAVAIL\)/);
    assert.deepEqual(folder.processes(), []);
  });

  test('anonymous on a public address is refused unless told twice', async () => {
    const environment = { SIGILLO__PUBLIC__HOST: '0.0.0.0' };
    const refused = await folder.spawn({ environment });
    assert.equal((await refused.ended).code, 78);
    assert.match(refused.output, /CONFIG_ANONYMOUS_PUBLIC.*anonymousOnPublicAddress/s);
    await withService({ environment: { ...environment, SIGILLO__PUBLIC__ANONYMOUS_ON_PUBLIC_ADDRESS: 'true' } }, assertStamps);
    await withService({ environment: { ...environment, SIGILLO__TIMESTAMP__ACCESS: 'clients' } }, async (service) => {
      assert.equal((await postQuery(service.origin, Buffer.alloc(0))).status, 401);
    });
  });
});
