/** Redis as an operator runs it: servers of all kinds on TCP ports, with passwords and TLS, made for one test. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort, runProgram, runWell, type ServiceFolder, until } from './service.ts';

const startMsMax = 10_000;

/** Makes servers in the folder of a service, and belongs to it: what is left is ended with it. */
export class ExternalRedis {
  readonly #folder: ServiceFolder;
  readonly #path: string;
  readonly #running = new Set<ChildProcess>();

  constructor(folder: ServiceFolder, name: string) {
    this.#folder = folder;
    this.#path = join(folder.path, name);
    mkdirSync(this.#path);
  }

  file(name: string, content: string): string {
    const path = join(this.#path, name);
    writeFileSync(path, content, { mode: 0o600 });
    return path;
  }

  /** Starts a server; resolves when it answers PING. @param client what redis-cli needs to reach it */
  async serve(
    port: number,
    settings: readonly string[],
    client: readonly string[] = [],
    program: readonly string[] = [],
  ): Promise<ChildProcess> {
    const data = join(this.#path, String(port));
    mkdirSync(data, { recursive: true });
    // The mark by which the folder of the service finds its processes.
    const env = { ...process.env, SIGILLO_HOME: this.#folder.home };
    const child = spawn('redis-server', [...program, '--dir', data, '--save', '', '--bind', '127.0.0.1', ...settings], {
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text;
      });
    }
    this.#running.add(child);
    const isUp = async (): Promise<boolean> => {
      if (child.exitCode !== null) throw new Error(`redis-server ended:\n${output}`);
      return (await runProgram('redis-cli', ['-p', String(port), ...client, 'PING'])).stdout.trim() === 'PONG';
    };
    await until(() => `redis-server on ${port}:\n${output}`, isUp, startMsMax);
    return child;
  }

  async stop(child: ChildProcess): Promise<void> {
    this.#running.delete(child);
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGTERM');
    await gone;
  }

  close = async (): Promise<void> => {
    await Promise.all([...this.#running].map((child) => this.stop(child)));
  };

  /** A CA and a certificate for 127.0.0.1. */
  makeCertificates(): { ca: string; certificate: string; key: string } {
    const path = (name: string): string => join(this.#path, name);
    const openssl = (...parameters: string[]): void =>
      void execFileSync('openssl', parameters, { cwd: this.#path, stdio: ['ignore', 'ignore', 'pipe'] });
    const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
    openssl('req', '-x509', ...newKey, '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=Redis test CA', '-days', '2');
    openssl('req', ...newKey, '-keyout', 'server.key', '-out', 'server.csr', '-subj', '/CN=Redis');
    writeFileSync(path('server.ext'), 'subjectAltName = IP:127.0.0.1, DNS:localhost\n');
    openssl(
      'x509',
      '-req',
      '-in',
      'server.csr',
      '-CA',
      'ca.pem',
      '-CAkey',
      'ca.key',
      '-CAcreateserial',
      '-extfile',
      'server.ext',
      '-out',
      'server.pem',
      '-days',
      '2',
    );
    return { ca: path('ca.pem'), certificate: path('server.pem'), key: path('server.key') };
  }

  /** A master with a replica, and a Sentinel that watches them. */
  async serveSentinel(
    name: string,
  ): Promise<{ sentinel: number; ports: readonly [number, number]; servers: readonly [ChildProcess, ChildProcess] }> {
    const [master, replica, sentinel] = [await freePort(), await freePort(), await freePort()];
    const servers = [
      await this.serve(master, ['--port', String(master), '--appendonly', 'yes']),
      await this.serve(replica, ['--port', String(replica), '--appendonly', 'yes', '--replicaof', `127.0.0.1 ${master}`]),
    ] as const;
    const conf = this.file(
      'sentinel.conf',
      [
        `port ${sentinel}`,
        `sentinel monitor ${name} 127.0.0.1 ${master} 1`,
        `sentinel down-after-milliseconds ${name} 1000`,
        `sentinel failover-timeout ${name} 3000`,
        '',
      ].join('\n'),
    );
    await this.serve(sentinel, [], [], [conf, '--sentinel']);
    const knowsReplica = async (): Promise<boolean> => {
      const found = await runProgram('redis-cli', ['-p', String(sentinel), 'SENTINEL', 'REPLICAS', name]);
      return found.stdout.includes(String(replica)) && /master-link-status\n+ok/.test(found.stdout);
    };
    await until('the Sentinel knows the replica', knowsReplica, 20_000);
    return { sentinel, ports: [master, replica], servers };
  }

  /** A cluster of three masters. @returns their ports */
  async serveCluster(): Promise<readonly number[]> {
    const ports: number[] = [];
    for (let i = 0; i < 3; i += 1) {
      const port = await freePort();
      const bus = await freePort();
      ports.push(port);
      const cluster = [
        '--cluster-enabled',
        'yes',
        '--cluster-node-timeout',
        '2000',
        '--cluster-config-file',
        'nodes.conf',
        '--cluster-port',
        String(bus),
      ];
      await this.serve(port, ['--port', String(port), '--appendonly', 'yes', ...cluster]);
    }
    await runWell('redis-cli', [
      '--cluster',
      'create',
      ...ports.map((port) => `127.0.0.1:${port}`),
      '--cluster-replicas',
      '0',
      '--cluster-yes',
    ]);
    for (const port of ports) {
      const isOk = async (): Promise<boolean> =>
        (await runProgram('redis-cli', ['-p', String(port), 'CLUSTER', 'INFO'])).stdout.includes('cluster_state:ok');
      await until(`the cluster as ${port} sees it`, isOk);
    }
    return ports;
  }
}
