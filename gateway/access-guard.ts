/**
 * Lets a request pass by its credential and the role it needs. What is refused is counted, and is in the journal before it is answered:
 * every failure, whatever it was that was wrong. When it cannot be recorded, nobody is told what was wrong: a flood of bad credentials
 * neither fills Redis nor goes unrecorded.
 */
import type { GatewayMetrics } from '../observability/gateway-metrics.ts';
import type { ClientRole } from '../queue/client-register.ts';
import type { AuthenticationFailure, AuthenticationRecording } from './authentication-recording.ts';
import type { ClientAccess } from './client-access.ts';
import { basicChallenge, failureCodes, retryAfter } from './http-refusals.ts';
import type { Unrecorded } from './paced-recording.ts';

/** Who asks. */
export interface Caller {
  readonly kind: 'client';
  readonly name: string;
  readonly role: ClientRole;
}

/** Why a request is not let in; `outcome` is how it is counted. */
export type Refused =
  | { readonly kind: 'refused'; readonly code: 'UNAUTHENTICATED'; readonly outcome: 'unauthenticated' }
  | { readonly kind: 'refused'; readonly code: 'FORBIDDEN'; readonly outcome: 'forbidden' }
  | { readonly kind: 'refused'; readonly code: (typeof failureCodes)[Unrecorded]; readonly outcome: Unrecorded };

export interface AccessGuard {
  /**
   * Lets in who may act in this role: at once, because most may, and they must not wait for those that may not.
   * @param role `any` lets every role in
   * @param address of the other end of the connection
   * @returns who asks; or the refusal, when Redis has it
   */
  require(role: ClientRole | 'any', authorization: string | undefined, address: string | undefined): Caller | Promise<Refused>;
}

export interface AccessGuardParts {
  readonly access: Pick<ClientAccess, 'authenticate'>;
  readonly failures: AuthenticationRecording;
  readonly metrics: Pick<GatewayMetrics, 'authenticationFailure'>;
}

const unauthenticated: Refused = { kind: 'refused', code: 'UNAUTHENTICATED', outcome: 'unauthenticated' };
const forbidden: Refused = { kind: 'refused', code: 'FORBIDDEN', outcome: 'forbidden' };

/** Headers of the refusal: only who has shown no right credential is asked for one. */
export const refusalHeaders = ({ code }: Refused): Record<string, string> => {
  switch (code) {
    case 'UNAUTHENTICATED':
      return basicChallenge;
    case 'FORBIDDEN':
      return {};
    default:
      return retryAfter;
  }
};

export const createAccessGuard = ({ access, failures, metrics }: AccessGuardParts): AccessGuard => {
  /** The same way whatever is wrong, so that its time tells nothing. */
  const refuse = async (refused: Refused, failure: AuthenticationFailure): Promise<Refused> => {
    metrics.authenticationFailure(failure.reason);
    const unrecorded = await failures.record(failure);
    return unrecorded === undefined ? refused : { kind: 'refused', code: failureCodes[unrecorded], outcome: unrecorded };
  };
  return {
    require(role, authorization, address) {
      const found = access.authenticate(authorization);
      if (found.kind === 'refused') return refuse(unauthenticated, { name: found.name, reason: found.reason, address });
      if (role === 'any' || found.role === role) return found;
      return refuse(forbidden, { name: found.name, reason: 'role', address });
    },
  };
};
