/**
 * Runs the whole service on one machine: private Redis, first-start step, journal, signer, lifecycle and gateway, and the operations address.
 *
 * Guarantees: one supervisor for each home; what dies is started again; a stop answers what was accepted and flushes
 * what was written (gateway, lifecycle, signer, journal, then Redis), each within config.shutdownMs.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Counter, Registry } from 'prom-client';
import { SigilloError } from '../config/errors.ts';
import { type HomePaths, homePaths } from '../config/home.ts';
import { makePrivateHome } from '../config/private-folder.ts';
import type { Config } from '../config/schema.ts';
import { createLogger, type Logger } from '../observability/log.ts';
import { type MetricsJson, mergeMetrics, type ProcessMetrics } from '../observability/merge-metrics.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import { registerSupervisorMetrics } from '../observability/supervisor-metrics.ts';
import { announcement } from './announcement.ts';
import { printFailure } from './child.ts';
import {
  type EmbeddedRedisConfig,
  pingRedis,
  redisReadyMsMax,
  shutDownLeftoverRedis,
  spawnRedis,
  untilRedisReady,
} from './embedded-redis.ts';
import { type HomeLock, knowProcess, lockHome, untilGone } from './home-lock.ts';
import { type OpsServer, serveOps } from './ops-server.ts';
import { filesOfSlots, planSigners } from './signer-plan.ts';
import { describeExit, type ProcessPlan, SupervisedProcess, terminate, untilReadyMessage } from './supervised-process.ts';

/**
 * V8's young generation, in MB for each half. A gateway with 8 keeps 174 MB resident at full load instead of 300 MB with
 * the default of 16, at no measurable cost in speed; with 4, what is in flight is promoted too early. A signer allocates
 * little but large blocks outside the heap, which only a collection sets free: small and often is better for it.
 *
 * V8's four helper threads took both of two cores for 20 to 40 ms at each collection of the old generation, and with them the
 * p99 at half load was 20 ms. A gateway collects in one thread: 12 to 14 ms. A signer has one helper: 14 ms and 185 MB resident;
 * in one thread, or without concurrent marking, it keeps 225 MB.
 *
 * A gateway that refuses 20,000 requests a second let its old generation grow to 280 to 292 MB before it was collected; with a growth of
 * 30 percent it is 218 to 254 MB, at the same rate of refusals.
 */
const memoryOptions: Readonly<Record<string, readonly string[]>> = {
  gateway: ['--max-semi-space-size=8', '--single-threaded-gc', '--heap-growing-percent=30'],
  signer: ['--max-semi-space-size=2', '--v8-pool-size=1'],
  journal: ['--max-semi-space-size=4', '--v8-pool-size=1'],
  lifecycle: ['--max-semi-space-size=2', '--single-threaded-gc'],
};

/** A start takes two seconds. */
const lifecycleWaitMsMax = 5_000;

/** The programs that are run; tests put their own in place. */
interface ServicePrograms {
  readonly firstStart: string;
  readonly journal: string;
  readonly signer: string;
  readonly gateway: string;
  readonly lifecycle: string;
}

const program = (file: string): string => fileURLToPath(new URL(file, import.meta.url));
const ourPrograms: ServicePrograms = {
  firstStart: program('first-start.ts'),
  journal: program('journal.ts'),
  signer: program('signer.ts'),
  gateway: program('gateway.ts'),
  lifecycle: program('lifecycle.ts'),
};

/** Probes expect an answer in a few seconds; a healthy child answers within milliseconds. */
const askDeadlineMs = 1_000;
/** Opening many sessions on a network HSM takes tens of seconds. */
const serviceReadyMsMax = 120_000;
const stopSignals = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

/** Signatures of a slow HSM wait on libuv's threads: more than the 64 sessions and the rest that a slot makes use of. */
const nativeThreads = { UV_THREADPOOL_SIZE: process.env['UV_THREADPOOL_SIZE'] ?? '72' } as const;

/** Thrown through the start when a stop was asked for meanwhile. */
class StoppedEarly extends Error {}

class Supervisor {
  readonly #config: Config;
  readonly #programs: ServicePrograms;
  readonly #paths: HomePaths;
  readonly #log: Logger;
  readonly #registry = new Registry();
  readonly #restarts: Counter<'process'>;
  /** In the order of their start; the stop goes backwards. */
  readonly #processes: SupervisedProcess[] = [];
  readonly #exitStatus = Promise.withResolvers<number>();
  /** Those of `#processes` that stamp. */
  readonly #signers: SupervisedProcess[] = [];
  #phase: 'starting' | 'running' | 'stopping' = 'starting';
  #firstStart: ChildProcess | undefined;
  #lock: HomeLock | undefined;
  #ops: OpsServer | undefined;

  constructor(config: Config, programs: ServicePrograms) {
    this.#config = config;
    this.#programs = programs;
    this.#paths = homePaths(config.home);
    this.#log = createLogger(config.log, 'supervisor');
    this.#restarts = registerSupervisorMetrics(this.#registry, () =>
      this.#processes.map(({ name, state }) => ({ name, ready: state === 'ready' })),
    );
  }

  async run(): Promise<number> {
    const onSignal = (signal: NodeJS.Signals): void => this.#requestStop(0, signal);
    for (const signal of stopSignals) process.on(signal, onSignal);
    // A closed terminal or pipe must not end the service.
    for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
    let status: number;
    try {
      await this.#start();
      status = await this.#exitStatus.promise;
    } catch (error) {
      if (error instanceof StoppedEarly) status = await this.#exitStatus.promise;
      else {
        printFailure('sigillo', error);
        status = 1;
      }
    }
    await this.#stop();
    // Only now: a signal during the stop must not fall back to the default action and cut it short.
    for (const signal of stopSignals) process.off(signal, onSignal);
    return status;
  }

  #requestStop(status: number, reason: string): void {
    if (this.#phase === 'stopping') return;
    this.#phase = 'stopping';
    this.#log.info({ reason }, 'stopping');
    this.#exitStatus.resolve(status);
  }

  /** Waits for a step of the start, unless a stop is asked for first. */
  async #step<T>(step: Promise<T>): Promise<T> {
    const stopped = this.#exitStatus.promise.then(() => {
      throw new StoppedEarly();
    });
    return Promise.race([step, stopped]);
  }

  async #start(): Promise<void> {
    const { home, redis } = this.#config;
    makePrivateHome(home);
    this.#lock = await lockHome(this.#paths.lockFile);
    this.#ops = await serveOps(this.#config.ops, { health: () => this.#health(), metrics: () => this.#metrics() });
    await this.#step(this.#endLeftovers(this.#lock));
    if (redis.mode === 'embedded') await this.#step(this.#startRedis(redis));
    await this.#step(this.#runFirstStart());
    const journal = this.#superviseService('journal', 'journal');
    const signers = planSigners(this.#config).map(({ name, slot }) => {
      const repairFiles = filesOfSlots(this.#config, { label: slot, purposes: ['timestamp'] });
      return this.#superviseService('signer', name, { slot, repairFiles });
    });
    this.#signers.push(...signers);
    const repairFiles = filesOfSlots(this.#config, { purposes: ['timestamp', 'authority'] });
    const lifecycle = this.#superviseService('lifecycle', 'lifecycle', { repairFiles });
    const gateway = this.#superviseService('gateway', 'gateway');
    for (const one of [journal, ...signers, gateway]) one.start();
    // With one slot of several the service does its job, and keys are replaced ahead of time.
    const oneSigner = Promise.any(signers.map((signer) => signer.firstReady));
    const ready = Promise.all([journal.firstReady, oneSigner, gateway.firstReady]);
    // It has weeks, and would take a core from those that clients wait for; but signers whose keys are all over wait for it.
    await this.#step(Promise.race([ready, delay(lifecycleWaitMsMax, undefined, { ref: false })]));
    lifecycle.start();
    await this.#step(ready);
    this.#phase = 'running';
    process.stdout.write(announcement(this.#config));
  }

  /** At the first start a Redis that ends at once is a fault to report, not one to wait for. */
  async #startRedis(redis: EmbeddedRedisConfig): Promise<void> {
    const ended = Promise.withResolvers<never>();
    const { redisSocket, redisFolder } = this.#paths;
    const supervised = this.#supervise('redis', redisReadyMsMax, {
      spawn: () => spawnRedis({ redis, durability: this.#config.journal.durability }, this.#paths),
      untilReady: async (_child, gone) => {
        try {
          await untilRedisReady(redisSocket, gone);
        } catch (cause) {
          ended.reject(new SigilloError('REDIS_UNAVAILABLE', `${redis.serverPath} ended at its start; see ${redisFolder}/redis.log`));
          throw cause;
        }
      },
    });
    supervised.start();
    await Promise.race([supervised.firstReady, ended.promise]);
  }

  #superviseService(
    program: 'journal' | 'signer' | 'lifecycle' | 'gateway',
    name: string,
    { slot, repairFiles }: { readonly slot?: string | undefined; readonly repairFiles?: readonly string[] | undefined } = {},
  ): SupervisedProcess {
    return this.#supervise(name, serviceReadyMsMax, {
      spawn: () =>
        this.#fork(this.#programs[program], memoryOptions[program], {
          ...(slot === undefined ? {} : { SIGILLO_SLOT: slot }),
          ...(program === 'signer' && this.#config.hsm.mode === 'module' ? nativeThreads : {}),
        }),
      untilReady: untilReadyMessage,
      standstillMsMax: this.#standstillMsMax(program),
      ...(repairFiles === undefined ? {} : { repairFiles }),
    });
  }

  /** Of those that call a PKCS#11 module on their main thread; where keys are made, a call takes many seconds. */
  #standstillMsMax(program: string): number | undefined {
    const { standstillMsMax } = this.#config.signer;
    return program === 'signer' ? standstillMsMax : program === 'lifecycle' ? 6 * standstillMsMax : undefined;
  }

  /** Detached children have their own process group: Ctrl-C in the terminal reaches only us, and we keep the order. */
  #fork(file: string, options: readonly string[] = [], environment: Readonly<Record<string, string>> = {}): ChildProcess {
    return fork(file, [], {
      detached: true,
      execPath: process.execPath,
      execArgv: [...process.execArgv, ...options],
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
  }

  #supervise(
    name: string,
    readyMsMax: number,
    how: Pick<ProcessPlan, 'spawn' | 'untilReady' | 'standstillMsMax' | 'repairFiles'>,
  ): SupervisedProcess {
    const supervised = new SupervisedProcess({
      name,
      readyMsMax,
      tokenBackoffMsMax: this.#config.signer.reinitialiseMsMax,
      log: this.#log,
      ...how,
      onSpawn: (pid) => this.#lock?.record(name, pid),
      onRestart: () => this.#restarts.inc({ process: name }),
      onFailed: (status) => this.#onFailed(name, status),
    });
    this.#restarts.inc({ process: name }, 0);
    this.#processes.push(supervised);
    return supervised;
  }

  /**
   * A slot that does not let us in stops alone, and so does the lifecycle: they come back when what is wrong is mended, and a service that
   * ended could not say what it is. Only at the start, or without journal or gateway, nothing is served that would be lost.
   */
  #onFailed(name: string, status: number): void {
    if (name === 'lifecycle') return;
    const isSigner = this.#signers.some((signer) => signer.name === name);
    if (isSigner && (this.#phase === 'running' || this.#signers.some((signer) => signer.state !== 'failed'))) return;
    this.#requestStop(status, `${name} cannot run with this configuration`);
  }

  /** An earlier supervisor was killed: its children stop by themselves, and its Redis must not run beside ours. */
  async #endLeftovers(lock: HomeLock): Promise<void> {
    const { shutdownMs, redis } = this.#config;
    const services = lock.leftovers.filter((known) => known.name !== 'redis');
    const server = lock.leftovers.find((known) => known.name === 'redis');
    for (const known of services) {
      this.#log.warn({ process: known.name, childPid: known.pid }, 'left over from a supervisor that was killed: waiting for its end');
    }
    await Promise.all(services.map((known) => untilGone(known, shutdownMs)));
    if (redis.mode !== 'embedded') return;
    const pid = await shutDownLeftoverRedis(this.#paths.redisSocket);
    const answering = pid === undefined ? undefined : knowProcess('redis', pid);
    for (const known of [answering, server]) {
      if (known === undefined) continue;
      const flushed = await untilGone(known, shutdownMs);
      this.#log.warn({ childPid: known.pid, flushed }, 'a Redis left over from a supervisor that was killed is shut down');
    }
  }

  /** Finishes what the home folder lacks. It is run every time, because an earlier run may have been interrupted anywhere. */
  async #runFirstStart(): Promise<void> {
    const child = this.#fork(this.#programs.firstStart);
    this.#firstStart = child;
    if (child.pid !== undefined) this.#lock?.record('first-start', child.pid);
    const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
    this.#firstStart = undefined;
    if (code !== 0 && this.#phase !== 'stopping') {
      throw new SigilloError('SETUP_INCOMPLETE', `The first-start step ended with ${describeExit(code, signal)}; its lines above say why.`);
    }
  }

  async #stop(): Promise<void> {
    this.#phase = 'stopping';
    const { shutdownMs } = this.#config;
    if (this.#firstStart !== undefined) {
      await terminate(this.#firstStart, shutdownMs, () => this.#log.error('the first-start step does not stop in time: killed'));
    }
    for (const supervised of this.#processes.toReversed()) await supervised.stop(shutdownMs);
    await this.#ops?.close();
    this.#lock?.release();
    this.#log.info('stopped');
  }

  async #health(): Promise<HealthItem[]> {
    const own = this.#phase === 'running' ? [] : [{ name: 'supervisor', ok: false, detail: this.#phase }];
    const items = await Promise.all(this.#processes.map((supervised) => this.#healthOf(supervised)));
    const stamping = this.#processes.filter((one, index) => this.#signers.includes(one) && items[index]?.every(({ ok }) => ok));
    const lent = items.map((list, index) => {
      const supervised = this.#processes[index] as SupervisedProcess;
      const isSpare = supervised.name === 'lifecycle' || (stamping.length > 0 && this.#signers.includes(supervised));
      return isSpare ? list.map((item) => ({ ...item, needed: false })) : list;
    });
    return mergeByName([...own, ...lent.flat()]);
  }

  async #healthOf(supervised: SupervisedProcess): Promise<HealthItem[]> {
    const { name } = supervised;
    if (supervised.state !== 'ready') return [{ name, ok: false, detail: supervised.describe() }];
    try {
      const items = name === 'redis' ? await pingRedis(this.#paths.redisSocket) : await supervised.ask('health', askDeadlineMs);
      return [{ name, ok: true, detail: 'ready' }, ...((items ?? []) as HealthItem[])];
    } catch (error) {
      return [{ name, ok: false, detail: (error as Error).message }];
    }
  }

  async #metrics(): Promise<string> {
    const own: ProcessMetrics = { process: 'supervisor', metrics: (await this.#registry.getMetricsAsJSON()) as MetricsJson };
    const services = this.#processes.filter((supervised) => supervised.name !== 'redis');
    const answers = await Promise.all(
      services.map(async (supervised): Promise<ProcessMetrics[]> => {
        try {
          return [{ process: supervised.name, metrics: (await supervised.ask('metrics', askDeadlineMs)) as MetricsJson }];
        } catch {
          return []; // supervised_up says that it is missing
        }
      }),
    );
    return mergeMetrics([own, ...answers.flat()]);
  }
}

const neededByAny = (one: HealthItem | undefined, other: HealthItem): Pick<HealthItem, 'needed'> =>
  one?.needed === false && other.needed === false ? { needed: false } : {};

/** Gateway and signer may both look at one thing (Redis): it is well when it is well for all of them. */
const mergeByName = (items: readonly HealthItem[]): HealthItem[] => {
  const merged = new Map<string, HealthItem>();
  for (const item of items) {
    const known = merged.get(item.name);
    if (known === undefined || (known.ok && !item.ok)) merged.set(item.name, { ...item, ...neededByAny(known, item) });
  }
  return [...merged.values()];
};

/**
 * Runs the service until it is told to stop or cannot run.
 *
 * @returns the exit status: 0 after an ordered stop, 78 when a process says that its configuration is wrong, 1 when the start failed
 */
export const superviseService = (config: Config, programs: ServicePrograms = ourPrograms): Promise<number> =>
  new Supervisor(config, programs).run();
