/** What was answered is in the journal, whatever is killed: every token once, bit for bit, in a chain without gap. */
import assert from 'node:assert/strict';
import { after, afterEach, describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { homePaths } from '../../config/home.ts';
import { type ChainHead, emptyChain, followChain, headBehind } from '../../observability/journal/chain.ts';
import { embeddedClient } from '../../observability/journal/clickhouse.ts';
import { JournalReader } from '../../observability/journal/reader.ts';
import { journalClient } from '../../observability/journal/writer-options.ts';
import { readTimeStampResp } from '../../pki/tsp-read.ts';
import { redisServerMissing } from '../support/redis-server.ts';
import { isRunning, type Service, ServiceFolder, until } from '../support/service.ts';
import { describeLoad, type KeptAnswer, type LoadResult, startLoad } from '../support/stamp-load.ts';
import { withoutSofthsm } from '../support/token-home.ts';

const skip = withoutSofthsm || redisServerMissing();
const long = process.env['TEST_LONG'] !== undefined;
const connections = 64;
const victims = ['journal', 'signer', 'redis'] as const;
const settings = { journal: { checkpoint: { seconds: 1 } } };

const folder = new ServiceFolder();
after(folder.remove);
// A test that fails must not take the next one with it.
afterEach(folder.killAll);

/** The whole journal of a service that was stopped. */
const readJournal = async (): Promise<{
  tokens: Map<string, Buffer>;
  /** Entries whose serial number is that of an earlier one. */
  again: number[];
  stamps: number;
  checkpoints: number;
  entries: number;
}> => {
  const client = await embeddedClient(homePaths(folder.home).journalFolder);
  const tokens = new Map<string, Buffer>();
  let head: ChainHead = emptyChain;
  const again: number[] = [];
  let stamps = 0;
  let checkpoints = 0;
  try {
    const reader = new JournalReader(client);
    for await (const place of reader.read(0, await reader.size())) {
      assert.ok(place.kind === 'entry');
      const step = followChain(head, place.octets);
      assert.ok(step.kind === 'follows', JSON.stringify(step));
      const { event } = step.sealed;
      head = headBehind(step.sealed);
      if (event.kind === 'journal.checkpoint') checkpoints += 1;
      if (event.kind !== 'timestamp.issued' || event.actor === journalClient) continue;
      stamps += 1;
      if (tokens.has(event.subject)) again.push(event.sequence);
      tokens.set(event.subject, Buffer.from(event.detail.token));
    }
  } finally {
    await client.close();
  }
  return { tokens, again, stamps, checkpoints, entries: head.size };
};

const assertArchived = async (kept: readonly KeptAnswer[], log: () => string, report: (text: string) => void): Promise<void> => {
  const { tokens, again, stamps, checkpoints, entries } = await readJournal();
  // Where they are tells which writer took them again: the log has the entry that each begins with.
  assert.equal(again.length, 0, `serial numbers are there twice: entries ${again[0]} to ${again.at(-1)} of ${entries}\n${log()}`);
  const known = new Set([...tokens.values()].map((token) => token.toString('base64')));
  const missing = kept.filter(({ response }) => {
    const { timeStampToken } = readTimeStampResp(response);
    return timeStampToken === undefined || !known.has(Buffer.from(timeStampToken).toString('base64'));
  });
  report(`${kept.length} granted, ${stamps} stamps among ${entries} entries, ${checkpoints} checkpoints`);
  assert.equal(missing.length, 0, 'granted answers that the journal does not know');
  assert.ok(checkpoints > 0);
};

const assertVerifies = async (service: Service): Promise<void> => {
  const { code, stdout, stderr } = await folder.command(service, 'journal', 'verify', '--json');
  assert.equal(code, 0, stdout + stderr);
};

/** A stop leaves in Redis what the journal had no time for: here it is to be counted. */
const untilWritten = async (service: Service): Promise<void> => {
  const isWritten = async (): Promise<boolean> => {
    const metrics = await service.metrics();
    const waiting = [...metrics.matchAll(/^journal_waiting_entries\{[^}]*\} (\d+)$/gm)].map(([, entries]) => Number(entries));
    return /^journal_active 1$/m.test(metrics) && waiting.length > 0 && waiting.every((entries) => entries === 0);
  };
  await until(() => `the journal has everything${service.lastOutput}`, isWritten, 60_000);
};

const killAndWait = async (service: Service, name: (typeof victims)[number]): Promise<void> => {
  const pid = service.requirePid(name);
  process.kill(pid, 'SIGKILL');
  await until(`the end of ${name}`, () => !isRunning(pid));
  await until(
    () => `another ${name}${service.lastOutput}`,
    () => service.pidOf(name) !== undefined,
    30_000,
  );
  await service.untilReady(60_000);
};

describe('the journal, when processes are killed at full load', { skip }, () => {
  const kills = long ? 50 : 6;
  test(`${kills} times, at random moments, the journal, the signer or Redis`, async (context) => {
    const results: LoadResult[] = [];
    const outputs: string[] = [];
    // A load that lasts would keep more answers than memory has room for.
    const killsEach = 6;
    let last: Service | undefined;
    for (let done = 0; done < kills; done += killsEach) {
      const service = await folder.start({ settings });
      last = service;
      const load = await startLoad({ port: service.port, connections, keep: true });
      context.after(load.abort);
      for (let i = done; i < Math.min(kills, done + killsEach); i += 1) {
        const victim = victims[i < victims.length ? i : Math.floor(Math.random() * victims.length)] as (typeof victims)[number];
        // At any moment of a block, a checkpoint or an append-only write: this is the one place where time itself is what varies.
        await delay(Math.random() * 1_500);
        await load.untilGranted(load.granted() + 100, 60_000);
        await killAndWait(service, victim);
      }
      const result = await load.stop();
      context.diagnostic(describeLoad(result));
      for (const outcome of Object.keys(result.counts))
        assert.ok(['granted', 'busy', 'refused:systemFailure'].includes(outcome), describeLoad(result));
      results.push(result);
      await service.untilReady(30_000);
      await untilWritten(service);
      assert.equal(await service.stop(), 0, service.lastOutput);
      outputs.push(service.output);
    }
    await assertArchived(
      results.flatMap(({ kept }) => kept),
      () => outputs.join('\n'),
      (text) => context.diagnostic(text),
    );
    await assertVerifies(last as Service);
  });

  test('everything at once, as in a power cut: what was answered is there after the next start', async (context) => {
    const kept: KeptAnswer[] = [];
    for (let i = 0; i < (long ? 5 : 1); i += 1) {
      const service = await folder.start({ settings });
      const load = await startLoad({ port: service.port, connections, keep: true });
      context.after(load.abort);
      await load.untilGranted(1_000, 60_000);
      await delay(Math.random() * 1_000);
      folder.killAll();
      kept.push(...(await load.stop()).kept);
    }
    const service = await folder.start({ settings });
    await until(
      'a checkpoint over it',
      async () => /^journal_checkpoints_total\{outcome="made"\} [1-9]/m.test(await service.metrics()),
      60_000,
    );
    await untilWritten(service);
    assert.equal(await service.stop(), 0, service.lastOutput);
    await assertArchived(
      kept,
      () => service.output,
      (text) => context.diagnostic(text),
    );
    await assertVerifies(service);
  });
});
