/**
 * Searches of the journal as a gateway makes them for others: so many at once, apart from the readings of stamps, because one may look
 * through all of the store. The client of ClickHouse is loaded at the first.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import type { EntrySearch, FoundEntry } from '../observability/journal/search.ts';

export interface EntrySearching {
  /**
   * What was found; undefined when too many search already.
   * @throws JOURNAL_STORE_UNAVAILABLE, CONFIG_UNREADABLE
   */
  find(search: EntrySearch): Promise<readonly FoundEntry[] | undefined>;
  close(): Promise<void>;
}

/** With the 6 readings of stamps and proofs (journal-source.ts) the 8 questions that the engine of one machine answers at once. */
const searchesAtOnceMax = 2;

/** @param connect opens the client, at the first search */
export const createEntrySearching = (connect: () => Promise<ClickHouseClient>): EntrySearching => {
  let opening: Promise<ClickHouseClient> | undefined;
  let searching = 0;
  const opened = (): Promise<ClickHouseClient> => {
    opening ??= connect().catch((error: unknown) => {
      opening = undefined;
      throw error;
    });
    return opening;
  };
  return {
    async find(search) {
      if (searching >= searchesAtOnceMax) return undefined;
      searching += 1;
      try {
        const { searchEntries } = await import('../observability/journal/search.ts');
        const found: FoundEntry[] = [];
        for await (const one of searchEntries(await opened(), search)) found.push(one);
        return found;
      } finally {
        searching -= 1;
      }
    },
    async close() {
      const client = await opening?.catch(() => undefined);
      await client?.close();
    },
  };
};
