/**
 * The journal process: writes while it holds the lease, stands by while another does. While it writes it also makes the checkpoints
 * and keeps house (housekeeping.ts).
 *
 * Whatever stops it from writing is told (log, metrics, /readyz) and tried again. It ends by itself for one reason: it is not the writer
 * any more, and the embedded engine keeps the folder from the one that is.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import { release } from '../../config/release.ts';
import type { Config } from '../../config/schema.ts';
import { requestCheckpointSignature } from '../../queue/checkpoint-signing.ts';
import { HostClock } from '../../queue/host-clock.ts';
import { journalKeys } from '../../queue/keys.ts';
import { Lease } from '../../queue/lease.ts';
import { connectRedis, type RedisClient, redisHealth, whenReady } from '../../queue/redis.ts';
import { logConnection } from '../connection-log.ts';
import type { Logger } from '../log.ts';
import type { HealthItem } from '../ops-app.ts';
import { registerRecorderMetrics } from '../recorder-metrics.ts';
import { Checkpointer } from './checkpointer.ts';
import { type Complaints, createComplaints } from './complaints.ts';
import { Housekeeping } from './housekeeping.ts';
import { readJournalKey, readKeptCheckpoint } from './kept-checkpoint.ts';
import { createJournalMetrics, type JournalMetrics } from './metrics.ts';
import { OwnStore } from './own-store.ts';
import { type JournalRecorder, nodeName, type TellClock } from './recorder.ts';
import { createSelfStamping, type SelfStamping } from './self-stamp.ts';
import { recordStart, recordStop } from './service-events.ts';
import { createServiceRecorder } from './service-recorder.ts';
import { Spool } from './spool.ts';
import { SpoolWatch } from './spool-watch.ts';
import { oldestWaitingSeconds, registerWaitingAge } from './waiting-age.ts';
import { JournalWriter } from './writer.ts';

export interface JournalService {
  /** Resolves when it cannot go on in this process. */
  readonly failed: Promise<Error>;
  metrics(): Promise<unknown>;
  health(): Promise<readonly HealthItem[]>;
  stop(reason: string): Promise<void>;
}

const processName = 'journal';
/** A takeover must not wait for a check of a large part. */
const besideMsMax = 2_000;
/** A dead writer is followed within its length and one look: under 4 s. */
const leaseMs = 3_000;
const leaseRenewMs = 750;
const retryMs = 1_000;
/** A journal that starts before Redis gives it so long before it complains. */
const redisPatienceMs = 5_000;
/** A signer answers within milliseconds; without one the checkpoint is made later. */
const signDeadlineMs = 5_000;

const spoolOctetsMax = ({ journal }: Config): number => journal.spool.megabytesMax * 1_000_000;

class Journal implements JournalService {
  readonly #config: Config;
  readonly #log: Logger;
  readonly #redis: RedisClient;
  readonly #blocking: RedisClient;
  readonly #lease: Lease;
  readonly #store: OwnStore;
  readonly #metrics: JournalMetrics;
  readonly #recorder: JournalRecorder;
  readonly #clock: TellClock;
  readonly #stamping: SelfStamping;
  readonly #checkpointer: Checkpointer;
  readonly #complaints: Complaints;
  readonly #housekeeping: Housekeeping;
  readonly #spoolWatch: SpoolWatch;
  readonly #stopping = new AbortController();
  readonly #failure = Promise.withResolvers<Error>();
  #writer: JournalWriter | undefined;
  #spool: Spool | undefined;
  #fault: string | undefined;
  #storeFault: string | undefined;
  #standingBy = false;
  /** Neither store nor spool take what is to be written. */
  #noRoom = false;
  #running: Promise<void> = Promise.resolve();

  constructor(config: Config, log: Logger) {
    this.#config = config;
    this.#log = log;
    this.#complaints = createComplaints(log);
    this.#redis = this.#connect('journal', 'command');
    this.#blocking = this.#connect('journal-reader', 'blocking');
    this.#clock = new HostClock({ redis: this.#redis, node: nodeName() }).state;
    this.#lease = new Lease(this.#redis, { key: journalKeys.writer, lengthMs: leaseMs });
    this.#store = new OwnStore(config, (error) => this.#complaints.say(error, 'journal: other processes cannot read it'));
    const { retentionMonths: months } = config.journal;
    this.#housekeeping = new Housekeeping({ store: this.#store, months, log, complaints: this.#complaints, clock: this.#clock });
    this.#recorder = createServiceRecorder(this.#redis, processName, log, this.#clock);
    this.#stamping = createSelfStamping(config.timestamp, { command: this.#redis, blocking: this.#blocking });
    this.#checkpointer = this.#createCheckpointer();
    this.#spoolWatch = new SpoolWatch({ log, spool: () => this.#spool });
    this.#metrics = createJournalMetrics({
      active: () => (this.#writer === undefined ? 0 : 1),
      storeUp: () => (this.#writer?.storeDown === false ? 1 : 0),
      size: () => this.#writer?.head.size ?? 0,
      unshipped: () => this.#writer?.unshipped ?? 0,
      spoolOctets: () => this.#spool?.octets ?? 0,
      spoolOctetsMax: () => spoolOctetsMax(config),
      spoolDiskFree: () => this.#spoolWatch.free,
      checkpointAge: () => this.#checkpointer.ageSeconds,
      damaged: () => (this.#housekeeping.damage === undefined ? 0 : 1),
    });
    registerWaitingAge(this.#metrics.registry, () => oldestWaitingSeconds(this.#redis));
    registerRecorderMetrics(this.#metrics.registry, () => this.#recorder.lost);
  }

  start(): void {
    void recordStart(this.#recorder, this.#redis, { process: processName, config: this.#config, version: release });
    this.#running = this.#run();
  }

  get failed(): Promise<Error> {
    return this.#failure.promise;
  }

  metrics(): Promise<unknown> {
    return this.#metrics.registry.getMetricsAsJSON();
  }

  async health(): Promise<readonly HealthItem[]> {
    const writer = this.#writer;
    const idle = this.#standingBy ? 'standing by, another process writes' : (this.#fault ?? 'starting');
    const items: HealthItem[] = [
      await redisHealth(this.#redis),
      {
        name: 'journal',
        ok: this.#fault === undefined && !this.#noRoom && (writer !== undefined || this.#standingBy),
        detail:
          writer === undefined ? idle : this.#noRoom ? 'no room left for what is to be written' : `writing, ${writer.head.size} entries`,
      },
    ];
    // Alarms, and no reason to refuse work.
    const { warning } = this.#spoolWatch;
    if (writer !== undefined && warning !== undefined)
      items.push({ name: 'journal spool', ok: true, detail: `RUNS OUT OF ROOM: ${warning}` });
    // Without its store the journal goes on in the spool: an alarm, and no reason to refuse work.
    if (writer !== undefined) {
      const { damage } = this.#housekeeping;
      if (damage !== undefined) items.push({ name: 'journal store', ok: true, detail: `DAMAGED: ${damage}` });
      const detail = writer.storeDown
        ? `away, ${this.#spool?.octets ?? 0} octets in the spool: ${this.#storeFault ?? 'not known why'}`
        : `${writer.unshipped ?? 0} entries behind`;
      if (damage === undefined) items.push({ name: 'journal store', ok: true, detail });
    }
    return items;
  }

  async stop(reason: string): Promise<void> {
    // The end of the journal process is told by itself, while it can still write it.
    recordStop(this.#recorder, processName, reason);
    await this.#recorder.close();
    this.#spoolWatch.close();
    this.#stopping.abort();
    await this.#running;
    await this.#stamping.close();
    this.#redis.disconnect();
    this.#blocking.disconnect();
  }

  #connect(name: string, role: 'command' | 'blocking'): RedisClient {
    const client = connectRedis(this.#config, name, role);
    logConnection(client, name, this.#log);
    return client;
  }

  #createCheckpointer(): Checkpointer {
    const { journal, home } = this.#config;
    const { journalCheckpoint, journalKey } = homePaths(home);
    return new Checkpointer({
      redis: this.#redis,
      origin: journal.origin,
      ...journal.checkpoint,
      file: journalCheckpoint,
      clock: this.#clock,
      sign: async (text, signal) => {
        const signed = await requestCheckpointSignature(this.#redis, text, { deadlineMs: signDeadlineMs, signal });
        const known = readJournalKey(journalKey);
        // Whoever can write to Redis can answer: only our key counts. A host without signers has no copy of it.
        if (known !== undefined && !known.equals(signed.spki)) throw new SigilloError('HSM_KEY_MISMATCH', `${journalKey}, checkpoint`);
        return signed;
      },
      stamp: (digest) => this.#stamping.stamp(digest),
      on: {
        made: (outcome, error) => {
          this.#metrics.checkpoint(outcome);
          if (outcome !== 'made') this.#complaints.say(error, `journal: checkpoint ${outcome}`);
        },
        notKept: (error) => this.#complaints.say(error, 'journal: the newest checkpoint is not kept in the home folder'),
      },
    });
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    await whenReady(this.#redis, redisPatienceMs).catch(() => undefined); // what is wrong is told below
    while (!signal.aborted) {
      try {
        if (await this.#lease.acquire()) {
          this.#standingBy = false;
          await this.#writeWhileHeld(signal);
        } else {
          this.#standingBy = true;
          this.#fault = undefined;
          await delay(leaseRenewMs, undefined, { signal });
        }
      } catch (error) {
        if (signal.aborted) break;
        this.#standingBy = false;
        this.#fault = error instanceof Error ? error.message : String(error);
        this.#complaints.say(error, 'journal: it cannot be written, trying again');
        await delay(retryMs, undefined, { signal }).catch(() => undefined); // its end by the stop
      }
    }
  }

  /** Writes until the stop, or throws when it cannot go on or the lease is lost. */
  async #writeWhileHeld(stop: AbortSignal): Promise<void> {
    const ended = new AbortController();
    const beside: Promise<void>[] = [this.#renew(ended.signal)];
    this.#store.take();
    try {
      const writer = await this.#openWriter();
      this.#log.info({ entries: writer.head.size, store: writer.storeDown ? 'away' : 'there' }, 'journal: writing');
      this.#writer = writer;
      this.#fault = undefined;
      this.#complaints.over();
      const side = AbortSignal.any([stop, ended.signal]);
      beside.push(this.#checkpointer.run(writer, side), this.#housekeeping.run(writer, side));
      await writer.run(stop);
    } finally {
      this.#writer = undefined;
      ended.abort();
      // What still reads or hashes is nobody's any more: it ends by itself, and can write nothing.
      await Promise.race([Promise.all(beside), delay(besideMsMax)]);
      await this.#housekeeping.leaveTree();
      // Before the lease: the next writer opens it.
      const released = this.#store.release().catch((error: Error) => this.#failure.resolve(error));
      // A process that stops lets go by its end, and is to stop in time.
      await (stop.aborted ? Promise.race([released, delay(besideMsMax)]) : released);
      await this.#lease.release().catch(() => undefined); // it ends by itself
    }
  }

  async #openWriter(): Promise<JournalWriter> {
    const { journal, home } = this.#config;
    const paths = homePaths(home);
    const checkpoint = await readKeptCheckpoint(this.#redis, paths, journal.origin);
    // Opened anew each time: after a fault what is on disk counts, not what was remembered.
    const spool = await Spool.open(journal.spool.folder ?? paths.journalSpool, spoolOctetsMax(this.#config));
    this.#spool = spool;
    void this.#spoolWatch.look();
    const writer = await JournalWriter.open({
      redis: this.#redis,
      node: nodeName(),
      holder: this.#lease.holder,
      stateMayBeOld: journal.durability !== 'fsync' || !['embedded', 'url'].includes(this.#config.redis.mode),
      heldForMs: () => this.#lease.heldForMs,
      openStore: () => this.#store.open(),
      spool,
      block: journal.block,
      clock: this.#clock,
      resumeTree: (size) => this.#housekeeping.resumeTree(size, checkpoint),
      onStored: (block) => this.#housekeeping.noteStored(block),
      on: {
        sealed: (entries, lagSeconds) => {
          this.#noRoom = false;
          this.#metrics.sealed(entries, lagSeconds);
        },
        quarantined: (origin, error) => {
          this.#metrics.quarantined();
          this.#log.error({ origin, err: error }, 'journal: an entry cannot be read, it goes into quarantine');
        },
        storeFailed: (error) => {
          this.#metrics.storeFailed();
          this.#storeFault = error instanceof Error ? error.message : String(error);
          this.#complaints.say(error, 'journal: ClickHouse does not take blocks, they go into the spool');
        },
        storeBack: (shipped) => {
          this.#storeFault = undefined;
          this.#complaints.over();
          this.#log.info({ shipped }, 'journal: ClickHouse has all that was in the spool');
        },
        spoolFull: (error) => {
          this.#noRoom = true;
          this.#complaints.say(error, 'journal: no room left, new work will be refused');
        },
        strayBlocks: (folder) =>
          this.#log.warn(
            { folder },
            'journal: blocks of a writer that had lost the lease were set aside; what is in them was still in Redis, and is in the journal',
          ),
      },
    });
    if (checkpoint !== undefined && checkpoint.size > writer.head.size) {
      const missing = `${writer.head.size} to ${checkpoint.size - 1}`;
      throw new SigilloError('JOURNAL_SHORTENED', `Entries ${missing} are under a checkpoint, and not there.`);
    }
    return writer;
  }

  async #renew(ended: AbortSignal): Promise<void> {
    while (!ended.aborted) {
      await delay(leaseRenewMs, undefined, { signal: ended }).catch(() => undefined); // its end by the abort
      if (ended.aborted) return;
      // A renewal that fails is tried again; the writer looks at what is left of the lease before each block.
      await this.#lease.acquire().catch((error: unknown) => this.#complaints.say(error, 'journal: the lease cannot be renewed'));
    }
  }
}

/** Starts a journal process. It does not wait for Redis or ClickHouse. */
export const startJournal = (config: Config, log: Logger): Promise<JournalService> => {
  const journal = new Journal(config, log);
  journal.start();
  return Promise.resolve(journal);
};
