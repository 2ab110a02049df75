/** The disk under the embedded store: full, or torn. Nothing is lost in silence, and what is wrong is said. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, describe, test } from 'node:test';
import { homePaths } from '../../config/home.ts';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { describeLoad, startLoad } from '../support/stamp-load.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing();
const notRoot = process.getuid?.() !== 0 && 'mounting a small disk needs root';
/** No checkpoints: their signatures have nothing to do with the disk, and would be made over entries that this test destroys. */
const settings = { journal: { checkpoint: { seconds: 3_600 }, block: { ageMs: 100 } } };

const gauge = async (service: Service, name: string): Promise<number> =>
  Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(await service.metrics())?.[1] ?? Number.NaN);

describe('a disk that is full under the embedded store', { skip: skip || notRoot }, () => {
  const folder = new ServiceFolder();
  const { journalFolder } = homePaths(folder.home);
  after(async () => {
    await folder.remove();
  });
  afterEach(() => {
    folder.killAll();
    execFileSync('umount', ['--lazy', journalFolder]);
  });

  test('blocks wait in the spool, nobody is refused, and all of it goes into the store when there is room', async (context) => {
    mkdirSync(journalFolder, { recursive: true, mode: 0o700 });
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=12m,mode=700', 'tmpfs', journalFolder]);
    const service = await folder.start({ settings });
    const load = await startLoad({ port: service.port, connections: 32 });
    context.after(load.abort);
    await until('the store is full', async () => (await gauge(service, 'journal_store_up')) === 0, 120_000);
    const granted = load.granted();
    await load.untilGranted(granted + 2_000, 60_000);
    const readiness = await service.readiness();
    assert.equal(readiness?.status, 200, 'stamping goes on');
    assert.match(
      readiness?.dependencies.find(({ name }) => name === 'journal store')?.detail ?? '',
      /away, \d+ octets in the spool: .*space/i,
    );
    assert.match(service.output, /ERROR \(journal\).*they go into the spool/);
    const result = await load.stop();
    context.diagnostic(describeLoad(result));
    assert.deepEqual(Object.keys(result.counts), ['granted']);

    execFileSync('mount', ['-o', 'remount,size=500m', journalFolder]);
    await until(
      'all of it is in the store',
      async () => (await gauge(service, 'journal_store_up')) === 1 && (await gauge(service, 'journal_unshipped')) === 0,
      60_000,
    );
    assert.ok((await gauge(service, 'journal_size')) >= (result.counts['granted'] as number));
    const { code, stdout, stderr } = await folder.command(service, 'journal', 'verify', '--json');
    assert.equal(code, 0, stdout + stderr);
    assert.equal(await service.stop(), 0, service.lastOutput);
  });
});

describe('a disk that has torn the embedded store', { skip }, () => {
  const folder = new ServiceFolder();
  const { journalFolder } = homePaths(folder.home);
  after(folder.remove);
  afterEach(folder.killAll);

  /** The parts that count, the largest first; what was merged into one of them stays on disk for some minutes. */
  const activeParts = async (): Promise<string[]> => {
    const client = await embeddedClient(journalFolder);
    try {
      const query = "SELECT path FROM system.parts WHERE table = 'journal_events' AND active ORDER BY rows DESC";
      const parts = await (await client.query({ query, format: 'JSONEachRow' })).json<{ path: string }>();
      return parts.map(({ path }) => path.replace(/\/$/, ''));
    } finally {
      await client.close();
    }
  };
  /** As a power cut does over a disk that lies about its cache. */
  const tear = (part: string): void => {
    const file = ['octets.bin', 'data.bin'].map((name) => join(part, name)).find((path) => existsSync(path)) as string;
    truncateSync(file, Math.floor(statSync(file).size / 2));
  };
  const stampAndStop = async (requestsMax: number): Promise<void> => {
    const service = await folder.start({ settings });
    const load = await startLoad({ port: service.port, connections: 16, requestsMax });
    try {
      assert.deepEqual((await load.done).counts, { granted: requestsMax });
      await until('it is stored', async () => (await gauge(service, 'journal_size')) >= requestsMax, 30_000);
    } finally {
      load.abort();
    }
    assert.equal(await service.stop(), 0, service.lastOutput);
  };
  const untilAlarm = async (service: Service): Promise<string> => {
    await until(
      () => `an alarm${service.lastOutput}`,
      async () => (await gauge(service, 'journal_store_damaged')) === 1,
      60_000,
    );
    assert.match(service.output, /ERROR \(journal\): journal: what is stored is not what was stored/);
    assert.match(service.output, /JOURNAL_STORE_DAMAGED/);
    return (await service.readiness())?.dependencies.find(({ name }) => name === 'journal store')?.detail ?? '';
  };

  test('what the engine can put right from older parts is an alarm, and nothing is missing', async (context) => {
    await stampAndStop(3_000);
    const [largest] = await activeParts();
    tear(largest as string);
    const service = await folder.start({ settings });
    const detail = await untilAlarm(service);
    context.diagnostic(detail);
    assert.match(detail, /^DAMAGED: .*moved aside: broken/);
    assert.equal(await service.stop(), 0, service.lastOutput);
  });

  test('what is lost is an alarm, and verify names it', async (context) => {
    const parts = await activeParts();
    const [largest] = parts;
    // No older copy is left, as after the minutes that the engine keeps them.
    const table = join(largest as string, '..');
    const others = readdirSync(table).filter((name) => /_\d+_\d+_\d+$/.test(name) && !parts.includes(join(table, name)));
    for (const name of others) rmSync(join(table, name), { recursive: true });
    tear(largest as string);
    const service = await folder.start({ settings });
    const detail = await untilAlarm(service);
    context.diagnostic(detail);
    assert.match(detail, /^DAMAGED: \d+ entries are not in the store/);
    const { code, stdout } = await folder.command(service, 'journal', 'verify', '--json');
    context.diagnostic(stdout);
    assert.equal(code, 1);
    assert.match(stdout, /missing/);
    assert.equal(await service.stop(), 0, service.lastOutput);
  });
});
