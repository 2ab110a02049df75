/** How long a process that died waits for its next start: what a token has failed for is tried again seldom, because each start is a login. */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { describe, type TestContext, test } from 'node:test';
import { exitTokenFailed } from '../../bin/child-messages.ts';
import { SupervisedProcess } from '../../bin/supervised-process.ts';
import type { Logger } from '../../observability/log.ts';
import { until } from '../support/until.ts';
import { supervisionFor } from './fixtures/supervision.ts';

/** How one process after the other ends. */
type Death = { readonly code: number } | { readonly signal: NodeJS.Signals; readonly says?: object } | 'stands still';

const tokenFailed: Death = { code: exitTokenFailed };
const tokenHangs: Death = { signal: 'SIGKILL', says: { type: 'ending', status: exitTokenFailed } };
const crashed: Death = { code: 1 };

/** The pauses that are chosen after these deaths, without waiting for them. */
const pausesAfter = async (context: TestContext, tokenBackoffMsMax: number, deaths: readonly Death[]): Promise<number[]> => {
  const pauses: number[] = [];
  const children: EventEmitter[] = [];
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const log = {
    info: () => undefined,
    error: ({ restartMs }: { restartMs?: number }) => restartMs !== undefined && pauses.push(restartMs),
  };
  const supervised = new SupervisedProcess({
    name: 'signer',
    spawn: () => {
      const child = Object.assign(new EventEmitter(), {
        pid: 1,
        connected: true,
        send: () => true,
        kill: (signal: NodeJS.Signals) => child.emit('exit', null, signal),
      });
      children.push(child);
      return child as unknown as ChildProcess;
    },
    untilReady: async () => undefined,
    readyMsMax: 1_000_000,
    tokenBackoffMsMax,
    standstillMsMax: 1_000,
    log: log as unknown as Logger,
    onSpawn: () => undefined,
    onRestart: () => undefined,
    onFailed: () => assert.fail('it is started again'),
  });
  supervised.start();
  for (const death of deaths) {
    const child = children.at(-1) as EventEmitter;
    await Promise.resolve(); // it is ready, and is asked whether it lives
    await Promise.resolve();
    if (death === 'stands still') {
      context.mock.timers.tick(1_000);
      while (pauses.length < children.length) await Promise.resolve();
    } else if ('code' in death) child.emit('exit', death.code, null);
    else {
      if (death.says !== undefined) child.emit('message', death.says);
      child.emit('exit', null, death.signal);
    }
    context.mock.timers.tick(pauses.at(-1) as number);
  }
  await supervised.stop(0);
  return pauses;
};

describe('the pauses of a process whose token fails', () => {
  for (const [name, death] of [
    ['it ends by itself', tokenFailed],
    ['a call hangs, and it is killed', tokenHangs],
    ['it stands still in a call, and is killed', 'stands still'],
  ] as const) {
    test(`${name}: they grow to signer.reinitialiseMsMax and no further, above the bound of other deaths and below it`, async (context) => {
      const deaths = Array.from({ length: 9 }, () => death);
      assert.deepEqual(await pausesAfter(context, 8_000, deaths), [100, 200, 400, 800, 1_600, 3_200, 6_400, 8_000, 8_000]);
    });
    test(`${name}: a short signer.reinitialiseMsMax is kept`, async (context) => {
      const deaths = Array.from({ length: 5 }, () => death);
      assert.deepEqual(await pausesAfter(context, 400, deaths), [100, 200, 400, 400, 400]);
    });
  }

  test('any other death has 5 s at most, whatever signer.reinitialiseMsMax is', async (context) => {
    const deaths = [
      ...Array.from({ length: 4 }, () => crashed),
      { signal: 'SIGKILL' },
      ...Array.from({ length: 4 }, () => crashed),
    ] as const;
    assert.deepEqual(await pausesAfter(context, 8_000, deaths), [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]);
  });

  test('another death in between does not cut a grown pause; a crash that has paused for long does not delay a token', async (context) => {
    const grown = [...Array.from({ length: 8 }, () => tokenFailed), crashed, tokenFailed];
    assert.deepEqual((await pausesAfter(context, 8_000, grown)).slice(-3), [8_000, 8_000, 8_000]);
    context.mock.timers.reset();
    const crashes = [...Array.from({ length: 7 }, () => crashed), tokenFailed];
    assert.deepEqual((await pausesAfter(context, 400, crashes)).slice(-2), [5_000, 400]);
  });
});

for (const behaviour of ['crash-at-start', 'token-hangs']) {
  test(`signer.reinitialiseMsMax bounds the pauses of a signer: ${behaviour}`, async (context) => {
    const service = await supervisionFor(context).start({ FIXTURE_SIGNER: behaviour, SIGILLO__SIGNER__REINITIALISE_MS_MAX: '100' });
    const pauses = (): number[] => [...service.output.matchAll(/"process":"signer","restartMs":(\d+)/g)].map(([, ms]) => Number(ms));
    await until('two deaths', () => pauses().length >= 2, 60_000);
    assert.deepEqual(pauses().slice(0, 2), [100, 100]);
    assert.match(service.output, /HSM_DEVICE/);
    assert.match(service.output, behaviour === 'token-hangs' ? /died \(killed by SIGKILL\)/ : /died \(exit status 75\)/);
  });
}
