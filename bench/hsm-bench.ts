/**
 * What slots and their keys cost: how busy a slow token is kept, by a pool alone and by a whole service, whether two tokens are at least
 * as fast as one, and what clients see of a change of keys.
 */
import { Helper } from './child-process.ts';
import { checkCorrectness } from './correctness.ts';
import { farTokenPasses, formatFarToken, measureFarToken } from './far-token.ts';
import type { LoadAnswer, LoadJob, LoadResult } from './load-job.ts';
import type { Progress } from './measure.ts';
import type { Durability, Plan } from './options.ts';
import { formatTable } from './report.ts';
import { queryTemplate } from './requests.ts';
import { aroundSwitches, rotationsPass, rotationsWanted } from './rotation-latency.ts';
import { drawRotations } from './rotation-picture.ts';
import { startService } from './service.ts';
import type { SlowModuleAnswer, SlowModuleJob, SlowModuleResult } from './slow-module.ts';
import { median } from './statistics.ts';
import { compareTokens, formatTokens, tokensPass } from './two-tokens.ts';

export interface HsmBenchOptions {
  readonly threads: number;
  readonly plan: Plan;
  readonly durability: Durability;
  readonly resultsFolder: string;
}

export interface HsmBenchResult {
  readonly text: string;
  readonly data: Readonly<Record<string, unknown>>;
  readonly picture: string;
  readonly passed: boolean;
}

const busyShareMin = 0.9;
const answerShareMin = 0.9;
/** A token turns out to be slow, and gets its sessions one after the other: four seconds to 64. */
const slowWarmupMs = 6_000;
const dayMs = 86_400_000;

/** Milliseconds of a signature, and how many at once: an HSM on the network, a far one, a slow card. */
const slowTokens = [
  { latencyMicros: 2_000, parallel: 16 },
  { latencyMicros: 10_000, parallel: 32 },
  { latencyMicros: 5_000, parallel: 4 },
] as const;

interface SlowRow {
  readonly latencyMicros: number;
  readonly parallel: number;
  readonly possible: number;
  readonly reached: number;
  readonly atOnce: number;
  readonly cores: number;
  readonly residentBytes: number;
}

const measureSlowTokens = async ({ threads, plan }: HsmBenchOptions, say: Progress): Promise<SlowRow[]> => {
  const rows: SlowRow[] = [];
  for (const { latencyMicros, parallel } of slowTokens) {
    const results: SlowModuleResult[] = [];
    for (let round = 0; round < Math.min(3, plan.rounds); round += 1) {
      const helper = new Helper<SlowModuleJob, SlowModuleAnswer>('./slow-module.ts', { environment: { UV_THREADPOOL_SIZE: '72' } });
      const job = { latencyMicros, parallel, threads, sessionsMax: 64, warmupMs: slowWarmupMs, durationMs: plan.windowMs };
      const { result } = await helper.ask(job);
      await helper.stop();
      say(`${latencyMicros / 1_000} ms a signature, ${parallel} at once: ${Math.round(result.signaturesPerSecond).toLocaleString('en')}/s`);
      results.push(result);
    }
    const of = (pick: (result: (typeof results)[number]) => number): number => median(results.map(pick));
    rows.push({
      latencyMicros,
      parallel,
      possible: (parallel * 1e6) / latencyMicros,
      reached: of(({ signaturesPerSecond }) => signaturesPerSecond),
      atOnce: of(({ atOnce }) => atOnce),
      cores: of(({ cores }) => cores),
      residentBytes: of(({ residentBytes }) => residentBytes),
    });
  }
  return rows;
};

/** A key is used for twelve seconds and followed after three, so that ten changes take half a minute. */
const rotationSettings = { usageMsMax: 12_000, leadDays: 2_500 / dayMs, switchDays: 9_000 / dayMs, graceDays: 0, tickMs: 250 } as const;
const rotationMs = 33_000;
const rotationRate = 1_500;

const watchRotations = async (options: HsmBenchOptions, say: Progress): Promise<{ result: LoadResult; switchesMs: number[] }> => {
  const service = await startService({ ...options, algorithm: 'ec-p256', settings: { tsu: rotationSettings } });
  const load = new Helper<LoadJob, LoadAnswer>('./load-process.ts');
  const template = queryTemplate({ certReq: false });
  const { replyBytes } = await checkCorrectness(service.origin, 1);
  const common = { origin: service.origin, template, connections: 256, watchPid: service.pid };
  const job = { ...common, warmupMs: 5_000, durationMs: rotationMs, answerBytesMin: Math.floor(replyBytes * answerShareMin) };
  say(`ten changes of keys at ${rotationRate.toLocaleString('en')} requests/s`);
  const beganAt = Date.now() + job.warmupMs;
  const { result } = await load.ask({ kind: 'fixed-rate', ...job, requestsPerSecond: rotationRate, timeline: true });
  const pem = await fetch(`${service.origin}/repository/tsa-chain.pem`).then((response) => response.text());
  const { X509Certificate } = await import('node:crypto');
  const { privateKeyUsagePeriod } = await import('../pki/tsu-usage.ts');
  const switchesMs = (pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [])
    .map((one) => new X509Certificate(one))
    .flatMap((one) => (one.ca ? [] : [(privateKeyUsagePeriod(one.raw)?.notBefore?.getTime() ?? 0) - beganAt]))
    .filter((atMs) => atMs > 0 && atMs < rotationMs);
  for (const one of [load, service]) await one.stop();
  return { result, switchesMs };
};

const perSecond = (rate: number): string => `${Math.round(rate).toLocaleString('en')}/s`;

const formatSlow = (rows: readonly SlowRow[]): string =>
  formatTable(
    ['a signature', 'at once', 'possible', 'reached', 'share', 'chosen at once', 'cores', 'resident'],
    rows.map(({ latencyMicros, parallel, possible, reached, atOnce, cores, residentBytes }) => [
      `${latencyMicros / 1_000} ms`,
      String(parallel),
      perSecond(possible),
      perSecond(reached),
      (reached / possible).toFixed(2),
      String(atOnce),
      cores.toFixed(2),
      `${Math.round(residentBytes / 1e6)} MB`,
    ]),
  );

export const benchHsm = async (options: HsmBenchOptions, say: Progress): Promise<HsmBenchResult> => {
  const slow = await measureSlowTokens(options, say);
  const far = await measureFarToken(options, say);
  const slots = await compareTokens(options, say);
  const { result, switchesMs } = await watchRotations(options, say);
  const timeline = result.timeline ?? [];
  const latency = aroundSwitches(timeline, switchesMs);
  const { near, others } = latency;
  const busy = slow.every(({ reached, possible }) => reached / possible >= busyShareMin);
  const lines = [
    `How busy a slow token is kept (wanted: ${busyShareMin.toFixed(2)})\n\n${formatSlow(slow)}`,
    `How busy a gateway keeps one, in a whole service (wanted: ${busyShareMin.toFixed(2)})\n\n${formatFarToken(far)}`,
    `Two tokens beside one, each with keys of its own\n\n${formatTokens(slots)}`,
    `${switchesMs.length} changes of keys at ${perSecond(rotationRate)}: ${result.errors} errors; p50 ${near.p50.toFixed(2)} ms and p99 ${near.p99.toFixed(1)} ms ` +
      `within 0.1 s of a change, ${others.p50.toFixed(2)} ms and ${others.p99.toFixed(1)} ms elsewhere (wanted: ${rotationsWanted})`,
  ];
  return {
    text: lines.join('\n\n'),
    data: { slow, far, slots, rotation: { switchesMs, errors: result.errors, latencyMs: result.latencyMs, near, others } },
    picture: drawRotations(timeline, switchesMs, rotationMs),
    passed:
      busy && farTokenPasses(far) && tokensPass(slots) && rotationsPass({ switches: switchesMs.length, errors: result.errors, ...latency }),
  };
};
