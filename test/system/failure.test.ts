/** What fails under load, and what clients see of it: every request is answered, and the service comes back by itself. */
import assert from 'node:assert/strict';
import { mkdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { homePaths } from '../../config/home.ts';
import { laneKeys } from '../../queue/keys.ts';
import { RelyingParty } from '../support/openssl-ts.ts';
import { type Service, until } from '../support/service.ts';
import {
  answeredOnly,
  assertAnswered,
  assertLaneEmpty,
  assertUniqueSerials,
  backAfterMs,
  connections,
  defaultDeadlineMs,
  failureSkip,
  failureWorld,
  kill,
  loadOver,
  withRedis,
} from '../support/service-failures.ts';
import { describeLoad, nowMs, type RunningLoad, startLoad } from '../support/stamp-load.ts';

const long = process.env['TEST_LONG'] !== undefined;
const keys = laneKeys('timestamp');
/** The promise: service is back in under 5 seconds by itself. */
const backMsMax = 5_000;
/** A token has to be found first: until the failure counts as one of the device, and then the start of a new signer. */
const backWithTokenMsMax = 15_000;

const { folder, withService } = failureWorld();

const killOften = async (context: TestContext, name: 'signer' | 'gateway' | 'redis', allowed: readonly string[]): Promise<void> => {
  // Each death of a young process doubles the wait before its next start, so a campaign begins anew now and then.
  const [lives, killsEach] = long ? [5, 4] : [1, 1];
  for (let life = 0; life < lives; life += 1) {
    await withService({}, async (service) => {
      for (let i = 0; i < killsEach; i += 1) {
        const { result, faultAt } = await loadOver(service, kill(service, name));
        const backMs = backAfterMs(result, faultAt);
        context.diagnostic(`${name} killed: back after ${backMs.toFixed(0)} ms; ${describeLoad(result)}`);
        assertAnswered(result, defaultDeadlineMs, allowed);
        assert.ok((result.counts['lost'] ?? 0) <= connections, 'only what was on its way is lost');
        assert.ok(backMs < backMsMax, `back after ${backMs} ms`);
        assertUniqueSerials(result);
        await service.untilReady(10_000);
        await assertLaneEmpty(service);
      }
      const restarts = new RegExp(`^supervised_restarts_total\\{process="${name}"\\} ${killsEach}$`, 'm');
      assert.match(await service.metrics(), restarts);
    });
  }
};

describe('a process is killed under load', { skip: failureSkip }, () => {
  test('the signer', (context) => killOften(context, 'signer', answeredOnly));
  test('Redis', (context) => killOften(context, 'redis', answeredOnly));
  // Its connections break with it; what was on them is lost for the client, who connects and asks again.
  test('the gateway', async (context) => {
    await killOften(context, 'gateway', [...answeredOnly, 'lost']);
  });

  test('the replies of a killed gateway do not stay', () =>
    withService({ settings: { timestamp: { deadlineMs: 1_000 } } }, async (service) => {
      await loadOver(service, kill(service, 'gateway'));
      await withRedis(service, (redis) =>
        until('one replies stream', async () => (await redis.keys(keys.replies('*'))).length <= 1, 10_000),
      );
    }));

  test('Redis is stopped in order, and comes back', (context) =>
    withService({}, async (service) => {
      const { result, faultAt } = await loadOver(service, kill(service, 'redis', 'SIGTERM'));
      const backMs = backAfterMs(result, faultAt);
      context.diagnostic(`back after ${backMs.toFixed(0)} ms; ${describeLoad(result)}`);
      assertAnswered(result, defaultDeadlineMs, answeredOnly);
      assert.ok(backMs < backMsMax, `${backMs} ms`);
      await assertLaneEmpty(service);
    }));

  test('everything but the supervisor at once', (context) =>
    withService({}, async (service) => {
      const { result, faultAt } = await loadOver(service, async () => {
        const kills = (['redis', 'signer', 'gateway'] as const).map((name) => kill(service, name)());
        return Math.max(...(await Promise.all(kills)));
      });
      const backMs = backAfterMs(result, faultAt);
      context.diagnostic(`back after ${backMs.toFixed(0)} ms; ${describeLoad(result)}`);
      assertAnswered(result, defaultDeadlineMs, [...answeredOnly, 'lost']);
      assert.ok(backMs < 2 * backMsMax, `${backMs} ms`);
    }));
});

describe('a process stands still under load', { skip: failureSkip }, () => {
  const deadlineMs = 1_500;
  const freeze = (service: Service, name: 'signer' | 'redis', dependency: RegExp) => async (): Promise<number> => {
    const pid = service.requirePid(name);
    process.kill(pid, 'SIGSTOP');
    try {
      await until('not ready, and why', async () => {
        const readiness = await service.readiness();
        return readiness?.status === 503 && readiness.dependencies.some((one) => !one.ok && dependency.test(one.name));
      });
      // Longer than a deadline, so that requests of every age meet the frozen process.
      await delay(2 * deadlineMs);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    return nowMs();
  };

  for (const [name, dependency] of [
    ['signer', /^signers?$/],
    ['redis', /^redis$/],
  ] as const) {
    test(name, (context) =>
      withService({ settings: { timestamp: { deadlineMs } } }, async (service) => {
        const { result, faultAt } = await loadOver(service, freeze(service, name, dependency));
        context.diagnostic(describeLoad(result));
        assertAnswered(result, deadlineMs, answeredOnly);
        assert.ok((result.counts['busy'] ?? 0) >= connections, 'every connection met the fault');
        const backMs = backAfterMs(result, faultAt);
        assert.ok(backMs < backMsMax, `${backMs} ms`);
        assertUniqueSerials(result);
        await service.untilReady(5_000);
        await assertLaneEmpty(service);
      }),
    );
  }

  test('a second signer takes over the entries of one that stands still, and nobody is refused', (context) =>
    withService({}, async (service) => {
      const second = await folder.start({ command: 'signer' });
      const first = service.requirePid('signer');
      try {
        const { result, faultAt } = await loadOver(service, async (load) => {
          process.kill(first, 'SIGSTOP');
          const at = nowMs();
          await load.untilGranted(load.granted() + 500, 15_000);
          return at;
        });
        context.diagnostic(`${describeLoad(result)}; back after ${backAfterMs(result, faultAt).toFixed(0)} ms`);
        assertAnswered(result, defaultDeadlineMs, ['granted']);
        assertUniqueSerials(result);
        assert.match(await second.metrics(), /^lane_entries_claimed_total\{lane="timestamp"\} [1-9]/m);
      } finally {
        process.kill(first, 'SIGCONT');
        assert.equal(await second.stop(), 0, second.lastOutput);
      }
      // The one that stood still answers again, and nothing that was claimed from it is answered twice.
      const light = await startLoad({ port: service.port, connections: 4, requestsMax: 200 });
      assert.deepEqual((await light.done).counts, { granted: 200 });
    }));
});

describe('the token goes away under load', { skip: failureSkip }, () => {
  test('requests are refused, not left hanging, and the service comes back when the token does', (context) =>
    withService({}, async (service) => {
      const { tokenFolder } = homePaths(service.home);
      const aside = join(folder.path, 'tokens-aside');
      const signer = service.requirePid('signer');
      const refused = (load: RunningLoad): number => load.count('refused:systemFailure') + load.count('busy');
      const takeAway = async (load: RunningLoad): Promise<number> => {
        renameSync(tokenFolder, aside);
        try {
          await until('every connection is refused', () => refused(load) >= 2 * connections, 15_000);
        } finally {
          renameSync(aside, tokenFolder);
        }
        return nowMs();
      };
      const { result, faultAt } = await loadOver(service, takeAway, { pauseMs: 100 });
      const backMs = backAfterMs(result, faultAt);
      const same = service.pidOf('signer') === signer ? 'by itself' : 'by a new signer';
      context.diagnostic(`back ${same} after ${backMs.toFixed(0)} ms; ${describeLoad(result)}`);
      assertAnswered(result, defaultDeadlineMs, answeredOnly);
      assert.ok(backMs < backWithTokenMsMax, `${backMs} ms`);
      assertUniqueSerials(result);
      // What was made after the fault is as good as what was made before.
      const path = join(folder.path, 'after-token');
      mkdirSync(path);
      const party = new RelyingParty(path);
      await party.fetchFrom(service.origin);
      party.write('last.tsr', result.kept.at(-1)?.response ?? '');
      const verdict = await party.verify('last.tsr', ['-digest', Buffer.from(result.kept.at(-1)?.imprint ?? '').toString('hex')], {
        withChain: true,
      });
      assert.match(verdict.stdout, /Verification: OK/, verdict.stderr);
    }));
});
