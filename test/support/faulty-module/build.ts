/**
 * Compiles the faulty module, once for each version of its source and for all processes.
 *
 * A build is made in a folder of its own and moved to its place by one rename, so tests that run at the same time never
 * load half a module.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir, userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import { withoutSofthsm } from '../token-home.ts';

const compiler = process.env['CC'] ?? 'cc';
/** The headers that the binding itself was compiled with. */
const headers = join(dirname(createRequire(import.meta.url).resolve('pkcs11js/package.json')), 'includes');
const flags = ['-std=c11', '-D_GNU_SOURCE', '-shared', '-fPIC', '-fvisibility=hidden', '-O2', '-Wall', '-Wextra', '-Werror', '-pthread'];

const hasCompiler = spawnSync(compiler, ['--version']).status === 0;

/** Reason to skip tests that need the faulty module, or false. */
export const withoutFaultyModule: string | false =
  withoutSofthsm || (hasCompiler ? false : `THERE IS NO C COMPILER (${compiler}): nothing about tokens that fail is tested`);

const sourcesIn = (folder: string): string[] =>
  readdirSync(folder)
    .filter((name) => /\.[ch]$/.test(name))
    .sort()
    .map((name) => join(folder, name));

/** A folder that nobody else can put a module into. */
const cacheFolder = (): string => {
  const { uid } = userInfo();
  const folder = join(tmpdir(), `sigillo-faulty-module-${uid}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const found = lstatSync(folder);
  if (!found.isDirectory() || found.uid !== uid || (found.mode & 0o022) !== 0) throw new Error(`${folder} is not ours alone`);
  return folder;
};

/** Path of the compiled module. @throws with the compiler's words when it does not compile */
export const buildFaultyModule = (): string => {
  const sources = sourcesIn(import.meta.dirname);
  const hash = createHash('sha256').update([compiler, process.arch, ...flags].join('\0'));
  for (const file of [...sources, ...sourcesIn(join(headers, 'pkcs11'))]) hash.update(readFileSync(file));
  const cache = cacheFolder();
  const built = join(cache, `${hash.digest('hex')}.so`);
  if (existsSync(built)) return built;
  const staging = mkdtempSync(join(cache, 'build-'));
  try {
    const output = join(staging, 'module.so');
    const units = sources.filter((file) => file.endsWith('.c'));
    const { status, stderr } = spawnSync(compiler, [...flags, '-isystem', headers, '-o', output, ...units, '-ldl'], { encoding: 'utf8' });
    if (status !== 0) throw new Error(`${compiler}: ${stderr}`);
    renameSync(output, built);
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
  return built;
};
