/** A fresh service in a temporary home folder: started by its own command line, seen only from outside. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { loadConfig } from '../config/load.ts';
import type { Config, TsuAlgorithm } from '../config/schema.ts';
import { onCleanup, removeAtEnd } from './child-process.ts';
import { isAlive, listTree, type TreeProcess } from './process-tree.ts';

export interface ServiceOptions {
  readonly algorithm: TsuAlgorithm;
  /** Worker threads of each signer; unset: as many as it takes by itself. */
  readonly threads?: number | undefined;
  /** What a granted answer means to the service (`journal.durability`). */
  readonly durability: Config['journal']['durability'];
  /** The folder for what the service prints. */
  readonly resultsFolder: string;
  /** NODE_OPTIONS of its processes. */
  readonly nodeOptions?: string;
  /** Configuration file, besides what is set here. */
  readonly settings?: Readonly<Record<string, unknown>>;
}

export interface RunningService {
  /** The supervisor. */
  readonly pid: number;
  readonly origin: string;
  /** What the service was configured with, home folder included. */
  readonly config: Config;
  /** Time from the command to ready. */
  readonly startMs: number;
  /** Ends it in order, and removes its home folder. */
  stop(): Promise<void>;
}

const repository = fileURLToPath(new URL('..', import.meta.url));
/** A first start on a slow machine makes RSA-4096 keys in software; the service itself promises 60 s. */
const readyMsMax = 120_000;
/** Longer than the default of shutdownMs. */
const stopMsMax = 20_000;
const logLinesShown = 20;
const pollTimeoutMs = 2_000;

const freePorts = async (count: number): Promise<number[]> => {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
};

/**
 * SIGTERM, and SIGKILL for every descendant when that does not help.
 *
 * @param seen processes known earlier: when somebody else killed the supervisor, its children are nobody's descendants any more
 */
const end = async (pid: number, seen: readonly TreeProcess[]): Promise<void> => {
  const tree = listTree(pid);
  const all = [...tree, ...seen.filter((known) => !tree.some((one) => one.pid === known.pid))];
  for (const known of tree.length > 0 ? tree.slice(0, 1) : all.filter(isAlive)) process.kill(known.pid, 'SIGTERM');
  const deadline = performance.now() + stopMsMax;
  while (all.some(isAlive) && performance.now() < deadline) await delay(20);
  for (const known of all.filter(isAlive)) {
    process.stderr.write(`the service's ${known.role} process did not end in time: killed\n`);
    process.kill(known.pid, 'SIGKILL');
  }
};

/** What /readyz says: `ready`, or why not. */
const readiness = async (url: string): Promise<string> => {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(pollTimeoutMs) });
    const text = await response.text();
    return response.status === 200 ? 'ready' : text;
  } catch (error) {
    return String(error); // not listening yet
  }
};

/** Starts the service and waits until it is ready. @throws with its last lines when it ends or does not become ready */
export const startService = async (options: ServiceOptions): Promise<RunningService> => {
  const startedAt = performance.now();
  const home = mkdtempSync(join(tmpdir(), 'sigillo-bench-'));
  const removeHome = removeAtEnd(home);
  const [port, opsPort] = await freePorts(2);
  // Settings of the person who measures must not reach the service: only what is written here, and the defaults.
  const settings = {
    SIGILLO_HOME: home,
    SIGILLO_PORT: String(port),
    SIGILLO_OPS_PORT: String(opsPort),
    SIGILLO__TIMESTAMP__ALGORITHM: options.algorithm,
    ...(options.threads !== undefined && { SIGILLO__SIGNER__WORKERS: String(options.threads) }),
    SIGILLO__JOURNAL__DURABILITY: options.durability,
    SIGILLO__LOG__LEVEL: 'warn',
  };
  const configFile = join(home, '..', `${basename(home)}.json`);
  if (options.settings !== undefined) writeFileSync(configFile, JSON.stringify(options.settings)); // YAML reads JSON
  const removeConfig = removeAtEnd(configFile);
  const foreign = Object.entries(process.env).filter(([name]) => !name.startsWith('SIGILLO_') && name !== 'NODE_OPTIONS');
  const environment = {
    ...Object.fromEntries(foreign),
    ...settings,
    ...(options.settings === undefined ? {} : { SIGILLO_CONFIG: configFile }),
    ...(options.nodeOptions === undefined ? {} : { NODE_OPTIONS: options.nodeOptions }),
  };
  const logFile = join(options.resultsFolder, `service-${options.algorithm}.log`);
  const log = openSync(logFile, 'a');
  // A process group of its own: Ctrl-C reaches only us, and we stop it in order.
  const child = spawn(process.execPath, ['bin/sigillo.mjs', 'start'], {
    cwd: repository,
    env: environment,
    detached: true,
    stdio: ['ignore', log, log],
  });
  const { pid } = child;
  if (pid === undefined) throw new Error('the service cannot be started');
  const seen: TreeProcess[] = [];
  const stop = onCleanup(() => end(pid, seen));
  const deadline = startedAt + readyMsMax;
  for (;;) {
    const state = await readiness(`http://127.0.0.1:${opsPort}/readyz`);
    if (state === 'ready') break;
    const ended = child.exitCode !== null || child.signalCode !== null;
    if (ended || performance.now() > deadline) {
      const lines = readFileSync(logFile, 'utf8').trimEnd().split('\n').slice(-logLinesShown);
      const how = ended
        ? `ended (${child.signalCode ?? `exit status ${child.exitCode}`})`
        : `is not ready after ${readyMsMax / 1_000} s (${state})`;
      throw new Error(`the service ${how}; its last lines:\n${lines.join('\n')}`);
    }
    await delay(20);
  }
  seen.push(...listTree(pid));
  return {
    pid,
    origin: `http://127.0.0.1:${port}`,
    config: loadConfig(options.settings === undefined ? settings : { ...settings, SIGILLO_CONFIG: configFile }),
    startMs: performance.now() - startedAt,
    stop: async () => {
      await stop();
      await removeHome();
      await removeConfig();
    },
  };
};
