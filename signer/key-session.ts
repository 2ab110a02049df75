/**
 * One PKCS#11 session with one key, as a worker thread holds it: opened once, key handle cached, one signature at a time.
 *
 * graphene-pk11 is for everything that happens once; here, thousands of times a second, pkcs11js is called directly and
 * with the same buffers. A session-class error opens a new session and signs once more, a few times; any other is the caller's.
 */
import pkcs11js from 'pkcs11js';
import { SigilloError } from '../config/errors.ts';
import type { KeyPurpose } from '../config/schema.ts';
import type { KeyScheme, SignatureDigest } from '../pki/algorithms.ts';
import { createSignInput, signatureValue, signMechanism } from './mechanisms.ts';
import { ckrCode, classifyPkcs11Error } from './pkcs11-errors.ts';
import { noTurns, type SessionTurns } from './session-pace.ts';

/** RSA-4096 signatures are 512 octets, the longest there are. */
const signatureOctetsMax = 512;
/** What has closed one session may close the next as well, such as a network that comes back; so many in a row are a token that fails. */
const sessionsInRowMax = 5;

export interface KeySessionOptions {
  readonly modulePath: string;
  /** Slot handle; the main thread has logged in for the whole process. */
  readonly slot: Uint8Array;
  readonly keyLabel: string;
  readonly purpose: KeyPurpose;
  readonly scheme: KeyScheme;
  readonly digest: SignatureDigest;
  /** For sessions that replace lost ones; whoever opens the first has taken its turn. @defaultValue no pace */
  readonly turns?: SessionTurns;
}

export interface KeySession {
  readonly purpose: KeyPurpose;
  /**
   * Signs a hash.
   * @param again called before it is signed in another session, seconds later perhaps; what it throws is the end of that
   * @returns the signature as X.509 and CMS carry it; valid until the next call
   */
  sign(hash: Buffer, again?: () => void): Uint8Array;
  /** The same without holding up the thread: the call waits for the token on a thread of libuv's. Not more than one at a time. */
  signLater(hash: Buffer, again?: () => void): Promise<Uint8Array>;
  /**
   * Does the first half of the next signature (C_SignInit) ahead of its time, when nobody waits: with SoftHSM and P-256 it
   * is 27 of 43 microseconds. What fails here is left for `sign` to find.
   */
  prepare(): void;
  /** Asks the token about the session: network HSMs close those that are idle for minutes. @throws the PKCS#11 error of the module */
  keepAlive(): void;
  /** The same, without holding up the thread while a session that was lost waits for its turn. */
  keepAliveLater(): Promise<void>;
  close(): void;
}

interface OpenSession {
  readonly session: Buffer;
  readonly key: Buffer;
}

const closeSession = (module: pkcs11js.PKCS11, session: Buffer): void => {
  try {
    module.C_CloseSession(session);
  } catch {
    // The session is gone already: that is why it is being replaced, or the token is away.
  }
};

/** Its number may be another session's by now, which must not be closed: some modules give them out again. */
const isGone = (error: unknown): boolean =>
  [pkcs11js.CKR_SESSION_HANDLE_INVALID, pkcs11js.CKR_SESSION_CLOSED].includes(ckrCode(error) as number);

const findKey = (module: pkcs11js.PKCS11, session: Buffer, label: string): Buffer => {
  module.C_FindObjectsInit(session, [
    { type: pkcs11js.CKA_CLASS, value: pkcs11js.CKO_PRIVATE_KEY },
    { type: pkcs11js.CKA_LABEL, value: label },
  ]);
  const [key, second] = module.C_FindObjects(session, 2);
  module.C_FindObjectsFinal(session);
  if (key === undefined) throw new SigilloError('HSM_KEY_MISSING', `label ${label}`);
  if (second !== undefined) throw new SigilloError('HSM_KEY_MISMATCH', `two private keys have the label ${label}`);
  return key;
};

const openWithKey = (module: pkcs11js.PKCS11, slot: Buffer, keyLabel: string): OpenSession => {
  const session = module.C_OpenSession(slot, pkcs11js.CKF_SERIAL_SESSION);
  try {
    return { session, key: findKey(module, session, keyLabel) };
  } catch (error) {
    if (!isGone(error)) closeSession(module, session);
    throw error;
  }
};

/** Opens the session and finds the key. @throws HSM_KEY_MISSING, or the PKCS#11 error of the module */
export const openKeySession = (options: KeySessionOptions): KeySession => {
  const { scheme, digest, turns = noTurns } = options;
  const module = new pkcs11js.PKCS11();
  module.load(options.modulePath);
  const mechanism = signMechanism(scheme, digest);
  const signInput = createSignInput(scheme, digest);
  const output = Buffer.alloc(signatureOctetsMax);

  const open = (): OpenSession => openWithKey(module, Buffer.from(options.slot), options.keyLabel);
  /** undefined: the last one is lost, and none has been opened in its place yet. */
  let current: OpenSession | undefined = open();

  /** @param error that the session is of no use for */
  const discard = (error: unknown): void => {
    if (current !== undefined && !isGone(error)) closeSession(module, current.session);
    current = undefined;
    initialised = false;
  };
  const reopen = (again?: () => void): OpenSession => {
    turns.now();
    current = open();
    again?.();
    return current;
  };
  const reopenLater = async (again?: () => void): Promise<OpenSession> => {
    await turns.later();
    current = open();
    again?.();
    return current;
  };
  /** @throws the error of the module, unless it is the session's */
  const discardIfLost = (): void => {
    if (current === undefined) return;
    try {
      module.C_GetSessionInfo(current.session);
    } catch (error) {
      if (classifyPkcs11Error(error) !== 'session') throw error;
      discard(error);
    }
  };

  /** True while the session is between C_SignInit and C_Sign. Nothing else uses it, so no other operation can come between. */
  let initialised = false;
  const initialise = ({ session, key }: OpenSession): void => {
    module.C_SignInit(session, mechanism, key);
    initialised = true;
  };
  const signOnce = (opened: OpenSession, hash: Buffer): Buffer => {
    if (!initialised) initialise(opened);
    initialised = false; // C_Sign ends the operation, also when it fails
    return module.C_Sign(opened.session, signInput(hash), output);
  };
  return {
    purpose: options.purpose,
    sign(hash, again) {
      for (let sessions = 1; ; sessions += 1) {
        try {
          return signatureValue(scheme, signOnce(current ?? reopen(again), hash));
        } catch (error) {
          if (classifyPkcs11Error(error) !== 'session') throw error;
          discard(error);
          if (sessions === sessionsInRowMax) throw error;
        }
      }
    },
    async signLater(hash, again) {
      // The call keeps no reference to its input: this frame does.
      const input = Buffer.from(signInput(hash));
      const signOnceLater = (opened: OpenSession): Promise<Buffer> => {
        if (!initialised) initialise(opened);
        initialised = false;
        return module.C_SignAsync(opened.session, input, output);
      };
      for (let sessions = 1; ; sessions += 1) {
        try {
          return signatureValue(scheme, await signOnceLater(current ?? (await reopenLater(again))));
        } catch (error) {
          if (classifyPkcs11Error(error) !== 'session') throw error;
          discard(error);
          if (sessions === sessionsInRowMax) throw error;
        }
      }
    },
    prepare() {
      if (initialised || current === undefined) return;
      try {
        initialise(current);
      } catch {
        // The token is away or the session is gone: the next signature meets the same error, and deals with it.
      }
    },
    keepAlive() {
      discardIfLost();
      if (current === undefined) reopen();
    },
    async keepAliveLater() {
      discardIfLost();
      if (current === undefined) await reopenLater();
    },
    close() {
      if (current !== undefined) closeSession(module, current.session);
      current = undefined;
    },
  };
};
