/**
 * Opens the journal for reading, wherever it is: the server of the configuration, the engine that the journal process of this
 * machine has embedded, or, when no such process runs, its folder in this process. One process alone can have a folder open.
 */
import { existsSync } from 'node:fs';
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import type { Config } from '../../config/schema.ts';
import { asking, embeddedClient, serverClient, socketClient } from './clickhouse.ts';

export interface OpenedJournal {
  readonly client: ClickHouseClient;
  /** `server`: by URL; `service`: through the running journal process; `files`: the folder, which no service has open. */
  readonly how: 'server' | 'service' | 'files';
  close(): Promise<void>;
}

/**
 * When the folder of an embedded store is opened in this process: `never`, as a `fallback` when no service answers, or `only` that.
 */
export type FilesUse = 'never' | 'fallback' | 'only';

/** A journal process that is there answers within milliseconds; one that stores a large block, within a second. */
const pingTimeoutMs = 5_000;

const opened = (client: ClickHouseClient, how: OpenedJournal['how']): OpenedJournal => ({ client, how, close: () => client.close() });

/**
 * Opens the folder of an embedded store in this process, which loads the engine: 300 MB.
 * @throws JOURNAL_STORE_UNAVAILABLE, also while another process has it open
 */
export const openJournalFolder = async (folder: string): Promise<OpenedJournal> => {
  // The engine would make a new store in a folder that is not there.
  if (!existsSync(folder)) throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', `There is none in ${folder}.`);
  return asking(`open ${folder}, which one process alone can`, async () => {
    const client = await embeddedClient(folder);
    // The engine opens it at the first question.
    await client.query({ query: 'SELECT 1', format: 'JSONEachRow' }).then((result) => result.text());
    return opened(client, 'files');
  });
};

/** A client of the journal process of this machine; undefined when none answers. */
const openService = async (socket: string): Promise<OpenedJournal | undefined> => {
  if (!existsSync(socket)) return undefined;
  const client = socketClient(socket);
  const { success } = await client.ping({ select: false, abort_signal: AbortSignal.timeout(pingTimeoutMs) });
  if (success) return opened(client, 'service');
  await client.close(); // a killed process leaves its socket behind
  return undefined;
};

/** Whether somebody else has the store: a server, or the running journal process of this machine. @throws CONFIG_UNREADABLE */
export const isJournalServed = async ({ journal, home }: Config): Promise<boolean> => {
  if (journal.url !== undefined) return true;
  const service = await openService(homePaths(home).journalSocket);
  await service?.close();
  return service !== undefined;
};

/**
 * Opens the journal of this configuration.
 * @param options `files` is `fallback` by default
 * @throws JOURNAL_STORE_UNAVAILABLE when it is nowhere, or open elsewhere; CONFIG_UNREADABLE for a password or CA file
 */
export const openJournal = async ({ journal, home }: Config, options: { readonly files?: FilesUse } = {}): Promise<OpenedJournal> => {
  const { files = 'fallback' } = options;
  const { url } = journal;
  if (url !== undefined) return opened(serverClient({ ...journal, url }), 'server');
  const { journalSocket, journalFolder } = homePaths(home);
  const service = files === 'only' ? undefined : await openService(journalSocket);
  if (service !== undefined) return service;
  if (files === 'never') throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', `No journal process answers on ${journalSocket}.`);
  return openJournalFolder(journalFolder);
};
