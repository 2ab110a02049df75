/** The store of a journal process: opened when it is first needed, and kept; an embedded one can be read by others meanwhile. */
import { dirname } from 'node:path';
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import { makePrivateFolder } from '../../config/private-folder.ts';
import type { Config } from '../../config/schema.ts';
import { embeddedClient, type ServerConfig, serverClient } from './clickhouse.ts';
import { type LocalServer, serveLocally } from './local-server.ts';
import { JournalStore } from './store.ts';

export class OwnStore {
  readonly #config: Config;
  readonly #onUnreadable: (error: unknown) => void;
  #store: Promise<JournalStore> | undefined;
  #reader: ClickHouseClient | undefined;
  #server: LocalServer | undefined;

  /** @param onUnreadable the embedded store can be written, but not be read by others */
  constructor(config: Config, onUnreadable: (error: unknown) => void) {
    this.#config = config;
    this.#onUnreadable = onUnreadable;
  }

  /** @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_SCHEMA */
  open(): Promise<JournalStore> {
    this.#store ??= this.#open().catch((error: unknown) => {
      this.#store = undefined;
      throw error;
    });
    return this.#store;
  }

  async #open(): Promise<JournalStore> {
    const { journal, home } = this.#config;
    if (journal.url !== undefined) {
      const client = serverClient(journal as ServerConfig);
      const engine =
        journal.replicatedCluster === undefined
          ? ({ kind: 'single' } as const)
          : ({ kind: 'replicated', cluster: journal.replicatedCluster } as const);
      return JournalStore.open(client, engine).catch(async (error: unknown) => {
        await client.close();
        throw error;
      });
    }
    const { journalFolder, journalSocket } = homePaths(home);
    try {
      makePrivateFolder(dirname(journalFolder));
      makePrivateFolder(dirname(journalSocket));
      const client = await embeddedClient(journalFolder);
      const store = await JournalStore.open(client).catch(async (error: unknown) => {
        await client.close();
        throw error;
      });
      await this.#serve(journalFolder, journalSocket);
      return store;
    } catch (cause) {
      if (cause instanceof SigilloError) throw cause;
      throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', `The embedded ClickHouse in ${journalFolder}: ${(cause as Error).message}`, {
        cause,
      });
    }
  }

  /** That nobody can read is no reason not to write. */
  async #serve(folder: string, socket: string): Promise<void> {
    try {
      this.#reader ??= await embeddedClient(folder);
      this.#server ??= await serveLocally(socket, this.#reader);
    } catch (error) {
      this.#onUnreadable(error);
    }
  }

  async close(): Promise<void> {
    await this.#server?.close();
    await this.#reader?.close();
    const store = await this.#store?.catch(() => undefined);
    await store?.close();
  }
}
