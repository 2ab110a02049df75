/**
 * Reads the configuration: defaults, then the YAML file, then the environment. Every process calls this once at start
 * and gets a checked value or a CONFIG_* error that names the bad key.
 */
import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { parse as parseYaml } from 'yaml';
import { SigilloError } from './errors.ts';
import { type Config, configSchema, isLoopback } from './schema.ts';

type Tree = { [key: string]: unknown };
export type Environment = Readonly<Record<string, string | undefined>>;

/** Short names for what people set most, besides `SIGILLO__<PATH>` for every key. */
const shortNames: Readonly<Record<string, readonly string[]>> = {
  SIGILLO_HOME: ['home'],
  SIGILLO_PORT: ['public', 'port'],
  SIGILLO_OPS_PORT: ['ops', 'port'],
};
/** Read by other parts than the schema. */
const reservedNames = new Set(['SIGILLO_CONFIG', 'SIGILLO_SLOT']);

const isTree = (value: unknown): value is Tree => typeof value === 'object' && value !== null && !Array.isArray(value);

/** `SIGILLO__TIMESTAMP__DEADLINE_MS` names `timestamp.deadlineMs`: two underscores part levels, one parts words. */
const pathOfVariable = (name: string): string[] =>
  name
    .slice('SIGILLO__'.length)
    .split('__')
    .map((part) => part.toLowerCase().replace(/_+([a-z0-9])/g, (_, letter: string) => letter.toUpperCase()));

/** Sets one value. What stands in its way is a fault of the file, not to be replaced. @throws CONFIG_INVALID */
const setAt = (tree: Tree, path: readonly string[], value: unknown): void => {
  let node = tree;
  for (const [depth, key] of path.slice(0, -1).entries()) {
    // A section without keys is null in YAML.
    node[key] ??= {};
    const inner = node[key];
    if (!isTree(inner)) throw new SigilloError('CONFIG_INVALID', `${path.slice(0, depth + 1).join('.')}: must hold keys and values`);
    node = inner;
  }
  node[path.at(-1) as string] = value;
};

/** Numbers, booleans and lists in variables are written as in YAML. */
const valueOfVariable = (name: string, text: string): unknown => {
  try {
    return parseYaml(text);
  } catch {
    throw new SigilloError('CONFIG_INVALID', `${name}: not a YAML value`);
  }
};

const applyEnvironment = (tree: Tree, environment: Environment): void => {
  for (const [name, text] of Object.entries(environment)) {
    if (text === undefined || !name.startsWith('SIGILLO_') || reservedNames.has(name)) continue;
    const short = shortNames[name];
    if (short !== undefined) setAt(tree, short, short[0] === 'home' ? text : valueOfVariable(name, text));
    else if (name.startsWith('SIGILLO__')) setAt(tree, pathOfVariable(name), valueOfVariable(name, text));
    else throw new SigilloError('CONFIG_INVALID', `${name}: unknown variable; keys are written SIGILLO__<SECTION>__<KEY>`);
  }
};

const readTree = (file: string): Tree => {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', file, { cause });
  }
  let tree: unknown;
  try {
    tree = parseYaml(text, { maxAliasCount: 0 });
  } catch (cause) {
    throw new SigilloError('CONFIG_INVALID', `${file}: ${(cause as Error).message.split('\n')[0]}`, { cause });
  }
  if (tree === null) return {};
  if (!isTree(tree)) throw new SigilloError('CONFIG_INVALID', `${file}: must hold keys and values`);
  return tree;
};

/** The file that `loadConfig` reads: SIGILLO_CONFIG, or `sigillo.yaml` in the home folder when it exists. */
export const configFile = (environment: Environment): string | undefined => {
  if (environment['SIGILLO_CONFIG'] !== undefined) return resolve(environment['SIGILLO_CONFIG']);
  const inHome = resolve(environment['SIGILLO_HOME'] ?? './var', 'sigillo.yaml');
  return existsSync(inHome) ? inHome : undefined;
};

const describe = (issues: readonly { path: PropertyKey[]; message: string; code?: string; keys?: string[] }[]): string =>
  issues
    .flatMap((issue) =>
      issue.keys !== undefined && issue.code === 'unrecognized_keys'
        ? issue.keys.map((key) => `${[...issue.path, key].join('.')}: unknown key`)
        : [`${issue.path.join('.') || '(top level)'}: ${issue.message}`],
    )
    .join('; ');

/** Checks a configuration tree and makes the paths absolute that Sigillo itself owns. @throws CONFIG_INVALID, CONFIG_ANONYMOUS_PUBLIC */
export const parseConfig = (tree: unknown): Config => {
  const parsed = configSchema.safeParse(tree);
  if (!parsed.success) throw new SigilloError('CONFIG_INVALID', describe(parsed.error.issues as never));
  const config = { ...parsed.data, home: resolve(parsed.data.home) };
  const { access } = config.timestamp;
  if (access === 'anonymous' && !isLoopback(config.public.host) && !config.public.anonymousOnPublicAddress) {
    throw new SigilloError('CONFIG_ANONYMOUS_PUBLIC', `public.host is ${config.public.host}`);
  }
  return config;
};

/** The configuration in force for this process. @throws CONFIG_INVALID, CONFIG_UNREADABLE, CONFIG_ANONYMOUS_PUBLIC */
export const loadConfig = (environment: Environment = process.env): Config => {
  const file = configFile(environment);
  const tree = file === undefined ? {} : readTree(file);
  applyEnvironment(tree, environment);
  return parseConfig(tree);
};
