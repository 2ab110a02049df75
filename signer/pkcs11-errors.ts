/**
 * What a PKCS#11 error means for us, decided in one table.
 *
 * A return value that is not in the table counts as `device` when its vendor defined it (such codes tell of networks,
 * cards and partitions) and as `bug` otherwise, so that nothing unknown is retried in silence.
 */
import { type ErrorCode, SigilloError } from '../config/errors.ts';

/**
 * - `session`: this session is of no use any more; evict it, open another and look the key up again.
 * - `device`: the token or the way to it failed; quarantine the slot and re-initialise it with back-off.
 * - `credential`: the token does not let us in; stop, and never try the PIN again.
 * - `request`: the token works but will not do this operation.
 * - `bug`: we, or the module, broke the rules of PKCS#11.
 */
export type Pkcs11ErrorClass = 'session' | 'device' | 'credential' | 'request' | 'bug';

/** PKCS#11 v3.1, section 6 (return values), with the numbers of its header file. */
const table: Readonly<Record<Pkcs11ErrorClass, Readonly<Record<string, number>>>> = {
  session: {
    CKR_CANCEL: 0x1,
    CKR_FUNCTION_CANCELED: 0x50,
    // A handle that was good when it was cached: the token was reset, or the session it belonged to is gone.
    CKR_KEY_HANDLE_INVALID: 0x60,
    CKR_OBJECT_HANDLE_INVALID: 0x82,
    CKR_OPERATION_ACTIVE: 0x90,
    CKR_OPERATION_NOT_INITIALIZED: 0x91,
    CKR_SESSION_CLOSED: 0xb0,
    CKR_SESSION_COUNT: 0xb1,
    CKR_SESSION_HANDLE_INVALID: 0xb3,
    CKR_OPERATION_CANCEL_FAILED: 0x202,
  },
  device: {
    CKR_HOST_MEMORY: 0x2,
    CKR_SLOT_ID_INVALID: 0x3,
    CKR_GENERAL_ERROR: 0x5,
    CKR_FUNCTION_FAILED: 0x6,
    CKR_NEED_TO_CREATE_THREADS: 0x9,
    CKR_CANT_LOCK: 0xa,
    CKR_DEVICE_ERROR: 0x30,
    CKR_DEVICE_MEMORY: 0x31,
    CKR_DEVICE_REMOVED: 0x32,
    CKR_TOKEN_NOT_PRESENT: 0xe0,
    CKR_TOKEN_NOT_RECOGNIZED: 0xe1,
    // The login belongs to the token, not to a session: only the re-initialisation of the slot logs in again.
    CKR_USER_NOT_LOGGED_IN: 0x101,
    // No PIN was looked at; SoftHSM says so of a token whose file another process is just writing.
    CKR_USER_PIN_NOT_INITIALIZED: 0x102,
    CKR_RANDOM_NO_RNG: 0x121,
    CKR_CRYPTOKI_NOT_INITIALIZED: 0x190,
    CKR_FIPS_SELF_TEST_FAILED: 0x1a9,
    CKR_LIBRARY_LOAD_FAILED: 0x1aa,
    CKR_TOKEN_RESOURCE_EXCEEDED: 0x201,
  },
  credential: {
    CKR_PIN_INCORRECT: 0xa0,
    CKR_PIN_INVALID: 0xa1,
    CKR_PIN_LEN_RANGE: 0xa2,
    CKR_PIN_EXPIRED: 0xa3,
    CKR_PIN_LOCKED: 0xa4,
    CKR_USER_TYPE_INVALID: 0x103,
    CKR_USER_ANOTHER_ALREADY_LOGGED_IN: 0x104,
    CKR_USER_TOO_MANY_TYPES: 0x105,
    CKR_NEW_PIN_MODE: 0x1b0,
    CKR_NEXT_OTP: 0x1b1,
    CKR_PIN_TOO_WEAK: 0x1b8,
  },
  request: {
    CKR_ATTRIBUTE_READ_ONLY: 0x10,
    CKR_ATTRIBUTE_SENSITIVE: 0x11,
    CKR_ATTRIBUTE_TYPE_INVALID: 0x12,
    CKR_ATTRIBUTE_VALUE_INVALID: 0x13,
    CKR_ACTION_PROHIBITED: 0x1b,
    CKR_DATA_INVALID: 0x20,
    CKR_DATA_LEN_RANGE: 0x21,
    CKR_FUNCTION_NOT_SUPPORTED: 0x54,
    CKR_KEY_SIZE_RANGE: 0x62,
    CKR_KEY_TYPE_INCONSISTENT: 0x63,
    CKR_KEY_FUNCTION_NOT_PERMITTED: 0x68,
    CKR_KEY_UNEXTRACTABLE: 0x6a,
    CKR_MECHANISM_INVALID: 0x70,
    CKR_MECHANISM_PARAM_INVALID: 0x71,
    CKR_SESSION_READ_ONLY: 0xb5,
    CKR_SIGNATURE_INVALID: 0xc0,
    CKR_SIGNATURE_LEN_RANGE: 0xc1,
    CKR_TEMPLATE_INCOMPLETE: 0xd0,
    CKR_TEMPLATE_INCONSISTENT: 0xd1,
    CKR_TOKEN_WRITE_PROTECTED: 0xe2,
    CKR_DOMAIN_PARAMS_INVALID: 0x130,
    CKR_CURVE_NOT_SUPPORTED: 0x140,
    CKR_INFORMATION_SENSITIVE: 0x170,
    CKR_PUBLIC_KEY_INVALID: 0x1b9,
    CKR_FUNCTION_REJECTED: 0x200,
  },
  bug: {
    CKR_ARGUMENTS_BAD: 0x7,
    CKR_SESSION_PARALLEL_NOT_SUPPORTED: 0xb4,
    CKR_SESSION_EXISTS: 0xb6,
    CKR_SESSION_READ_ONLY_EXISTS: 0xb7,
    CKR_SESSION_READ_WRITE_SO_EXISTS: 0xb8,
    CKR_USER_ALREADY_LOGGED_IN: 0x100,
    CKR_BUFFER_TOO_SMALL: 0x150,
    CKR_CRYPTOKI_ALREADY_INITIALIZED: 0x191,
    CKR_MUTEX_BAD: 0x1a0,
    CKR_MUTEX_NOT_LOCKED: 0x1a1,
  },
};
const vendorDefined = 0x8000_0000;

const classByCode = new Map<number, Pkcs11ErrorClass>();
const nameByCode = new Map<number, string>();
for (const [errorClass, codes] of Object.entries(table) as [Pkcs11ErrorClass, Record<string, number>][]) {
  for (const [name, code] of Object.entries(codes)) {
    classByCode.set(code, errorClass);
    nameByCode.set(code, name);
  }
}

/** CKR_SESSION_COUNT: the token has as many sessions as it can have. */
export const sessionCountReached = 0xb1;

/** CKR_USER_NOT_LOGGED_IN: the token has forgotten the login, as after a restart of its own. */
export const userNotLoggedIn = 0x101;

/** CKR_USER_ALREADY_LOGGED_IN: another thread of this process was first, which is as good as a login of our own. */
export const userAlreadyLoggedIn = 0x100;

const codeByClass: Readonly<Record<Pkcs11ErrorClass, ErrorCode>> = {
  session: 'HSM_DEVICE',
  device: 'HSM_DEVICE',
  credential: 'HSM_PIN_REFUSED',
  request: 'HSM_REQUEST',
  bug: 'INTERNAL',
};

/** The CKR code behind a thrown value, or undefined when PKCS#11 has nothing to do with it. */
export const ckrCode = (error: unknown): number | undefined => {
  // Wrappers keep the original as the cause; the bound holds for a cause that names itself.
  for (let depth = 0, current = error; depth < 8 && current instanceof Error; depth += 1, current = current.cause) {
    const { code } = current as { code?: unknown };
    if (typeof code === 'number' && code > 0 && current.name === 'Pkcs11Error') return code;
    // The one place that reads foreign text: some layers keep only the message of the native error.
    const match = /\bCKR_\w+:(\d+)/.exec(current.message);
    if (match !== null) return Number(match[1]);
  }
  return undefined;
};

/** Class of a CKR code. */
export const classOfCkr = (code: number): Pkcs11ErrorClass => classByCode.get(code) ?? (code >= vendorDefined ? 'device' : 'bug');

/** Class of anything that a call into the module has thrown. */
export const classifyPkcs11Error = (error: unknown): Pkcs11ErrorClass => {
  const code = ckrCode(error);
  return code === undefined ? 'bug' : classOfCkr(code);
};

/**
 * What a failed C_Login says of the PIN. Only what the token said before it looked at the PIN may be followed by the same PIN again:
 *
 * - `untouched`: it has not seen the PIN. By their definitions in PKCS#11 v3.1, section 6: the session was invalid, or the token not
 *   there, "at the time that the function was invoked"; nothing is initialised; there is no PIN yet that could be compared.
 * - `unclear`: the way to it broke "during the execution" (the token was removed, the session closed, memory ran out). It may have
 *   counted the try.
 * - `refused`: everything else. Products answer a wrong PIN with codes of their own, and CKR_FUNCTION_FAILED says nothing at all.
 */
export type LoginFailure = 'untouched' | 'unclear' | 'refused';

const { session, device } = table;
const untouched: readonly (number | undefined)[] = [
  session['CKR_SESSION_HANDLE_INVALID'],
  device['CKR_TOKEN_NOT_PRESENT'],
  device['CKR_CRYPTOKI_NOT_INITIALIZED'],
  device['CKR_USER_PIN_NOT_INITIALIZED'],
];
const unclear: readonly (number | undefined)[] = [
  session['CKR_SESSION_CLOSED'],
  device['CKR_DEVICE_REMOVED'],
  device['CKR_DEVICE_ERROR'],
  device['CKR_DEVICE_MEMORY'],
  device['CKR_HOST_MEMORY'],
];

/**
 * Class of what C_Login has thrown.
 * @param options.softhsm the module is SoftHSM: its CKR_GENERAL_ERROR means that it could not read the token's file, before the PIN
 *   (Token::loginUser of 2.6.1), which happens while another process writes it; and it counts no tries
 */
export const classifyLoginError = (error: unknown, { softhsm }: { readonly softhsm: boolean }): LoginFailure => {
  const code = ckrCode(error);
  if (code === undefined) return 'refused';
  if (untouched.includes(code) || (softhsm && code === device['CKR_GENERAL_ERROR'])) return 'untouched';
  return unclear.includes(code) ? 'unclear' : 'refused';
};

/** `CKR_...` for a code of the table, its hexadecimal number for others. */
export const ckrName = (code: number): string => nameByCode.get(code) ?? `CKR 0x${code.toString(16)}`;

/**
 * The error to throw on for one that the module threw; a SigilloError stays what it is.
 *
 * @param doing what was tried, for the operator: `login to token "x"`
 */
export const hsmError = (error: unknown, doing: string): SigilloError => {
  if (error instanceof SigilloError) return error;
  const code = ckrCode(error);
  const what = code === undefined ? String(error) : ckrName(code);
  return new SigilloError(codeByClass[classifyPkcs11Error(error)], `${doing}: ${what}`, { cause: error });
};

/** Runs one step that calls into the module, and gives what it throws its SigilloError. */
export const callingHsm = <T>(doing: string, step: () => T): T => {
  try {
    return step();
  } catch (error) {
    throw hsmError(error, doing);
  }
};
