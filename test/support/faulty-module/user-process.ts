/** Another process on a token of the faulty module: signs and opens sessions when it is told to, and reports. */
import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { until } from '../until.ts';
import type { Order, Report, TokenUse } from './fixtures/token-user.ts';

export class TokenUser {
  readonly child: ChildProcess;
  readonly #reports: Report[] = [];

  private constructor(child: ChildProcess) {
    this.child = child;
    child.on('message', (report: Report) => this.#reports.push(report));
  }

  /** Starts one for the time of the test; it has its sessions open. */
  static async start(t: TestContext, use: TokenUse): Promise<TokenUser> {
    const file = join(import.meta.dirname, 'fixtures/token-user.ts');
    const child = fork(file, [JSON.stringify(use)], { env: { ...process.env, UV_THREADPOOL_SIZE: String(Math.max(4, use.sessions)) } });
    const user = new TokenUser(child);
    t.after(() => user.kill());
    await user.next('ready');
    return user;
  }

  order(order: Order): void {
    this.child.send(order);
  }

  async next<K extends Report['kind']>(kind: K): Promise<Extract<Report, { kind: K }>> {
    const at = (): number => this.#reports.findIndex((report) => report.kind === kind);
    await until(`the other process reports ${kind}`, () => at() >= 0 || this.child.exitCode !== null, 20_000);
    assert.equal(this.child.exitCode, null, 'the other process has ended');
    return this.#reports.splice(at(), 1)[0] as Extract<Report, { kind: K }>;
  }

  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, 'exit');
    this.child.kill('SIGKILL');
    await ended;
  }
}
