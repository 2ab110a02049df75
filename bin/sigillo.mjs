#!/usr/bin/env node
/**
 * `npx sigillo`: runs the command line on Node 24 or later, whatever Node the machine starts scripts with.
 *
 * It turns on Node's compile cache for itself and every process it starts: without it each process, and each worker thread,
 * loads the compiler that strips TypeScript types (34 MB and 180 ms for a gateway, measured).
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import module from 'node:module';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';

// Read once, when the first file is read behind our back: signatures of a slow HSM wait on these threads (bin/supervisor.ts sets it too).
if (process.argv[2] === 'signer') process.env.UV_THREADPOOL_SIZE ??= '72';

const nodeMajorMin = 24;
const cli = new URL('./sigillo.ts', import.meta.url);
const ownNode = fileURLToPath(new URL('../node_modules/.bin/node', import.meta.url));

if (!existsSync(ownNode)) {
  console.error('sigillo: the npm packages are not installed. Run `npm start` once: it sets everything up.');
  process.exit(1);
}
if (Number.parseInt(process.versions.node, 10) >= nodeMajorMin) {
  process.env.NODE_COMPILE_CACHE ??= fileURLToPath(new URL('../node_modules/.cache/sigillo-compile', import.meta.url));
  module.enableCompileCache(process.env.NODE_COMPILE_CACHE);
  await import(cli.href);
} else {
  const child = spawn(ownNode, [fileURLToPath(cli), ...process.argv.slice(2)], { stdio: 'inherit' });
  // Stay until the command has ended in its own way; it acts on the first signal only.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.on('error', (error) => {
    console.error(`sigillo: ${error.message}`);
    process.exitCode = 1;
  });
  child.on('exit', (code, signal) => process.exit(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
}
