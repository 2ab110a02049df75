/**
 * What was not let in, as events: in the journal before it is answered (paced-recording.ts).
 *
 * Names and addresses are a stranger's to choose, and these events are kept as long as certificates. Up to 100 of one address within a
 * second are told each by itself, 500 of all; beyond, those with one name, reason and address become one event of the write, 500 a
 * second. What is more is told by its reason, and by its name when that is a client's: a flood of names that nobody has cannot hide
 * guesses at a client's secret.
 */
import type { AuthenticationFailureReason } from '../observability/gateway-metrics.ts';
import type { RecordedEvent } from '../observability/journal/recorder.ts';
import { createPacedRecording, type PacedRecording, type PacedRecordingParts, type Telling } from './paced-recording.ts';

/** A request that is not let in. */
export interface AuthenticationFailure {
  /** The name that was claimed, or empty. */
  readonly name: string;
  readonly reason: AuthenticationFailureReason;
  /** Of the other end of the connection. */
  readonly address: string | undefined;
}

export type AuthenticationRecording = PacedRecording<AuthenticationFailure>;

/** Names that come with these reasons are those of the register: there are only so many. */
const reasonsOfClients: ReadonlySet<AuthenticationFailure['reason']> = new Set(['wrong', 'disabled', 'role']);

/** The first half of an IPv6 address: one subscriber has all of the other. */
const prefixGroups = 4;

/**
 * What stands for an address in events that are told together: IPv6 by its /64, because whoever has one address has 2^64 of them;
 * IPv4 as it is, also inside of IPv6.
 */
export const networkOf = (address: string): string => {
  if (!address.includes(':') || address.includes('.')) return address;
  const [head = '', tail] = (address.split('%', 1)[0] as string).split('::', 2);
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = Array.from({ length: Math.max(0, 8 - left.length - right.length) }, () => '0');
  return `${[...left, ...zeros, ...right].slice(0, prefixGroups).join(':')}::/64`;
};

const telling: Telling<AuthenticationFailure, 'authentication.failed'> = {
  eventOf: ({ name, reason, address }, unixMicros, count): RecordedEvent<'authentication.failed'> => ({
    kind: 'authentication.failed',
    subject: name,
    outcome: 'refused',
    detail: { reason, address, count },
    at: { unixMicros },
  }),
  sourceOf: ({ address = '' }) => networkOf(address),
  singlesOfSourceMax: 100,
  singlesMax: 500,
  foldOf: ({ name, reason, address }) => ({ name, reason, address: address === undefined ? undefined : networkOf(address) }),
  keyOf: ({ name, reason, address = '' }) => `${reason} ${address} ${name}`,
  further: {
    foldsMax: 500,
    foldOf: ({ name, reason }) => ({ name: reasonsOfClients.has(reason) ? name : '', reason, address: undefined }),
  },
};

export const createAuthenticationRecording = (parts: PacedRecordingParts): AuthenticationRecording => createPacedRecording(telling, parts);
