/**
 * What is done beside the writer while it writes: expired entries go, what is stored is looked through for damage, and the subtrees
 * of the Merkle tree and the table that stamps are found by are kept up to date.
 *
 * It never ends by itself: what cannot be done now is told, and tried again.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import type { Config } from '../../config/schema.ts';
import type { Logger } from '../log.ts';
import type { SealedEvent } from './chain.ts';
import type { Checkpoint } from './checkpoint.ts';
import type { Complaints } from './complaints.ts';
import type { MerkleTree } from './merkle.ts';
import type { OwnStore } from './own-store.ts';
import { JournalReader } from './reader.ts';
import type { TellClock } from './recorder.ts';
import { expirePartitions } from './retention.ts';
import { brokenParts, missingEntries, PartScrubber } from './scrub.ts';
import { runScrubRounds, scrubPauseMs } from './scrub-rounds.ts';
import { StampLookup } from './stamp-lookup.ts';
import { resumeTree, type TreeRecorder } from './tree-store.ts';
import type { JournalWriter } from './writer.ts';

export interface HousekeepingOptions {
  readonly store: OwnStore;
  readonly months: Config['journal']['retentionMonths'];
  readonly log: Logger;
  readonly complaints: Complaints;
  /** What is known about the clock of this host. */
  readonly clock: TellClock;
}

const damageCharactersMax = 500;
/** Partitions are of months: a few looks a day are enough. */
const expiryEveryMs = 6 * 3_600_000;
const expiryRetryMs = 60_000;
/** A proof reads entries where subtrees are missing: those of the last second. */
const treeEveryMs = 1_000;
/** A segment of the table of stamps is full after a second or so under full load. */
const lookupEveryMs = 1_000;
/** While it is behind, blocks are stored between one segment and the next, which takes 30 ms. */
const lookupPauseMs = 20;
/** A part of the table is lost when the engine starts and finds it broken; a server starts without this process. */
const lookupCheckEveryMs = 24 * 3_600_000;

/** Of one process, for all the times in which it writes. */
export class Housekeeping {
  readonly #store: OwnStore;
  readonly #months: HousekeepingOptions['months'];
  readonly #log: Logger;
  readonly #complaints: Complaints;
  readonly #clock: TellClock;
  /** Keeps the stored subtrees; undefined until the store can tell where they end. */
  #tree: TreeRecorder | undefined;
  #damage: string | undefined;

  constructor({ store, months, log, complaints, clock }: HousekeepingOptions) {
    this.#store = store;
    this.#months = months;
    this.#log = log;
    this.#complaints = complaints;
    this.#clock = clock;
  }

  /** What is wrong with what is stored, for people; it stays until a restart finds it gone. */
  get damage(): string | undefined {
    return this.#damage;
  }

  /** Does the chores until the signal; it never fails. */
  async run(writer: JournalWriter, signal: AbortSignal): Promise<void> {
    await Promise.all([
      this.#expire(writer, signal),
      this.#keepTree(writer, signal),
      this.#keepLookup(writer, signal),
      this.#scrub(writer, signal),
    ]);
  }

  /** The tree of a writer that begins behind so many entries. @throws JOURNAL_STORE_UNAVAILABLE */
  async resumeTree(size: number, checkpoint: Checkpoint | undefined): Promise<MerkleTree> {
    const { client } = await this.#store.open();
    const fitting = checkpoint !== undefined && checkpoint.size <= size ? checkpoint : undefined;
    const { tree, recorder } = await resumeTree(new JournalReader(client), size, fitting);
    this.#tree = recorder;
    return tree;
  }

  /** In order: a block that does not follow what the recorder has was read by it from the store already, or makes it start anew. */
  noteStored(block: readonly SealedEvent[]): void {
    for (const { event, hash } of block) {
      if (this.#tree === undefined || event.sequence < this.#tree.size) continue;
      if (event.sequence > this.#tree.size) this.#tree = undefined;
      else this.#tree.append(hash);
    }
  }

  /** The writer has ended: the next one, here or elsewhere, begins with a tree of its own. */
  async leaveTree(): Promise<void> {
    await this.#tree?.flush().catch(() => undefined); // it is made again from the entries
    this.#tree = undefined;
  }

  /** Stores the subtrees now and then; proofs read entries where they are missing. */
  async #keepTree(writer: JournalWriter, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await delay(treeEveryMs, undefined, { signal }).catch(() => undefined); // its end by the abort
      if (writer.storeDown || signal.aborted) continue;
      try {
        const { client } = await this.#store.open();
        this.#tree ??= (await resumeTree(new JournalReader(client), writer.head.size - (writer.unshipped ?? 0))).recorder;
        await this.#tree.flush();
      } catch (error) {
        this.#complaints.say(error, 'journal: subtrees are not stored');
      }
    }
  }

  /** Takes stored entries into the table of stamps, and all of them again when some are missing there. */
  async #keepLookup(writer: JournalWriter, signal: AbortSignal): Promise<void> {
    let lookup: StampLookup | undefined;
    let checkAt = 0;
    while (!signal.aborted) {
      let isBehind = false;
      try {
        if (!writer.storeDown) {
          lookup ??= new StampLookup({ client: (await this.#store.open()).client });
          if (performance.now() >= checkAt) {
            const missing = await lookup.mend();
            if (missing > 0) this.#log.warn({ missing }, 'journal: the table of stamps lacks entries and is made again');
            checkAt = performance.now() + lookupCheckEveryMs;
          }
          isBehind = await lookup.extend(writer.head.size - (writer.unshipped ?? 0));
        }
      } catch (error) {
        if (!signal.aborted) this.#complaints.say(error, 'journal: the table of stamps is not kept');
      }
      await delay(isBehind ? lookupPauseMs : lookupEveryMs, undefined, { signal }).catch(() => undefined); // its end by the abort
    }
  }

  async #expire(writer: JournalWriter, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let pauseMs = expiryRetryMs;
      if (!writer.storeDown && writer.unshipped === 0) {
        try {
          const { client } = await this.#store.open();
          const gone = await expirePartitions({
            client,
            months: this.#months,
            now: () => new Date(),
            append: (draft) => writer.append(draft),
            exclusively: (work) => writer.exclusively(work),
            clock: this.#clock,
            signal,
          });
          for (const partition of gone) this.#log.info({ partition }, 'journal: entries whose time is over are gone');
          pauseMs = expiryEveryMs;
        } catch (error) {
          if (error instanceof SigilloError && error.code === 'JOURNAL_STORE_DAMAGED') {
            // That needs people; everything else that was over has gone.
            this.#alarm(error.message);
            pauseMs = expiryEveryMs;
          } else if (!signal.aborted) this.#complaints.say(error, 'journal: expired entries are still there');
        }
      }
      await delay(pauseMs, undefined, { signal }).catch(() => undefined); // its end by the abort
    }
  }

  /** Looks for entries that are missing and files that are torn; what it finds stays an alarm until a restart finds it gone. */
  #scrub(writer: JournalWriter, signal: AbortSignal): Promise<void> {
    return runScrubRounds({
      begin: () => this.#beginRound(writer),
      isDown: () => writer.storeDown,
      onDamage: (damaged) => this.#alarm([...damaged].map(([part, why]) => `${part}: ${why}`).join('; ')),
      onFailure: (error) => this.#complaints.say(error, 'journal: the store cannot be checked'),
      pause: (ms) => delay(ms, undefined, { signal }).catch(() => undefined), // its end by the abort
      signal,
    });
  }

  /** Compares what is there with what must be, which reads a column of all of it: once a round. */
  async #beginRound(writer: JournalWriter): Promise<PartScrubber> {
    const { client } = await this.#store.open();
    const missing = await this.#missing(client, writer);
    const broken = await brokenParts(client);
    const faults = [
      ...(missing === 0 ? [] : [`${missing} entries are not in the store`]),
      ...(broken.length === 0 ? [] : [`ClickHouse found broken and moved aside: ${broken.join(', ')}`]),
    ];
    if (faults.length > 0) this.#alarm(faults.join('; '));
    return new PartScrubber(client);
  }

  /** Asked again before it counts: between two questions a partition may expire. */
  async #missing(client: ClickHouseClient, writer: JournalWriter): Promise<number> {
    const ask = (): Promise<number> => missingEntries(client, writer.head.size - (writer.unshipped ?? 0));
    if ((await ask()) === 0) return 0;
    await delay(scrubPauseMs);
    return ask();
  }

  #alarm(damage: string): void {
    this.#damage = damage.slice(0, damageCharactersMax);
    const error = new SigilloError('JOURNAL_STORE_DAMAGED', this.#damage);
    this.#log.error({ err: error }, 'journal: what is stored is not what was stored');
  }
}
