/** `sigillo config check`, `sigillo config show` and `sigillo config digest`. */
import { stringify } from 'yaml';
import { canonicalConfig, configDigest } from '../../config/digest.ts';
import { SigilloError } from '../../config/errors.ts';
import { loadConfig } from '../../config/load.ts';

const mask = '***';

/** Credentials inside a URL: the user part, and parameters that some drivers read passwords from. */
const maskUrl = (text: string): string =>
  text.replace(/(\w:\/\/)[^/@\s]*@/g, `$1${mask}@`).replace(/([?&][^=&]*(?:pass|secret|token|auth)[^=&]*=)[^&]*/gi, `$1${mask}`);

/**
 * A copy of the configuration that may be shown. Secrets are only in files, so the paths stay; masked is what can hide one
 * all the same: credentials in a URL, and variables handed to a PKCS#11 module, whose meaning only its vendor knows.
 */
export const maskSecrets = (value: unknown, path: readonly string[] = []): unknown => {
  if (typeof value === 'string') return path[0] === 'hsm' && path.at(-2) === 'environment' ? mask : maskUrl(value);
  if (Array.isArray(value)) return value.map((item, i) => maskSecrets(item, [...path, String(i)]));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, maskSecrets(item, [...path, key])]));
};

/** Says `ok`, or each problem on a line of its own; false when there is one. */
export const checkConfig = (): boolean => {
  try {
    loadConfig();
  } catch (error) {
    if (!(error instanceof SigilloError)) throw error;
    // The loader joins its problems with semicolons, each beginning with the path of its key.
    const problems = error.message.replace(`${error.entry.meaning} `, '').split('; ');
    process.stderr.write(`${error.code}: ${error.entry.meaning}\n${problems.map((problem) => `  ${problem}\n`).join('')}`);
    return false;
  }
  process.stdout.write('ok\n');
  return true;
};

/** Prints the configuration in force. @throws CONFIG_* when there is none */
export const showConfig = (options: { readonly json?: true }): void => {
  const shown = maskSecrets(loadConfig());
  process.stdout.write(options.json ? `${JSON.stringify(shown, null, 2)}\n` : stringify(shown));
};

/**
 * Prints what `service.started` carries as `configSha256`, or the text that it is the digest of: without a newline, so that
 * `sha256sum` makes the same of it, and without masks. @throws CONFIG_* when there is none
 */
export const showConfigDigest = (options: { readonly text?: true }): void => {
  const config = loadConfig();
  process.stdout.write(options.text ? canonicalConfig(config) : `${configDigest(config).toString('hex')}\n`);
};
