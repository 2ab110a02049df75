/**
 * Whether a session is logged in, asked of the token itself. Without its login a token hides private objects and goes on with the rest:
 * a key that is not found then says nothing, and what is left of a pair looks like a generation that was interrupted.
 */
import type { Session } from 'graphene-pk11';
import { SigilloError } from '../config/errors.ts';
import { callingHsm, ckrCode, userNotLoggedIn } from './pkcs11-errors.ts';

/** CKS_RO_USER_FUNCTIONS and CKS_RW_USER_FUNCTIONS (PKCS#11 v3.1, 5.6.3), which the binding does not name. */
const userStates: readonly number[] = [1, 3];

/**
 * Nothing is concluded from what a session does not show, and nothing is made or destroyed with it, unless it is logged in.
 * @throws HSM_LOGIN_LOST; HSM_DEVICE when the session cannot be asked
 */
export const requireLogin = (session: Session): void => {
  const { state } = callingHsm('ask a session for its login', () => session.lib.C_GetSessionInfo(session.handle));
  if (!userStates.includes(state)) throw new SigilloError('HSM_LOGIN_LOST', `the session is in state ${state}`);
};

/** Whether an error says that the login is lost: only another process gets it back, because a login is made once for each. */
export const isLoginLost = (error: unknown): boolean =>
  (error instanceof SigilloError && error.code === 'HSM_LOGIN_LOST') || ckrCode(error) === userNotLoggedIn;
