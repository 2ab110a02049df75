/** What a journal process counts. Labels come from closed sets. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

export interface JournalGauges {
  /** 1 while this process writes, 0 while it stands by. */
  active(): number;
  storeUp(): number;
  /** Entries in the journal. */
  size(): number;
  /** Entries that are durable, but not in the store. */
  unshipped(): number;
  spoolOctets(): number;
  spoolOctetsMax(): number;
  /** Free on its disk; undefined while it is not known. */
  spoolDiskFree(): number | undefined;
  /** 1 when the store is not what was stored. */
  damaged(): number;
  /** Seconds since the newest checkpoint; undefined while there is none. */
  checkpointAge(): number | undefined;
}

export interface JournalMetrics {
  readonly registry: Registry;
  sealed(entries: number, lagSeconds: number): void;
  quarantined(): void;
  storeFailed(): void;
  checkpoint(outcome: 'made' | 'unstamped' | 'failed'): void;
}

const lagBuckets = [0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3_600];

export const createJournalMetrics = (gauges: JournalGauges): JournalMetrics => {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const counter = (name: string, help: string): Counter => new Counter({ name, help, registers });
  const gauge = (name: string, help: string, read: () => number | undefined): void => {
    new Gauge({
      name,
      help,
      registers,
      collect() {
        const value = read();
        if (value === undefined) this.remove();
        else this.set(value);
      },
    });
  };
  const sealed = counter('journal_entries_total', 'Entries that this process made durable.');
  const quarantined = counter('journal_quarantined_total', 'Entries that could not be read, or did not fit their kind.');
  const storeFailures = counter('journal_store_failures_total', 'Conversations with ClickHouse that failed.');
  const checkpoints = new Counter({ name: 'journal_checkpoints_total', help: 'Checkpoints.', labelNames: ['outcome'], registers });
  // An alarm looks at growth, and the first failure is growth only of what was there before.
  for (const outcome of ['made', 'unstamped', 'failed']) checkpoints.inc({ outcome }, 0);
  const lag = new Histogram({
    name: 'journal_lag_seconds',
    help: 'Age of the oldest event of a block when the block was durable.',
    buckets: lagBuckets,
    registers,
  });
  gauge('journal_active', '1 while this process is the writer.', gauges.active);
  gauge('journal_store_up', '1 while ClickHouse takes blocks.', gauges.storeUp);
  gauge('journal_size', 'Entries in the journal.', gauges.size);
  gauge('journal_unshipped', 'Entries that are durable in the spool, but not in ClickHouse yet.', gauges.unshipped);
  gauge('journal_spool_bytes', 'Octets in the spool.', gauges.spoolOctets);
  gauge('journal_spool_limit_bytes', 'Bound of the spool.', gauges.spoolOctetsMax);
  gauge('journal_spool_disk_free_bytes', 'Octets that are free on the disk of the spool.', gauges.spoolDiskFree);
  gauge('journal_store_damaged', '1 when entries are missing in ClickHouse, or its files are torn.', gauges.damaged);
  gauge('journal_checkpoint_age_seconds', 'Time since the newest checkpoint.', gauges.checkpointAge);
  return {
    registry,
    sealed(entries, lagSeconds) {
      sealed.inc(entries);
      if (entries > 0) lag.observe(lagSeconds);
    },
    quarantined: () => quarantined.inc(),
    storeFailed: () => storeFailures.inc(),
    checkpoint: (outcome) => checkpoints.inc({ outcome }),
  };
};
