/** The gateway's guard, for clients that a test names; what it does not let in is recorded at once, in nothing. */
import { type AccessGuard, createAccessGuard } from '../../gateway/access-guard.ts';
import { createAuthenticationRecording } from '../../gateway/authentication-recording.ts';
import type { ClientAccess } from '../../gateway/client-access.ts';
import type { JournalBacklog } from '../../gateway/journal-backlog.ts';

/** Authorization headers of clients, by what they say; every other one is wrong. */
export const scriptedAccess = (
  clients: Readonly<Record<string, string>>,
  auditors: readonly string[] = [],
): Pick<ClientAccess, 'authenticate'> => ({
  authenticate: (header) => {
    const name = header === undefined ? undefined : clients[header];
    if (name === undefined) return { kind: 'refused', reason: header === undefined ? 'missing' : 'wrong', name: '' };
    return { kind: 'client', name, role: auditors.includes(name) ? 'auditor' : 'client' };
  },
});

export interface ScriptedGuardOptions {
  readonly backlog?: Pick<JournalBacklog, 'areEventsFull'>;
  readonly onFailure?: (reason: string) => void;
}

export const scriptedGuard = (access: Pick<ClientAccess, 'authenticate'>, options: ScriptedGuardOptions = {}): AccessGuard => {
  const { backlog = { areEventsFull: false }, onFailure = () => undefined } = options;
  const recorder = { recordAllNow: async () => undefined };
  const failures = createAuthenticationRecording({ recorder, backlog, waitingMax: 100, deadlineMs: 5_000 });
  return createAccessGuard({ access, failures, metrics: { authenticationFailure: onFailure } });
};
