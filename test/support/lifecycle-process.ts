/** A lifecycle process as an operator runs it alone (`sigillo lifecycle`), on a home folder and a Redis of the test's. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import { freePort, until } from './service.ts';
import { finished, spawnFirstStart } from './token-home.ts';

const repository = resolve(import.meta.dirname, '../..');

export interface LifecycleProcess {
  readonly environment: Readonly<Record<string, string>>;
  readonly child: ChildProcess;
  readonly output: () => string;
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** Variables of a home folder with a Redis of its own and a calendar that is looked at all the time. */
export const lifecycleEnvironment = async (home: string, socket: string, more: Readonly<Record<string, string>> = {}) => ({
  SIGILLO_HOME: home,
  SIGILLO_OPS_PORT: String(await freePort()),
  SIGILLO__REDIS: `{ mode: url, url: "unix://${socket}" }`,
  SIGILLO__TSU__TICK_MS: '100',
  ...more,
});

/** Sets the home folder up if needed, and resolves when the process watches the calendar. */
export const startLifecycleProcess = async (environment: Readonly<Record<string, string>>): Promise<LifecycleProcess> => {
  const { code, stderr } = await finished(spawnFirstStart(environment['SIGILLO_HOME'] as string, { environment }));
  if (code !== 0) throw new Error(`first start: ${stderr}`);
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith('SIGILLO_') && name !== 'NODE_TEST_CONTEXT');
  const child = spawn(process.execPath, ['bin/sigillo.ts', 'lifecycle'], {
    cwd: repository,
    env: { ...Object.fromEntries(own), ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  }
  const ended = once(child, 'exit');
  await until(
    () => `the lifecycle process watches:\n${output}`,
    () => output.includes('watching the calendar') || child.exitCode !== null,
    30_000,
  );
  if (child.exitCode !== null) throw new Error(output);
  return {
    environment,
    child,
    output: () => output,
    async stop(signal = 'SIGTERM') {
      if (child.exitCode === null && child.signalCode === null) child.kill(signal);
      await ended;
    },
  };
};
