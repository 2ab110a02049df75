/**
 * A whole service for a test: started by its own command line in a temporary folder, seen only from outside.
 *
 * One `ServiceFolder` can be started again and again with other settings. Whatever belongs to it is found by its home folder
 * in the environment of the processes, so `remove` leaves nothing behind, also after a test killed the supervisor.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { homePaths } from '../../config/home.ts';

const repository = resolve(import.meta.dirname, '../..');
const pollMs = 20;
const outputShown = 3_000;

/** Polls until the condition gives something else than undefined, null or false. @throws with `what` when the time is over */
export const until = async <T>(
  what: string | (() => string),
  condition: () => T | Promise<T>,
  deadlineMs = 20_000,
): Promise<Exclude<T, undefined | null | false>> => {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const value = await condition();
    if (value !== undefined && value !== null && value !== false) return value as Exclude<T, undefined | null | false>;
    if (performance.now() > end) throw new Error(`not within ${deadlineMs} ms: ${typeof what === 'string' ? what : what()}`);
    await delay(pollMs);
  }
};

/** True while the process runs; one that waits to be reaped does not. */
export const isRunning = (pid: number): boolean => {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat[stat.lastIndexOf(')') + 2] !== 'Z';
  } catch {
    return false;
  }
};

/** Bytes of memory that the process holds now; 0 when it does not run. */
export const residentBytes = (pid: number): number => {
  try {
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1_024;
  } catch {
    return 0;
  }
};

const killQuietly = (pid: number, signal: NodeJS.Signals): void => {
  try {
    process.kill(pid, signal);
  } catch {
    // It ended in the meantime, which is what was wanted.
  }
};

const handedOut = new Set<number>();
const canListen = (port: number): Promise<boolean> =>
  new Promise((done) => {
    const server = createServer();
    server.once('error', () => done(false));
    server.listen(port, '127.0.0.1', () => server.close(() => done(true)));
  });

/** A port that nobody listens on, below those that the kernel gives to outgoing connections: no client takes it meanwhile. */
export const freePort = async (): Promise<number> => {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    if (handedOut.has(port) || !(await canListen(port))) continue;
    handedOut.add(port);
    return port;
  }
};

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end; nothing it says or does is an error here. */
export const runProgram = (
  file: string,
  parameters: readonly string[],
  options: { readonly cwd?: string; readonly env?: NodeJS.ProcessEnv; readonly input?: string | Uint8Array } = {},
): Promise<Finished> =>
  new Promise((done, fail) => {
    const child = spawn(file, parameters, { cwd: options.cwd, env: options.env ?? process.env, stdio: ['pipe', 'pipe', 'pipe'] });
    const output = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8').on('data', (text: string) => {
        output[name] += text;
      });
    }
    child.once('error', fail);
    child.once('close', (code, signal) => done({ code, signal, ...output }));
    child.stdin.on('error', () => undefined); // a program that does not read its input may end before it is written
    child.stdin.end(options.input);
  });

/** Runs a program that must succeed. @returns what it printed to standard output */
export const runWell = async (...call: Parameters<typeof runProgram>): Promise<string> => {
  const { code, signal, stdout, stderr } = await runProgram(...call);
  if (code !== 0) throw new Error(`${call[0]} ${call[1].join(' ')}: ${signal ?? `exit status ${code}`}\n${stdout}${stderr}`);
  return stdout;
};

/** Why a test that needs a program must be skipped, or false; said aloud by node:test. */
export const programMissing = async (program: string, debianPackage: string): Promise<string | false> => {
  const found = await runProgram('sh', ['-c', `command -v ${program}`]);
  return found.code === 0
    ? false
    : `${program.toUpperCase()} IS NOT INSTALLED (apt-get install ${debianPackage}): what it would prove is not tested`;
};

/** Settings of whoever runs the tests must not reach the service: only what a test says, and the defaults. */
const bareEnvironment = (): NodeJS.ProcessEnv =>
  Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) => !name.startsWith('SIGILLO_') && !['SOFTHSM2_CONF', 'NODE_OPTIONS', 'NODE_TEST_CONTEXT'].includes(name),
    ),
  );

export interface Dependency {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}
export interface Readiness {
  readonly status: number;
  readonly ready: boolean;
  readonly dependencies: readonly Dependency[];
}

export interface StartOptions {
  /** Variables, as an operator sets them. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Content of the configuration file. */
  readonly settings?: Readonly<Record<string, unknown>>;
  /** What runs: everything, or one process alone with its own operations address. @defaultValue start */
  readonly command?: 'start' | 'gateway' | 'signer' | 'lifecycle' | 'journal run';
  /** Ports of an earlier start, to come back where clients look for it. */
  readonly ports?: { readonly port: number; readonly opsPort: number };
}

type ProcessName = 'redis' | 'journal' | 'signer' | `signer-${number}` | 'lifecycle' | 'gateway' | 'first-start';

/** One run of the service. */
export class Service {
  readonly home: string;
  readonly port: number;
  readonly opsPort: number;
  readonly environment: NodeJS.ProcessEnv;
  readonly process: ChildProcess;
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  /** Everything that its processes printed. */
  output = '';
  /** From the spawn to the first good answer of /readyz. */
  startMs = Number.NaN;
  readonly #spawnedAt = performance.now();

  constructor(command: string, home: string, ports: { port: number; opsPort: number }, environment: NodeJS.ProcessEnv) {
    this.home = home;
    this.port = ports.port;
    this.opsPort = ports.opsPort;
    this.environment = environment;
    // A process group of its own, as a shell gives to a job.
    this.process = spawn(process.execPath, ['bin/sigillo.ts', ...command.split(' ')], {
      cwd: repository,
      env: environment,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.output += text;
      });
    }
    this.ended = new Promise((done) => this.process.once('exit', (code, signal) => done({ code, signal })));
  }

  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  get opsOrigin(): string {
    return `http://127.0.0.1:${this.opsPort}`;
  }

  /** The supervisor. */
  get pid(): number {
    if (this.process.pid === undefined) throw new Error('the service could not be spawned');
    return this.process.pid;
  }

  get hasEnded(): boolean {
    return this.process.exitCode !== null || this.process.signalCode !== null;
  }

  /** Last lines of the service, for the message of a failure. */
  get lastOutput(): string {
    return `\n--- the service said:\n${this.output.slice(-outputShown)}`;
  }

  /** The process of this name that runs now, as the supervisor recorded it. */
  pidOf(name: ProcessName): number | undefined {
    const { lockFile } = homePaths(this.home);
    if (!existsSync(lockFile)) return undefined;
    const { children } = JSON.parse(readFileSync(lockFile, 'utf8')) as { children: { name: string; pid: number }[] };
    const pid = children.find((child) => child.name === name)?.pid;
    return pid !== undefined && isRunning(pid) ? pid : undefined;
  }

  /** @throws when it does not run */
  requirePid(name: ProcessName): number {
    const pid = this.pidOf(name);
    if (pid === undefined) throw new Error(`there is no ${name}${this.lastOutput}`);
    return pid;
  }

  /** What /readyz says; undefined when nobody answers there. */
  async readiness(): Promise<Readiness | undefined> {
    try {
      const response = await fetch(`${this.opsOrigin}/readyz`);
      return { status: response.status, ...((await response.json()) as Omit<Readiness, 'status'>) };
    } catch {
      return undefined;
    }
  }

  metrics(): Promise<string> {
    return fetch(`${this.opsOrigin}/metrics`).then((response) => response.text());
  }

  /** Waits for /readyz to answer 200. @throws with the output of the service when it ends or takes longer */
  async untilReady(deadlineMs = 120_000): Promise<this> {
    const isReady = async (): Promise<boolean> => {
      if (this.hasEnded) throw new Error(`the service ended before it was ready${this.lastOutput}`);
      return (await this.readiness())?.status === 200;
    };
    await until(() => `ready${this.lastOutput}`, isReady, deadlineMs);
    if (Number.isNaN(this.startMs)) this.startMs = performance.now() - this.#spawnedAt;
    return this;
  }

  kill(signal: NodeJS.Signals): void {
    this.process.kill(signal);
  }

  /** Ends it in order. @returns the exit status of the supervisor */
  async stop(): Promise<number | null> {
    if (!this.hasEnded) this.kill('SIGTERM');
    return (await this.ended).code;
  }
}

/** Folders that an interrupted test run must still clear. */
const open = new Set<ServiceFolder>();

/** A temporary folder with the home of a service in it, and room for the files of a test. */
export class ServiceFolder {
  readonly path = mkdtempSync(join(tmpdir(), 'sigillo-service-'));
  readonly home = join(this.path, 'home');
  #starts = 0;
  /** Started here; the last one is what commands talk to. */
  readonly #services: Service[] = [];

  constructor() {
    open.add(this);
    clearOnSignals();
  }

  /** Starts the service without waiting for it. */
  async spawn(options: StartOptions = {}): Promise<Service> {
    const ports = options.ports ?? { port: await freePort(), opsPort: await freePort() };
    const service = new Service(options.command ?? 'start', this.home, ports, this.environment(ports, options));
    this.#services.push(service);
    return service;
  }

  /** Starts the service and waits until it is ready. */
  async start(options: StartOptions = {}): Promise<Service> {
    return (await this.spawn(options)).untilReady();
  }

  /** Runs `sigillo` with these parameters, configured like the service. */
  command(service: Service, ...parameters: readonly string[]): Promise<Finished> {
    return runProgram(process.execPath, ['bin/sigillo.ts', ...parameters], { cwd: repository, env: service.environment });
  }

  environment(ports: { port: number; opsPort: number }, options: StartOptions = {}): NodeJS.ProcessEnv {
    this.#starts += 1;
    const configFile = join(this.path, `sigillo-${this.#starts}.json`); // YAML reads JSON
    if (options.settings !== undefined) writeFileSync(configFile, JSON.stringify(options.settings));
    return {
      ...bareEnvironment(),
      SIGILLO_HOME: this.home,
      SIGILLO_PORT: String(ports.port),
      SIGILLO_OPS_PORT: String(ports.opsPort),
      ...(options.settings === undefined ? {} : { SIGILLO_CONFIG: configFile }),
      ...options.environment,
    };
  }

  /** Every process that was started for this home, however it came to be an orphan. */
  processes(): number[] {
    const mark = `SIGILLO_HOME=${this.home}`;
    return readdirSync('/proc').flatMap((name) => {
      const pid = Number(name);
      if (!Number.isInteger(pid) || pid === process.pid) return [];
      try {
        // Redis writes its title over its environment, and works in its folder.
        const isOurs =
          readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(mark) ||
          readlinkSync(`/proc/${pid}/cwd`).startsWith(`${this.path}/`);
        return isOurs && isRunning(pid) ? [pid] : [];
      } catch {
        return []; // ended meanwhile, or of another user
      }
    });
  }

  /** Ends every process at once, without asking; for what a failed test leaves to the next one. */
  killAll = (): void => {
    for (let left = this.processes(); left.length > 0; left = this.processes()) for (const pid of left) killQuietly(pid, 'SIGKILL');
  };

  /** Leaves nothing behind, at once. */
  clear(): void {
    this.killAll();
    rmSync(this.path, { recursive: true, force: true, maxRetries: 5 });
    rmSync(join(homePaths(this.home).redisSocket, '..'), { recursive: true, force: true });
    open.delete(this);
  }

  /** Stops what runs and removes the folder; for `after`. */
  remove = async (): Promise<void> => {
    // A process that a test has stopped (SIGSTOP) could not end.
    for (const pid of this.processes()) killQuietly(pid, 'SIGCONT');
    await Promise.all(this.#services.map((service) => service.stop()));
    this.clear();
  };
}

let watching = false;
function clearOnSignals(): void {
  if (watching) return;
  watching = true;
  const clear = (): void => {
    for (const folder of open) folder.clear();
  };
  process.once('exit', clear);
  // The test runner ends a file that takes too long with SIGTERM.
  for (const [signal, status] of [
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const) {
    process.once(signal, () => {
      clear();
      process.exit(status);
    });
  }
}
