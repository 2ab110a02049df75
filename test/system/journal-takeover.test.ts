/** Two journal processes: one writes, the other stands by, and takes over within five seconds of a death. */
import assert from 'node:assert/strict';
import { after, afterEach, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { homePaths } from '../../config/home.ts';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import { journalClient } from '../../observability/journal/writer-options.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { type RunningLoad, startLoad } from '../support/stamp-load.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const takeoverMsMax = 5_000;
/** Twice as long as the lease. */
const stillMs = 6_000;
/** Events of a start come in the first second, and a checkpoint soon after. */
const quietMs = 1_500;

describe('a second journal process', { skip: withoutSofthsm || redisServerMissing() }, () => {
  const folder = new ServiceFolder();
  /** Stamps that the tests so far have got. */
  let earlier = 0;
  after(folder.remove);
  afterEach(folder.killAll);

  test('stands by, and writes within five seconds of the death of the first', async (context) => {
    // The supervisor would start the first one anew at once: it waits, stopped, so that the second is the only one that can.
    const service = await folder.start({ settings: { journal: { block: { ageMs: 50 } } } });
    const second = await folder.start({ command: 'journal run', settings: { journal: { block: { ageMs: 50 } } } });
    const standby = (await second.readiness())?.dependencies.find(({ name }) => name === 'journal');
    assert.deepEqual([standby?.ok, standby?.detail], [true, 'standing by, another process writes']);
    assert.match(await second.metrics(), /^journal_active 0$/m);

    const load = await startLoad({ port: service.port, connections: 16, pauseMs: 50 });
    context.after(load.abort);
    await load.untilGranted(500);
    const isWriting = async (): Promise<boolean> => /^journal_active 1$/m.test(await second.metrics());
    process.kill(service.pid, 'SIGSTOP');
    const killedAt = performance.now();
    process.kill(service.requirePid('journal'), 'SIGKILL');
    try {
      await until('the second writes', isWriting, 20_000);
      const tookMs = performance.now() - killedAt;
      context.diagnostic(`taken over after ${tookMs.toFixed(0)} ms`);
      assert.ok(tookMs < takeoverMsMax, `${tookMs} ms`);
      const sizeOf = async (): Promise<number> => Number(/^journal_size (\d+)$/m.exec(await second.metrics())?.[1]);
      const size = await sizeOf();
      await until('it goes on', async () => (await sizeOf()) > size);
    } finally {
      process.kill(service.pid, 'SIGCONT');
    }
    const result = await load.stop();
    earlier += result.counts['granted'] ?? 0;
    assert.deepEqual(Object.keys(result.counts), ['granted'], 'nobody has noticed');
    assert.equal(await second.stop(), 0, second.lastOutput);
    await service.untilReady();
    assert.equal(await service.stop(), 0, service.lastOutput);
    const { code, stdout } = await folder.command(service, 'journal', 'verify', '--json');
    assert.equal(code, 0, stdout);
  });

  test('one that stood still gives the store to the one that took over, and stands by', async (context) => {
    const settings = { journal: { block: { ageMs: 50 } } };
    const service = await folder.start({ settings });
    const second = await folder.start({ command: 'journal run', settings });
    const numberOf = async (of: Service, name: string): Promise<number> =>
      Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\d+)$`, 'm').exec(await of.metrics())?.[1]);
    const journal = service.requirePid('journal');
    const writes = async (of: Service): Promise<boolean> =>
      (await numberOf(of, 'journal_active')) === 1 &&
      (await numberOf(of, 'journal_store_up')) === 1 &&
      (await numberOf(of, 'journal_unshipped')) === 0;

    let size = -1;
    await until('it has nothing to write', async () => {
      const before = size;
      size = await numberOf(service, 'journal_size');
      await delay(quietMs);
      return size > 0 && size === before;
    });
    // Without a block under way: of one the store alone could tell what became of it, so that nobody would write before the thaw.
    process.kill(journal, 'SIGSTOP');
    let load: RunningLoad;
    try {
      await until(
        () => `the second writes${second.lastOutput}`,
        async () => (await numberOf(second, 'journal_active')) === 1,
      );
      load = await startLoad({ port: service.port, connections: 16, pauseMs: 50 });
      context.after(load.abort);
      // The engine of the first has the folder, and cannot let go of it: what comes meanwhile is spooled.
      await load.untilGranted(300);
      assert.equal(await numberOf(second, 'journal_store_up'), 0);
    } finally {
      process.kill(journal, 'SIGCONT');
    }
    await until('the second has the store, and all is in it', () => writes(second), 60_000);
    await until('the first stands by', async () => (await numberOf(service, 'journal_active')) === 0);
    await service.untilReady();
    assert.equal(service.requirePid('journal'), journal, 'it has let go of the folder, and lives');

    // In the middle of whatever it does: afterwards one of them writes, and the other does not.
    const pid = second.pid;
    process.kill(pid, 'SIGSTOP');
    await delay(stillMs);
    process.kill(pid, 'SIGCONT');
    await until(
      'one of them has the store, and all is in it',
      async () =>
        (await numberOf(service, 'journal_active')) + (await numberOf(second, 'journal_active')) === 1 &&
        ((await writes(service)) || (await writes(second))),
      60_000,
    );
    await load.untilGranted(load.granted() + 300);

    const result = await load.stop();
    assert.deepEqual(Object.keys(result.counts), ['granted'], 'nobody has noticed');
    // Back again: it opens the folder that it had closed.
    assert.equal(await second.stop(), 0, second.lastOutput);
    await until('the first writes', () => writes(service), 60_000);
    await until('it has everything', async () => {
      const waiting = [...(await service.metrics()).matchAll(/^journal_waiting_entries\{[^}]*\} (\d+)$/gm)].map(([, entries]) => entries);
      return waiting.length > 0 && waiting.every((entries) => entries === '0');
    });
    assert.equal(await service.stop(), 0, service.lastOutput);
    const { code, stdout } = await folder.command(service, 'journal', 'verify', '--json');
    assert.equal(code, 0, stdout);
    const client = await embeddedClient(homePaths(folder.home).journalFolder);
    const rows = await client.query({
      query: `SELECT count() AS stamps FROM journal_events WHERE kind = 'timestamp.issued' AND actor != '${journalClient}'`,
      format: 'JSONEachRow',
    });
    const [{ stamps } = { stamps: 0 }] = await rows.json<{ stamps: number | string }>();
    await client.close();
    earlier += result.counts['granted'] ?? 0;
    assert.equal(Number(stamps), earlier, 'stamps in the journal, and answers');
  });
});
