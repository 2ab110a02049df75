/** What a figure was measured on and with: without it the figure says nothing. */
import { execFileSync } from 'node:child_process';
import { availableParallelism, cpus, release, totalmem, type } from 'node:os';
import { fileURLToPath } from 'node:url';

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGb: number;
  readonly kernel: string;
  readonly versions: Readonly<Record<'node' | 'redis' | 'softhsm' | 'openssl' | 'sigillo', string>>;
}

const repository = fileURLToPath(new URL('..', import.meta.url));

const output = (command: string, ...parameters: string[]): string | undefined => {
  try {
    return execFileSync(command, parameters, { cwd: repository, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return undefined; // the caller says "unknown": a missing tool is no reason not to measure
  }
};

const revision = (): string => {
  const head = output('git', 'rev-parse', '--short=12', 'HEAD');
  if (head === undefined) return 'uncommitted';
  return output('git', 'status', '--porcelain') === '' ? head : `${head} with changes`;
};

export const describeMachine = (): Machine => ({
  cpu: cpus()[0]?.model.trim() ?? 'unknown',
  cores: availableParallelism(),
  memoryGb: Math.round(totalmem() / 2 ** 30),
  kernel: `${type()} ${release()}`,
  versions: {
    node: process.version.slice(1),
    redis: /v=([\d.]+)/.exec(output('redis-server', '--version') ?? '')?.[1] ?? 'unknown',
    softhsm: output('softhsm2-util', '--version') ?? 'unknown',
    openssl: /^OpenSSL (\S+)/.exec(output('openssl', 'version') ?? '')?.[1] ?? 'unknown',
    sigillo: revision(),
  },
});
