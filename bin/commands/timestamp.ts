/** `sigillo timestamp`: timestamps for files and folders. */
import { SigilloError } from '../../config/errors.ts';
import { readSecretFile } from '../../config/secrets.ts';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { createProgress } from './progress.ts';
import { countFiles, stampFiles } from './stamp-files.ts';
import { createTimestampClient } from './timestamp-client.ts';

export interface StampCommandOptions {
  readonly server?: string;
  readonly digest: string;
  readonly policy?: string;
  readonly user?: string;
  readonly secretFile?: string;
  readonly bearerFile?: string;
  readonly force?: true;
  readonly cert: boolean;
}

const usage = (detail: string): SigilloError => new SigilloError('USAGE', detail);

const isDigest = (name: string): name is keyof typeof digestAlgorithms => Object.hasOwn(digestAlgorithms, name);

const readAuthorization = ({ user, secretFile, bearerFile }: StampCommandOptions): string | undefined => {
  if ((user === undefined) !== (secretFile === undefined)) throw usage('--user and --secret-file go together');
  if (bearerFile !== undefined && user !== undefined) throw usage('--bearer-file and --user exclude each other');
  if (bearerFile !== undefined) return `Bearer ${readSecretFile(bearerFile)}`;
  if (user === undefined || secretFile === undefined) return undefined;
  return `Basic ${Buffer.from(`${user}:${readSecretFile(secretFile)}`).toString('base64')}`;
};

const configuredServer = async (): Promise<string> => {
  const { loadConfig } = await import('../../config/load.ts');
  const { host, port } = loadConfig().public;
  // An address that means `every interface` is none to connect to.
  const reachable = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host;
  return `http://${reachable.includes(':') ? `[${reachable}]` : reachable}:${port}`;
};

const readServer = async (given: string | undefined): Promise<URL> => {
  const text = given ?? (await configuredServer());
  const url = URL.parse(text);
  if (url === null || !/^https?:$/.test(url.protocol)) throw usage(`--server: ${text} is no http or https address`);
  if (url.username !== '' || url.password !== '') throw usage('--server: credentials do not belong into the address: use --secret-file');
  return url;
};

const warnPlainText = (server: URL): void => {
  if (server.protocol === 'https:' || /^(localhost|127\.|\[::1\])/.test(server.hostname)) return;
  process.stderr.write(`sigillo: warning: the secret goes to ${server.host} in plain text; https would hide it\n`);
};

/** Stamps everything under the paths; false when something failed. @throws USAGE, CONFIG_* */
export const stampPaths = async (paths: readonly string[], options: StampCommandOptions): Promise<boolean> => {
  const { digest } = options;
  if (!isDigest(digest)) throw usage(`--digest: one of ${Object.keys(digestAlgorithms).join(', ')}`);
  const authorization = readAuthorization(options);
  const server = await readServer(options.server);
  if (authorization !== undefined) warnPlainText(server);
  const client = createTimestampClient({ server, authorization, digest, policy: options.policy, certReq: options.cert });
  const progress = await createProgress(() => countFiles(paths));
  try {
    const summary = await stampFiles({ paths, digest, replace: options.force === true, client, report: progress.report });
    progress.finish(summary);
    return summary.failed === 0 && summary.stopped === undefined;
  } finally {
    progress.close();
    await client.close();
  }
};
