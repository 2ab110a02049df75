/** Prepares the home folder and ends: the supervisor runs it before the services at every start, `sigillo init` by itself. */
import { existsSync, writeFileSync } from 'node:fs';
import { getCompileCacheDir } from 'node:module';
import { join } from 'node:path';
import { loadConfig } from '../config/load.ts';
import { printFailure } from './child.ts';
import { firstStart } from './prepare-home.ts';

/**
 * Loads all that gateway and signer load, once for each new compile cache: Node writes the cache when a process ends, so
 * the services of a first start would otherwise still carry the type stripper, in each thread, for as long as they run.
 */
const warmCompileCache = async (): Promise<void> => {
  const folder = getCompileCacheDir();
  if (folder === undefined) return;
  const marker = join(folder, 'sigillo-warm');
  if (existsSync(marker)) return;
  await Promise.all([import('../gateway/service.ts'), import('../signer/service.ts'), import('../signer/stamper.ts')]);
  writeFileSync(marker, '');
};

try {
  await firstStart(loadConfig(), (line) => process.stdout.write(`${line}\n`));
  await warmCompileCache();
} catch (error) {
  printFailure('first-start', error);
  process.exitCode = 1;
}
