/**
 * The SoftHSM tokens of an embedded installation.
 *
 * A token is initialised in a staging folder of its own and moved to its place by one rename, after its PINs are on disk.
 * So an interruption at any point leaves either no token or a whole one, and the next start goes on from there; what is
 * left in staging can hold no key and is thrown away. A token that is in its place is never initialised again, and has a copy of the file
 * that a killed login may empty.
 */

import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { SessionFlag, TokenFlag, UserType } from 'graphene-pk11';
import { syncFolder, syncTree, writeFileAtomic } from '../config/atomic-file.ts';
import { invariant, SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import { readSecretFile } from '../config/secrets.ts';
import type { Logger } from '../observability/log.ts';
import { callingHsm } from './pkcs11-errors.ts';
import { embeddedModule, embeddedTokens, type HsmModule, type HsmSlot, openModule } from './pkcs11-module.ts';
import { keepTokenFile, restoreTokenFiles, tokenFoldersIn } from './token-copies.ts';

/** 32 symbols, so that five bits of a random octet choose one without bias; no token refuses lower-case letters and digits. */
const pinAlphabet = 'abcdefghijkmnpqrstuvwxyz23456789';
/** 32 x 5 = 160 bits; 32 characters are within the shortest limit of known tokens. */
const pinLength = 32;

const randomPin = (): string => Array.from(randomBytes(pinLength), (octet) => pinAlphabet[octet & 31]).join('');

const pinFiles = (config: Config, label: string): { user: string; securityOfficer: string } => {
  const { pinFolder } = homePaths(config.home);
  return { user: join(pinFolder, `${label}.pin`), securityOfficer: join(pinFolder, `${label}.so-pin`) };
};

/** The PIN of a file that an earlier, interrupted start may have written already. */
const makePin = (file: string): string => {
  if (!existsSync(file)) writeFileAtomic(file, `${randomPin()}\n`, { mode: 0o600 });
  return readSecretFile(file);
};

const softhsmConf = (tokenFolder: string): string => {
  // SoftHSM cuts a line at '#' and splits it at '=', and reads at most 1023 octets of it.
  if (/[#=\n\r]/.test(tokenFolder) || Buffer.byteLength(tokenFolder) > 900) {
    throw new SigilloError('CONFIG_INVALID', `home: SoftHSM cannot read a path that is very long or has '#' or '=' in it: ${tokenFolder}`);
  }
  return [`directories.tokendir = ${tokenFolder}`, 'objectstore.backend = file', 'log.level = ERROR', 'slots.removable = false', ''].join(
    '\n',
  );
};

const writeConf = (file: string, tokenFolder: string): void => {
  const text = softhsmConf(tokenFolder);
  // Written again when the home folder has moved: the path in it is absolute.
  if (!existsSync(file) || readFileSync(file, 'utf8') !== text) writeFileAtomic(file, text, { mode: 0o600 });
};

const withModule = <T>(hsm: Pick<HsmSlot, 'modulePath' | 'environment'>, use: (module: HsmModule) => T): T => {
  const module = openModule(hsm);
  try {
    return use(module);
  } finally {
    module.close();
  }
};

/** The security officer sets the user's PIN, which makes the token usable. */
const initUserPin = (module: HsmModule, label: string, pins: { user: string; securityOfficer: string }): void =>
  callingHsm(`set the PIN of token "${label}"`, () => {
    const session = module.findSlot(label).open(SessionFlag.SERIAL_SESSION | SessionFlag.RW_SESSION);
    try {
      session.login(pins.securityOfficer, UserType.SO);
      session.initPin(pins.user);
      session.logout();
    } finally {
      session.close();
    }
  });

const initToken = (module: HsmModule, label: string, pins: { user: string; securityOfficer: string }): void => {
  const blank = module.tokens().find(({ token }) => (token.flags & TokenFlag.TOKEN_INITIALIZED) === 0);
  invariant(blank !== undefined, 'SoftHSM offers no slot for a new token');
  // The raw call: the label must fill its field of 32 bytes, and graphene expects a result that the binding does not give.
  callingHsm(`initialise token "${label}"`, () => module.lib.C_InitToken(blank.slot.handle, pins.securityOfficer, label.padEnd(32)));
  initUserPin(module, label, pins);
};

const makeToken = (config: Config, modulePath: string, label: string): void => {
  const paths = homePaths(config.home);
  const files = pinFiles(config, label);
  const pins = { user: makePin(files.user), securityOfficer: makePin(files.securityOfficer) };
  const staging = { folder: `${paths.tokenFolder}.new`, conf: `${paths.softhsmConf}.staging` };
  rmSync(staging.folder, { recursive: true, force: true });
  mkdirSync(staging.folder, { mode: 0o700 });
  writeConf(staging.conf, staging.folder);
  withModule({ modulePath, environment: { SOFTHSM2_CONF: staging.conf } }, (module) => initToken(module, label, pins));
  const [made, ...others] = readdirSync(staging.folder);
  invariant(made !== undefined && others.length === 0, 'SoftHSM made something else than one token');
  keepTokenFile(join(staging.folder, made));
  syncTree(staging.folder);
  renameSync(join(staging.folder, made), join(paths.tokenFolder, made));
  syncFolder(paths.tokenFolder);
  rmSync(staging.folder, { recursive: true });
  rmSync(staging.conf);
};

const requirePin = (file: string, label: string): string => {
  if (existsSync(file)) return readSecretFile(file);
  throw new SigilloError(
    'CONFIG_UNREADABLE',
    `${file}: token "${label}" exists, but the file with its PIN does not. Put the file back, or start anew with another home folder.`,
  );
};

/**
 * Sees to it that the tokens of `embeddedTokens` exist with a user PIN, under the home folder that exists already.
 * Loads and unloads the module, so it must run before anything else in the process opens it.
 *
 * @returns the labels of the tokens that were made
 * @throws HSM_MODULE_MISSING, HSM_TOKEN_MISSING, CONFIG_UNREADABLE when a PIN file is lost, HSM_PIN_REFUSED when it is not the token's
 */
export const ensureEmbeddedTokens = (config: Config): string[] => {
  const paths = homePaths(config.home);
  const hsm = embeddedModule(config);
  for (const folder of [paths.tokenFolder, paths.pinFolder]) mkdirSync(folder, { recursive: true, mode: 0o700 });
  writeConf(paths.softhsmConf, paths.tokenFolder);
  restoreTokenFiles(paths.tokenFolder);
  const missing = withModule(hsm, (module) => {
    const tokens = module.tokens().filter(({ token }) => (token.flags & TokenFlag.TOKEN_INITIALIZED) !== 0);
    // One that is made in the place of another would hide that keys are lost.
    if (tokens.length < tokenFoldersIn(paths.tokenFolder).length) {
      throw new SigilloError('HSM_TOKEN_MISSING', `SoftHSM cannot read every token in ${paths.tokenFolder}; put it back from a backup`);
    }
    const found = new Map(tokens.map(({ label, token }) => [label, token]));
    const absent: string[] = [];
    for (const { label } of embeddedTokens) {
      const token = found.get(label);
      if (token === undefined) {
        absent.push(label);
        continue;
      }
      const files = pinFiles(config, label);
      const user = requirePin(files.user, label);
      // Not of our making, but easily finished: a token that somebody initialised and gave no user PIN.
      if ((token.flags & TokenFlag.USER_PIN_INITIALIZED) === 0) {
        initUserPin(module, label, { user, securityOfficer: requirePin(files.securityOfficer, label) });
      }
    }
    return absent;
  });
  // They can be read: their labels were. Without one of these we do not know which file it is.
  if (missing.length === 0) for (const folder of tokenFoldersIn(paths.tokenFolder)) keepTokenFile(folder);
  for (const label of missing) makeToken(config, hsm.modulePath, label);
  return missing;
};

/** For each process before it opens the module: an earlier one may have been killed while it logged in. */
export const restoreEmbeddedTokens = (config: Config, log: Pick<Logger, 'warn'>): void => {
  if (config.hsm.mode !== 'embedded') return;
  const restored = restoreTokenFiles(homePaths(config.home).tokenFolder);
  if (restored.length > 0) log.warn({ files: restored }, 'hsm: a login was interrupted while SoftHSM wrote; its copy is put back');
};
