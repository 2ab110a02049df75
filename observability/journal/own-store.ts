/**
 * The store of a journal process while it is the writer: opened when it is first needed, and kept; an embedded one can be read by others
 * meanwhile.
 *
 * The embedded engine locks its folder for one process. So who is not the writer any more closes it, and does not open it again before
 * it is: the next writer of this home is another process.
 */
import { readdirSync, readlinkSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import { makePrivateFolder } from '../../config/private-folder.ts';
import type { Config } from '../../config/schema.ts';
import { embeddedClient, type ServerConfig, serverClient } from './clickhouse.ts';
import { within } from './deadline.ts';
import { type LocalServer, serveLocally } from './local-server.ts';
import { JournalStore } from './store.ts';

/** The engine lets go when what it works on is done: blocks and pages take milliseconds, a reader's question up to a minute. */
const releaseMsMax = 10_000;
const lookMs = 50;

/** Whether this process has the folder locked. The engine closes behind the back of its client, and tells nobody when it is done. */
const isLocked = (folder: string): boolean => {
  try {
    const lock = join(realpathSync(folder), 'status');
    return readdirSync('/proc/self/fd').some((fd) => {
      try {
        return readlinkSync(join('/proc/self/fd', fd)) === lock;
      } catch {
        return false; // closed meanwhile
      }
    });
  } catch {
    return false; // no folder, or a system that does not tell
  }
};

export class OwnStore {
  readonly #config: Config;
  readonly #onUnreadable: (error: unknown) => void;
  #store: Promise<JournalStore> | undefined;
  #reader: ClickHouseClient | undefined;
  #server: LocalServer | undefined;
  readonly #releaseMsMax: number;
  #taken = false;

  /** @param onUnreadable the embedded store can be written, but not be read by others */
  constructor(config: Config, onUnreadable: (error: unknown) => void, options: { readonly releaseMsMax: number } = { releaseMsMax }) {
    this.#config = config;
    this.#onUnreadable = onUnreadable;
    this.#releaseMsMax = options.releaseMsMax;
  }

  /** From now on it may be opened. Only who holds the lease may call it. */
  take(): void {
    this.#taken = true;
  }

  /** @throws JOURNAL_STORE_UNAVAILABLE, JOURNAL_SCHEMA */
  open(): Promise<JournalStore> {
    // What runs on beside a writer that has ended must not lock the folder again.
    if (!this.#taken) return Promise.reject(new SigilloError('JOURNAL_STORE_UNAVAILABLE', 'This process is not the writer any more.'));
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

  /**
   * Closes it, so that another process can open it.
   * @throws JOURNAL_STORE_UNAVAILABLE when the embedded engine keeps its folder: only the end of the process takes it away then
   */
  async release(): Promise<void> {
    if (!this.#taken) return;
    this.#taken = false;
    const { journal, home } = this.#config;
    const { journalFolder } = homePaths(home);
    try {
      const until = performance.now() + this.#releaseMsMax;
      await within(this.#releaseMsMax, this.#close());
      while (journal.url === undefined && isLocked(journalFolder)) {
        if (performance.now() > until) throw new Error('what it works on does not end');
        await delay(lookMs);
      }
    } catch (cause) {
      if (journal.url !== undefined) return; // nobody waits for its connections
      const message = `The embedded ClickHouse does not let go of ${journalFolder}: ${(cause as Error).message}`;
      throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', message, { cause });
    }
  }

  async #close(): Promise<void> {
    const store = await this.#store?.catch(() => undefined);
    const [server, reader] = [this.#server, this.#reader];
    this.#store = undefined;
    this.#server = undefined;
    this.#reader = undefined;
    // In this order: whoever opens the folder next makes a socket of the same name, which is not to be removed.
    await server?.close();
    await reader?.close();
    await store?.close();
  }
}
