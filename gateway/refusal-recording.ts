/**
 * Brings the refusals that the gateway decides itself into the journal, before they are answered: a refusal is given when Redis has its
 * event, as a stamp is. When Redis does not take it, or there is no room, the request gets 503 instead, which is no answer of the protocol.
 *
 * A refusal costs a stranger one short request, so all of it is bounded. What comes while a write is under way travels in the next one,
 * at most one each 10 ms. Up to 1,000 refusals of a client within a second are told each by itself; beyond, those of one client for one
 * reason become one event of the write, with their count: a flood makes at most 2,000 events with details a second, and 100 with a count
 * for each client and reason, and none of its refusals is answered that is not counted in the journal.
 *
 * They do not pass through the queue of the recorder: they cannot push out what waits there, such as failures of authentication.
 */
import { SigilloError } from '../config/errors.ts';
import type { JournalRecorder, RecordedEvent } from '../observability/journal/recorder.ts';
import { unixMicrosNow } from '../observability/journal/wall-micros.ts';
import type { FailInfo, RefusedParts } from '../pki/tsp-request.ts';
import type { JournalBacklog } from './journal-backlog.ts';

/** A request that the gateway refuses; its octets are copied. */
export interface RefusedRequest extends RefusedParts {
  readonly client: string;
  readonly failInfo: FailInfo;
}

/** Why a refusal is not recorded, and so not answered. */
export type Unrecorded = 'backlog' | 'overloaded' | 'unavailable' | 'expired';

export interface RefusalRecording {
  /** Resolves by the deadline: when Redis has the refusal, or with the reason why it has not. @throws JOURNAL_MALFORMED, a defect */
  record(refused: RefusedRequest): Promise<Unrecorded | undefined>;
}

export interface RefusalRecordingParts {
  readonly recorder: Pick<JournalRecorder, 'recordAllNow'>;
  readonly backlog: Pick<JournalBacklog, 'areEventsFull'>;
  /** Refusals that may wait for Redis at once. */
  readonly waitingMax: number;
  /** From a refusal to the answer. */
  readonly deadlineMs: number;
}

type RefusalEvent = RecordedEvent<'timestamp.refused'>;

/** 100 writes a second, whatever comes; what a client notices of it is less than a stamp takes. */
const paceMs = 10;
/** A bulk request of the usual size is told imprint by imprint; a client that floods leaves as much to the others. */
const singlesOfClientMax = 1_000;
const singlesMax = 2_000;
const windowMs = 1_000;
/** A SHA-512 imprint has 83 octets, the longest policies in use under 30. Longer ones could fill Redis: they are told as unreadable ones. */
const fieldOctetsMax = 128;

/** Refusals with one client and reason, beyond those that are told by themselves. */
interface Counted {
  readonly client: string;
  readonly failInfo: FailInfo;
  /** Of the first. */
  readonly unixMicros: number;
  count: number;
}

/** What travels in one write. */
interface Batch {
  readonly singles: RefusalEvent[];
  readonly counted: Map<string, Counted>;
  refusals: number;
  readonly done: PromiseWithResolvers<Unrecorded | undefined>;
}

const newBatch = (): Batch => ({ singles: [], counted: new Map(), refusals: 0, done: Promise.withResolvers() });

/** A copy, because the view would keep the whole body, and what it was received in. */
const told = (octets: Uint8Array | undefined): Uint8Array | undefined =>
  octets === undefined || octets.length > fieldOctetsMax ? undefined : new Uint8Array(octets);

const eventOf = (client: string, unixMicros: number, detail: RefusalEvent['detail']): RefusalEvent => ({
  kind: 'timestamp.refused',
  subject: '',
  outcome: 'refused',
  detail,
  by: { role: 'client', actor: client },
  at: { unixMicros },
});

const eventsOf = ({ singles, counted }: Batch): RefusalEvent[] => [
  ...singles,
  ...Array.from(counted.values(), ({ client, failInfo, unixMicros, count }) =>
    eventOf(client, unixMicros, { reason: failInfo, policy: undefined, messageImprint: undefined, count }),
  ),
];

/** How many refusals are told by themselves, in each second. */
const createSingles = () => {
  const byClient = new Map<string, number>();
  let total = 0;
  let began = Number.NEGATIVE_INFINITY;
  return {
    take(client: string): boolean {
      const now = performance.now();
      if (now - began >= windowMs) {
        began = now;
        total = 0;
        byClient.clear();
      }
      const ofClient = byClient.get(client) ?? 0;
      if (total >= singlesMax || ofClient >= singlesOfClientMax) return false;
      total += 1;
      byClient.set(client, ofClient + 1);
      return true;
    },
  };
};

/** See the top of this file. */
export const createRefusalRecording = ({ recorder, backlog, waitingMax, deadlineMs }: RefusalRecordingParts): RefusalRecording => {
  const singles = createSingles();
  let batch = newBatch();
  /** Refusals of the write that is under way. */
  let sending = 0;
  let scheduled = false;
  let began = Number.NEGATIVE_INFINITY;

  /** Half of the deadline for each: a refusal may have waited for the write before. */
  const write = async (events: readonly RefusalEvent[]): Promise<Unrecorded | undefined> => {
    const late = Promise.withResolvers<'expired'>();
    const timer = setTimeout(() => late.resolve('expired'), deadlineMs / 2);
    try {
      // Given up late it may be recorded all the same: then the journal tells of a refusal that was answered 503.
      return await Promise.race([recorder.recordAllNow(events).then(() => undefined), late.promise]);
    } catch (error) {
      if (error instanceof SigilloError) throw error; // an event that does not fit its kind: a defect
      return 'unavailable';
    } finally {
      clearTimeout(timer);
    }
  };

  const send = async (): Promise<void> => {
    scheduled = false;
    const sent = batch;
    batch = newBatch();
    sending = sent.refusals;
    began = performance.now();
    try {
      sent.done.resolve(await write(eventsOf(sent)));
    } catch (error) {
      sent.done.reject(error);
    } finally {
      sending = 0;
      schedule();
    }
  };

  const schedule = (): void => {
    if (scheduled || sending > 0 || batch.refusals === 0) return;
    scheduled = true;
    const waitMs = began + paceMs - performance.now();
    // Not at once: the imprints of a bulk request belong into one write.
    if (waitMs > 0) setTimeout(send, waitMs);
    else setImmediate(send);
  };

  const add = ({ client, failInfo, policy, messageImprint }: RefusedRequest): void => {
    batch.refusals += 1;
    const unixMicros = unixMicrosNow();
    if (singles.take(client)) {
      const detail = { reason: failInfo, policy: told(policy), messageImprint: told(messageImprint), count: undefined };
      batch.singles.push(eventOf(client, unixMicros, detail));
      return;
    }
    const key = `${failInfo} ${client}`;
    const same = batch.counted.get(key);
    if (same === undefined) batch.counted.set(key, { client, failInfo, unixMicros, count: 1 });
    else same.count += 1;
  };

  return {
    async record(refused) {
      if (backlog.areEventsFull) return 'backlog';
      if (sending + batch.refusals >= waitingMax) return 'overloaded';
      add(refused);
      schedule();
      return batch.done.promise;
    },
  };
};
