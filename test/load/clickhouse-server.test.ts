/**
 * The journal in a real ClickHouse server, which is stopped, killed, and fails in other ways under load: no request is refused because
 * of it, and afterwards every stamp that was granted is in the server once.
 *
 * The proxy in front of the server stores a block twice when it is sent twice. So what is shown here does not rest on tokens of
 * deduplication, but on the writer, which asks the store where it stands before it sends again, and on the fence, which keeps out a
 * block that arrives when nobody waits for it any more.
 */
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, type TestContext, test } from 'node:test';
import { ClickHouseRange, type Drill } from '../support/clickhouse-drill.ts';
import { type Fault, noFault } from '../support/clickhouse-proxy.ts';
import { clickhouseServerMissing } from '../support/clickhouse-server.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { type Service, until } from '../support/service.ts';
import { describeLoad, type LoadResult } from '../support/stamp-load.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing() || (await clickhouseServerMissing());
const long = process.env['TEST_LONG'] !== undefined;
/** Redis holds what the journal takes in a second or two; a store that says nothing is waited for, for 5 seconds. */
const waitingMax = 20_000;

/** Stamps that make a fault last for a good many blocks. */
const enough = 1_500;
/** Entries of all streams together. */
const shortMax = 200;

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
const randomFrom = (seed: number): (() => number) => {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
};

describe('ClickHouse fails under load', { skip }, () => {
  let range: ClickHouseRange;
  before(async () => {
    range = await ClickHouseRange.create();
  });
  beforeEach(() => range.repair());
  after(() => range.close());

  const report = (context: TestContext, { samples }: Drill, result: LoadResult): void => {
    const most = (key: 'waiting' | 'spoolBytes' | 'unshipped'): number => Math.max(...samples.map((sample) => sample[key]));
    const { faults, stored, unheard, tokensAgain, refused } = range.proxy.seen;
    context.diagnostic(
      `${describeLoad(result)}; ${range.entries} entries; at most ${most('waiting')} waiting, ${most('unshipped')} unshipped, ` +
        `${most('spoolBytes')} octets in the spool; so far ${faults} faults, ${stored} inserts stored, ${unheard} of them unheard, ` +
        `${tokensAgain} sent again, ${refused} refused`,
    );
  };
  /** Nobody was refused, and nobody sent elsewhere. */
  const assertServed = ({ samples }: Drill, result: LoadResult): void => {
    assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result));
    const unready = samples.filter(({ ready }) => ready !== 200);
    assert.deepEqual(unready, [], '/readyz all the time');
    assert.ok(samples.every(({ waiting }) => waiting < waitingMax / 10));
  };

  /** Somebody notices, and then nobody; clients never. */
  const assertOutage = async (drill: Drill, end: () => Promise<void>): Promise<void> => {
    const { spoolBytes } = await drill.untilSpooling();
    await drill.granted(enough);
    await drill.untilSample(
      'the spool grows, and Redis stays short',
      (sample) => sample.spoolBytes > spoolBytes && sample.waiting < shortMax,
    );
    await end();
  };
  /** The journal sends again what it has spooled; with a load it takes its time. */
  const untilShipping = async (): Promise<void> => {
    const { stored } = range.proxy.seen;
    await until('ClickHouse takes blocks', () => range.proxy.seen.stored >= stored + 2, 60_000);
  };

  /** Says in which step something went wrong. */
  const named = async (name: string, step: () => Promise<void>): Promise<void> => {
    try {
      await step();
    } catch (error) {
      (error as Error).message = `${name}: ${(error as Error).message}`;
      throw error;
    }
  };

  const killJournal = async ({ service }: Drill): Promise<void> => {
    const pid = service.requirePid('journal');
    process.kill(pid, 'SIGKILL');
    await until('another journal process', () => {
      const now = service.pidOf('journal');
      return now !== undefined && now !== pid;
    });
  };

  const kinds = ['refuse', 'error', 'doneWithError', 'doneUnheard', 'cutAnswer', 'trickle', 'slow', 'silent', 'stop', 'kill'] as const;
  /** One fault for a while; then perhaps none, and perhaps until something was stored. */
  const anything = async (drill: Drill, random: () => number): Promise<void> => {
    const kind = kinds[Math.floor(random() * kinds.length)] as (typeof kinds)[number];
    if (kind === 'stop' || kind === 'kill') await range.clickhouse.stop(kind === 'stop' ? 'SIGTERM' : 'SIGKILL');
    else await range.proxy.set(kind === 'slow' ? { kind, ms: Math.floor(random() * 1_000) } : { kind });
    await drill.granted(Math.floor(random() * 3_000));
    if (random() < 0.3) return;
    await range.repairClickHouse();
    if (random() < 0.7) await untilShipping();
  };

  test('the first start ever is before ClickHouse is there: nothing is refused, and all of it is taken later', async (context) => {
    await range.clickhouse.stop();
    const start = async (): Promise<Service> => {
      const service = await range.folder.spawn(range.options);
      await until('the gateway serves', async () => (await fetch(`${service.origin}/`).catch(() => undefined)) !== undefined, 120_000);
      return service;
    };
    const { drill, result } = await range.drill(async (drill) => {
      // Only the store could tell whether there is a journal already.
      await drill.untilSample('nobody writes, and /readyz says so', ({ active, ready }) => active === 0 && ready === 503);
      await drill.granted(1_000);
      await range.startClickHouse();
      await drill.untilShipped();
      await drill.service.untilReady();
    }, start);
    report(context, drill, result);
    assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result));
  });

  test('it is stopped in order, and killed, and comes back seconds later', async (context) => {
    const { drill, result } = await range.drill(async (drill) => {
      for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
        await range.clickhouse.stop(signal);
        await assertOutage(drill, () => range.startClickHouse());
        await drill.untilShipped();
      }
    });
    report(context, drill, result);
    assertServed(drill, result);
  });

  test('each way to fail, one after the other', async (context) => {
    const { drill, result } = await range.drill(async (drill) => {
      for (const fault of [{ kind: 'trickle' }, { kind: 'slow', ms: 300 }] satisfies Fault[]) {
        await named(fault.kind, async () => {
          const from = drill.samples.length;
          await range.proxy.set(fault);
          await drill.granted(enough);
          await range.proxy.set(noFault);
          await drill.untilShipped();
          assert.ok(drill.samples.slice(from).every(({ storeUp }) => storeUp === 1));
        });
      }
      // Each begins while the last one is not made up for yet; but one that stores a block and keeps it to itself takes a block to do so.
      for (const kind of ['refuse', 'error', 'doneWithError', 'doneUnheard', 'cutAnswer', 'silent'] as const) {
        await named(kind, async () => {
          const stores = ['doneWithError', 'doneUnheard', 'cutAnswer'].includes(kind);
          if (stores) await drill.untilShipped();
          const { unheard } = range.proxy.seen;
          await range.proxy.set({ kind });
          if (stores) await until('a block is stored, and nobody hears of it', () => range.proxy.seen.unheard > unheard);
          await assertOutage(drill, () => range.proxy.set(noFault));
          await untilShipping();
        });
      }
    });
    report(context, drill, result);
    assertServed(drill, result);
  });

  test('the service starts while it is away, and its journal process is killed, then and while it comes back', async (context) => {
    await range.clickhouse.stop();
    const { drill, result } = await range.drill(async (drill) => {
      await drill.untilSpooling();
      await killJournal(drill);
      await drill.untilSpooling();
      await drill.granted(enough);
      // So that there is an insert under way when it dies.
      await range.proxy.set({ kind: 'slow', ms: 50 });
      await range.startClickHouse();
      await untilShipping();
      await killJournal(drill);
      await range.proxy.set(noFault);
    });
    report(context, drill, result);
    assert.deepEqual(Object.keys(result.counts), ['granted'], describeLoad(result));
  });

  test('inserts that are done when nobody waits for them any more: they are refused', async (context) => {
    const before = { ...range.proxy.seen };
    const { drill, result } = await range.drill(async (drill) => {
      await range.proxy.set({ kind: 'late', ms: 6_000 });
      await assertOutage(drill, () => range.proxy.set(noFault));
      await range.proxy.settled();
    });
    report(context, drill, result);
    assertServed(drill, result);
    assert.ok(range.proxy.seen.refused > before.refused);
  });

  // What it finds by chance the tests before ask for by name.
  for (let life = 1; life <= (long ? 20 : 0); life += 1) {
    test(`anything at any time, ${life}`, async (context) => {
      const seed = Number(process.env['TEST_SEED'] ?? Math.floor(Math.random() * 2 ** 32));
      context.diagnostic(`TEST_SEED=${seed}`);
      const random = randomFrom(seed);
      const { drill, result } = await range.drill(async (drill) => {
        for (let i = 0; i < 20; i += 1) await anything(drill, random);
        await range.repairClickHouse();
      });
      report(context, drill, result);
      assertServed(drill, result);
    });
  }

  test('it is away until the spool is full: new work is refused, nothing is lost, and it goes on when it is back', async (context) => {
    const { settings } = range.options as { settings: { journal: object } };
    const small = { settings: { journal: { ...settings.journal, spool: { megabytesMax: 1 }, waitingMax: 200 } } };
    const { drill, result } = await range.drill(
      async (running) => {
        await range.proxy.set({ kind: 'refuse' });
        await running.untilSample('work is refused', ({ ready }) => ready === 503);
        await until('clients are told', () => running.load.count('busy') > 100);
        const backlog = (await running.service.readiness())?.dependencies.filter(({ ok }) => !ok).map(({ name }) => name);
        assert.deepEqual(backlog?.toSorted(), ['journal', 'journal backlog']);
        await range.proxy.set(noFault);
        await running.untilShipped();
        await running.untilSample('work is taken again', ({ ready }) => ready === 200);
        await running.granted(300);
      },
      () => range.folder.start(small),
    );
    report(context, drill, result);
    assert.deepEqual(Object.keys(result.counts).toSorted(), ['busy', 'granted']);
  });

  test('a store that takes a second for each insert: Redis stays short', async () => {
    await range.drill(async (drill) => {
      await range.proxy.set({ kind: 'slow', ms: 1_000 });
      await drill.granted(long ? 50_000 : 5_000);
      await drill.untilSample('Redis is short', ({ waiting }) => waiting < shortMax / 10, 10_000);
    });
  });

  // The last one: if it failed, it would split the journal.
  test('the journal process dies, and its insert is done when another one writes', async () => {
    const { refused } = range.proxy.seen;
    await range.drill(async (drill) => {
      const { held } = range.proxy.seen;
      await range.proxy.set({ kind: 'late', ms: 7_000 });
      await until('an insert is under way', () => range.proxy.seen.held > held);
      await range.proxy.set(noFault);
      await killJournal(drill);
      await drill.untilShipped();
      await range.proxy.settled();
      assert.ok(range.proxy.seen.refused > refused);
    });
  });
});
