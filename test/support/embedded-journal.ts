/** A journal in an embedded store, written as its writer does. One for each test process: the engine takes one folder. */
import { type ChainHead, headBehind, sealEvent } from '../../observability/journal/chain.ts';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import type { EventDraft } from '../../observability/journal/events.ts';
import { noOrigin } from '../../observability/journal/origin.ts';
import { JournalStore, type StoredEvent } from '../../observability/journal/store.ts';
import type { SoftwareTsu } from './software-tsu.ts';
import { temporaryFolder } from './token-home.ts';

export class EmbeddedJournal {
  readonly #folder;
  readonly store: JournalStore;
  /** Everything that was appended, in order. */
  readonly entries: StoredEvent[] = [];
  #head: ChainHead;

  private constructor(folder: { path: string; remove: () => void }, store: JournalStore, head: ChainHead) {
    this.#folder = folder;
    this.store = store;
    this.#head = head;
  }

  /** @param path where the engine keeps its data; a folder of its own by default, which `close` removes */
  static async open(path?: string): Promise<EmbeddedJournal> {
    const folder = path === undefined ? temporaryFolder() : { path, remove: () => undefined };
    const store = await JournalStore.open(await embeddedClient(folder.path));
    return new EmbeddedJournal(folder, store, await store.head());
  }

  get client(): JournalStore['client'] {
    return this.store.client;
  }

  async append(...drafts: readonly EventDraft[]): Promise<StoredEvent[]> {
    const block = drafts.map((draft) => {
      const sealed = sealEvent(this.#head, draft);
      this.#head = headBehind(sealed);
      return { ...sealed, origin: noOrigin };
    });
    await this.store.insert(block);
    this.entries.push(...block);
    return block;
  }

  async close(): Promise<void> {
    await this.store.close();
    this.#folder.remove();
  }
}

const common = { unixMicros: 1_795_000_000_000_000, clock: 'unverified', node: 'node', outcome: 'success' } as const;

/** The event that records the chain of a TSU. */
export const publishedEvent = (tsu: SoftwareTsu, chain: readonly Uint8Array[] = tsu.chain): EventDraft => ({
  ...common,
  kind: 'tsu.published',
  role: 'system',
  actor: 'signer',
  subject: tsu.identity.certificate.fingerprint256.replaceAll(':', '').toLowerCase(),
  detail: { chain: Buffer.concat(chain) },
});
