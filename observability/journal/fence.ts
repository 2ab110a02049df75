/**
 * Keeps inserts out of a store that outlives its writers once nobody answers for them any more: those of a writer that died or stood
 * still, and those of this one whose outcome it does not know.
 *
 * The store itself decides, and no clock: every insert names the fence it was made under, and ClickHouse refuses it when a newer one
 * stands (`journal_fences`). An insert that began before the new fence stood is seen among the queries that run, and waited for. So what
 * the end of the journal is after `raise` has returned true stays its end, but for inserts under that fence.
 *
 * Tokens of deduplication cannot do that: each partition remembers its own, and two blocks behind one entry may lie in different ones.
 *
 * A fence alone does not tell who may raise one. Its holder uses it only after Redis has said, later, that it still has the lease: then
 * whoever takes the lease afterwards raises a newer one.
 */
import { randomBytes } from 'node:crypto';
import type { ClickHouseClient } from '@clickhouse/client';
import { SigilloError } from '../../config/errors.ts';
import { insertRows, jsonRows } from './clickhouse.ts';
import type { Engine } from './migrations.ts';

const numberDigits = 16;
/** Fences compare as text: by number, and those that were raised at once by chance. */
const behind = (newest: string): string => {
  const number = Number(newest.slice(0, numberDigits)) + 1;
  return `${String(number).padStart(numberDigits, '0')}-${randomBytes(16).toString('hex')}`;
};

/** What ClickHouse answers to an insert that throwIf refuses: FUNCTION_THROW_IF_VALUE_IS_NON_ZERO. */
const refusedCode = '395';

/** What replicas need so that a lagging one, or a minority, tells or takes nothing. */
export const quorum = { insert_quorum: 'auto', insert_quorum_parallel: 0, select_sequential_consistency: 1 } as const;

/**
 * Inserts of entries that ClickHouse works on now, also for clients that are gone. A replica that cannot be reached is taken for dead.
 * @throws JOURNAL_STORE_UNAVAILABLE
 */
export const insertsUnderWay = async (client: ClickHouseClient, engine?: Engine): Promise<number> => {
  const [processes, settings] =
    engine?.kind === 'replicated'
      ? [`clusterAllReplicas('${engine.cluster}', system.processes)`, ' SETTINGS skip_unavailable_shards = 1']
      : ['system.processes', ''];
  const rows = await jsonRows<{ n: string | number }>(client, {
    what: 'look for inserts under way',
    query: `SELECT count() AS n FROM ${processes}
      WHERE query LIKE 'INSERT INTO journal_events%' AND current_database = currentDatabase()${settings}`,
  });
  return Number(rows[0]?.n ?? 0);
};

/** The fence of one writer. */
export class Fence {
  readonly #client: ClickHouseClient;
  readonly #engine: Engine;
  /** undefined: an insert is out of which nobody knows yet what becomes of it. */
  #own: string | undefined;
  #stands = false;
  /** Nothing that began before it stood is under way. */
  #clear = false;

  constructor(client: ClickHouseClient, engine: Engine) {
    this.#client = client;
    this.#engine = engine;
  }

  /**
   * Shuts out every insert that was sent so far, and does nothing when what became of all of them is known.
   * @returns whether nothing of before can come any more; if not, something still runs: ask again
   * @throws JOURNAL_STORE_UNAVAILABLE
   */
  async raise(): Promise<boolean> {
    if (this.#clear) return true;
    if (!this.#stands) await this.#put();
    const own = this.#own;
    const clear = (await insertsUnderWay(this.#client, this.#engine)) === 0;
    // What was found out about one fence says nothing of a later one.
    if (clear && own !== undefined && this.#own === own) this.#clear = true;
    return this.#clear;
  }

  /** Nothing is sent before the next `raise`, which is to shut out whatever came in since the last one. */
  lower(): void {
    this.#own = undefined;
    this.#stands = false;
    this.#clear = false;
  }

  /** One that may have been stored, and nobody heard of it, is not stored again: an outage must not leave thousands of them. */
  async #put(): Promise<void> {
    const newest = await this.#newest();
    if (this.#own === undefined || newest > this.#own) this.#own = behind(newest);
    const own = this.#own;
    if (newest !== own) {
      await insertRows(this.#client, {
        what: 'shut out what was sent before',
        table: 'journal_fences',
        columns: { fence: 'String' },
        rows: Buffer.from([own.length, ...Buffer.from(own, 'latin1')]),
        settings: { async_insert: 0, ...(this.#engine.kind === 'replicated' ? quorum : {}) },
      });
    }
    if (this.#own === own) this.#stands = true;
  }

  async #newest(): Promise<string> {
    const consistently = this.#engine.kind === 'replicated' ? ' SETTINGS select_sequential_consistency = 1' : '';
    const question = { what: 'look who may insert', query: `SELECT max(fence) AS newest FROM journal_fences${consistently}` };
    return (await jsonRows<{ newest: string }>(this.#client, question))[0]?.newest ?? '';
  }

  /**
   * Sends an insert under this fence. When its outcome is not known, nothing more is sent before the next `raise`.
   * @param send gets the condition that ClickHouse is to check before it reads the first row
   * @throws JOURNAL_STORE_UNAVAILABLE when it is refused, or may not be sent, or what `send` throws
   */
  async pass(send: (condition: string) => Promise<void>): Promise<void> {
    const own = this.#own;
    if (own === undefined || !this.#clear) throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', 'What was sent before may still come.');
    // At once: whoever gives up waiting for this insert must not find the fence as good as before.
    this.lower();
    try {
      await send(`(SELECT throwIf(max(fence) != '${own}') FROM journal_fences) = 0`);
    } catch (error) {
      const { cause } = error as { cause?: { code?: unknown } };
      if (cause?.code !== refusedCode) throw error;
      throw new SigilloError('JOURNAL_STORE_UNAVAILABLE', 'Somebody else has begun to write since: nothing was stored.', { cause });
    }
    if (this.#own !== undefined) return;
    this.#own = own;
    this.#stands = true;
    this.#clear = true;
  }
}
