/**
 * Watches how far the journal is behind, and has new work refused when it is too far: nothing is answered that is not
 * journalled, and Redis holds only so much of what waits for it. The lane's stream decides on stamps; that of other events on
 * what makes such events, which anybody can: requests that are wrong, refusals of credentials, and readings of the archive.
 *
 * Between two looks a gateway lets in what its lane carries: at most about 2,000 entries a second, so 500 beyond the bound.
 * While Redis is away the last look stays in force; stamps are refused then anyway.
 */
import type { HealthItem } from '../observability/ops-app.ts';
import { journalKeys, laneKeys } from '../queue/keys.ts';
import type { RedisClient } from '../queue/redis.ts';

/** Stamps are taken again below this part of the bound, so that a writer at its limit does not switch them on and off. */
const resumeBelow = 0.9;

export interface JournalBacklog {
  /** Entries that wait, as they were last seen: answers of the lane, and events that belong to none. */
  readonly waiting: { readonly lane: number; readonly events: number };
  /** True while new stamps are to be refused. */
  readonly isFull: boolean;
  /** True while nothing more is to be done that makes an event of its own. */
  readonly areEventsFull: boolean;
  health(): HealthItem;
  close(): void;
}

export interface JournalBacklogOptions {
  readonly redis: RedisClient;
  /** Entries of a stream beyond which its work is refused. */
  readonly waitingMax: number;
  /** @defaultValue 250 */
  readonly pollMs?: number;
  readonly log: { warn(message: string): void; info(message: string): void };
}

/** Starts to watch; see the top of this file. */
export const watchJournalBacklog = ({ redis, waitingMax, pollMs = 250, log }: JournalBacklogOptions): JournalBacklog => {
  let waiting = { lane: 0, events: 0 };
  const full = { lane: false, events: false };
  let closed = false;
  let timer: NodeJS.Timeout | undefined;

  const judge = (stream: 'lane' | 'events', refused: string): void => {
    const entries = waiting[stream];
    if (!full[stream] && entries > waitingMax) {
      full[stream] = true;
      log.warn(`journal: ${entries} entries wait, more than journal.waitingMax (${waitingMax}): ${refused} are refused`);
    } else if (full[stream] && entries < waitingMax * resumeBelow) {
      full[stream] = false;
      log.info(`journal: ${entries} entries wait: ${refused} are taken again`);
    }
  };
  const look = async (): Promise<void> => {
    try {
      const [lane, events] = await Promise.all([redis.xlen(laneKeys('timestamp').journal), redis.xlen(journalKeys.events)]);
      waiting = { lane, events };
      judge('lane', 'new stamps');
      judge('events', 'readings, and what is not right in requests and credentials,');
    } catch {
      // Redis is away: its own health item says so.
    }
    if (!closed) timer = setTimeout(look, pollMs);
  };
  void look();

  return {
    get waiting() {
      return waiting;
    },
    get isFull() {
      return full.lane;
    },
    get areEventsFull() {
      return full.events;
    },
    health: () => ({
      name: 'journal backlog',
      ok: !full.lane,
      detail: `${waiting.lane} of ${waitingMax} entries wait for the journal${full.lane ? ': new stamps are refused' : ''}`,
    }),
    close: () => {
      closed = true;
      clearTimeout(timer);
    },
  };
};
