/**
 * Everything the benchmark starts and leaves behind, so that nothing outlives it: also not after Ctrl-C or a failure.
 *
 * Helpers are Node processes that answer one message at a time and end when their channel to us closes.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { rmSync } from 'node:fs';

type Cleanup = () => void | Promise<void>;

const cleanups = new Set<Cleanup>();
let running: Promise<void> | undefined;

/** Registers what undoes a step. @returns a function that undoes it now */
export const onCleanup = (cleanup: Cleanup): (() => Promise<void>) => {
  cleanups.add(cleanup);
  return async () => {
    if (cleanups.delete(cleanup)) await cleanup();
  };
};

/** Undoes everything, the last first; a failing step does not keep the others from running. Later calls wait for the first. */
export const cleanUp = (): Promise<void> => {
  running ??= (async () => {
    for (const cleanup of [...cleanups].toReversed()) {
      try {
        await cleanup();
      } catch (error) {
        process.stderr.write(`clean-up: ${error instanceof Error ? error.message : String(error)}\n`);
      }
    }
    cleanups.clear();
    running = undefined;
  })();
  return running;
};

/** Makes the signals that end a program undo everything first; further ones, which come easily, change nothing. */
export const cleanUpOnSignals = (): void => {
  let ending = false;
  for (const [signal, status] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    process.on(signal, () => {
      if (ending) return;
      ending = true;
      process.stderr.write(`\n${signal}: stopping what the benchmark started\n`);
      void cleanUp().then(() => process.exit(status));
    });
  }
};

/** Removes a folder at the end. */
export const removeAtEnd = (folder: string): (() => Promise<void>) =>
  onCleanup(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 }));

/** A helper process and the conversation with it. */
export class Helper<Request extends object, Answer extends object> {
  readonly #child: ChildProcess;
  readonly stop: () => Promise<void>;

  /** @param file module beside this one */
  constructor(file: string, options: { readonly environment?: Readonly<Record<string, string>> } = {}) {
    // Advanced serialisation carries octets as they are. A process group of its own keeps Ctrl-C from it: we end it.
    this.#child = fork(new URL(file, import.meta.url), [], {
      serialization: 'advanced',
      detached: true,
      execArgv: [],
      env: { ...process.env, ...options.environment },
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.stop = onCleanup(() => {
      this.#child.kill('SIGKILL'); // it holds nothing that would need an orderly end
    });
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error('a helper process cannot be started');
    return this.#child.pid;
  }

  /** Sends one request and resolves with the next answer. @throws when the helper fails or ends */
  ask(request: Request): Promise<Exclude<Answer, { failure: string }>> {
    return new Promise((resolve, reject) => {
      const settle = (then: () => void): void => {
        this.#child.off('message', onMessage);
        this.#child.off('exit', onExit);
        then();
      };
      const onMessage = (answer: Answer): void =>
        settle(() => {
          if ('failure' in answer) reject(new Error(String(answer.failure)));
          else resolve(answer as Exclude<Answer, { failure: string }>);
        });
      const onExit = (code: number | null, signal: string | null): void =>
        settle(() => reject(new Error(`a helper process ended (${signal ?? `exit status ${code}`})`)));
      this.#child.on('message', onMessage);
      this.#child.on('exit', onExit);
      this.#child.send(request);
    });
  }
}
