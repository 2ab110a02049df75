/**
 * A private ClickHouse server for tests: Debian's package, which is release 18.16 of 2018, on a free port of the loopback, with its
 * data in a folder of its own. What it does not know of today's SQL is translated on the way (clickhouse-translation.ts).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort, programMissing, until } from './service.ts';

const debianPath = '/usr/sbin/clickhouse-server';
/** Debian puts it where only root looks by itself. */
const program = existsSync(debianPath) ? debianPath : 'clickhouse-server';
const startTimeoutMs = 60_000;

/** Why a test that needs a ClickHouse server must be skipped, or false. */
export const clickhouseServerMissing = (): Promise<string | false> => programMissing(program, 'clickhouse-server');

const usersXml = `<yandex>
  <profiles><default/></profiles>
  <users>
    <default><password/><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default>
  </users>
  <quotas><default/></quotas>
</yandex>
`;

const configXml = (folder: string, port: number): string => `<yandex>
  <logger><level>warning</level><log>${folder}/server.log</log><errorlog>${folder}/errors.log</errorlog></logger>
  <http_port>${port}</http_port>
  <listen_host>127.0.0.1</listen_host>
  <path>${folder}/data/</path>
  <tmp_path>${folder}/data/tmp/</tmp_path>
  <users_config>${folder}/users.xml</users_config>
  <default_profile>default</default_profile>
  <default_database>default</default_database>
  <mark_cache_size>67108864</mark_cache_size>
  <timezone>UTC</timezone>
  <keep_alive_timeout>1</keep_alive_timeout>
  <shutdown_wait_unfinished>1</shutdown_wait_unfinished>
</yandex>
`;

export class TestClickHouse {
  readonly port: number;
  readonly #folder: string;
  #child: ChildProcess | undefined;
  /** A test file that is ended in the middle leaves no server behind. */
  readonly #onExit = (): void => {
    this.#child?.kill('SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true });
  };

  private constructor(port: number) {
    this.port = port;
    this.#folder = mkdtempSync(join(tmpdir(), 'sigillo-clickhouse-'));
    mkdirSync(join(this.#folder, 'data'));
    writeFileSync(join(this.#folder, 'users.xml'), usersXml);
    writeFileSync(join(this.#folder, 'config.xml'), configXml(this.#folder, port));
    process.once('exit', this.#onExit);
  }

  /** A server with nothing in it, which is not started yet. */
  static async create(): Promise<TestClickHouse> {
    return new TestClickHouse(await freePort());
  }

  get isRunning(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Starts it, with what is in its folder, and waits until it answers. */
  async start(): Promise<void> {
    this.#child = spawn(program, [`--config-file=${join(this.#folder, 'config.xml')}`], {
      cwd: this.#folder,
      stdio: 'ignore',
    });
    await once(this.#child, 'spawn');
    const answers = async (): Promise<boolean> => {
      if (!this.isRunning) throw new Error(`${program} ended\n${this.#errors()}`);
      return fetch(`http://127.0.0.1:${this.port}/ping`).then(
        ({ ok }) => ok,
        () => false,
      );
    };
    await until(() => `${program} answers\n${this.#errors()}`, answers, startTimeoutMs);
  }

  /** Ends it: in order, or with SIGKILL as a crash would. */
  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    const child = this.#child;
    if (child === undefined || !this.isRunning) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }

  /** Asks the server itself, in its own dialect. */
  async ask(query: string): Promise<string> {
    const response = await fetch(`http://127.0.0.1:${this.port}/`, { method: 'POST', body: query });
    const text = await response.text();
    if (!response.ok) throw new Error(`${query}: ${text}`);
    return text;
  }

  /** Ends it and removes its folder. */
  async close(): Promise<void> {
    await this.stop('SIGKILL');
    process.off('exit', this.#onExit);
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #errors(): string {
    try {
      return readFileSync(join(this.#folder, 'errors.log'), 'utf8').slice(-3_000);
    } catch {
      return ''; // it has not come so far
    }
  }
}
