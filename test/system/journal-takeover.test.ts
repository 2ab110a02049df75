/** Two journal processes: one writes, the other stands by, and takes over within five seconds of a death. */
import assert from 'node:assert/strict';
import { after, afterEach, describe, test } from 'node:test';
import { redisServerMissing } from '../support/redis-server.ts';
import { ServiceFolder, until } from '../support/service.ts';
import { startLoad } from '../support/stamp-load.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const takeoverMsMax = 5_000;

describe('a second journal process', { skip: withoutSofthsm || redisServerMissing() }, () => {
  const folder = new ServiceFolder();
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
    assert.deepEqual(Object.keys(result.counts), ['granted'], 'nobody has noticed');
    assert.equal(await second.stop(), 0, second.lastOutput);
    await service.untilReady();
    assert.equal(await service.stop(), 0, service.lastOutput);
    const { code, stdout } = await folder.command(service, 'journal', 'verify', '--json');
    assert.equal(code, 0, stdout);
  });
});
