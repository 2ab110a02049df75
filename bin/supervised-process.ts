/**
 * One process kept alive: started again with exponential back-off when it dies, stopped within a bound.
 *
 * A process that says by its exit status that a restart cannot help is left alone and reported as failed, until one of the files changes
 * that may be what is wrong.
 */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../config/errors.ts';
import { fileState } from '../config/file-state.ts';
import type { Logger } from '../observability/log.ts';
import { type Ask, exitDoNotRestart, exitTokenFailed, isChildMessage, type Question } from './child-messages.ts';

const backoffMsMin = 100;
const backoffMsMax = 5_000;
/** A process that lived so long was healthy: its next death starts the back-off anew. */
const healthyAfterMs = 30_000;
/** Whoever has mended a file waits for what comes of it. */
const repairLookMs = 1_000;

export interface ProcessPlan {
  readonly name: string;
  readonly spawn: () => ChildProcess;
  /** Resolves when the process serves. `signal` fires when the process is gone. */
  readonly untilReady: (child: ChildProcess, signal: AbortSignal) => Promise<void>;
  /** A process that is not ready by then is killed and started again. */
  readonly readyMsMax: number;
  /** Longest pause after a token has failed: each start is a login, and some HSMs take many of them for an attack. */
  readonly tokenBackoffMsMax: number;
  /**
   * A process whose main thread does not come round for so long is replaced: it may be inside a native call that never ends, and then
   * nothing in it can find out. Undefined does not ask.
   */
  readonly standstillMsMax?: number | undefined;
  readonly log: Logger;
  /** Called with each new process at once, so that its PID is on record before anything can go wrong. */
  readonly onSpawn: (pid: number) => void;
  readonly onRestart: () => void;
  /** Called when a restart makes no sense; `status` is what the supervisor should exit with. */
  readonly onFailed: (status: number) => void;
  /** What may be wrong, or missing, when a restart makes no sense: it is started again when one of these is another than at its start. */
  readonly repairFiles?: readonly string[];
}

type State = 'idle' | 'starting' | 'ready' | 'waiting' | 'failed' | 'stopping' | 'stopped';

/** How a process ended, for people. */
export const describeExit = (code: number | null, signal: NodeJS.Signals | null): string =>
  signal === null ? `exit status ${code}` : `killed by ${signal}`;

interface Death {
  readonly livedMs: number;
  /** Each start is a login then, and no other death in between makes the next one come sooner. */
  readonly tokenFailed: boolean;
}

/** The pause before the next start. @param lastMs the one before; undefined: there was none */
const pauseAfter = ({ livedMs, tokenFailed }: Death, lastMs: number | undefined, tokenBackoffMsMax: number): number => {
  if (lastMs === undefined || livedMs >= healthyAfterMs) return backoffMsMin;
  if (tokenFailed) return Math.min(lastMs * 2, tokenBackoffMsMax);
  return Math.max(lastMs, Math.min(lastMs * 2, backoffMsMax));
};

/** The first `ready` message of a service process. */
export const untilReadyMessage = (child: ChildProcess, signal: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    child.on('message', (message) => {
      if (isChildMessage(message) && message.type === 'ready') resolve();
    });
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });

/** Ends a process group leader that we may not be able to reason with: SIGTERM, and SIGKILL when the bound is over. */
export const terminate = async (child: ChildProcess, boundMs: number, onKill: () => void): Promise<void> => {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGTERM');
  const timer = setTimeout(() => {
    onKill();
    child.kill('SIGKILL');
  }, boundMs);
  await gone;
  clearTimeout(timer);
};

export class SupervisedProcess {
  readonly name: string;
  /** Settles at the first time the process is ready. */
  readonly firstReady: Promise<void>;
  readonly #plan: ProcessPlan;
  readonly #resolveFirstReady: () => void;
  #state: State = 'idle';
  #child: ChildProcess | undefined;
  #pauseMs: number | undefined;
  #restartTimer: NodeJS.Timeout | undefined;
  /** Of `repairFiles`, before the process could read them. */
  #fileStates = '';
  /** What the exit status would be of a process that can only be killed. */
  #endingStatus: number | undefined;
  #asked = 0;
  readonly #answers = new Map<number, (message: { value?: unknown; error?: string }) => void>();

  constructor(plan: ProcessPlan) {
    this.#plan = plan;
    this.name = plan.name;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.firstReady = promise;
    this.#resolveFirstReady = resolve;
  }

  get state(): State {
    return this.#state;
  }

  start(): void {
    if (this.#state !== 'idle' && this.#state !== 'waiting' && this.#state !== 'failed') return;
    this.#state = 'starting';
    this.#fileStates = this.#lookAtFiles();
    const startedAt = performance.now();
    const gone = new AbortController();
    const child = this.#plan.spawn();
    this.#child = child;
    if (child.pid !== undefined) this.#plan.onSpawn(child.pid);
    let spawnError: Error | undefined;
    this.#endingStatus = undefined;
    child.once('error', (error) => {
      spawnError ??= error;
      // Without a PID there was no process, and no `exit` will follow.
      if (child.pid === undefined) child.emit('exit', exitDoNotRestart, null);
    });
    child.once('exit', (code, signal) => {
      gone.abort(new Error('the process is gone'));
      const how = spawnError?.message ?? describeExit(code, signal);
      this.#onExit({ how, code: code ?? this.#endingStatus, livedMs: performance.now() - startedAt });
    });
    child.on('message', (message) => {
      if (!isChildMessage(message)) return;
      if (message.type === 'answer') this.#answers.get(message.id)?.(message);
      if (message.type === 'ending') this.#endingStatus = message.status;
    });
    void this.#watchReadiness(child, gone.signal, startedAt);
  }

  /** @throws when the process is not ready, goes away or does not answer within the deadline */
  ask(what: Question, deadlineMs: number): Promise<unknown> {
    const child = this.#child;
    if (this.#state !== 'ready' || child === undefined || !child.connected) return Promise.reject(new Error(this.describe()));
    this.#asked += 1;
    const ask: Ask = { type: 'ask', id: this.#asked, what };
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const timer = setTimeout(() => reject(new Error(`no answer within ${deadlineMs} ms`)), deadlineMs);
    this.#answers.set(ask.id, ({ value, error }) => (error === undefined ? resolve(value) : reject(new Error(error))));
    child.send(ask, (error) => {
      if (error !== null) reject(error);
    });
    return promise.finally(() => {
      clearTimeout(timer);
      this.#answers.delete(ask.id);
    });
  }

  /** The state in words, for health details. */
  describe(): string {
    if (this.#state === 'waiting') return `died; starts again in at most ${this.#pauseMs} ms`;
    const files = this.#plan.repairFiles ?? [];
    if (this.#state === 'failed' && files.length > 0)
      return `failed, its log says why; starts again when one of these changes: ${files.join(', ')}`;
    return this.#state;
  }

  /** Ends the process and every thought of a restart. Calling it again waits for the same end. */
  async stop(boundMs: number): Promise<void> {
    clearTimeout(this.#restartTimer);
    const child = this.#child;
    this.#state = child === undefined ? 'stopped' : 'stopping';
    if (child === undefined) return;
    await terminate(child, boundMs, () => this.#plan.log.error({ process: this.name, boundMs }, 'does not stop in time: killed'));
    this.#state = 'stopped';
  }

  async #watchReadiness(child: ChildProcess, gone: AbortSignal, startedAt: number): Promise<void> {
    const timer = setTimeout(() => {
      const error = new SigilloError('CHILD_NOT_READY', `${this.name}, ${this.#plan.readyMsMax} ms`);
      this.#plan.log.error({ process: this.name, code: error.code }, error.message);
      child.kill('SIGKILL');
    }, this.#plan.readyMsMax);
    try {
      await this.#plan.untilReady(child, gone);
      if (this.#state !== 'starting') return;
      this.#state = 'ready';
      this.#plan.log.info({ process: this.name, childPid: child.pid, ms: Math.round(performance.now() - startedAt) }, 'ready');
      this.#resolveFirstReady();
      if (this.#plan.standstillMsMax !== undefined) void this.#watchLife(child, gone, this.#plan.standstillMsMax);
    } catch (error) {
      // A process that died is reported by its exit; anything else is a fault of the readiness check itself.
      if (!gone.aborted) {
        this.#plan.log.error({ process: this.name, err: error }, 'the readiness check failed');
        child.kill('SIGKILL');
      }
    } finally {
      clearTimeout(timer);
    }
  }

  async #watchLife(child: ChildProcess, gone: AbortSignal, standstillMsMax: number): Promise<void> {
    while (!gone.aborted && this.#state === 'ready') {
      try {
        await this.ask('alive', standstillMsMax);
      } catch {
        if (gone.aborted || this.#state !== 'ready') return;
        this.#plan.log.error({ process: this.name, childPid: child.pid, standstillMsMax }, 'stands still: killed, and started again');
        // Only of processes that call a module on their main thread: it is the token that hangs.
        this.#endingStatus = exitTokenFailed;
        child.kill('SIGKILL');
        return;
      }
      await delay(standstillMsMax / 4, undefined, { signal: gone, ref: false }).catch(() => undefined); // its end by the abort
    }
  }

  #onExit({ how, code, livedMs }: { how: string; code: number | undefined; livedMs: number }): void {
    this.#child = undefined;
    for (const settle of [...this.#answers.values()]) settle({ error: 'the process died' });
    if (this.#state === 'stopping' || this.#state === 'stopped') {
      this.#plan.log.info({ process: this.name }, `stopped (${how})`);
      return;
    }
    if (code === exitDoNotRestart) {
      this.#state = 'failed';
      this.#plan.log.error({ process: this.name }, `failed (${how}); starting it again would not help`);
      this.#plan.onFailed(exitDoNotRestart);
      this.#awaitRepair();
      return;
    }
    const waitMs = pauseAfter({ livedMs, tokenFailed: code === exitTokenFailed }, this.#pauseMs, this.#plan.tokenBackoffMsMax);
    this.#pauseMs = waitMs;
    this.#state = 'waiting';
    this.#plan.log.error({ process: this.name, restartMs: waitMs }, `died (${how}); it is started again`);
    this.#restartTimer = setTimeout(() => {
      this.#plan.onRestart();
      this.start();
    }, waitMs);
  }

  #lookAtFiles(): string {
    return (this.#plan.repairFiles ?? []).map(fileState).join(' ');
  }

  /** By looks: of a secret that is mounted, a link is put into another place, and nothing is written. */
  #awaitRepair(): void {
    if (this.#state !== 'failed' || this.#plan.repairFiles === undefined) return;
    this.#restartTimer = setTimeout(() => {
      if (this.#lookAtFiles() === this.#fileStates) {
        this.#awaitRepair();
        return;
      }
      this.#plan.log.info({ process: this.name }, 'a file has changed that may be what was wrong: it is started again');
      this.#plan.onRestart();
      this.start();
    }, repairLookMs);
  }
}
