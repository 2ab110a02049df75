/**
 * The journal's key: signs checkpoints of the configured journal, and nothing else.
 *
 * What it is asked comes through Redis, so nothing about it is believed: the text must be a checkpoint in its one form, of our
 * origin, and must not take back what this process has signed before: no smaller tree, and no other one of the same size.
 *
 * Stamps do not depend on this key. When it cannot be loaded, or the token fails, the signer serves without it: `up` is false,
 * requests are answered with the reason, and the token is asked again at most every 30 s, after a refused PIN only when its file has
 * another one. A login that the token has forgotten comes back with a new process alone, which logs in once; so it is told to
 * `onLoginLost`, and not before the process has served for a minute: a token that forgets it all the time must not keep the signer from
 * stamping.
 */
import { createPublicKey, hash as digestOf, randomBytes, verify } from 'node:crypto';
import { SigilloError } from '../config/errors.ts';
import { type Checkpoint, readCheckpointText } from '../observability/journal/checkpoint.ts';
import { keyScheme } from '../pki/algorithms.ts';
import type { CheckpointSignature } from '../queue/checkpoint-signing.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import type { OpenHsm } from './hsm-modules.ts';
import { type KeySession, openKeySession } from './key-session.ts';
import { hsmError } from './pkcs11-errors.ts';
import type { HsmSlot } from './pkcs11-module.ts';
import { findKey } from './token-keys.ts';
import { isLoginLost, requireLogin } from './token-login.ts';

/** A long label: a token that is shared with others may well have a "journal" of its own. */
export const journalKeyLabel = 'sigillo-journal';
/** ECDSA with SHA-256, which every HSM has (observability/journal/checkpoint.ts). */
export const journalKeyAlgorithm = 'ec-p256';

const scheme = keyScheme(journalKeyAlgorithm);
const digest = 'sha256';
const askAgainMs = 30_000;
const servedMsMin = 60_000;

export interface CheckpointKeyOptions {
  readonly module: OpenHsm;
  /** The slot with the purpose `journal`. */
  readonly slot: HsmSlot;
  /** Name of the journal whose checkpoints are signed. */
  readonly origin: string;
  /** The key is loaded, for the first time or again. */
  readonly onLoaded?: (key: CheckpointKey) => void;
  /** The token failed, or the key cannot be loaded. */
  readonly onFailed: (error: SigilloError) => void;
  /** The login is lost: only another process gets it back. */
  readonly onLoginLost?: (error: SigilloError) => void;
  /** @defaultValue 30 s */
  readonly askAgainMs?: number;
  /** How long this process serves at least before `onLoginLost` is told. @defaultValue 60 s */
  readonly servedMsMin?: number;
}

interface LoadedKey {
  readonly session: KeySession;
  readonly spki: Buffer;
}

/** Finds the key and lets it prove itself, on the session that it will sign with. */
const loadKey = ({ module, slot }: CheckpointKeyOptions): LoadedKey => {
  if (!slot.purposes.includes('journal')) throw new SigilloError('HSM_KEY_PURPOSE', `token ${slot.label} is not for the journal`);
  module.login(slot);
  const looking = module.openSession(slot.label, { readWrite: false });
  let spki: Buffer;
  try {
    // Else a key that is there would be told as missing, for ever.
    requireLogin(looking);
    const key = findKey(looking, journalKeyLabel, scheme);
    if (key === undefined) throw new SigilloError('HSM_KEY_MISSING', `key ${journalKeyLabel} in token ${slot.label}`);
    spki = Buffer.from(key.spki);
  } finally {
    looking.close();
  }
  const { handle } = module.findSlot(slot.label);
  const modulePath = module.modulePathOf(slot.label);
  const session = openKeySession({ modulePath, slot: handle, keyLabel: journalKeyLabel, purpose: 'journal', scheme, digest });
  try {
    const challenge = randomBytes(64);
    const signature = session.sign(digestOf(digest, challenge, 'buffer'));
    if (!verify(digest, challenge, createPublicKey({ key: spki, format: 'der', type: 'spki' }), signature))
      throw new SigilloError('HSM_SELFTEST_FAILED', `key ${journalKeyLabel}`);
  } catch (error) {
    session.close();
    throw error;
  }
  return { session, spki };
};

export class CheckpointKey {
  readonly #options: CheckpointKeyOptions;
  #loaded: LoadedKey | undefined;
  #failure: SigilloError | undefined;
  #signatures = 0;
  #askAgainAtMs = Number.NEGATIVE_INFINITY;
  readonly #openedAtMs = monotonicMs();
  /** The largest that this process has signed. */
  #last: Checkpoint | undefined;

  /** Loads the key; a failure is told to `onFailed`. */
  constructor(options: CheckpointKeyOptions) {
    this.#options = options;
    try {
      this.#load();
    } catch {
      // told
    }
  }

  /** Whether the key would sign, as far as is known. */
  get up(): boolean {
    return this.#loaded !== undefined;
  }

  /** Checkpoints that this process has signed. */
  get signatures(): number {
    return this.#signatures;
  }

  /**
   * Signs the text of a checkpoint.
   * @throws JOURNAL_MALFORMED, JOURNAL_CHECKPOINT_REFUSED for what is never signed; HSM_* when the key cannot sign now
   */
  sign(text: string): CheckpointSignature {
    const checkpoint = this.#check(text);
    const { session, spki } = this.#load();
    if (session.purpose !== 'journal') throw new SigilloError('HSM_KEY_PURPOSE', journalKeyLabel);
    try {
      // A copy: the session owns what it returns.
      const signature = Buffer.from(session.sign(digestOf(digest, text, 'buffer')));
      this.#last = checkpoint;
      this.#signatures += 1;
      return { signature, spki };
    } catch (error) {
      throw this.#fail(error);
    }
  }

  close(): void {
    const loaded = this.#loaded;
    this.#loaded = undefined;
    loaded?.session.close();
  }

  #check(text: string): Checkpoint {
    const checkpoint = readCheckpointText(text);
    const { origin, size, root } = checkpoint;
    const refuse = (why: string): never => {
      throw new SigilloError('JOURNAL_CHECKPOINT_REFUSED', why);
    };
    if (origin !== this.#options.origin) refuse(`It is of ${origin}, and this signer signs for ${this.#options.origin}.`);
    const last = this.#last;
    if (last !== undefined && size < last.size) refuse(`Its size is ${size}, and ${last.size} was signed before.`);
    if (last !== undefined && size === last.size && !Buffer.from(root).equals(last.root))
      refuse(`Another tree of the size ${size} was signed before.`);
    return checkpoint;
  }

  #load(): LoadedKey {
    if (this.#loaded !== undefined) return this.#loaded;
    if (this.#failure !== undefined && monotonicMs() < this.#askAgainAtMs) throw this.#failure;
    try {
      this.#loaded = loadKey(this.#options);
    } catch (error) {
      throw this.#fail(error);
    }
    this.#options.onLoaded?.(this);
    return this.#loaded;
  }

  #fail(error: unknown): SigilloError {
    this.close();
    this.#failure = hsmError(error, `the journal's key in token "${this.#options.slot.label}"`);
    this.#askAgainAtMs = monotonicMs() + (this.#options.askAgainMs ?? askAgainMs);
    this.#options.onFailed(this.#failure);
    const { onLoginLost, servedMsMin: served = servedMsMin } = this.#options;
    if (isLoginLost(error) && monotonicMs() - this.#openedAtMs >= served) onLoginLost?.(this.#failure);
    return this.#failure;
  }
}
