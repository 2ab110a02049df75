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
import { fileState } from '../config/file-state.ts';
import { homePaths } from '../config/home.ts';
import type { Config, KeyPurpose } from '../config/schema.ts';
import {
  callingHsm,
  ckrCode,
  classifyLoginError,
  classifyPkcs11Error,
  hsmError,
  type LoginFailure,
  userAlreadyLoggedIn,
} from './pkcs11-errors.ts';
import { createRefusedPins, type LoginTry } from './refused-pins.ts';

/** A token by its label, the module that it is in, and what its keys may be used for. */
export interface HsmSlot {
  readonly label: string;
  readonly purposes: readonly KeyPurpose[];
  readonly pinFile: string;
  readonly modulePath: string;
  /** Variables that the module reads when it is loaded. */
  readonly environment: Readonly<Record<string, string>>;
  /** Sessions for stamping at most; undefined leaves it to the signer. */
  readonly sessions?: number | undefined;
}

/** The tokens that are used, whoever made them. */
export interface Hsm {
  readonly slots: readonly HsmSlot[];
  /** Where PINs are remembered that a token has refused. */
  readonly refusedPinFolder: string;
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

/** The module of the embedded tokens. @throws HSM_MODULE_MISSING when SoftHSM is not installed */
export const embeddedModule = (config: Config): Pick<HsmSlot, 'modulePath' | 'environment'> => ({
  modulePath: (config.hsm.mode === 'embedded' ? config.hsm.module : undefined) ?? findSofthsm(),
  environment: { SOFTHSM2_CONF: homePaths(config.home).softhsmConf },
});

/** Brings both ways to configure an HSM into one shape. @throws HSM_MODULE_MISSING when SoftHSM is not installed */
export const resolveHsm = (config: Config): Hsm => {
  const { pinFolder, refusedPinFolder } = homePaths(config.home);
  if (config.hsm.mode === 'module') {
    const { module, environment, slots } = config.hsm;
    return {
      refusedPinFolder,
      slots: slots.map((slot) => ({ ...slot, modulePath: slot.module ?? module, environment: { ...environment, ...slot.environment } })),
    };
  }
  const module = embeddedModule(config);
  return {
    refusedPinFolder,
    slots: embeddedTokens.map((token) => ({ ...token, ...module, pinFile: join(pinFolder, `${token.label}.pin`) })),
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
  /** The module of the token with this label. */
  modulePathOf(label: string): string;
  /** The raw binding, for calls that must cost nothing beside the call. */
  readonly lib: pkcs11.PKCS11;
  /** Every slot with a token that can be read, also one without a label. */
  tokens(): { readonly slot: Slot; readonly token: Token; readonly label: string }[];
  /** The slot whose token has this label. @throws HSM_TOKEN_MISSING when none or more than one has it */
  findSlot(label: string): Slot;
  /**
   * Logs in to the token of this slot, once for the life of the process: later calls repeat the outcome, and never the PIN. After a refusal
   * a file that was written since is read again, and what is in it is tried unless it was refused before.
   * @throws HSM_PIN_REFUSED, HSM_PIN_UNRECORDED, HSM_TOKEN_MISSING, CONFIG_UNREADABLE
   */
  login(slot: HsmSlot): void;
  /** A session of its own; the caller closes it. */
  openSession(label: string, options: { readWrite: boolean }): Session;
  /**
   * The session that keeps the login, read-only: for a token that has no room for another. It idles for weeks, so the token may have
   * closed it meanwhile. Nobody closes it, and whoever uses it leaves no operation in it. Undefined without a login.
   */
  loginSession(label: string): Session | undefined;
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

/**
 * SoftHSM 2.6.1 writes a token's file anew at each C_Login, and a process that reads it in that moment gets CKR_GENERAL_ERROR: 4 of 45
 * logins of several processes at once. So the first look at a token, and the login, are tried again once it can be over.
 */
const triesMax = 4;
const pauseMs = 30;
const pause = (): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, pauseMs);

/** Labels fill a field of 32 bytes, padded with blanks (PKCS#11 v3.1, 3.2); some modules pad with zeros. */
const trimLabel = (label: string): string => label.replace(/[\0 ]+$/, '');

interface ReadToken {
  readonly slot: Slot;
  readonly token: Token;
  readonly label: string;
}

/** Reads one token. @returns undefined when it cannot be read now */
const readToken = (slot: Slot): ReadToken | undefined => {
  try {
    const token = slot.getToken();
    return { slot, token, label: trimLabel(token.label) };
  } catch (error) {
    // A broken neighbour is no reason to lose the token we look for; if it is the one, its label will be missing.
    if (classifyPkcs11Error(error) !== 'device') throw hsmError(error, 'read a token');
    return undefined;
  }
};

const slotsWithTokens = (module: Module): Slot[] => {
  const slots = callingHsm('list the slots', () => module.getSlots(true));
  return Array.from({ length: slots.length }, (_, i) => slots.items(i));
};

const readTokens = (module: Module): ReturnType<HsmModule['tokens']> => slotsWithTokens(module).flatMap((slot) => readToken(slot) ?? []);

/**
 * Finds slots by the labels of their tokens, and keeps them: C_GetTokenInfo of a token that hangs would hold up whoever works with
 * another one. Only the first look asks all of them, because a label that two tokens have is nobody's.
 */
const createSlotFinder = (module: Module): ((label: string) => Slot) => {
  const known = new Map<string, Slot>();
  const isStill = (slot: Slot, label: string): boolean => {
    try {
      return readToken(slot)?.label === label;
    } catch {
      return false; // what is wrong shows when it is looked for
    }
  };
  const look = (label: string): { readonly matches: readonly Slot[]; readonly others: readonly string[]; readonly unreadable: boolean } => {
    const slots = slotsWithTokens(module);
    const tokens = slots.flatMap((slot) => readToken(slot) ?? []);
    return {
      matches: tokens.filter((one) => one.label === label).map(({ slot }) => slot),
      others: tokens.map((one) => one.label).filter((one) => one !== '' && one !== label),
      unreadable: tokens.length < slots.length,
    };
  };
  return (label) => {
    const kept = known.get(label);
    if (kept !== undefined && isStill(kept, label)) return kept;
    known.delete(label);
    let found = look(label);
    for (let tries = 1; tries < triesMax && found.unreadable && found.matches.length === 0; tries += 1) {
      pause();
      found = look(label);
    }
    const { matches, others } = found;
    const [slot, second] = matches;
    if (slot === undefined) {
      throw new SigilloError('HSM_TOKEN_MISSING', `"${label}" is not among: ${others.map((one) => `"${one}"`).join(', ') || 'none'}`);
    }
    if (second !== undefined) throw new SigilloError('HSM_TOKEN_MISSING', `"${label}" names two tokens; give each its own label`);
    known.set(label, slot);
    return slot;
  };
};

/** The token was asked to log in, and did not; `cause` is the error to throw. */
class LoginFailed extends Error {}

interface FailedLogin {
  readonly failure: LoginFailure;
  readonly error: unknown;
}

/** Logs in, several times only as long as the token has not seen the PIN. @returns undefined when it is logged in */
const tryLogin = (session: Session, pin: string, module: { readonly softhsm: boolean }): FailedLogin | undefined => {
  for (let tries = 1; ; tries += 1) {
    try {
      session.login(pin, UserType.USER);
      return undefined;
    } catch (error) {
      if (ckrCode(error) === userAlreadyLoggedIn) return undefined;
      const failure = classifyLoginError(error, module);
      if (failure !== 'untouched' || tries === triesMax) return { failure, error };
    }
    pause();
  }
};

/** Writes down how a login has failed. @returns what to throw */
const settle = (attempt: LoginTry, { failure, error }: FailedLogin, doing: string): LoginFailed => {
  const { code, message } = hsmError(error, doing);
  let said = message;
  try {
    if (failure === 'untouched') attempt.untouched();
    else if (failure === 'unclear') attempt.unclear(message);
    else attempt.refused(message);
  } catch (cause) {
    // The try that was written before the login stays then, and counts.
    said = `${message}; it cannot be remembered: ${(cause as Error).message}`;
  }
  const thrown = new SigilloError(failure === 'refused' ? 'HSM_PIN_REFUSED' : code, said, { cause: error });
  return new LoginFailed(said, { cause: thrown });
};

export interface ModuleOptions {
  readonly modulePath: string;
  readonly environment: Readonly<Record<string, string>>;
  /** Where PINs are remembered that a token has refused; undefined remembers them in this process only. */
  readonly refusedPinFolder?: string | undefined;
}

/**
 * Loads and initialises a module. Its variables are set first, because SoftHSM and others read them only then.
 * @throws HSM_MODULE_MISSING when it cannot be loaded, HSM_DEVICE when it cannot be initialised
 */
export const openModule = ({ modulePath, environment, refusedPinFolder }: ModuleOptions): HsmModule => {
  Object.assign(process.env, environment);
  const lib = load(modulePath);
  const module = new Module(lib);
  // Without the flag we would declare a single-threaded application, and the workers' calls could corrupt the module.
  callingHsm(`initialise ${modulePath}`, () => module.initialize({ flags: pkcs11.CKF_OS_LOCKING_OK }));
  const refusedPins = createRefusedPins(refusedPinFolder);
  const logins = new Map<string, { readonly session: Session } | { readonly refused: unknown; readonly pinFileState: string }>();

  const findSlot = createSlotFinder(module);
  const openSession = (label: string, options: { readWrite: boolean }): Session => {
    const slot = findSlot(label);
    const flags = SessionFlag.SERIAL_SESSION | (options.readWrite ? SessionFlag.RW_SESSION : 0);
    return callingHsm(`open a session on token "${label}"`, () => slot.open(flags));
  };
  const isSofthsm = callingHsm('describe the module', () => lib.C_GetInfo()).manufacturerID.startsWith('SoftHSM');
  /** @throws LoginFailed when the token was asked, SigilloError when it was not */
  const loginOnce = (slot: HsmSlot, session: Session): void => {
    const attempt = refusedPins.begin(slot.label, slot.pinFile);
    const failed = tryLogin(session, attempt.pin, { softhsm: isSofthsm });
    if (failed === undefined) attempt.taken();
    else throw settle(attempt, failed, `log in to token "${slot.label}" with the PIN of ${slot.pinFile}`);
  };
  const login = (slot: HsmSlot): void => {
    const earlier = logins.get(slot.label);
    if (earlier !== undefined && 'session' in earlier) return;
    // Before it is read: should it be written in between, it is read once more.
    const pinFileState = fileState(slot.pinFile);
    if (earlier?.pinFileState === pinFileState) throw earlier.refused;
    // The login ends with the last session on the token (PKCS#11 v3.1, 5.6.8), so this session stays open.
    const session = openSession(slot.label, { readWrite: false });
    try {
      loginOnce(slot, session);
    } catch (error) {
      session.close();
      // A try that never began may begin later.
      if (error instanceof LoginFailed) logins.set(slot.label, { refused: error.cause, pinFileState });
      throw error instanceof LoginFailed ? error.cause : error;
    }
    logins.set(slot.label, { session });
  };
  const loginSession = (label: string): Session | undefined => {
    const known = logins.get(label);
    return known !== undefined && 'session' in known ? known.session : undefined;
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
  return {
    modulePath,
    modulePathOf: () => modulePath,
    lib,
    tokens: () => readTokens(module),
    findSlot,
    login,
    openSession,
    loginSession,
    sessionLimit,
    close,
  };
};
