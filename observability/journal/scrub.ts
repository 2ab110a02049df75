/**
 * Looks whether what is stored is still what was stored: that no entry is missing, and that the files hold what the engine has
 * summed up. A disk can lose what nobody reads for years; an engine that finds a broken file at its start moves it aside and says
 * nothing. What is found here is an alarm; `sigillo journal verify` then names the entries.
 */
import type { ClickHouseClient } from '@clickhouse/client';
import { jsonRows } from './clickhouse.ts';
import { inPartition, listPartitions, partitionName } from './partitions.ts';

/**
 * How many entries below a size are neither there nor expired. A hash that is kept counts only where its entry is gone: what expires
 * has both for a moment, so partitions that are still there are looked at one by one.
 * @throws JOURNAL_STORE_UNAVAILABLE
 */
export const missingEntries = async (client: ClickHouseClient, size: number): Promise<number> => {
  const count = async (what: string, query: string, parameters?: { partition: string }): Promise<number> => {
    const rows = await jsonRows<{ n: string | number }>(client, { what, query, ...(parameters === undefined ? {} : { parameters }) });
    return Number(rows[0]?.n ?? 0);
  };
  const entries = await count('count the entries', `SELECT count() AS n FROM journal_events WHERE sequence < ${size}`);
  const expired = await jsonRows<{ partition: string; n: string | number }>(client, {
    what: 'count what expired',
    query: `SELECT toString(partition) AS partition, count() AS n FROM journal_expired FINAL WHERE sequence < ${size} GROUP BY partition`,
  });
  const active = new Map((await listPartitions(client)).map((one) => [partitionName(one), one]));
  let gone = 0;
  for (const { partition, n } of expired) {
    const there = active.get(partition);
    const stillThere =
      there === undefined
        ? 0
        : await count(
            'count what is about to expire',
            `SELECT count() AS n FROM journal_events WHERE ${inPartition(there)} AND sequence < ${size}
              AND sequence IN (SELECT sequence FROM journal_expired WHERE partition = {partition:String})`,
            { partition },
          );
    gone += Number(n) - stillThere;
  }
  return size - entries - gone;
};

/** Parts that the engine found broken and moved aside, whether or not it had another copy. @throws JOURNAL_STORE_UNAVAILABLE */
export const brokenParts = async (client: ClickHouseClient): Promise<string[]> => {
  const rows = await jsonRows<{ name: string }>(client, {
    what: 'list the parts that were moved aside',
    query:
      "SELECT name FROM system.detached_parts WHERE database = currentDatabase() AND table = 'journal_events' AND reason LIKE 'broken%'",
  });
  return rows.map(({ name }) => name);
};

interface PartCheck {
  readonly part_path: string;
  readonly is_passed: number;
  readonly message: string;
}

/** Checks the files of the store, a part at a time, the newest first. */
export class PartScrubber {
  readonly #client: ClickHouseClient;
  #waiting: string[] | undefined;
  readonly #damaged = new Map<string, string>();
  /** Parts of this round that could not be checked. */
  readonly #failed = new Set<string>();

  constructor(client: ClickHouseClient) {
    this.#client = client;
  }

  /** Parts that are not what was written, with what the engine says of them. */
  get damaged(): ReadonlyMap<string, string> {
    return this.#damaged;
  }

  /** Parts of this round that were not looked at yet. */
  get untried(): number {
    return this.#waiting?.filter((part) => !this.#failed.has(part)).length ?? 0;
  }

  /**
   * Checks one part that was there when the round began.
   * @returns false when the round is over; the next call begins another
   * @throws JOURNAL_STORE_UNAVAILABLE when it could not be checked: it comes again when the others of the round are done
   */
  async next(): Promise<boolean> {
    this.#waiting ??= await this.#list();
    const part = this.#waiting.shift();
    if (part === undefined) {
      this.#waiting = undefined;
      this.#failed.clear();
      return false;
    }
    try {
      for (const { is_passed, message } of await this.#check(part)) if (is_passed !== 1) this.#damaged.set(part, message);
    } catch (error) {
      this.#waiting.push(part);
      this.#failed.add(part);
      throw error;
    }
    return true;
  }

  async #list(): Promise<string[]> {
    const rows = await jsonRows<{ name: string }>(this.#client, {
      what: 'list the parts',
      query: `SELECT name FROM system.parts WHERE database = currentDatabase() AND table = 'journal_events' AND active
        ORDER BY modification_time`,
    });
    return rows.map(({ name }) => name).toReversed();
  }

  /** A part that was merged into another meanwhile is no more; the other was written a moment ago. */
  async #check(part: string): Promise<PartCheck[]> {
    try {
      return await jsonRows<PartCheck>(this.#client, {
        what: `check part ${part}`,
        query: `CHECK TABLE journal_events PART '${part}' SETTINGS check_query_single_value_result = 0`,
      });
    } catch (error) {
      const gone = !(await this.#list()).includes(part);
      if (gone) return [];
      throw error;
    }
  }
}
