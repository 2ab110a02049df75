/**
 * Makes a fresh checkout run: system programs, npm packages, then the service (or its tests, or its benchmark) on the
 * Node that the project brings itself.
 *
 * Runs on any Node from 20 on and before anything is installed, so it is plain JavaScript and imports nothing but Node.
 * `npm start`, `npm test` and `npm run bench` call it. When all is in place it costs a few milliseconds.
 */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ensurePackages, packagesAreInstalled } from './setup/npm-packages.mjs';
import { ensurePrograms, offerTestPrograms } from './setup/system-programs.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const entryPoints = { start: ['bin/sigillo.mjs', 'start'], test: ['test/run.ts'], bench: ['bench/run.ts'] };

/**
 * Runs the entry point to its end and takes over its exit status.
 *
 * Ctrl-C in a terminal reaches the child directly as well as through us (and npm sends it once more): the child acts on
 * the first one only. We stay until it has ended, whatever arrives.
 *
 * @param {string[]} args
 */
const runToEnd = (args) => {
  const child = spawn(join(root, 'node_modules/.bin/node'), args, { cwd: root, stdio: 'inherit' });
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) process.on(signal, () => child.kill(signal));
  child.on('error', (error) => {
    console.error(`sigillo: ${error.message}`);
    process.exitCode = 1;
  });
  child.on('exit', (code, signal) => {
    // 128 + n is how a shell reports a death by signal n.
    process.exit(code ?? 128 + (signal === null ? 0 : constants.signals[signal]));
  });
};

const [mode = '', ...rest] = process.argv.slice(2);
if (!Object.hasOwn(entryPoints, mode)) {
  console.error(`usage: node bin/setup.mjs ${Object.keys(entryPoints).join('|')} [arguments]`);
  process.exit(2);
}
try {
  ensurePrograms({ compiling: !packagesAreInstalled(root) });
  ensurePackages(root);
  if (mode === 'test') offerTestPrograms();
} catch (error) {
  // What the user can act on is a message without a stack.
  console.error(`\nsigillo: ${error instanceof Error ? error.message : error}`);
  process.exit(1);
}
runToEnd([...entryPoints[/** @type {keyof typeof entryPoints} */ (mode)], ...rest]);
