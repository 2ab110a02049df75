/**
 * A token that tells how many sessions it allows is believed: the signer's never are more, also around a change of keys, when each key
 * has its own, and however slow the token is and however many it would make use of. The limits are told here, and that of all sessions is
 * kept by nobody: what would be opened is opened, and counted.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { afterEach, describe, test } from 'node:test';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import { OperatorTokens } from '../support/operator-tokens.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { ServiceFolder, until } from '../support/service.ts';
import { describeLoad, startLoad } from '../support/stamp-load.ts';
import { softhsmPath } from '../support/token-home.ts';

const skip = withoutFaultyModule || redisServerMissing();
/** So long that what is waited for is the token, on any machine. */
const signMicros = 120_000;
const deadlineMs = 240_000;

describe('a token that tells a limit of sessions', { skip }, () => {
  const folders: ServiceFolder[] = [];
  afterEach(async () => {
    for (const folder of folders.splice(0)) await folder.remove();
  });

  for (const { told, atOnce, connections } of [
    { told: 3, atOnce: 1, connections: 10 },
    { told: 21, atOnce: 6, connections: 24 },
    { told: 0, atOnce: 12, connections: 24 },
  ]) {
    test(told === 0 ? 'without a limit more are opened' : `${told}: so many at most, and everything works`, async (context) => {
      const folder = new ServiceFolder();
      folders.push(folder);
      const tokens = new OperatorTokens(join(folder.path, 'hsm'));
      for (const label of ['stamps', 'records']) await tokens.addToken(label);
      const module = new FaultyModule({ modulePath: softhsmPath as string, environment: tokens.environment }, join(folder.path, 'hsm'));
      context.after(() => module.close());
      const token = module.token('stamps');
      token.tellSessions(told);
      token.limitWriting(1);
      token.delaySigning(signMicros);
      const { modulePath, environment } = module;
      const slots = [
        { label: 'stamps', purposes: ['timestamp'], pinFile: tokens.pinFile },
        { label: 'records', purposes: ['journal', 'authority'], pinFile: tokens.pinFile },
      ];
      const settings = {
        hsm: { mode: 'module', module: modulePath, environment, slots },
        signer: { workers: 2, sessionsPerSecond: 200 },
        tsu: { tickMs: 200 },
      };
      const service = await folder.start({ settings });
      const load = await startLoad({ port: service.port, connections });
      try {
        const untilGrown = (): Promise<unknown> =>
          until(
            () => `${atOnce} at once${JSON.stringify(token.counters)}${service.lastOutput}`,
            () => token.counters.signingMost >= atOnce,
            deadlineMs,
          );
        await untilGrown();
        await until(
          () => `the calendar is watched${service.lastOutput}`,
          () => service.output.includes('tsu: registered'),
          deadlineMs,
        );
        const rotated = await folder.command(service, 'tsu', 'rotate');
        assert.equal(rotated.code, 0, rotated.stderr);
        await until(
          () => `the next key stamps${service.lastOutput}`,
          () => /TSUs from now on \{"tsus":\["tsu-\S+-2","tsu-\S+-1"\]\}/.test(service.output),
          deadlineMs,
        );
        await load.untilGranted(load.granted() + 50, deadlineMs);
        const result = await load.stop();
        const { sessionsOfOneMost, writingOfOneMost, signingMost } = token.counters;
        context.diagnostic(`${sessionsOfOneMost} sessions, ${signingMost} signatures at once; ${describeLoad(result)}`);
        assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result) + service.lastOutput);
        if (told === 0) assert.ok(sessionsOfOneMost > 21, `${sessionsOfOneMost} sessions of one process`);
        else assert.ok(sessionsOfOneMost <= told, `${sessionsOfOneMost} sessions of one process`);
        assert.equal(writingOfOneMost, 1);
      } finally {
        load.abort();
      }
      assert.equal(await service.stop(), 0, service.lastOutput);
      assert.doesNotMatch(service.output, /CKR_SESSION_COUNT|cannot be opened/);
    });
  }
});
