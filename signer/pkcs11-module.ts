/**
 * The one owner of the PKCS#11 module in a process.
 *
 * It loads and initialises the module once, finds tokens by their labels and logs in once for each. C_Login and C_Finalize
 * hit every thread of the process, so only the main thread uses this; workers open sessions of their own.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Module, type Session, SessionFlag, type Slot, type Token, UserType } from 'graphene-pk11';
import pkcs11 from 'pkcs11js';
import { SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import type { Config, KeyPurpose } from '../config/schema.ts';
import { readSecretFile } from '../config/secrets.ts';
import { callingHsm, ckrCode, classifyPkcs11Error, hsmError, userAlreadyLoggedIn } from './pkcs11-errors.ts';

/** A token by its label, with what its keys may be used for. */
export interface HsmSlot {
  readonly label: string;
  readonly purposes: readonly KeyPurpose[];
  readonly pinFile: string;
  /** Sessions for stamping at most; undefined leaves it to the signer. */
  readonly sessions?: number | undefined;
}

/** A module with the tokens that are used in it, whoever made them. */
export interface Hsm {
  readonly modulePath: string;
  /** Variables that the module reads when it is loaded. */
  readonly environment: Readonly<Record<string, string>>;
  readonly slots: readonly HsmSlot[];
}

/** The tokens that `ensureEmbeddedTokens` makes: the CA keys and the journal's key are apart from the key that signs all day. */
export const embeddedTokens = [
  { label: 'sigillo-authority', purposes: ['authority'] },
  { label: 'sigillo-timestamp', purposes: ['timestamp'] },
  { label: 'sigillo-journal', purposes: ['journal'] },
] as const satisfies readonly { label: string; purposes: readonly KeyPurpose[] }[];

const softhsmPaths = [
  '/usr/lib/softhsm/libsofthsm2.so', // Debian, Ubuntu, Alpine
  '/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib64/softhsm/libsofthsm2.so', // openSUSE
  '/usr/lib64/pkcs11/libsofthsm2.so', // Fedora, RHEL
  '/usr/lib64/libsofthsm2.so',
  '/usr/lib/pkcs11/libsofthsm2.so', // Arch
  '/usr/lib/libsofthsm2.so',
  '/usr/local/lib/softhsm/libsofthsm2.so', // built from source; Homebrew on Intel
  '/opt/homebrew/lib/softhsm/libsofthsm2.so', // Homebrew on Apple silicon
];

const findSofthsm = (): string => {
  const found = softhsmPaths.find((path) => existsSync(path));
  if (found === undefined) throw new SigilloError('HSM_MODULE_MISSING', `SoftHSM is in none of ${softhsmPaths.join(', ')}`);
  return found;
};

/** Brings both ways to configure an HSM into one shape. @throws HSM_MODULE_MISSING when SoftHSM is not installed */
export const resolveHsm = (config: Config): Hsm => {
  if (config.hsm.mode === 'module') {
    return { modulePath: config.hsm.module, environment: config.hsm.environment, slots: config.hsm.slots };
  }
  const paths = homePaths(config.home);
  return {
    modulePath: config.hsm.module ?? findSofthsm(),
    environment: { SOFTHSM2_CONF: paths.softhsmConf },
    slots: embeddedTokens.map((token) => ({ ...token, pinFile: join(paths.pinFolder, `${token.label}.pin`) })),
  };
};

/** The first configured slot for a purpose, or the one with this label. @throws CONFIG_INVALID when there is none */
export const slotForPurpose = (hsm: Hsm, purpose: KeyPurpose, label?: string): HsmSlot => {
  const slot = hsm.slots.find((candidate) => candidate.purposes.includes(purpose) && (label ?? candidate.label) === candidate.label);
  if (slot === undefined) {
    throw new SigilloError(
      'CONFIG_INVALID',
      `hsm.slots: none${label === undefined ? '' : ` labelled "${label}"`} has the purpose ${purpose}`,
    );
  }
  return slot;
};

/** A loaded and initialised module. */
export interface HsmModule {
  readonly modulePath: string;
  /** The raw binding, for calls that must cost nothing beside the call. */
  readonly lib: pkcs11.PKCS11;
  /** Every slot with a token that can be read, also one without a label. */
  tokens(): { readonly slot: Slot; readonly token: Token; readonly label: string }[];
  /** The slot whose token has this label. @throws HSM_TOKEN_MISSING when none or more than one has it */
  findSlot(label: string): Slot;
  /**
   * Logs in to the token of this slot, once for the life of the process: later calls repeat the outcome, never the PIN.
   * @throws HSM_PIN_REFUSED, HSM_TOKEN_MISSING, CONFIG_UNREADABLE
   */
  login(slot: HsmSlot): void;
  /** A session of its own; the caller closes it. */
  openSession(label: string, options: { readWrite: boolean }): Session;
  /** Sessions that a token allows at once; undefined when it sets no limit, or does not say. @throws HSM_TOKEN_MISSING */
  sessionLimit(label: string): number | undefined;
  /** C_Finalize and unload, for short-lived programs only: it pulls the module from under every thread. */
  close(): void;
}

const load = (modulePath: string): pkcs11.PKCS11 => {
  const lib = new pkcs11.PKCS11();
  try {
    lib.load(modulePath);
  } catch (cause) {
    throw new SigilloError('HSM_MODULE_MISSING', `${modulePath}: ${(cause as Error).message}`, { cause });
  }
  return lib;
};

/** CK_UNAVAILABLE_INFORMATION of platforms with an unsigned long of 4 octets; those with 8 have more. */
const unavailableInformation = 0xffff_ffff;

/** Labels fill a field of 32 bytes, padded with blanks (PKCS#11 v3.1, 3.2); some modules pad with zeros. */
const trimLabel = (label: string): string => label.replace(/[\0 ]+$/, '');

const readTokens = (module: Module): ReturnType<HsmModule['tokens']> => {
  const slots = callingHsm('list the slots', () => module.getSlots(true));
  const tokens: ReturnType<HsmModule['tokens']> = [];
  for (let i = 0; i < slots.length; i += 1) {
    try {
      const slot = slots.items(i);
      const token = slot.getToken();
      tokens.push({ slot, token, label: trimLabel(token.label) });
    } catch (error) {
      // A broken neighbour is no reason to lose the token we look for; if it is the one, its label will be missing.
      if (classifyPkcs11Error(error) !== 'device') throw hsmError(error, 'read a token');
    }
  }
  return tokens;
};

/**
 * Loads and initialises a module. Its variables are set first, because SoftHSM and others read them only then.
 * @throws HSM_MODULE_MISSING when it cannot be loaded, HSM_DEVICE when it cannot be initialised
 */
export const openModule = (hsm: Pick<Hsm, 'modulePath' | 'environment'>): HsmModule => {
  Object.assign(process.env, hsm.environment);
  const lib = load(hsm.modulePath);
  const module = new Module(lib);
  // Without the flag we would declare a single-threaded application, and the workers' calls could corrupt the module.
  callingHsm(`initialise ${hsm.modulePath}`, () => module.initialize({ flags: pkcs11.CKF_OS_LOCKING_OK }));
  const logins = new Map<string, { readonly session: Session } | { readonly refused: unknown }>();

  const findSlot = (label: string): Slot => {
    const all = readTokens(module);
    const [match, second] = all.filter((candidate) => candidate.label === label);
    if (match === undefined) {
      const labels = all.map((candidate) => candidate.label).filter((found) => found !== '');
      throw new SigilloError('HSM_TOKEN_MISSING', `"${label}" is not among: ${labels.map((found) => `"${found}"`).join(', ') || 'none'}`);
    }
    if (second !== undefined) throw new SigilloError('HSM_TOKEN_MISSING', `"${label}" names two tokens; give each its own label`);
    return match.slot;
  };
  const openSession = (label: string, options: { readWrite: boolean }): Session => {
    const slot = findSlot(label);
    const flags = SessionFlag.SERIAL_SESSION | (options.readWrite ? SessionFlag.RW_SESSION : 0);
    return callingHsm(`open a session on token "${label}"`, () => slot.open(flags));
  };
  const login = (slot: HsmSlot): void => {
    const earlier = logins.get(slot.label);
    if (earlier !== undefined) {
      if ('refused' in earlier) throw earlier.refused;
      return;
    }
    const pin = readSecretFile(slot.pinFile);
    // The login ends with the last session on the token (PKCS#11 v3.1, 5.6.8), so this session stays open.
    const session = openSession(slot.label, { readWrite: false });
    try {
      session.login(pin, UserType.USER);
    } catch (error) {
      if (ckrCode(error) !== userAlreadyLoggedIn) {
        const refused = hsmError(error, `log in to token "${slot.label}" with the PIN of ${slot.pinFile}`);
        logins.set(slot.label, { refused });
        session.close();
        throw refused;
      }
    }
    logins.set(slot.label, { session });
  };
  const sessionLimit = (label: string): number | undefined => {
    const { maxSessionCount } = findSlot(label).getToken();
    // CK_EFFECTIVELY_INFINITE is 0, and CK_UNAVAILABLE_INFORMATION all ones (PKCS#11 v3.1, 3.2).
    return maxSessionCount > 0 && maxSessionCount < unavailableInformation ? maxSessionCount : undefined;
  };
  const close = (): void => {
    callingHsm('finalise the module', () => module.finalize());
    module.close();
  };
  return { modulePath: hsm.modulePath, lib, tokens: () => readTokens(module), findSlot, login, openSession, sessionLimit, close };
};
