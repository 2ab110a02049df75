/**
 * Real NTP servers for tests: Debian's chrony on free ports of the loopback, which sets no clock (`-x`) and serves its own time. Each
 * runs under libfaketime, so that a test can make it lie: a shift of a second or more, because chrony takes the kernel's receive
 * timestamps, which are not shifted, for as long as they are within a second of its clock.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, globSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { answersNonce, decodeNtpReply, encodeNtpRequest } from '../../signer/ntp-packet.ts';
import { udpTransport } from '../../signer/ntp-transport.ts';
import { programMissing, until } from './service.ts';

const debianPath = '/usr/sbin/chronyd';
/** Debian puts it where only root looks by itself. */
const program = existsSync(debianPath) ? debianPath : 'chronyd';

/**
 * Where Debian puts the library, whatever the processor. Its command is not used: it makes a semaphore with the number of its process,
 * and fails where one of that number was left behind.
 */
const faketimeLibrary = globSync('/usr/lib/{,*/}faketime/libfaketimeMT.so.1')[0];

/** Why tests with chrony must be skipped, or false. */
export const chronyMissing = async (): Promise<string | false> =>
  (await programMissing(program, 'chrony')) ||
  (faketimeLibrary === undefined ? 'LIBFAKETIME IS NOT INSTALLED (apt-get install faketime): what it would prove is not tested' : false);

/** What libfaketime leaves behind of a process that was killed; the next one of that number would not start. */
const removeSharedMemory = (pid: number | undefined): void => {
  for (const name of ['faketime_shm_', 'sem.faketime_sem_']) rmSync(`/dev/shm/${name}${pid}`, { force: true });
};

/** A time that a test shifts, for all processes that are given its environment. Their monotonic clock stays as it is. */
export class FakeTime {
  readonly #folder = mkdtempSync(join(tmpdir(), 'sigillo-time-'));
  readonly #file = join(this.#folder, 'shift');

  constructor() {
    this.shift(0);
  }

  get environment(): Record<string, string> {
    return {
      LD_PRELOAD: faketimeLibrary ?? '',
      FAKETIME_TIMESTAMP_FILE: this.#file,
      FAKETIME_NO_CACHE: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    };
  }

  /** Sets the clock of these processes so many milliseconds ahead of the machine's. */
  shift(ms: number): void {
    // In one step: a reader must never find half a number.
    writeFileSync(`${this.#file}.new`, `${ms < 0 ? '' : '+'}${(ms / 1_000).toFixed(3)}s\n`);
    renameSync(`${this.#file}.new`, this.#file);
  }

  remove(): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

const freeUdpPort = async (): Promise<number> => {
  const socket = createSocket('udp4').bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const { port } = socket.address();
  socket.close();
  return port;
};

/** Started and not closed. */
const open = new Set<TestChrony>();

export class TestChrony {
  readonly port: number;
  readonly time = new FakeTime();
  readonly #folder = mkdtempSync(join(tmpdir(), 'sigillo-chrony-'));
  readonly #child: ChildProcess;
  #output = '';
  /** A test file that is ended in the middle leaves no server behind. */
  readonly #onExit = (): void => {
    this.#child.kill('SIGKILL');
    this.#remove();
  };

  private constructor(port: number) {
    this.port = port;
    const config = join(this.#folder, 'chrony.conf');
    writeFileSync(
      config,
      [
        `port ${port}`,
        'bindaddress 127.0.0.1',
        'allow 127.0.0.1',
        'cmdport 0',
        'bindcmdaddress /',
        `pidfile ${join(this.#folder, 'pid')}`,
        'local stratum 3',
        '',
      ].join('\n'),
    );
    this.#child = spawn(program, ['-x', '-d', '-U', '-u', userInfo().username, '-f', config], {
      env: { ...process.env, ...this.time.environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#output += text;
      });
    }
    process.once('exit', this.#onExit);
    open.add(this);
  }

  /** Ends all that were started, also those of a start that failed half-way. */
  static async closeAll(): Promise<void> {
    await Promise.all(Array.from(open, (server) => server.close()));
  }

  /** Starts one, and waits until it answers. */
  static async start(): Promise<TestChrony> {
    const server = new TestChrony(await freeUdpPort());
    await until(
      () => `chronyd answers\n${server.#output}`,
      () => {
        if (server.#hasEnded) throw new Error(`chronyd ended\n${server.#output}`);
        return server.#answers();
      },
    );
    return server;
  }

  /** Lets it lie by so many milliseconds, a second at least; 0: it tells the truth. */
  lie(ms: number): void {
    this.time.shift(ms);
  }

  /** It neither answers nor ends. */
  silence(): void {
    this.#child.kill('SIGSTOP');
  }

  speak(): void {
    this.#child.kill('SIGCONT');
  }

  async close(): Promise<void> {
    if (!this.#hasEnded) {
      const ended = once(this.#child, 'exit');
      this.speak();
      this.#child.kill('SIGTERM');
      await ended;
    }
    process.off('exit', this.#onExit);
    this.#remove();
  }

  get #hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  #remove(): void {
    rmSync(this.#folder, { recursive: true, force: true });
    removeSharedMemory(this.#child.pid);
    this.time.remove();
    open.delete(this);
  }

  async #answers(): Promise<boolean> {
    const nonce = crypto.getRandomValues(new Uint8Array(8));
    const accept = (octets: Uint8Array): boolean => answersNonce(octets, nonce);
    const signal = new AbortController().signal;
    const server = { address: '127.0.0.1', port: this.port };
    const exchange = await udpTransport.exchange(server, encodeNtpRequest(nonce), { timeoutMs: 200, accept, signal });
    return exchange !== undefined && decodeNtpReply(exchange.octets, nonce, Date.now()).kind === 'reply';
  }
}
