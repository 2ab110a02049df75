/** What a signer says of a Redis that is not ours, against servers of each kind. */
import assert from 'node:assert/strict';
import { after, afterEach, describe, test } from 'node:test';
import type { Cluster, Redis } from 'ioredis';
import { parseConfig } from '../../config/load.ts';
import { connectRedis, type RedisClient, whenReady } from '../../queue/redis.ts';
import { type DurabilityWatch, watchDurability } from '../../signer/durability-watch.ts';
import { ExternalRedis } from '../support/external-redis.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { freePort, ServiceFolder, until } from '../support/service.ts';

const enough = { appendfsync: 'always', 'no-appendfsync-on-rewrite': 'no' };

describe('what Redis keeps, as a signer sees it', { skip: redisServerMissing() }, () => {
  const folder = new ServiceFolder();
  after(folder.remove);
  const open: { close(): void }[] = [];
  afterEach(() => {
    for (const one of open.splice(0)) one.close();
  });
  const said: string[] = [];
  const say = (item: { set?: readonly string[] }, line: string): void => void said.push(`${line} ${item.set?.join(', ') ?? ''}`.trim());

  const start = async (redis: Record<string, unknown>, journal = {}): Promise<{ command: RedisClient; watch: DurabilityWatch }> => {
    const config = parseConfig({ redis, journal });
    const command = connectRedis(config, 'test', 'command');
    command.on('error', () => undefined); // a server that goes is what is tested
    open.push({ close: () => command.disconnect() });
    await whenReady(command, 10_000);
    said.length = 0;
    const watch = watchDurability({ config, command, log: { info: say, warn: say, error: say } as never });
    open.push(watch);
    await watch.look();
    return { command, watch };
  };
  const set = async (node: Redis, settings: Readonly<Record<string, string>>): Promise<void> => {
    for (const [name, value] of Object.entries(settings)) await node.config('SET', name, value);
  };
  const assertLacks = (watch: DurabilityWatch, ...settings: string[]): void => {
    assert.equal(watch.ok, false);
    const [item] = watch.health();
    assert.deepEqual([item?.name, item?.ok], ['redis durability', true], 'told, and no reason to be unready');
    assert.match(item?.detail ?? '', /^KEEPS TOO LITTLE /);
    assert.ok(item?.detail.includes(`: set ${settings.join(', ')} (`), item?.detail);
    assert.deepEqual(said.splice(0), [`redis: keeps less than journal.durability promises; set what is named ${settings.join(', ')}`]);
  };
  const assertKeeps = (watch: DurabilityWatch): void => {
    assert.equal(watch.ok, true);
    assert.match(watch.health()[0]?.detail ?? '', /^keeps what /);
    assert.deepEqual(said.splice(0), ['redis: keeps what journal.durability promises']);
  };

  test('the private one is as it must be', () => {
    const watch = watchDurability({ config: parseConfig({}), command: undefined as never, log: undefined as never });
    assert.deepEqual([watch.ok, watch.health()], [true, []]);
  });

  test('one by URL: too little, enough, and after a restart with less again', async (context) => {
    const external = new ExternalRedis(folder, 'durability-url');
    context.after(external.close);
    const port = await freePort();
    const settings = ['--port', String(port), '--appendonly', 'yes'];
    const server = await external.serve(port, settings);
    const { command, watch } = await start({ mode: 'url', url: `redis://127.0.0.1:${port}` });
    assertLacks(watch, 'appendfsync always');
    await watch.look();
    assert.deepEqual(said, [], 'once is enough');
    await set(command as Redis, enough);
    await watch.look();
    assertKeeps(watch);
    await external.stop(server);
    await until('it is away', () => command.status !== 'ready');
    await watch.look();
    assert.equal(watch.ok, true, 'what is away keeps nothing else');
    await external.serve(port, settings);
    await until('it was asked at the new connection', () => watch.ok === false);
    assertLacks(watch, 'appendfsync always');
  });

  test('behind Sentinel, over a failover to a replica that is set otherwise', async (context) => {
    const external = new ExternalRedis(folder, 'durability-sentinel');
    context.after(external.close);
    const { sentinel, servers } = await external.serveSentinel('sigillo');
    const redis = { mode: 'sentinel', name: 'sigillo', sentinels: [{ host: '127.0.0.1', port: sentinel }] };
    const { command, watch } = await start(redis);
    assertLacks(watch, 'appendfsync always', 'min-replicas-to-write 1');
    const promised = await start(redis, { durability: 'everysec' });
    assert.equal(promised.watch.ok, true);
    said.length = 0;
    await set(command as Redis, { ...enough, 'min-replicas-to-write': '1' });
    await watch.look();
    assertKeeps(watch);
    promised.watch.close();
    await external.stop(servers[0]);
    await until('the replica was asked', () => watch.ok === false, 30_000);
    assertLacks(watch, 'appendfsync always', 'min-replicas-to-write 1');
  });

  test('a Cluster: every master counts', async (context) => {
    const external = new ExternalRedis(folder, 'durability-cluster');
    context.after(external.close);
    const ports = await external.serveCluster();
    const { command, watch } = await start({ mode: 'cluster', nodes: ports.map((port) => ({ host: '127.0.0.1', port })) });
    assertLacks(watch, 'appendfsync always', 'min-replicas-to-write 1');
    const masters = (command as Cluster).nodes('master');
    assert.equal(masters.length, 3);
    for (const [index, master] of masters.entries()) {
      assert.equal(watch.ok, false, `${index} of 3`);
      await set(master, { ...enough, 'min-replicas-to-write': '1' });
      await watch.look();
    }
    assertKeeps(watch);
  });
});
