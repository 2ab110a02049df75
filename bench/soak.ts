/**
 * The soak: a million stamps at 64 connections, while memory of every process and length of every stream are looked at once a
 * second. Answers whether anything grows that should not.
 */
import { Redis } from 'ioredis';
import { homePaths } from '../config/home.ts';
import type { TsuAlgorithm } from '../config/schema.ts';
import { Helper, onCleanup } from './child-process.ts';
import { checkCorrectness } from './correctness.ts';
import type { LoadAnswer, LoadJob, LoadResult } from './load-job.ts';
import { bulkStamps, type Progress } from './measure.ts';
import type { Durability, Plan } from './options.ts';
import { readResidentBytes } from './process-tree.ts';
import { formatTable } from './report.ts';
import { queryTemplate } from './requests.ts';
import { startService } from './service.ts';
import { type Growth, judgeSoak, residentBytesMax, type SoakSample } from './soak-growth.ts';
import { drawSoak } from './soak-picture.ts';

export interface SoakOptions {
  readonly algorithm: TsuAlgorithm;
  readonly threads: number;
  readonly durability: Durability;
  readonly stamps: number;
  readonly plan: Plan;
  readonly resultsFolder: string;
}

const connections = 64;
const sampleMs = 1_000;
/** Length of every stream in Redis, whatever its name. */
const streamLengths = async (redis: Redis): Promise<Record<string, number>> => {
  const lengths: Record<string, number> = {};
  let cursor = '0';
  do {
    const [next, keys] = await redis.scan(cursor, 'COUNT', 1_000, 'TYPE', 'stream');
    for (const key of keys) lengths[key] = await redis.xlen(key);
    cursor = next;
  } while (cursor !== '0');
  return lengths;
};

const formatSoak = (growths: readonly Growth[], load: LoadResult): string => {
  const amount = (one: Growth, value: number): string =>
    one.what.endsWith('bytes') ? `${(value / 1e6).toFixed(1)} MB` : Math.round(value).toLocaleString('en');
  const table = formatTable(
    ['', 'middle of the run', 'end', 'maximum', 'a minute', ''],
    growths.map((one) => [
      one.what,
      amount(one, one.early),
      amount(one, one.late),
      amount(one, one.max),
      amount(one, one.perMinute),
      one.passed ? 'flat' : 'NOT FLAT',
    ]),
  );
  const rate = Math.round(load.stampsPerSecond).toLocaleString('en');
  const { p50, p99, p999 } = load.latencyMs;
  return [
    `${load.stamps.toLocaleString('en')} stamps in ${load.seconds.toFixed(1)} s (${rate}/s, p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms, p99.9 ${p999.toFixed(2)} ms), ${load.errors} errors${load.firstError === undefined ? '' : `: ${load.firstError}`}`,
    '',
    table,
  ].join('\n');
};

/** Runs the soak on a fresh service. */
export const soakAlgorithm = async (
  options: SoakOptions,
  say: Progress,
): Promise<{ passed: boolean; text: string; picture: string; data: object }> => {
  const { algorithm, stamps } = options;
  say(`${algorithm}: starting a fresh service`);
  const service = await startService(options);
  const answers = await checkCorrectness(service.origin, bulkStamps);
  const redis = new Redis({ path: homePaths(service.config.home).redisSocket, maxRetriesPerRequest: 1 });
  redis.on('error', (error) => say(`Redis: ${error.message}`));
  const closeRedis = onCleanup(() => redis.disconnect());
  const load = new Helper<LoadJob, LoadAnswer>('./load-process.ts');
  const samples: SoakSample[] = [];
  const startedAt = performance.now();
  let busy = false;
  const sample = async (): Promise<void> => {
    const second = (performance.now() - startedAt) / 1_000;
    samples.push({ second, residentBytes: readResidentBytes(service.pid), streams: await streamLengths(redis) });
  };
  const timer = setInterval(() => {
    if (busy) return;
    busy = true;
    sample().then(
      () => {
        busy = false;
        const last = samples.at(-1);
        const megabytes = (bytes: number | undefined): string => `${((bytes ?? 0) / 1e6).toFixed(0)} MB`;
        const { gateway, signer } = last?.residentBytes ?? {};
        if (samples.length % 10 === 0)
          say(`${algorithm}: ${samples.length} samples, gateway ${megabytes(gateway)}, signer ${megabytes(signer)}`);
      },
      (error: unknown) => {
        busy = false;
        say(`a sample failed: ${String(error)}`);
      },
    );
  }, sampleMs);
  const stopSampling = onCleanup(() => clearInterval(timer));
  say(`${algorithm}: ${stamps.toLocaleString('en')} stamps at ${connections} connections`);
  const { result } = await load.ask({
    kind: 'closed-loop',
    origin: service.origin,
    template: queryTemplate({ certReq: false }),
    connections,
    warmupMs: options.plan.warmupMs,
    durationMs: 24 * 3_600_000,
    answersMax: stamps,
    answerBytesMin: Math.floor(answers.replyBytes * 0.9),
    watchPid: service.pid,
  });
  for (const stop of [stopSampling, closeRedis, load.stop, service.stop]) await stop();
  const growths = judgeSoak(samples);
  return {
    passed: result.errors === 0 && growths.every(({ passed }) => passed),
    text: formatSoak(growths, result),
    picture: drawSoak(samples, { algorithm, stamps: result.stamps, residentBytesMax }),
    data: { algorithm, growths, load: result, samples },
  };
};
