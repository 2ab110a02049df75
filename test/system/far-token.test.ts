/**
 * A whole service with a token that takes long for a signature and makes many at once, and a key with small stream entries: what clients
 * ask fills the token. Judged by what is in the token, not by stamps a second, which a busy machine would spoil.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { withoutFaultyModule } from '../support/faulty-module/build.ts';
import { FaultyModule } from '../support/faulty-module/faulty-module.ts';
import type { FaultyToken } from '../support/faulty-module/faulty-token.ts';
import { opensslMissing } from '../support/openssl-ts.ts';
import { makeOperatorPki, OperatorTokens } from '../support/operator-tokens.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, ServiceFolder, until } from '../support/service.ts';
import { describeLoad, startLoad } from '../support/stamp-load.ts';
import { softhsmPath } from '../support/token-home.ts';

const skip = withoutFaultyModule || redisServerMissing() || (await opensslMissing());

/** 320 signatures a second: with RSA-3072 in SoftHSM less than one core. */
const latencyMicros = 100_000;
const parallel = 32;
/** Some wait in the module then, and it has one to begin when another ends, also while our processes stand still for a moment. */
const sessions = 64;
const busyShareMin = 0.9;
const connections = 128;
const deadlineMs = 30_000;
const windowMs = 2_000;
const sampleMs = 20;
/** Behind the first one in which it is busy. */
const keptWindows = 2;

/** Mean share of the signatures that the token could have had at work, over two seconds. */
const busyShare = async (token: FaultyToken): Promise<number> => {
  const end = performance.now() + windowMs;
  const signing: number[] = [];
  while (performance.now() < end) {
    signing.push(token.counters.signing);
    await delay(sampleMs); // the samples are what this test is about
  }
  return signing.reduce((sum, one) => sum + one, 0) / signing.length / parallel;
};

describe('a far token behind a whole service', { skip }, () => {
  const folder = new ServiceFolder();
  let module: FaultyModule;
  let token: FaultyToken;
  let service: Service;

  before(async () => {
    const path = join(folder.path, 'hsm');
    const tokens = new OperatorTokens(path);
    for (const label of ['far', 'records']) await tokens.addToken(label);
    const { keyFile, chainFile, rootsFile } = makeOperatorPki(path, 'rsa-3072');
    await tokens.importKey('far', keyFile, 'our tsu');
    module = new FaultyModule({ modulePath: softhsmPath as string, environment: tokens.environment }, path);
    token = module.token('far');
    token.delaySigning(latencyMicros);
    token.limitSigning(parallel);
    const { modulePath, environment } = module;
    const { pinFile } = tokens;
    const settings = {
      hsm: {
        mode: 'module',
        module: modulePath,
        environment,
        slots: [
          { label: 'far', purposes: ['timestamp'], pinFile, sessions },
          { label: 'records', purposes: ['journal'], pinFile },
        ],
      },
      signer: { sessionsPerSecond: 1_000, callMsMax: 20_000 },
      // Until the signer has found out, a hundred clients wait for two signatures at a time.
      timestamp: { algorithm: 'rsa-3072', deadlineMs, tsu: { source: 'installed', keyLabel: 'our tsu', chainFile } },
      trust: { rootsFile },
      shutdownMs: deadlineMs + 10_000,
    };
    service = await folder.start({ settings });
  });
  after(async () => {
    module?.close();
    await folder.remove();
  });

  test(`RSA-3072, 100 ms a signature and 32 at once: it is kept busy to at least ${busyShareMin}`, async (context) => {
    const load = await startLoad({ port: service.port, connections, hangMs: deadlineMs });
    try {
      // The signer finds out first how much the token makes at once, and the gateway hears of it.
      let share = 0;
      await until(
        () => `the token is kept busy; it was to ${share.toFixed(3)}${service.lastOutput}`,
        async () => {
          share = await busyShare(token);
          return share >= busyShareMin;
        },
        60_000,
      );
      // And kept so: what is reached once may be luck.
      const shares = [share];
      for (let window = 0; window < keptWindows; window += 1) shares.push(await busyShare(token));
      const result = await load.stop();
      context.diagnostic(`${shares.map((one) => one.toFixed(3)).join(', ')} busy; ${describeLoad(result)}`);
      assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result) + service.lastOutput);
      for (const kept of shares) assert.ok(kept >= busyShareMin, `busy to ${shares.map((one) => one.toFixed(3)).join(', ')}`);
    } finally {
      load.abort();
    }
  });
});
