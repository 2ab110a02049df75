/** Prepares the home folder and ends: the supervisor runs it before the services at every start, `sigillo init` by itself. */
import { loadConfig } from '../config/load.ts';
import { printFailure } from './child.ts';
import { firstStart } from './prepare-home.ts';

try {
  await firstStart(loadConfig(), (line) => process.stdout.write(`${line}\n`));
} catch (error) {
  printFailure('first-start', error);
  process.exitCode = 1;
}
