/** Destroys a key pair in a token: the one step that nothing takes back, so it looks twice which key it is. */
import { ObjectClass, type Session, type SessionObject } from 'graphene-pk11';
import { invariant, SigilloError } from '../config/errors.ts';
import type { KeyScheme } from '../pki/algorithms.ts';
import type { Der } from '../pki/der.ts';
import { samePublicKey } from '../pki/public-key.ts';
import { callingHsm } from './pkcs11-errors.ts';
import { findKey, keyState } from './token-keys.ts';

const objectsOf = (session: Session, objectClass: ObjectClass, label: string): SessionObject[] => {
  const found = session.find({ class: objectClass, label });
  return Array.from({ length: found.length }, (_, i) => found.items(i));
};

/**
 * Destroys the pair of this label, the private half first: what an interruption leaves is a public half, which the next run takes away.
 *
 * @param session read-write and logged in
 * @returns false when nothing of it was there
 * @throws HSM_KEY_MISMATCH when the key of this label is another one
 */
export const destroyKeyPair = (session: Session, { label, scheme, spki }: { label: string; scheme: KeyScheme; spki: Der }): boolean => {
  if (keyState(session, label) === 'absent') return false;
  const key = findKey(session, label, scheme);
  if (key !== undefined && !samePublicKey(key.spki, spki)) {
    throw new SigilloError('HSM_KEY_MISMATCH', `"${label}" is another key than the one that is to be destroyed`);
  }
  callingHsm(`destroy the key "${label}"`, () => {
    for (const objectClass of [ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY]) {
      for (const object of objectsOf(session, objectClass, label)) object.destroy();
    }
  });
  invariant(keyState(session, label) === 'absent', `the key "${label}" was destroyed and is still there`);
  return true;
};
