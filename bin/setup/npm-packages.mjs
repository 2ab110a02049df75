/** The npm packages, exactly as package-lock.json names them. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Written last, after a complete install: an interrupted one leaves none, and the next run starts it over. */
const markerFile = 'node_modules/.sigillo-lock';
/** Made by install scripts, which an install with --ignore-scripts leaves out. */
const builtFiles = ['node_modules/.bin/node', 'node_modules/pkcs11js/build/Release/pkcs11.node'];

/** Binaries were fetched and compiled for this system: a folder copied to another one is not an install. */
const fingerprint = (root) =>
  createHash('sha256')
    .update(`${process.platform} ${process.arch}\n`)
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');

/**
 * True when node_modules is the complete tree of package-lock.json.
 *
 * @param {string} root
 */
export const packagesAreInstalled = (root) => {
  try {
    for (const file of builtFiles) accessSync(join(root, file), constants.R_OK);
    return readFileSync(join(root, markerFile), 'utf8') === fingerprint(root);
  } catch {
    return false; // whatever is missing or unreadable, a new install puts right
  }
};

/**
 * Installs the packages unless they are all there. Throws with a message for the user.
 *
 * @param {string} root
 */
export const ensurePackages = (root) => {
  if (packagesAreInstalled(root)) return;
  console.log('Installing the npm packages of package-lock.json (about 900 MB, once; a part of it is compiled) ...');
  rmSync(join(root, markerFile), { force: true });
  // The npm that runs us, when one does: another one may lie in PATH.
  const npm = process.env['npm_execpath'];
  const [command, ...prefix] = npm?.endsWith('.js') ? [process.execPath, npm] : ['npm'];
  const startedAt = Date.now();
  // Tests and benchmark need the development tools too, and one tree for all is what the marker vouches for.
  const result = spawnSync(command, [...prefix, 'ci', '--include=dev', '--no-audit', '--no-fund'], { cwd: root, stdio: 'inherit' });
  if (result.error !== undefined) throw new Error(`npm cannot be run: ${result.error.message}`);
  if (result.status !== 0) throw new Error('npm ci failed; its lines above say why. Run the same command again when it is put right.');
  for (const file of builtFiles) {
    try {
      accessSync(join(root, file), constants.R_OK);
    } catch {
      throw new Error(`npm ci did not make ${file}. Are install scripts turned off (npm config get ignore-scripts)?`);
    }
  }
  writeFileSync(join(root, markerFile), fingerprint(root));
  console.log(`Installed in ${Math.round((Date.now() - startedAt) / 1000)} s.`);
};
