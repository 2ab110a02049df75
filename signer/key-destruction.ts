/**
 * Destroys a key pair in a token: the one step that nothing takes back, so it looks twice which key it is, and concludes nothing from
 * what a token does not show while its login is lost.
 */
import { ObjectClass, type Session } from 'graphene-pk11';
import { invariant, SigilloError } from '../config/errors.ts';
import type { KeyScheme } from '../pki/algorithms.ts';
import type { Der } from '../pki/der.ts';
import { samePublicKey } from '../pki/public-key.ts';
import { callingHsm } from './pkcs11-errors.ts';
import { findKey, findKeyCopy, findObjects, keyState, type TokenKey } from './token-keys.ts';
import { requireLogin } from './token-login.ts';

/** A pair by its label, and the public key that it must have. */
export interface DoomedKey {
  readonly label: string;
  readonly scheme: KeyScheme;
  readonly spki: Der;
}

/** The private half first: what an interruption leaves is a public half, which the next run takes away. */
const destroyObjects = (session: Session, label: string): void => {
  callingHsm(`destroy the key "${label}"`, () => {
    for (const objectClass of [ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY]) {
      for (const object of findObjects(session, { class: objectClass, label })) object.destroy();
    }
  });
  const left = keyState(session, label);
  // In this order: a login that was lost meanwhile has not hidden what is left.
  requireLogin(session);
  invariant(left === 'absent', `the key "${label}" was destroyed and is still there`);
};

/**
 * Looks whether the whole pair is there, as this very key.
 * @param session logged in
 * @throws HSM_LOGIN_LOST, HSM_KEY_MISSING, HSM_KEY_MISMATCH when the key of this label is another one
 */
export const requireKeyPair = (session: Session, { label, scheme, spki }: DoomedKey): void => {
  requireLogin(session);
  const key = findKey(session, label, scheme);
  if (key === undefined)
    throw new SigilloError('HSM_KEY_MISSING', `"${label}" is ${keyState(session, label)}, and nobody here has begun to destroy it`);
  if (!samePublicKey(key.spki, spki))
    throw new SigilloError('HSM_KEY_MISMATCH', `"${label}" is another key than the one that is to be destroyed`);
};

/**
 * Destroys the pair of this label.
 *
 * @param session read-write and logged in
 * @throws HSM_LOGIN_LOST, HSM_KEY_MISSING, HSM_KEY_MISMATCH
 */
export const destroyKeyPair = (session: Session, key: DoomedKey): void => {
  requireKeyPair(session, key);
  destroyObjects(session, key.label);
};

/**
 * Destroys what is left of a pair, by an interruption: never a whole key of which it is not known whose it is.
 *
 * @param session read-write and logged in
 * @param whose the pair that was being destroyed, whose whole may still be there; undefined: it must be a part
 * @throws HSM_LOGIN_LOST, HSM_KEY_MISMATCH when the key of this label is a whole one, and another
 */
export const destroyRemains = (session: Session, label: string, whose?: DoomedKey): void => {
  requireLogin(session);
  const state = keyState(session, label);
  if (state === 'absent') return;
  if (state === 'whole') {
    if (whose === undefined) throw new SigilloError('HSM_KEY_MISMATCH', `"${label}" is a whole key, not a part of one`);
    requireKeyPair(session, whose);
  }
  destroyObjects(session, label);
};

/** The key of this label, unless it is of another type or size: then it is another one. */
const findNamed = (session: Session, { label, scheme }: DoomedKey): TokenKey | undefined => {
  try {
    return findKey(session, label, scheme);
  } catch (error) {
    if (error instanceof SigilloError && error.code === 'HSM_KEY_MISMATCH') return undefined;
    throw error;
  }
};

/** The same key in another slot, whatever it is called there. @throws HSM_KEY_MISMATCH when it shares its label with another one */
const findCopy = (session: Session, key: DoomedKey): TokenKey | undefined => {
  const named = findNamed(session, key);
  return named !== undefined && samePublicKey(named.spki, key.spki) ? named : findKeyCopy(session, key.spki, key.scheme);
};

/** A session on another slot, read-write. */
export interface OtherSlot {
  readonly label: string;
  readonly session: Session;
}

/**
 * Destroys the copies of a pair in other slots: what is told as destroyed must sign nowhere. A key of this label that is another one
 * stays.
 * @throws HSM_LOGIN_LOST, HSM_DEVICE when a slot does not show what it has, HSM_KEY_MISMATCH when it has the key under a label that another
 * one has too: then nobody can say that the key is gone
 */
export const destroyCopies = (slots: readonly OtherSlot[], key: DoomedKey): string[] =>
  slots.flatMap(({ label, session }) => {
    requireLogin(session);
    const copy = findCopy(session, key);
    if (copy === undefined) return [];
    destroyObjects(session, copy.label);
    return [label];
  });
