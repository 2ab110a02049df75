/** Partitions of journal_events: a class of retention and a month (UTC) each. What is asked of them here reads no entries. */
import type { ClickHouseClient } from '@clickhouse/client';
import { jsonRows } from './clickhouse.ts';

/** A partition of journal_events. */
export interface Partition {
  /** Class of retention; one that the catalogue does not know is somebody else's. */
  readonly retention: string;
  /** Year and month, such as 202611. */
  readonly month: number;
  /** Rows in it. */
  readonly entries: number;
}

type PartitionKey = Pick<Partition, 'retention' | 'month'>;

/** As system.parts shows a value of the partition key. */
const keyPattern = /^\('([a-z]+)', ?(\d{6})\)$/;

/** Name of a partition in events and in journal_expired. */
export const partitionName = ({ retention, month }: PartitionKey): string => `${retention}-${month}`;

/** The condition by which ClickHouse looks at the parts of one partition only. */
export const inPartition = ({ retention, month }: PartitionKey): string =>
  `retention = '${retention}' AND toYYYYMM(fromUnixTimestamp64Micro(toInt64(unixMicros), 'UTC')) = ${month}`;

/**
 * The partitions that are there, the oldest month first, by the list of parts that the engine holds in memory: to group the rows
 * themselves would read two columns of the whole journal.
 * @throws JOURNAL_STORE_UNAVAILABLE
 */
export const listPartitions = async (client: ClickHouseClient): Promise<Partition[]> => {
  const rows = await jsonRows<{ key: string; entries: number }>(client, {
    what: 'list the partitions',
    query: `SELECT partition AS key, toFloat64(sum(rows)) AS entries FROM system.parts
      WHERE database = currentDatabase() AND table = 'journal_events' AND active GROUP BY partition ORDER BY partition`,
  });
  const partitions = rows.flatMap(({ key, entries }): Partition[] => {
    const [, retention, month] = keyPattern.exec(key) ?? [];
    return retention === undefined || entries === 0 ? [] : [{ retention, month: Number(month), entries }];
  });
  return partitions.toSorted((a, b) => a.month - b.month);
};
