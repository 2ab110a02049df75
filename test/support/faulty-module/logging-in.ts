/** Another process that logs in to a token of the faulty module, remembering PINs on disk, and says how that ended. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { LoginUse } from './fixtures/log-in.ts';

export class LoggingIn {
  readonly #child: ChildProcess;
  /** `ok`, the code of the error, or `killed`. */
  readonly outcome: Promise<string>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.outcome = new Promise((resolve) => {
      child.once('message', (outcome) => resolve(String(outcome)));
      child.once('exit', () => resolve('killed'));
    });
  }

  static start(t: TestContext, use: LoginUse): LoggingIn {
    const child = fork(join(import.meta.dirname, 'fixtures/log-in.ts'), [JSON.stringify(use)]);
    const process = new LoggingIn(child);
    t.after(() => process.kill());
    return process;
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
  }
}
