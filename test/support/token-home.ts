/** Home folders with real SoftHSM tokens, for tests: each in a temporary folder of its own, removed afterwards. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseConfig } from '../../config/load.ts';
import type { Config } from '../../config/schema.ts';
import { embeddedModule } from '../../signer/pkcs11-module.ts';

/** A new folder below the temporary folder; `remove` it in `after`. */
export const temporaryFolder = (): { path: string; remove: () => void } => {
  const path = mkdtempSync(join(tmpdir(), 'sigillo-test-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
};

export const configOf = (home: string, tree: Record<string, unknown> = {}): Config => parseConfig({ home, ...tree });

const findSofthsm = (): string | undefined => {
  try {
    return embeddedModule(configOf('/nonexistent')).modulePath;
  } catch {
    return undefined; // not installed: `withoutSofthsm` says so where the tests are skipped
  }
};
export const softhsmPath = findSofthsm();
/** Reason to skip tests that need SoftHSM, or false. */
export const withoutSofthsm: string | false =
  softhsmPath === undefined ? 'SOFTHSM IS NOT INSTALLED: nothing about tokens is tested' : false;

const repository = resolve(import.meta.dirname, '../..');

/** Runs bin/first-start.ts on a home folder, as the supervisor does. */
export const spawnFirstStart = (
  home: string,
  options: { environment?: Record<string, string>; nodeArguments?: string[] } = {},
): ChildProcess => {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !name.startsWith('SIGILLO_') && name !== 'SOFTHSM2_CONF' && name !== 'NODE_TEST_CONTEXT',
  );
  return spawn(process.execPath, [...(options.nodeArguments ?? []), join(repository, 'bin/first-start.ts')], {
    cwd: repository,
    env: { ...Object.fromEntries(inherited), SIGILLO_HOME: home, ...options.environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
};

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Waits for the end of a child and collects what it says; `onLine` sees each line of stdout as it comes. */
export const finished = async (child: ChildProcess, onLine: (line: string) => void = () => undefined): Promise<Finished> => {
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    for (const line of text.split('\n')) if (line !== '') onLine(line);
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((done, failed) => {
    child.on('close', (...exit) => done(exit));
    child.on('error', failed);
  });
  return { code, signal, stdout, stderr };
};

/** Output of an OpenSSL command. @throws when it fails */
export const openssl = (...args: string[]): string => {
  const { status, stdout, stderr } = spawnSync('openssl', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`openssl ${args.join(' ')}: ${stdout}${stderr}`);
  return stdout;
};
