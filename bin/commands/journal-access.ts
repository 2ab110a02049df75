/**
 * The journal as a command shows it to the user of this machine: through the running service, out of the folder of a stopped one, or
 * out of a copy. Reading is itself an event (journal-reading.ts); only of a copy, and where no Redis takes it, it is none.
 */
import type { Config } from '../../config/schema.ts';
import { isJournalServed, openJournalFolder } from '../../observability/journal/open-journal.ts';
import { type JournalReading, openJournalReading } from './journal-reading.ts';

/**
 * @param store a copy of the folder of an embedded store; nothing of the configuration counts then
 * @throws JOURNAL_STORE_UNAVAILABLE; REDIS_UNAVAILABLE when the service runs and the reading could not be recorded
 */
export const openJournalAccess = async (config: Config, store: string | undefined): Promise<JournalReading> => {
  if (store !== undefined) {
    const { client, close } = await openJournalFolder(store);
    process.stderr.write('sigillo: a copy of the journal: this reading is not recorded\n');
    return { client, record: async () => undefined, close };
  }
  return openJournalReading(config, { offline: !(await isJournalServed(config)) });
};
