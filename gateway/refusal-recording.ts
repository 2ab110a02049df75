/**
 * The refusals that the gateway decides itself, as events: in the journal before they are answered (paced-recording.ts).
 *
 * Up to 1,000 refusals of a client within a second are told each by itself; beyond, those of one client for one reason become one event
 * of the write. So a flood makes at most 2,000 events with details a second, and 100 with a count for each client and reason.
 */
import type { RecordedEvent } from '../observability/journal/recorder.ts';
import type { FailInfo, RefusedParts } from '../pki/tsp-request.ts';
import { createPacedRecording, type PacedRecording, type PacedRecordingParts, type Telling } from './paced-recording.ts';

/** A request that the gateway refuses; its octets are copied. */
export interface RefusedRequest extends RefusedParts {
  readonly client: string;
  readonly failInfo: FailInfo;
}

export type RefusalRecording = PacedRecording<RefusedRequest>;

/** A SHA-512 imprint has 83 octets, the longest policies in use under 30. Longer ones could fill Redis: they are told as unreadable ones. */
const fieldOctetsMax = 128;

/** A copy, because the view would keep the whole body, and what it was received in. */
const told = (octets: Uint8Array | undefined): Uint8Array | undefined =>
  octets === undefined || octets.length > fieldOctetsMax ? undefined : new Uint8Array(octets);

const telling: Telling<RefusedRequest, 'timestamp.refused'> = {
  eventOf: ({ client, failInfo, policy, messageImprint }, unixMicros, count): RecordedEvent<'timestamp.refused'> => ({
    kind: 'timestamp.refused',
    subject: '',
    outcome: 'refused',
    detail: { reason: failInfo, policy: told(policy), messageImprint: told(messageImprint), count },
    by: { role: 'client', actor: client },
    at: { unixMicros },
  }),
  sourceOf: ({ client }) => client,
  // A bulk request of the usual size is told imprint by imprint; a client that floods leaves as much to the others.
  singlesOfSourceMax: 1_000,
  singlesMax: 2_000,
  // As many as there are clients, and reasons.
  foldOf: ({ client, failInfo }) => ({ client, failInfo, policy: undefined, messageImprint: undefined }),
  keyOf: ({ client, failInfo }) => `${failInfo} ${client}`,
};

export const createRefusalRecording = (parts: PacedRecordingParts): RefusalRecording => createPacedRecording(telling, parts);
