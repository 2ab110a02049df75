/**
 * A long outage of ClickHouse under full load, with blocks as the service cuts them by default: the spool takes all of it, nobody is
 * refused, and when the server is back it gets everything while the load goes on. `TEST_OUTAGE_MINUTES` makes it longer.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { ClickHouseRange, Drill } from '../support/clickhouse-drill.ts';
import { clickhouseServerMissing } from '../support/clickhouse-server.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { until } from '../support/service.ts';
import { describeLoad, type LoadRecord } from '../support/stamp-load.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const minutes = Number(process.env['TEST_OUTAGE_MINUTES'] ?? 3);
const isWanted = process.env['TEST_LONG'] !== undefined || process.env['TEST_OUTAGE_MINUTES'] !== undefined;
const skip =
  withoutSofthsm || redisServerMissing() || (await clickhouseServerMissing()) || (isWanted ? false : 'minutes: npm run test:long');
const database = 'sealed';
const sampleMs = 1_000;
const aroundMs = 20_000;
/** Entries of all streams: what the journal takes in two seconds. */
const waitingMax = 2_000;

const latencies = (records: readonly LoadRecord[], fromMs: number, toMs: number): string => {
  const sorted = records
    .filter(({ endedAt }) => endedAt >= fromMs && endedAt < toMs)
    .map(({ startedAt, endedAt }) => endedAt - startedAt)
    .toSorted((a, b) => a - b);
  const at = (share: number): string => (sorted[Math.floor((sorted.length - 1) * share)] ?? Number.NaN).toFixed(1);
  const rate = Math.round(sorted.length / ((toMs - fromMs) / 1_000));
  return `${rate.toLocaleString('en')}/s, p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, slowest ${at(1)} ms`;
};

describe('a long outage of ClickHouse', { skip }, () => {
  let range: ClickHouseRange;
  before(async () => {
    range = await ClickHouseRange.create();
    await range.startClickHouse();
  });
  after(() => range?.close());

  const rows = async (): Promise<number[]> => {
    const query = `SELECT count(), uniqExact(sequence), max(sequence) + 1, countIf(kind = 'timestamp.issued' AND actor = 'anonymous') FROM ${database}.journal_events`;
    return (await range.clickhouse.ask(query)).trim().split('\t').map(Number);
  };
  const monotonicMs = (): number => Number(process.hrtime.bigint()) / 1e6;
  const pause = (ms: number): Promise<unknown> => {
    const end = performance.now() + ms;
    return until('the time has passed', () => performance.now() >= end, ms + 10_000);
  };

  test(`${minutes} minutes: nothing is refused, nothing is lost, Redis stays short`, async (context) => {
    const service = await range.folder.start({ settings: { journal: { url: range.proxy.url, database } } });
    const drill = await Drill.start(service, { keep: false, sampleMs });
    try {
      await drill.granted(5_000);
      const began = monotonicMs();
      await pause(aroundMs);
      await range.clickhouse.stop('SIGKILL');
      const away = monotonicMs();
      await drill.untilSpooling();
      await pause(minutes * 60_000);
      const { spoolBytes } = drill.samples.at(-1) as { spoolBytes: number };
      const back = monotonicMs();
      await range.startClickHouse();
      await pause(aroundMs);
      const shipping = monotonicMs();
      const result = await drill.load.stop();
      await drill.untilSample(
        'all is in ClickHouse',
        ({ unshipped, waiting }) => unshipped === 0 && waiting === 0,
        (minutes + 5) * 120_000,
      );
      const shipped = monotonicMs();
      await drill.end();
      assert.equal(await service.stop(), 0, service.lastOutput);

      const { records } = result;
      context.diagnostic(`before: ${latencies(records, began, away)}`);
      context.diagnostic(`away:   ${latencies(records, away, back)}; ${Math.round(spoolBytes / 1e6)} MB in the spool at the end`);
      context.diagnostic(
        `back:   ${latencies(records, back, shipping)}; all in ClickHouse ${Math.round((shipped - back) / 1_000)} s after its start`,
      );
      assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result));
      assert.deepEqual(
        drill.samples.filter(({ ready }) => ready !== 200),
        [],
        '/readyz all the time',
      );
      const most = Math.max(...drill.samples.map(({ waiting }) => waiting));
      context.diagnostic(`at most ${most} entries waited in Redis`);
      assert.ok(most < waitingMax, `${most} entries waited in Redis`);
      const [count, distinct, size, issued] = await rows();
      assert.deepEqual([distinct, size], [count, count], 'without gap, and nothing twice');
      assert.equal(issued, result.counts['granted'], describeLoad(result));
    } finally {
      await drill.end();
    }
  });
});
