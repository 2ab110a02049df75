/**
 * Two slots with the same key, one of them slow: each stamp goes where there is room, so the slots share the work as they are able to, and
 * nobody waits for the slow one. The module is SoftHSM behind one of our own that takes as long as it is told to (test/support/faulty-module).
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import { opensslMissing } from '../support/openssl-ts.ts';
import { makeOperatorPki, OperatorTokens } from '../support/operator-tokens.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { describeLoad, startLoad } from '../support/stamp-load.ts';
import { softhsmPath } from '../support/token-home.ts';

// What the slots find out about their tokens takes a quiet minute.
const long = process.env['TEST_LONG'] !== undefined;
const skip = (long ? false : 'a minute: npm run test:long') || withoutFaultyModule || redisServerMissing() || (await opensslMissing());

/**
 * The one makes 8 signatures at once and the other one, each in so long that the tokens are what is waited for, on any machine: 20 a
 * second and 2.5 a second. Work that went half and half, or in turn, would come to a ratio of 1.
 */
const latencyMicros = 400_000;
const parallel = { fast: 8, slow: 1 } as const;
/**
 * Of the ratio of 8 that the tokens allow. The slow slot is given the next request before it has made the last one, and at the beginning both
 * find out how much they make at once.
 */
const ratioMin = 4;
const connections = 48;
const measured = 150;
const deadlineMs = 120_000;

describe('a fast slot beside a slow one', { skip }, () => {
  const folder = new ServiceFolder();
  const [fast, slow] = ['fast slot', 'slow slot'] as const;
  let module: FaultyModule;
  let service: Service;

  before(async () => {
    const tokens = new OperatorTokens(join(folder.path, 'hsm'));
    for (const label of [fast, slow, 'records']) await tokens.addToken(label);
    const { keyFile, chainFile, rootsFile } = makeOperatorPki(tokens.path, 'ec-p256');
    for (const label of [fast, slow]) await tokens.importKey(label, keyFile, 'our tsu');
    module = new FaultyModule({ modulePath: softhsmPath as string, environment: tokens.environment }, join(folder.path, 'hsm'));
    module.token(fast).delaySigning(latencyMicros);
    module.token(fast).limitSigning(parallel.fast);
    module.token(slow).delaySigning(latencyMicros);
    module.token(slow).limitSigning(parallel.slow);
    const { modulePath, environment } = module;
    const { pinFile } = tokens;
    service = await folder.start({
      settings: {
        hsm: {
          mode: 'module',
          module: modulePath,
          environment,
          slots: [
            { label: fast, purposes: ['timestamp'], pinFile },
            { label: slow, purposes: ['timestamp'], pinFile },
            { label: 'records', purposes: ['journal'], pinFile },
          ],
        },
        signer: { sessionsPerSecond: 1_000, callMsMax: 20_000 },
        timestamp: { deadlineMs: 30_000, tsu: { source: 'installed', keyLabel: 'our tsu', chainFile } },
        trust: { rootsFile },
        shutdownMs: 40_000,
      },
    });
    for (const label of [fast, slow])
      await until(
        () => `${label} is served${service.lastOutput}`,
        async () => (await service.readiness())?.dependencies.some(({ name, ok }) => name === `token ${label}` && ok) === true,
        deadlineMs,
      );
  });
  after(async () => {
    if (service !== undefined && !service.hasEnded) assert.equal(await service.stop(), 0, service.lastOutput);
    module?.close();
    await folder.remove();
  });

  test(`the fast one makes ${parallel.fast / parallel.slow} times as much as the slow one, at least ${ratioMin}; both work, and nothing is refused`, async (context) => {
    const load = await startLoad({ port: service.port, connections, hangMs: 60_000 });
    try {
      await until(
        () => `the fast slot works at its best: ${JSON.stringify(module.token(fast).counters)}${service.lastOutput}`,
        () => module.token(fast).counters.signingMost >= parallel.fast && module.token(slow).counters.signatures > 0,
        deadlineMs,
      );
      const signed = (): { fast: number; slow: number } => ({
        fast: module.token(fast).counters.signatures,
        slow: module.token(slow).counters.signatures,
      });
      const from = signed();
      await load.untilGranted(load.granted() + measured, deadlineMs);
      const to = signed();
      const result = await load.stop();
      const made = { fast: to.fast - from.fast, slow: to.slow - from.slow };
      context.diagnostic(`${JSON.stringify(made)}; ${describeLoad(result)}`);
      assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result) + service.lastOutput);
      assert.ok(made.slow > 0, 'the slow one works too');
      assert.ok(made.fast >= ratioMin * made.slow, JSON.stringify(made));
    } finally {
      load.abort();
    }
  });
});
