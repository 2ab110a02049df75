/** Makes a block of entries out of what was collected: in the chain, those of one partition together, so that they make few inserts. */
import { SigilloError } from '../../config/errors.ts';
import { type ChainHead, headBehind, type SealedEvent, sealEvent } from './chain.ts';
import type { EventDraft } from './events.ts';
import { noOrigin, unfitIndex } from './origin.ts';
import { quarantineDrafts } from './quarantine.ts';
import type { TellClock } from './recorder.ts';
import type { SourcedEvent, SourceEntry } from './sources.ts';
import { partitionOf, type StoredEvent } from './store.ts';

/** An event of the journal itself, and who waits for it. */
export interface AppendedEvent {
  readonly draft: EventDraft;
  readonly done: (sealed: SealedEvent) => void;
  readonly failed: (error: Error) => void;
}

export interface SealedBlock {
  readonly block: readonly StoredEvent[];
  /** Behind the last of them. */
  readonly head: ChainHead;
  /** Entries with an event that does not fit its kind: they are in the block as what goes into quarantine. */
  readonly unfit: readonly (readonly [origin: string, error: Error])[];
  /** To be called when the block is durable. */
  readonly settle: readonly (() => void)[];
}

/** Seals behind `head`. Events of one source and partition keep their order; an event that cannot be sealed takes no other with it. @param clock of this host, for what goes into quarantine */
export const sealBlock = (
  start: ChainHead,
  entries: readonly SourceEntry[],
  appended: readonly AppendedEvent[],
  clock?: TellClock,
): SealedBlock => {
  const block: StoredEvent[] = [];
  const settle: (() => void)[] = [];
  let head = start;
  const put = ({ draft, origin }: SourcedEvent): SealedEvent => {
    const sealed = sealEvent(head, draft);
    head = headBehind(sealed);
    block.push({ ...sealed, origin });
    return sealed;
  };
  const byPartition = Map.groupBy(
    entries.flatMap((entry) => entry.events.map((event) => ({ entry, event }))),
    ({ event }) => partitionOf(event.draft),
  );
  const unfit = new Map<SourceEntry, Error>();
  for (const { entry, event } of [...byPartition.values()].flat()) {
    try {
      put(event);
    } catch (error) {
      if (!(error instanceof SigilloError) || error.code !== 'JOURNAL_MALFORMED') throw error;
      if (!entry.isQuarantined) unfit.set(entry, error);
    }
  }
  for (const [{ origin, block: octets }, error] of unfit) {
    for (const draft of quarantineDrafts(origin, octets, error.message, clock)) put({ draft, origin: { ...origin, index: unfitIndex } });
  }
  for (const { draft, done, failed } of appended) {
    try {
      const sealed = put({ draft, origin: noOrigin });
      settle.push(() => done(sealed));
    } catch (error) {
      failed(error as Error);
    }
  }
  return {
    block,
    head,
    unfit: [...unfit].map(([{ origin }, error]) => [`${origin.source} ${origin.millis}-${origin.number}`, error]),
    settle,
  };
};
