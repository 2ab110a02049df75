/**
 * The journal alone: one Redis, one journal process with ClickHouse embedded, and events put into the lane's stream as signers do.
 * Measures whether it keeps up with a rate (lag, memory, CPU), how fast it works off what has gathered, against the raw insert of the
 * same rows into the same engine, and how fast all of it is verified.
 */
import { type ChildProcess, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { homePaths } from '../config/home.ts';
import { laneKeys } from '../queue/keys.ts';
import { makeAnswerBlock } from './answer-blocks.ts';
import { Helper, onCleanup, removeAtEnd } from './child-process.ts';
import type { Progress } from './measure.ts';
import { residentBytesOfStatus, ticksOfStat } from './process-tree.ts';
import type { RawInsertAnswer, RawInsertJob } from './raw-insert.ts';
import { formatTable } from './report.ts';
import { median } from './statistics.ts';
import { measureVerify } from './verify-rate.ts';

export interface JournalBenchOptions {
  /** Events a second that it must keep up with. */
  readonly eventsPerSecond: number;
  readonly seconds: number;
  /** Events that have gathered when it starts. */
  readonly backlog: number;
}

export interface JournalBenchResult {
  readonly text: string;
  readonly data: Readonly<Record<string, unknown>>;
  readonly passed: boolean;
}

const stampsPerBlock = 64;
/** Blocks are made before they are needed; so many different ones are enough that none compresses with its like. */
const differentBlocks = 400;
const lane = laneKeys('timestamp').journal;
const readyMsMax = 30_000;
const sampleMs = 250;
const residentBytesMax = 600e6;
const lagSecondsMax = 2;
const rowBytesMax = 250;
const verifiedPerSecondMin = 100_000;
const ticksPerSecond = 100;

interface Target {
  readonly what: string;
  readonly measured: number;
  readonly most: number;
  readonly unit: string;
}

interface Speed {
  readonly what: string;
  readonly measured: number;
  readonly least: number;
}

interface Bench {
  readonly folder: string;
  readonly redis: Redis;
  readonly socket: string;
  readonly blocks: readonly Buffer[];
}

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  await once(server.close(), 'close');
  return port;
};

const startRedis = async (folder: string): Promise<{ redis: Redis; socket: string }> => {
  const socket = join(folder, 'redis.sock');
  const parameters = [
    '--port',
    '0',
    '--unixsocket',
    socket,
    '--dir',
    folder,
    '--save',
    '',
    '--appendonly',
    'yes',
    '--appendfsync',
    'everysec',
  ];
  const child = spawn('redis-server', parameters, { stdio: 'ignore', detached: true });
  onCleanup(() => void child.kill('SIGKILL'));
  const redis = new Redis({ path: socket, retryStrategy: () => 20 });
  onCleanup(() => redis.disconnect());
  redis.on('error', () => undefined); // refused until the server listens
  while (redis.status !== 'ready') await delay(20);
  return { redis, socket };
};

interface Journal {
  readonly pid: number;
  /** Values of /metrics by name, labels included. */
  metrics(): Promise<ReadonlyMap<string, number>>;
  stop(): Promise<void>;
}

const startJournal = async ({ folder, socket }: Bench): Promise<Journal> => {
  const port = await freePort();
  const child: ChildProcess = fork(fileURLToPath(new URL('../bin/journal.ts', import.meta.url)), [], {
    execArgv: ['--max-semi-space-size=4', '--v8-pool-size=1'], // as bin/supervisor.ts starts it
    detached: true,
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    env: {
      ...process.env,
      SIGILLO_HOME: folder,
      SIGILLO_OPS_PORT: String(port),
      SIGILLO__REDIS: JSON.stringify({ mode: 'url', url: `unix://${socket}` }),
      SIGILLO__LOG__LEVEL: 'error',
      // No signer is there to sign them.
      SIGILLO__JOURNAL__CHECKPOINT__SECONDS: '86400',
      SIGILLO__JOURNAL__CHECKPOINT__EVENTS: '10000000',
    },
  });
  const stop = onCleanup(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGTERM');
    await ended;
  });
  let id = 0;
  const metrics = async (): Promise<ReadonlyMap<string, number>> => {
    id += 1;
    child.send({ type: 'ask', id, what: 'metrics' });
    for (;;) {
      const [message] = (await once(child, 'message')) as [{ type: string; id: number; value: { name: string; values: Metric[] }[] }];
      if (message.type === 'answer' && message.id === id) return byName(message.value);
    }
  };
  await once(child, 'message'); // ready
  return { pid: child.pid as number, metrics, stop };
};

interface Metric {
  readonly value: number;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly metricName?: string;
}

const byName = (metrics: readonly { name: string; values: Metric[] }[]): ReadonlyMap<string, number> =>
  new Map(
    metrics.flatMap(({ name, values }) =>
      values.map(({ value, labels, metricName }) => [[metricName ?? name, ...Object.values(labels)].join(' '), value] as const),
    ),
  );

const cpuSeconds = (pid: number): number => ticksOfStat(readFileSync(`/proc/${pid}/stat`, 'utf8')) / ticksPerSecond;
const resident = (pid: number): number => residentBytesOfStatus(readFileSync(`/proc/${pid}/status`, 'utf8'));

const untilSize = async (journal: Journal, size: number, onSample: () => void = () => undefined): Promise<void> => {
  const deadline = performance.now() + readyMsMax + size / 5;
  while (((await journal.metrics()).get('journal_size') ?? 0) < size) {
    if (performance.now() > deadline) throw new Error(`the journal does not reach ${size} entries`);
    onSample();
    await delay(sampleMs / 5);
  }
};

/** Puts blocks into the stream by the clock. */
const feed = async ({ redis, blocks }: Bench, eventsPerSecond: number, seconds: number): Promise<number> => {
  const total = Math.ceil((eventsPerSecond * seconds) / stampsPerBlock);
  const started = performance.now();
  for (let sent = 0; sent < total; ) {
    const due = Math.min(total, Math.ceil((((performance.now() - started) / 1_000) * eventsPerSecond) / stampsPerBlock));
    const waits: Promise<unknown>[] = [];
    for (; sent < due; sent += 1) waits.push(redis.xadd(lane, '*', 'b', blocks[sent % blocks.length] as Buffer));
    await Promise.all(waits);
    await delay(5);
  }
  return total * stampsPerBlock;
};

/** The largest bucket that anything fell into, as its upper bound. */
const longestLag = (metrics: ReadonlyMap<string, number>): number => {
  const buckets = [...metrics]
    .flatMap(([name, value]) => {
      const [, bound] = /^journal_lag_seconds_bucket (.+)$/.exec(name) ?? [];
      return bound === undefined ? [] : [[bound === '+Inf' ? Number.POSITIVE_INFINITY : Number(bound), value] as const];
    })
    .toSorted(([a], [b]) => a - b);
  const all = buckets.at(-1)?.[1] ?? 0;
  return buckets.find(([, count]) => count === all)?.[0] ?? 0;
};

const measureRate = async (bench: Bench, options: JournalBenchOptions) => {
  const journal = await startJournal(bench);
  await untilSize(journal, 1);
  const before = await journal.metrics();
  const size = before.get('journal_size') ?? 0;
  const cpu = cpuSeconds(journal.pid);
  const memory: number[] = [];
  const sampler = setInterval(() => memory.push(resident(journal.pid)), sampleMs);
  const started = performance.now();
  const events = await feed(bench, options.eventsPerSecond, options.seconds);
  const fedSeconds = (performance.now() - started) / 1_000;
  await untilSize(journal, size + events);
  const behindSeconds = (performance.now() - started) / 1_000 - fedSeconds;
  clearInterval(sampler);
  const after = await journal.metrics();
  const blocks = (after.get('journal_lag_seconds_count') ?? 0) - (before.get('journal_lag_seconds_count') ?? 0);
  const lagSum = (after.get('journal_lag_seconds_sum') ?? 0) - (before.get('journal_lag_seconds_sum') ?? 0);
  const result = {
    eventsPerSecond: events / fedSeconds,
    lagSecondsMax: longestLag(after),
    lagSecondsMean: lagSum / blocks,
    behindSeconds,
    cpuMicros: ((cpuSeconds(journal.pid) - cpu) / events) * 1e6,
    residentBytesMax: Math.max(...memory),
    residentBytesMedian: median(memory),
  };
  await journal.stop();
  return result;
};

const measureBacklog = async (bench: Bench, backlog: number) => {
  await feed(bench, 1e9, backlog / 1e9);
  const journal = await startJournal(bench);
  const memory: number[] = [];
  let began: { atMs: number; size: number; cpu: number } | undefined;
  const waiting = (): Promise<number> => bench.redis.xlen(lane);
  while ((await waiting()) > 0) {
    const size = (await journal.metrics()).get('journal_size') ?? 0;
    // From its first block: what it takes to load the engine is not speed.
    if (began === undefined && size > 0) began = { atMs: performance.now(), size, cpu: cpuSeconds(journal.pid) };
    memory.push(resident(journal.pid));
    await delay(sampleMs / 5);
  }
  const { atMs, size, cpu } = began ?? { atMs: 0, size: 0, cpu: 0 };
  const events = ((await journal.metrics()).get('journal_size') ?? 0) - size;
  const result = {
    eventsPerSecond: events / ((performance.now() - atMs) / 1_000),
    cpuMicros: ((cpuSeconds(journal.pid) - cpu) / events) * 1e6,
    residentBytesMax: Math.max(...memory),
  };
  await journal.stop();
  return result;
};

const measureRaw = async (bench: Bench): Promise<RawInsertAnswer> => {
  const helper = new Helper<RawInsertJob, RawInsertAnswer | { failure: string }>('./raw-insert.ts');
  const answer = await helper.ask({ folder: join(bench.folder, 'raw'), blocks: bench.blocks.slice(0, 200) });
  await helper.stop();
  return answer;
};

const megabytes = (bytes: number): string => `${Math.round(bytes / 1e6)} MB`;
const rate = (value: number): string => `${Math.round(value).toLocaleString('en')}/s`;

export const benchJournal = async (options: JournalBenchOptions, say: Progress): Promise<JournalBenchResult> => {
  const folder = mkdtempSync(join(tmpdir(), 'sigillo-bench-journal-'));
  removeAtEnd(folder);
  const { redis, socket } = await startRedis(folder);
  const bench: Bench = { folder, redis, socket, blocks: Array.from({ length: differentBlocks }, () => makeAnswerBlock(stampsPerBlock)) };
  const raw = await measureRaw(bench);
  say(`raw insert: ${rate(raw.rowsPerSecond)}`);
  const steady = await measureRate(bench, options);
  say(`${rate(options.eventsPerSecond)} for ${options.seconds} s: lag at most ${steady.lagSecondsMax} s`);
  const backlog = await measureBacklog(bench, options.backlog);
  say(`backlog of ${options.backlog.toLocaleString('en')}: ${rate(backlog.eventsPerSecond)}`);
  const verify = await measureVerify(folder, homePaths(folder).journalFolder);
  say(`journal verify: ${verify.entries.toLocaleString('en')} entries, ${rate(verify.entriesPerSecond)}`);
  const targets: Target[] = [
    { what: 'lag at a steady rate', measured: steady.lagSecondsMax, most: lagSecondsMax, unit: 's' },
    {
      what: 'resident memory at a steady rate',
      measured: Math.round(steady.residentBytesMax / 1e6),
      most: residentBytesMax / 1e6,
      unit: 'MB',
    },
    { what: 'a stamp on disk', measured: Math.round(raw.bytesPerRow), most: rowBytesMax, unit: 'bytes' },
  ];
  const speeds: Speed[] = [
    { what: 'a backlog', measured: backlog.eventsPerSecond, least: options.eventsPerSecond },
    {
      what: `journal verify, ${verify.entries.toLocaleString('en')} entries`,
      measured: verify.entriesPerSecond,
      least: verifiedPerSecondMin,
    },
  ];
  const passed = targets.every(({ measured, most }) => measured <= most) && speeds.every(({ measured, least }) => measured >= least);
  const table = formatTable(
    ['', 'events', 'of raw', 'lag mean', 'lag max', 'behind at the end', 'CPU an event', 'resident max'],
    [
      ['raw insert of rows, one block after the other', rate(raw.rowsPerSecond), '1.00', '', '', '', `${raw.cpuMicros.toFixed(1)} µs`, ''],
      [
        `steady for ${options.seconds} s`,
        rate(steady.eventsPerSecond),
        '',
        `${steady.lagSecondsMean.toFixed(2)} s`,
        `≤ ${steady.lagSecondsMax} s`,
        `${steady.behindSeconds.toFixed(2)} s`,
        `${steady.cpuMicros.toFixed(1)} µs`,
        megabytes(steady.residentBytesMax),
      ],
      [
        `backlog of ${options.backlog.toLocaleString('en')}`,
        rate(backlog.eventsPerSecond),
        (backlog.eventsPerSecond / raw.rowsPerSecond).toFixed(2),
        '',
        '',
        '',
        `${backlog.cpuMicros.toFixed(1)} µs`,
        megabytes(backlog.residentBytesMax),
      ],
    ],
  );
  const judged = formatTable(
    ['target', 'measured', '', 'wanted', ''],
    [
      ...targets.map(({ what, measured, most, unit }) => [
        what,
        `${measured} ${unit}`,
        'at most',
        `${most} ${unit}`,
        measured <= most ? 'pass' : 'MISSED',
      ]),
      ...speeds.map(({ what, measured, least }) => [what, rate(measured), 'at least', rate(least), measured >= least ? 'pass' : 'MISSED']),
    ],
  );
  return { text: `${table}\n\n${judged}`, data: { options, raw, steady, backlog, verify }, passed };
};
