/**
 * Brings events that anybody can cause into the journal, before what caused them is answered: the answer is given when Redis has its
 * event, as a stamp is. When Redis does not take it, or there is no room, the request gets 503 instead.
 *
 * Such an event costs a stranger one short request, so all of it is bounded. What comes while a write is under way travels in the next
 * one, at most one each 10 ms. So many from one source within a second are told each by itself, and so many of all; beyond, those that are
 * alike become one event of the write, with their count. However many come, none is answered that is not counted in the journal.
 *
 * They do not pass through the queue of the recorder: they cannot push out what waits there, and it cannot lose them.
 */
import { SigilloError } from '../config/errors.ts';
import type { EventKind } from '../observability/journal/events.ts';
import type { JournalRecorder, RecordedEvent } from '../observability/journal/recorder.ts';
import { unixMicrosNow } from '../observability/journal/wall-micros.ts';
import type { JournalBacklog } from './journal-backlog.ts';

/** Why something is not recorded, and so not answered. */
export type Unrecorded = 'backlog' | 'overloaded' | 'unavailable' | 'expired';

export interface PacedRecording<T> {
  /** Resolves by the deadline: when Redis has it, or with the reason why it has not. @throws JOURNAL_MALFORMED, a defect */
  record(one: T): Promise<Unrecorded | undefined>;
}

/** How things become events. */
export interface Telling<T, K extends EventKind> {
  /** @param count of those that it stands for; undefined when it is told by itself */
  eventOf(one: T, unixMicros: number, count: number | undefined): RecordedEvent<K>;
  /** Whose share of the events that are told by themselves it takes. */
  sourceOf(one: T): string;
  /** Events of one source that are told by themselves, in a second. */
  readonly singlesOfSourceMax: number;
  /** The same for all sources together. */
  readonly singlesMax: number;
  /** What it has in common with those that it is told with. */
  foldOf(one: T): T;
  /** What tells one fold from another. */
  keyOf(fold: T): string;
  /** Where strangers decide how many folds there are: beyond so many events of them in a second they are folded further, into a few. */
  readonly further?: { readonly foldsMax: number; foldOf(fold: T): T };
}

export interface PacedRecordingParts {
  readonly recorder: Pick<JournalRecorder, 'recordAllNow'>;
  readonly backlog: Pick<JournalBacklog, 'areEventsFull'>;
  /** Things that may wait for Redis at once. */
  readonly waitingMax: number;
  /** From a thing to its answer. */
  readonly deadlineMs: number;
}

/** 100 writes a second, whatever comes; what a client notices of it is less than a stamp takes. */
const paceMs = 10;
const windowMs = 1_000;

/** What is told together, beyond what is told by itself. */
interface Counted<T> {
  readonly fold: T;
  /** Of the first. */
  readonly unixMicros: number;
  count: number;
}

/** What travels in one write. */
interface Batch<T, K extends EventKind> {
  readonly singles: RecordedEvent<K>[];
  readonly counted: Map<string, Counted<T>>;
  size: number;
  readonly done: PromiseWithResolvers<Unrecorded | undefined>;
}

/** How many events tell it in detail, in each second. */
const createShares = <T, K extends EventKind>({ sourceOf, singlesOfSourceMax, singlesMax, further }: Telling<T, K>) => {
  const bySource = new Map<string, number>();
  let singles = 0;
  let folds = 0;
  let began = Number.NEGATIVE_INFINITY;
  return {
    takeSingle(one: T): boolean {
      const now = performance.now();
      if (now - began >= windowMs) {
        began = now;
        singles = 0;
        folds = 0;
        bySource.clear();
      }
      if (singles >= singlesMax) return false;
      const source = sourceOf(one);
      const ofSource = bySource.get(source) ?? 0;
      if (ofSource >= singlesOfSourceMax) return false;
      singles += 1;
      bySource.set(source, ofSource + 1);
      return true;
    },
    takeFold(): boolean {
      if (further === undefined) return true;
      folds += 1;
      return folds <= further.foldsMax;
    },
  };
};

/** See the top of this file. */
export const createPacedRecording = <T, K extends EventKind>(
  telling: Telling<T, K>,
  { recorder, backlog, waitingMax, deadlineMs }: PacedRecordingParts,
): PacedRecording<T> => {
  const shares = createShares(telling);
  const newBatch = (): Batch<T, K> => ({ singles: [], counted: new Map(), size: 0, done: Promise.withResolvers() });
  let batch = newBatch();
  /** Size of the write that is under way. */
  let sending = 0;
  let scheduled = false;
  let began = Number.NEGATIVE_INFINITY;

  /** Half of the deadline for each: it may have waited for the write before. */
  const write = async (events: readonly RecordedEvent<K>[]): Promise<Unrecorded | undefined> => {
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

  const eventsOf = ({ singles, counted }: Batch<T, K>): RecordedEvent<K>[] => [
    ...singles,
    ...Array.from(counted.values(), ({ fold, unixMicros, count }) => telling.eventOf(fold, unixMicros, count)),
  ];

  const send = async (): Promise<void> => {
    scheduled = false;
    const sent = batch;
    batch = newBatch();
    sending = sent.size;
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
    if (scheduled || sending > 0 || batch.size === 0) return;
    scheduled = true;
    const waitMs = began + paceMs - performance.now();
    // Not at once: the imprints of a bulk request belong into one write.
    if (waitMs > 0) setTimeout(send, waitMs);
    else setImmediate(send);
  };

  const count = (fold: T, unixMicros: number): void => {
    const key = telling.keyOf(fold);
    const same = batch.counted.get(key);
    if (same === undefined) batch.counted.set(key, { fold, unixMicros, count: 1 });
    else same.count += 1;
  };

  const add = (one: T): void => {
    batch.size += 1;
    // Not performance.now(), which is finer: it follows the clock that the recorder vouches for only until that is set or slewed.
    const unixMicros = unixMicrosNow();
    if (shares.takeSingle(one)) {
      batch.singles.push(telling.eventOf(one, unixMicros, undefined));
      return;
    }
    const fold = telling.foldOf(one);
    if (batch.counted.has(telling.keyOf(fold)) || shares.takeFold()) count(fold, unixMicros);
    else count(telling.further?.foldOf(fold) ?? fold, unixMicros);
  };

  return {
    async record(one) {
      if (backlog.areEventsFull) return 'backlog';
      if (sending + batch.size >= waitingMax) return 'overloaded';
      add(one);
      schedule();
      return batch.done.promise;
    },
  };
};
