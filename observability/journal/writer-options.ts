/** What a writer of the journal needs from the process around it, and what it tells that process. */
import type { RedisClient } from '../../queue/redis.ts';
import type { SealedEvent } from './chain.ts';
import type { EventDraft } from './events.ts';
import type { MerkleTree } from './merkle.ts';
import type { TellClock } from './recorder.ts';
import type { Spool } from './spool.ts';
import type { JournalStore } from './store.ts';

/** Lines of the log and counters; the writer itself neither prints nor counts. */
export interface WriterEvents {
  sealed(entries: number, lagSeconds: number): void;
  quarantined(origin: string, error: Error): void;
  storeFailed(error: unknown): void;
  storeBack(shipped: number): void;
  spoolFull(error: unknown): void;
  /** Blocks of a writer that had lost the lease, which count for nothing. */
  strayBlocks(folder: string): void;
}

export interface WriterOptions {
  readonly redis: RedisClient;
  /** Name of this host. */
  readonly node: string;
  /** What the lease in Redis knows this process by. */
  readonly holder: string;
  /** See `KnownEnds`. */
  readonly stateMayBeOld: boolean;
  /** How long this process is certain to be the only writer, in milliseconds. */
  readonly heldForMs: () => number;
  /** Opens the store, or gives the one that is open. @throws when it does not answer */
  readonly openStore: () => Promise<JournalStore>;
  readonly spool: Spool;
  readonly block: { readonly rowsMax: number; readonly ageMs: number };
  /** Makes the tree of the first `size` entries from the store. @throws when the store does not answer */
  readonly resumeTree: (size: number) => Promise<MerkleTree>;
  /** Entries that are in the store now, in order. */
  readonly onStored: (block: readonly SealedEvent[]) => void;
  /** What is known about the clock of this host. @defaultValue nothing */
  readonly clock?: TellClock;
  readonly on: WriterEvents;
}

/** The journal up to an instant: durable, and not signed yet. */
export interface JournalSnapshot {
  readonly size: number;
  readonly root: Uint8Array;
  /** Events so far that were not made by the journal itself. */
  readonly foreign: number;
}

/** Client name under which the journal has its checkpoints stamped; no client can have it, because of the blank. */
export const journalClient = 'sigillo journal';

/** Whether an event is a reason for a checkpoint: what the journal tells of itself is none, nor is the stamp of the last checkpoint. */
export const asksForCheckpoint = ({ kind, actor }: Pick<EventDraft, 'kind' | 'actor'>): boolean =>
  !kind.startsWith('journal.') && actor !== journalClient;
