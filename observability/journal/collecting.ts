/** Gathers the entries of the next block: as many as there are, for as long as a block may wait. */
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicMs } from '../../queue/redis-clock.ts';
import type { JournalSources, SourceEntry } from './sources.ts';

/** Idle, the streams are looked at so often. */
const pollMs = 50;
/** Entries with more octets are not gathered into one block; with stamps of 1 KB rowsMax comes first. */
const blockOctetsMax = 64 * 1024 * 1024;

export interface Collecting {
  /** May throw, to end it. */
  readonly beforeRead: () => void;
  /** Something else waits for the block, which must not wait for entries longer than they do. */
  readonly isPressed: () => boolean;
  /** What was collected so far is the block. */
  readonly isOver: (collected: number) => boolean;
}

/** @throws when Redis does not answer */
export const collectEntries = async (
  sources: JournalSources,
  { rowsMax, ageMs }: { readonly rowsMax: number; readonly ageMs: number },
  { beforeRead, isPressed, isOver }: Collecting,
): Promise<SourceEntry[]> => {
  const collected: SourceEntry[] = [];
  let rows = 0;
  let octets = 0;
  let firstAtMs: number | undefined;
  for (;;) {
    beforeRead();
    const entries = await sources.next();
    for (const entry of entries) {
      collected.push(entry);
      rows += entry.events.length;
      octets += entry.block.length;
    }
    if (firstAtMs === undefined && (entries.length > 0 || isPressed())) firstAtMs = monotonicMs();
    const old = firstAtMs !== undefined && monotonicMs() - firstAtMs >= ageMs;
    if (old || rows >= rowsMax || octets >= blockOctetsMax || isOver(collected.length)) return collected;
    if (entries.length === 0) await delay(Math.min(pollMs, ageMs));
  }
};
