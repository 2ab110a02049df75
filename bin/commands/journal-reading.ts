/**
 * The journal as a command reads it: from the server of the configuration, or from the engine that the journal process has
 * embedded. Reading is itself an event, which Redis has before anything that was read is shown.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import type { Config } from '../../config/schema.ts';
import { type OpenedJournal, openJournal } from '../../observability/journal/open-journal.ts';
import { JournalRecorder } from '../../observability/journal/recorder.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { commandOperator, commandRedis } from './command-redis.ts';

export interface JournalReading {
  readonly client: ClickHouseClient;
  /**
   * Records what was read, by the user of this machine; to be awaited before it is shown.
   * @param read `subject`: kind of thing that was read; `query`: which of them
   * @throws what Redis answers
   */
  record(read: { readonly subject: string; readonly query: string; readonly entries: number }): Promise<void>;
  close(): Promise<void>;
}

export interface JournalReadingOptions {
  /** Read also when no Redis takes the event: for a store whose service is stopped, or the copy of one. */
  readonly offline: boolean;
}

const openStore = async (config: Config, { offline }: JournalReadingOptions): Promise<OpenedJournal> => {
  try {
    return await openJournal(config, { files: offline ? 'only' : 'never' });
  } catch (cause) {
    if (offline || !(cause instanceof SigilloError) || cause.code !== 'JOURNAL_STORE_UNAVAILABLE') throw cause;
    const hint = 'The embedded store is read through the running service; --offline opens that of a stopped one.';
    throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', hint, { cause });
  }
};

const openRedis = (config: Config, { offline }: JournalReadingOptions): Promise<RedisClient | undefined> =>
  commandRedis(config).catch((error: unknown) => {
    if (offline) return undefined;
    throw new SigilloError('REDIS_UNAVAILABLE', 'A reading of the journal must be recorded; --offline reads a stopped store without.', {
      cause: error,
    });
  });

/** @throws REDIS_UNAVAILABLE when the reading could not be recorded; JOURNAL_STORE_UNAVAILABLE, CONFIG_UNREADABLE */
export const openJournalReading = async (config: Config, options: JournalReadingOptions): Promise<JournalReading> => {
  const redis = await openRedis(config, options);
  if (redis === undefined) process.stderr.write('sigillo: no Redis: this reading is not recorded\n');
  const by = redis === undefined ? undefined : await commandOperator(redis);
  const recorder = redis === undefined || by === undefined ? undefined : new JournalRecorder({ redis, ...by });
  try {
    const store = await openStore(config, options);
    return {
      client: store.client,
      async record({ subject, query, entries }) {
        await recorder?.recordNow({ kind: 'journal.read', subject, outcome: 'success', detail: { query, entries }, ...(by && { by }) });
      },
      async close() {
        redis?.disconnect();
        await store.close();
      },
    };
  } catch (error) {
    redis?.disconnect();
    throw error;
  }
};
