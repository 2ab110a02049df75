/** The private Redis is replaced by another one, a Sentinel or a Cluster, by configuration alone. */
import assert from 'node:assert/strict';
import { after, afterEach, describe, test } from 'node:test';
import { ExternalRedis } from '../support/external-redis.ts';
import { opensslMissing, postQuery } from '../support/openssl-ts.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { freePort, type Service, ServiceFolder, until } from '../support/service.ts';
import { serviceChecks } from '../support/service-checks.ts';
import { describeLoad, startLoad } from '../support/stamp-load.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing() || (await opensslMissing());

/** One home for most tests of this file: its keys are made once. */
const folder = new ServiceFolder();
after(folder.remove);
// A test that fails must not take the next one with it.
afterEach(folder.killAll);

const { withService, assertStamps, assertLoad } = serviceChecks(folder);

/** A good query: SHA-256 of nothing in particular, with a nonce. */
const someQuery = Buffer.from(`30400201013031300d060960864801650304020105000420${'00'.repeat(32)}02081122334455667788`, 'hex');

describe('Redis by configuration alone', { skip }, () => {
  const check = async (
    redis: Record<string, unknown>,
    further: (service: Service) => Promise<void> = async () => undefined,
  ): Promise<void> => {
    await withService({ settings: { redis } }, async (service) => {
      assert.equal(service.pidOf('redis'), undefined, 'there is no private Redis beside it');
      await assertStamps(service);
      await assertLoad(service);
      const added = await folder.command(service, 'client', 'add', 'somebody');
      assert.equal(added.code, 0, added.stderr);
      const list = await folder.command(service, 'client', 'list');
      assert.match(list.stdout, /^somebody +client +enabled/m);
      await further(service);
    });
  };

  test('redis:// with a password', async (context) => {
    const external = new ExternalRedis(folder, 'redis-url');
    context.after(external.close);
    const port = await freePort();
    const login = ['-a', 'a password', '--no-auth-warning'];
    const server = await external.serve(port, ['--port', String(port), '--requirepass', 'a password'], login);
    const passwordFile = external.file('password', 'a password\n');
    await check({ mode: 'url', url: `redis://127.0.0.1:${port}`, passwordFile }, async (service) => {
      assert.ok(!service.output.includes('a password'));
      await external.stop(server);
      const readiness = await until('not ready without Redis', async () => {
        const answer = await service.readiness();
        return answer?.status === 503 ? answer : undefined;
      });
      assert.ok(
        readiness.dependencies.some(({ name, ok }) => name === 'redis' && !ok),
        JSON.stringify(readiness),
      );
      const answer = await postQuery(service.origin, someQuery);
      assert.equal(answer.status, 503);
      assert.ok(answer.headers.get('retry-after') !== null);
      // It kept nothing on disk, so what comes back is empty: lane, register and certificates have to be made again.
      await external.serve(port, ['--port', String(port), '--requirepass', 'a password'], login);
      await service.untilReady(10_000);
      await assertLoad(service);
      await assertStamps(service);
      // Also for a gateway that never saw what was lost.
      const gateway = service.requirePid('gateway');
      process.kill(gateway, 'SIGKILL');
      await until('another gateway', () => ![undefined, gateway].includes(service.pidOf('gateway')));
      await service.untilReady(10_000);
      await assertStamps(service);
    });
  });

  test('rediss:// with a CA of its own', async (context) => {
    const external = new ExternalRedis(folder, 'redis-tls');
    context.after(external.close);
    const port = await freePort();
    const { ca, certificate, key } = external.makeCertificates();
    const tls = [
      '--port',
      '0',
      '--tls-port',
      String(port),
      '--tls-cert-file',
      certificate,
      '--tls-key-file',
      key,
      '--tls-ca-cert-file',
      ca,
    ];
    await external.serve(port, tls, ['--tls', '--cacert', ca, '--cert', certificate, '--key', key]);
    const client = { caFile: ca, certificateFile: certificate, keyFile: key };
    await check({ mode: 'url', url: `rediss://127.0.0.1:${port}`, tls: client });
    // Without the CA nobody vouches for the server.
    const refused = await folder.spawn({
      settings: { redis: { mode: 'url', url: `rediss://127.0.0.1:${port}`, tls: { certificateFile: certificate, keyFile: key } } },
    });
    await until(
      'the certificate is not trusted',
      () => /self-signed certificate|unable to verify|unable to get/.test(refused.output),
      20_000,
    );
    assert.notEqual((await refused.readiness())?.status, 200);
    assert.equal(await refused.stop(), 0);
  });

  test('Sentinel, over a failover', async (context) => {
    const external = new ExternalRedis(folder, 'redis-sentinel');
    context.after(external.close);
    const { sentinel, servers } = await external.serveSentinel('sigillo');
    await check({ mode: 'sentinel', name: 'sigillo', sentinels: [{ host: '127.0.0.1', port: sentinel }] }, async (service) => {
      const load = await startLoad({ port: service.port, connections: 16 });
      context.after(load.abort);
      await load.untilGranted(200);
      await external.stop(servers[0]);
      const before = load.granted();
      await load.untilGranted(before + 500, 30_000);
      const result = await load.stop();
      context.diagnostic(`over a failover: ${describeLoad(result)}`);
      assert.deepEqual(
        Object.keys(result.counts).filter((outcome) => !['granted', 'busy'].includes(outcome)),
        [],
      );
      await service.untilReady(10_000);
      await assertStamps(service);
    });
  });

  test('Cluster', async (context) => {
    const external = new ExternalRedis(folder, 'redis-cluster');
    context.after(external.close);
    const ports = await external.serveCluster();
    await check({ mode: 'cluster', nodes: ports.map((port) => ({ host: '127.0.0.1', port })) }, async (service) => {
      // Masters without replicas, and without fsync: told, and no reason to be unready.
      const readiness = await service.readiness();
      assert.equal(readiness?.status, 200);
      const told = readiness?.dependencies.find(({ name }) => name === 'redis durability');
      assert.match(told?.detail ?? '', /set appendfsync always, min-replicas-to-write 1 /);
      assert.match(await service.metrics(), /^redis_durability_ok 0$/m);
    });
  });
});
