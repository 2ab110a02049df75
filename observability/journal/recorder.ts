/**
 * Brings events that belong to no lane into the journal: by way of a stream in Redis, from which the writer takes them.
 *
 * What happens faster than Redis takes it travels together. While Redis is away events wait in memory and are tried again; beyond
 * the bound the oldest stay, new ones are lost, and `lost` says how many: an event that must not be lost is awaited (`recordNow`)
 * before what it tells of is done.
 */
import { hostname } from 'node:os';
import { SigilloError } from '../../config/errors.ts';
import { journalKeys } from '../../queue/keys.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { encodeDrafts } from './draft-block.ts';
import type { ClockState, EventDetail, EventDraft, EventKind, EventOutcome, EventRole } from './events.ts';

/** What is told of an event; the recorder adds who, where and when. */
export interface RecordedEvent<K extends EventKind> {
  readonly kind: K;
  readonly subject: string;
  readonly outcome: EventOutcome;
  readonly detail: EventDetail<K>;
  /** Who did it, when it was not the program itself. */
  readonly by?: { readonly role: EventRole; readonly actor: string };
  /** When it was not now by the system's clock; `clock` when another one is known to have been in force. */
  readonly at?: { readonly unixMicros: number; readonly clock?: ClockState };
}

/** What is known about the clock of this host at this instant. */
export type TellClock = () => ClockState;

export interface RecorderOptions {
  readonly redis: RedisClient;
  /** Name of the program. */
  readonly actor: string;
  /** What is known about the clock of this host. @defaultValue nothing: `unverified` */
  readonly clock?: TellClock;
  readonly onFailed?: (error: unknown) => void;
  /** Called at the end with the number of events that were lost, if any were. */
  readonly onLost?: (events: number) => void;
}

/** Events of one entry of the stream: about 50 KB. */
const eventsPerEntry = 100;
/** 10,000 events of 500 octets: 5 MB. */
const waitingMax = 10_000;
const retryMs = 500;

/** The name that this host has in the journal. */
export const nodeName = (): string => hostname().slice(0, 64);

/** An event as this host and program tell it now. @param clock @defaultValue nothing is known about the clock */
export const draftOf = <K extends EventKind>(event: RecordedEvent<K>, actor: string, clock?: TellClock): EventDraft => {
  const { kind, subject, outcome, detail, by, at } = event;
  return {
    kind,
    // Not performance.now(), which is finer: it follows the clock that is vouched for only until that is set or slewed.
    unixMicros: at?.unixMicros ?? Date.now() * 1_000,
    clock: at?.clock ?? clock?.() ?? 'unverified',
    node: nodeName(),
    role: by?.role ?? 'system',
    actor: by?.actor ?? actor,
    subject,
    outcome,
    detail,
    // The detail is that of the kind, which the type of the parameter says and a union cannot.
  } as unknown as EventDraft;
};

export class JournalRecorder {
  readonly #options: RecorderOptions;
  #waiting: EventDraft[] = [];
  #sending: Promise<void> | undefined;
  #retry: NodeJS.Timeout | undefined;
  #lost = 0;
  #closed = false;

  constructor(options: RecorderOptions) {
    this.#options = options;
  }

  /** Events that found no room while Redis was away, did not fit their kind, or waited at the end. */
  get lost(): number {
    return this.#lost;
  }

  /** Records an event soon; it never fails. */
  record<K extends EventKind>(event: RecordedEvent<K>): void {
    if (this.#waiting.length >= waitingMax) {
      this.#lost += 1;
      return;
    }
    this.#waiting.push(this.#draft(event));
    if (this.#retry === undefined) this.#send();
  }

  /** Resolves when Redis has the event. @throws when it does not take it: then the event is not recorded */
  async recordNow<K extends EventKind>(event: RecordedEvent<K>): Promise<void> {
    await this.recordAllNow([event]);
  }

  /** Resolves when Redis has all of these events. @throws when it does not take one of them: then others may be recorded all the same */
  async recordAllNow<K extends EventKind>(events: readonly RecordedEvent<K>[]): Promise<void> {
    const { redis } = this.#options;
    const blocks: Buffer[] = [];
    for (let at = 0; at < events.length; at += eventsPerEntry) {
      blocks.push(encodeDrafts(events.slice(at, at + eventsPerEntry).map((event) => this.#draft(event))));
    }
    await Promise.all(blocks.map((block) => redis.xadd(journalKeys.events, '*', 'b', block)));
  }

  /** Tries once more to record what waits, and gives up then: what is left is lost, and told. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    await this.#sending;
    this.#send();
    await this.#sending;
    this.#lost += this.#waiting.length;
    this.#waiting = [];
    if (this.#lost > 0) this.#options.onLost?.(this.#lost);
  }

  #draft<K extends EventKind>(event: RecordedEvent<K>): EventDraft {
    return draftOf(event, this.#options.actor, this.#options.clock);
  }

  #send(): void {
    if (this.#sending !== undefined || this.#waiting.length === 0) return;
    this.#sending = this.#sendAll().finally(() => {
      this.#sending = undefined;
    });
  }

  async #sendAll(): Promise<void> {
    // A program that has just started is still connecting: nothing to complain of.
    if (this.#options.redis.status !== 'ready') return this.#tryLater();
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.slice(0, eventsPerEntry);
      try {
        await this.#options.redis.xadd(journalKeys.events, '*', 'b', encodeDrafts(batch));
        this.#waiting.splice(0, batch.length);
      } catch (error) {
        this.#options.onFailed?.(error);
        if (!(error instanceof SigilloError)) return this.#tryLater();
        // An event that does not fit its kind never will: it must not hold up the others for ever.
        this.#lost += batch.length;
        this.#waiting.splice(0, batch.length);
      }
    }
  }

  #tryLater(): void {
    if (this.#closed) return;
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      this.#send();
    }, retryMs);
  }
}
