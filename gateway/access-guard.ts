/**
 * Lets a request pass by its credential and the role it needs. What is refused is counted, and recorded in the journal without
 * delaying the answer: every failure, whatever it was that was wrong. When the journal is too far behind to take that, nobody is
 * told what was wrong: a flood of bad credentials fills neither Redis nor goes unrecorded.
 */
import type { GatewayMetrics } from '../observability/gateway-metrics.ts';
import type { JournalRecorder } from '../observability/journal/recorder.ts';
import type { ClientRole } from '../queue/client-register.ts';
import type { ClientAccess, RefusalReason } from './client-access.ts';
import { basicChallenge, retryAfter } from './http-refusals.ts';
import type { JournalBacklog } from './journal-backlog.ts';

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
  | { readonly kind: 'refused'; readonly code: 'JOURNAL_BACKLOG'; readonly outcome: 'backlog' };

export interface AccessGuard {
  /**
   * Lets in who may act in this role.
   * @param role `any` lets every role in
   * @param address of the other end of the connection
   */
  require(role: ClientRole | 'any', authorization: string | undefined, address: string | undefined): Caller | Refused;
}

export interface AccessGuardParts {
  readonly access: Pick<ClientAccess, 'authenticate'>;
  readonly recorder: Pick<JournalRecorder, 'record'>;
  readonly metrics: Pick<GatewayMetrics, 'authenticationFailure'>;
  readonly backlog: Pick<JournalBacklog, 'areEventsFull'>;
}

const unauthenticated: Refused = { kind: 'refused', code: 'UNAUTHENTICATED', outcome: 'unauthenticated' };
const forbidden: Refused = { kind: 'refused', code: 'FORBIDDEN', outcome: 'forbidden' };
const backlogged: Refused = { kind: 'refused', code: 'JOURNAL_BACKLOG', outcome: 'backlog' };

/** Headers of the refusal: only who has shown no right credential is asked for one. */
export const refusalHeaders = ({ code }: Refused): Record<string, string> => {
  switch (code) {
    case 'UNAUTHENTICATED':
      return basicChallenge;
    case 'JOURNAL_BACKLOG':
      return retryAfter;
    case 'FORBIDDEN':
      return {};
  }
};

export const createAccessGuard = ({ access, recorder, metrics, backlog }: AccessGuardParts): AccessGuard => {
  const refuse = (refused: Refused, reason: RefusalReason | 'role', name: string, address: string | undefined): Refused => {
    metrics.authenticationFailure(reason);
    if (backlog.areEventsFull) return backlogged;
    recorder.record({ kind: 'authentication.failed', subject: name, outcome: 'refused', detail: { reason, address } });
    return refused;
  };
  return {
    require(role, authorization, address) {
      const found = access.authenticate(authorization);
      if (found.kind === 'refused') return refuse(unauthenticated, found.reason, found.name, address);
      if (role === 'any' || found.role === role) return found;
      return refuse(forbidden, 'role', found.name, address);
    },
  };
};
