import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { isRunning, supervisionFor, until } from './fixtures/supervision.ts';

const quickStop = { SIGILLO__SHUTDOWN_MS: '1500', SIGILLO__TIMESTAMP__DEADLINE_MS: '500' };

describe('start and stop', () => {
  test('starts in order, stops gateway, lifecycle, signer, journal and Redis in order, and leaves nothing behind', async (context) => {
    const service = await supervisionFor(context).start();
    await service.untilReady();
    assert.match(service.output, /Sigillo is ready/);
    assert.equal(service.output.match(/openssl ts -verify/g)?.length, 1);
    assert.equal(statSync(service.home).mode & 0o777, 0o700);
    assert.equal(statSync(service.lockFile).mode & 0o777, 0o600);
    const redis = service.recorded('redis') as number;
    assert.ok(isRunning(redis));
    service.kill('SIGTERM');
    assert.deepEqual(await service.ended, { code: 0, signal: null });
    assert.deepEqual(
      service.events.filter(({ event }) => event !== 'start').map(({ name, event }) => `${name} ${event}`),
      [
        'gateway stop',
        'gateway stopped',
        'lifecycle stop',
        'lifecycle stopped',
        'signer stop',
        'signer stopped',
        'journal stop',
        'journal stopped',
      ],
    );
    assert.equal(service.events[0]?.name, 'first-start');
    assert.equal(isRunning(redis), false);
    assert.equal(existsSync(service.lockFile), false);
  });

  test('Ctrl-C reaches only the supervisor, and more signals during the stop change nothing', async (context) => {
    const service = await supervisionFor(context).start({ FIXTURE_GATEWAY: 'slow-stop', FIXTURE_SIGNER: 'slow-stop' });
    await service.untilReady();
    const group = -(service.process.pid as number);
    process.kill(group, 'SIGINT');
    await until('the stop of the gateway', () => service.events.some(({ event }) => event === 'stop'));
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.kill(group, signal);
    assert.deepEqual(await service.ended, { code: 0, signal: null });
    assert.deepEqual(
      service.events.filter(({ event }) => event !== 'start').map(({ name, event }) => `${name} ${event}`),
      [
        'gateway stop',
        'gateway stopped',
        'lifecycle stop',
        'lifecycle stopped',
        'signer stop',
        'signer stopped',
        'journal stop',
        'journal stopped',
      ],
    );
  });

  test('a child that does not stop is ended by the bound, and the others still stop in order', async (context) => {
    const service = await supervisionFor(context).start({ ...quickStop, FIXTURE_GATEWAY: 'stuck-stop' });
    await service.untilReady();
    const startedAt = performance.now();
    service.kill('SIGTERM');
    assert.equal((await service.ended).code, 0);
    assert.ok(performance.now() - startedAt < 4_000);
    assert.deepEqual(
      service.events.filter(({ event }) => event !== 'start').map(({ name, event }) => `${name} ${event}`),
      ['gateway stop', 'lifecycle stop', 'lifecycle stopped', 'signer stop', 'signer stopped', 'journal stop', 'journal stopped'],
    );
  });

  test('a signer that does not come up, as one whose keys are all over, does not keep away the lifecycle that would make the next', async (context) => {
    const service = await supervisionFor(context).start({ FIXTURE_SIGNER: 'crash-at-start' });
    await until('the lifecycle runs', () => service.starts('lifecycle').length > 0);
    assert.ok(service.starts('signer').length > 0);
    service.kill('SIGTERM');
    assert.equal((await service.ended).code, 0);
  });

  test('a stop during the first-start step ends it', async (context) => {
    const service = await supervisionFor(context).start({ FIXTURE_FIRST_START: 'slow' });
    const [pid] = await until('the first-start step', () =>
      service.starts('first-start').length > 0 ? service.starts('first-start') : undefined,
    );
    assert.equal((await service.readiness())?.status, 503);
    service.kill('SIGINT');
    assert.equal((await service.ended).code, 0);
    assert.equal(isRunning(pid as number), false);
    assert.equal(service.starts('gateway').length, 0);
  });

  test('a failed first-start step ends the start with its error', async (context) => {
    const service = await supervisionFor(context).start({ FIXTURE_FIRST_START: 'fail' });
    assert.equal((await service.ended).code, 1);
    assert.match(service.output, /SETUP_INCOMPLETE/);
    assert.equal(existsSync(service.lockFile), false);
  });
});

describe('the home folder', () => {
  test('one that is shared on purpose is refused, and stays as it is', async (context) => {
    const supervision = supervisionFor(context);
    const shared = join(supervision.folder, 'shared');
    mkdirSync(shared);
    chmodSync(shared, 0o1777);
    const service = await supervision.start({ SIGILLO_HOME: shared });
    assert.equal((await service.ended).code, 1);
    assert.match(service.output, /CONFIG_INVALID: .*home: .*shared is open to others and not ours to close/);
    assert.equal(statSync(shared).mode & 0o7777, 0o1777);
    assert.deepEqual(readdirSync(shared), []);
  });

  test('one that only its user has opened is closed', async (context) => {
    const supervision = supervisionFor(context);
    const open = join(supervision.folder, 'home');
    mkdirSync(open);
    chmodSync(open, 0o755);
    await (await supervision.start()).untilReady();
    assert.equal(statSync(open).mode & 0o7777, 0o700);
  });
});

describe('deaths', () => {
  for (const name of ['journal', 'signer', 'lifecycle', 'gateway']) {
    test(`a killed ${name} is started again and counted`, async (context) => {
      const service = await supervisionFor(context).start();
      await service.untilReady();
      process.kill(service.starts(name)[0] as number, 'SIGKILL');
      await until('another start', () => service.starts(name).length === 2);
      await service.untilReady();
      assert.match(await service.metrics(), new RegExp(`^supervised_restarts_total\\{process="${name}"\\} 1$`, 'm'));
      assert.match(service.output, /killed by SIGKILL/);
    });
  }

  test('a killed Redis is started again', async (context) => {
    const service = await supervisionFor(context).start();
    await service.untilReady();
    const first = service.recorded('redis') as number;
    process.kill(first, 'SIGKILL');
    await until('another Redis', () => service.recorded('redis') !== first);
    await service.untilReady();
  });

  test('a signer that stands still is replaced', async (context) => {
    const service = await supervisionFor(context).start({ SIGILLO__SIGNER__STANDSTILL_MS_MAX: '1000' });
    await service.untilReady();
    process.kill(service.starts('signer')[0] as number, 'SIGSTOP');
    await until('another start', () => service.starts('signer').length === 2);
    await service.untilReady();
    assert.match(service.output, /stands still: killed/);
  });

  test('a child that dies at once is tried again at growing intervals', async (context) => {
    const service = await supervisionFor(context).start({ FIXTURE_SIGNER: 'crash-at-start' });
    await until('three starts', () => service.starts('signer').length >= 3);
    assert.match(service.output, /HSM_DEVICE/);
    assert.match(service.output, /what to do: Check the device/);
    assert.match(service.output, /"restartMs":100.*"restartMs":200/s);
    const readiness = await service.readiness();
    assert.equal(readiness?.status, 503);
    assert.equal(readiness?.dependencies.find(({ name }) => name === 'signer')?.ok, false);
    service.kill('SIGTERM');
    assert.equal((await service.ended).code, 0);
  });

  test('a configuration error of a child stops everything and is not retried', async (context) => {
    const service = await supervisionFor(context).start({ FIXTURE_SIGNER: 'config-error' });
    assert.equal((await service.ended).code, 78);
    assert.equal(service.starts('signer').length, 1);
    assert.match(service.output, /CONFIG_INVALID/);
    assert.equal(existsSync(service.lockFile), false);
  });

  for (const name of ['signer', 'lifecycle']) {
    test(`a ${name} whose PIN is refused later stops alone, and is started again when the file has another one`, async (context) => {
      const supervision = supervisionFor(context);
      const pinFile = join(supervision.folder, 'pin');
      writeFileSync(pinFile, 'right');
      const slots = [{ label: 'slot', purposes: ['timestamp', 'authority', 'journal'], pinFile }];
      const service = await supervision.start({
        [`FIXTURE_${name.toUpperCase()}`]: `needs ${pinFile}`,
        SIGILLO__HSM__MODE: 'module',
        SIGILLO__HSM__MODULE: '/nowhere/module.so',
        SIGILLO__HSM__SLOTS: JSON.stringify(slots),
      });
      await service.untilReady();
      writeFileSync(pinFile, 'wrong');
      process.kill(service.starts(name)[0] as number, 'SIGKILL');
      const detail = (): Promise<string | undefined> =>
        service.readiness().then((readiness) => readiness?.dependencies.find((one) => one.name === name)?.detail);
      await until('it is given up', async () => (await detail())?.startsWith('failed'));
      assert.match((await detail()) as string, new RegExp(`starts again when one of these changes: ${pinFile}`));
      assert.equal((await service.readiness())?.status, name === 'lifecycle' ? 200 : 503);
      assert.equal(service.starts(name).length, 2);
      writeFileSync(pinFile, 'still wrong');
      await until('one more start', () => service.starts(name).length === 3);
      await until('it is given up again', async () => (await detail())?.startsWith('failed'));
      writeFileSync(pinFile, 'right');
      await service.untilReady();
      assert.equal(service.starts(name).length, 4);
      assert.match(service.output, /HSM_PIN_REFUSED/);
      for (const other of ['signer', 'lifecycle', 'gateway', 'journal'])
        if (other !== name) assert.equal(service.starts(other).length, 1, other);
      service.kill('SIGTERM');
      assert.equal((await service.ended).code, 0);
    });
  }

  test('children of a killed supervisor stop by themselves, and the next one ends its Redis', async (context) => {
    const home = supervisionFor(context);
    const first = await home.start({ FIXTURE_GATEWAY: 'slow-stop' });
    await first.untilReady();
    const redis = first.recorded('redis') as number;
    first.kill('SIGKILL');
    await first.ended;
    assert.ok(isRunning(redis));
    const second = await home.start();
    await second.untilReady();
    assert.equal(isRunning(redis), false);
    assert.equal(second.events.filter(({ event }) => event === 'stopped').length, 4);
    // Not one of the new children started before the last of the old ones had ended.
    const order = second.events.map(({ event }) => event);
    assert.ok(order.lastIndexOf('stopped') < second.events.findLastIndex(({ name }) => name === 'first-start'));
  });
});

describe('health', () => {
  test('a child that does not answer is a failed dependency by its name', async (context) => {
    const service = await supervisionFor(context).start({ FIXTURE_GATEWAY: 'mute' });
    const readiness = await until('a deadline of the gateway while the signer is well', async () => {
      const answer = await service.readiness();
      const detailOf = (wanted: string) => answer?.dependencies.find(({ name }) => name === wanted)?.detail;
      return detailOf('gateway')?.startsWith('no answer') && detailOf('signer') === 'ready' ? answer : undefined;
    });
    assert.equal(readiness.status, 503);
  });

  test('an unhealthy dependency of a child makes the service not ready', async (context) => {
    const service = await supervisionFor(context).start({ FIXTURE_SIGNER: 'unhealthy' });
    const readiness = await until('the answer of the signer', async () => {
      const answer = await service.readiness();
      return answer?.dependencies.some(({ name }) => name === 'signer-dependency') ? answer : undefined;
    });
    assert.equal(readiness.status, 503);
    assert.match(await service.metrics(), /^fixture_total [1-4]$/m);
  });
});

describe('the home lock', () => {
  test('a second supervisor is refused and disturbs nothing', async (context) => {
    const home = supervisionFor(context);
    const first = await home.start();
    await first.untilReady();
    const second = await home.start();
    assert.equal((await second.ended).code, 1);
    assert.match(second.output, /HOME_IN_USE/);
    assert.match(second.output, new RegExp(`Process ${first.process.pid} `));
    assert.equal((await first.readiness())?.ready, true);
  });

  const stale = {
    'of a PID that now is another process': JSON.stringify({
      owner: { name: 'supervisor', pid: process.pid, started: 'earlier' },
      children: [],
    }),
    'that a power cut tore': '{"owner":{"na',
  };
  for (const [kind, content] of Object.entries(stale)) {
    test(`a lock file ${kind} is taken over`, async (context) => {
      const home = supervisionFor(context);
      mkdirSync(join(home.folder, 'home'));
      writeFileSync(join(home.folder, 'home', 'supervisor.lock'), content);
      const service = await home.start();
      await service.untilReady();
    });
  }

  test('of many that start at once on a stale lock, one wins', async (context) => {
    const home = supervisionFor(context);
    mkdirSync(join(home.folder, 'home'));
    writeFileSync(join(home.folder, 'home', 'supervisor.lock'), stale['of a PID that now is another process']);
    const all = await Promise.all([1, 2, 3, 4].map(() => home.start()));
    await until('three refusals', () => all.filter((one) => one.process.exitCode === 1).length === 3);
    const winner = all.find((one) => one.process.exitCode === null);
    await winner?.untilReady();
  });
});

test('a taken operations port is named, and nothing is left running', async (context) => {
  const home = supervisionFor(context);
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  context.after(() => server.close());
  const { port } = server.address() as { port: number };
  const service = await home.start({ SIGILLO_OPS_PORT: String(port) });
  assert.equal((await service.ended).code, 1);
  assert.match(service.output, /PORT_IN_USE/);
  assert.equal(existsSync(service.lockFile), false);
});

test('a Redis program that does not exist is reported, not retried for ever', async (context) => {
  const service = await supervisionFor(context).start({
    SIGILLO__REDIS__MODE: 'embedded',
    SIGILLO__REDIS__SERVER_PATH: '/nonexistent/redis',
  });
  assert.notEqual((await service.ended).code, 0);
  assert.match(service.output, /ENOENT/);
});
