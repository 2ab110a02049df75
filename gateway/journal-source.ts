/**
 * The store of the journal as a gateway reads it. The client of ClickHouse is loaded at the first use: a gateway that only stamps
 * does without its memory. So many reads at once are let in, because each costs the store more than it costs the gateway; those of
 * anybody apart from those of who has shown a credential, so that a flood of the former does not keep the latter from their stamps.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import type { TimestampArchive } from '../observability/journal/archive.ts';
import type { JournalReader } from '../observability/journal/reader.ts';

/** What a gateway reads in the store. */
export interface OpenJournal {
  readonly archive: TimestampArchive;
  /** @param sequence below size */
  inclusion(sequence: number, size: number): Promise<{ readonly leaf: Uint8Array; readonly path: readonly Uint8Array[] }>;
  /** @param from 1 to `to` */
  consistency(from: number, to: number): Promise<readonly Uint8Array[]>;
}

/** Who reads: a client or auditor by its credential, or anybody. */
export type Readers = 'known' | 'anybody';

export interface JournalSource {
  /**
   * Reads from the journal; undefined when too many of these readers do so already.
   * @throws JOURNAL_STORE_UNAVAILABLE, CONFIG_UNREADABLE, or what the action throws
   */
  read<T>(readers: Readers, action: (journal: OpenJournal) => Promise<T>): Promise<{ readonly value: T } | undefined>;
  close(): Promise<void>;
}

/**
 * The engine of one machine answers 8 questions at once (local-server.ts), and a read asks one after the other: with the 2 searches
 * (entry-search.ts) all of them are used, and a flood of one kind leaves the others theirs.
 */
const readsAtOnceMax: Readonly<Record<Readers, number>> = { known: 4, anybody: 2 };

/** A checkpoint may be ahead of the store, while that is away or slow. */
const requireSize = async (reader: JournalReader, size: number): Promise<void> => {
  const stored = await reader.size();
  if (stored < size) throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', `It has ${stored} entries, ${size} are asked for.`);
};

/** @param connect opens the client, at the first read */
export const createJournalSource = (connect: () => Promise<ClickHouseClient>): JournalSource => {
  let opening: Promise<OpenJournal & { readonly client: ClickHouseClient }> | undefined;
  const reading: Record<Readers, number> = { known: 0, anybody: 0 };

  const open = async (): Promise<OpenJournal & { readonly client: ClickHouseClient }> => {
    const [{ TimestampArchive }, { JournalReader }, { consistencyProof, inclusionProof }] = await Promise.all([
      import('../observability/journal/archive.ts'),
      import('../observability/journal/reader.ts'),
      import('../observability/journal/proofs.ts'),
    ]);
    const client = await connect();
    const reader = new JournalReader(client);
    return {
      client,
      archive: new TimestampArchive(client),
      inclusion: async (sequence, size) => {
        await requireSize(reader, size);
        return inclusionProof(reader, sequence, size);
      },
      consistency: async (from, to) => {
        await requireSize(reader, to);
        return consistencyProof(reader, from, to);
      },
    };
  };
  const opened = (): ReturnType<typeof open> => {
    opening ??= open().catch((error: unknown) => {
      opening = undefined;
      throw error;
    });
    return opening;
  };

  return {
    async read(readers, action) {
      if (reading[readers] >= readsAtOnceMax[readers]) return undefined;
      reading[readers] += 1;
      try {
        return { value: await action(await opened()) };
      } finally {
        reading[readers] -= 1;
      }
    },
    async close() {
      const journal = await opening?.catch(() => undefined);
      await journal?.client.close();
    },
  };
};

/** Connects to the server of the configuration, or to the engine that the journal process of this machine has embedded. */
export const configuredStore =
  ({ journal, home }: Config) =>
  async (): Promise<ClickHouseClient> => {
    const { serverClient, socketClient } = await import('../observability/journal/clickhouse.ts');
    const { url } = journal;
    return url === undefined ? socketClient(homePaths(home).journalSocket) : serverClient({ ...journal, url });
  };
