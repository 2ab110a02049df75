/**
 * One algorithm on a fresh service: every measurement once in each round, so that a machine that slows down for a while slows down
 * all of them, and ratios are taken within a round. Raw C_Sign is measured on both sides of the windows that are judged by it.
 */
import type { TsuAlgorithm } from '../config/schema.ts';
import { Helper } from './child-process.ts';
import { checkCorrectness, type SampleAnswers } from './correctness.ts';
import type { LoadAnswer, LoadJob, LoadResult } from './load-job.ts';
import type { Durability, Plan } from './options.ts';
import type { RawSignResult } from './raw-sign.ts';
import { type RawSigner, startRawSigner } from './raw-signer.ts';
import { bulkTemplate, queryTemplate, type RequestTemplate } from './requests.ts';
import { type RunningService, startService } from './service.ts';
import { median } from './statistics.ts';

export const bulkStamps = 100;
/** 8 x 100 stamps in flight: as many as keep every worker busy, a fifth of what the service takes by default. */
export const bulkConnections = 8;
/** As many as the largest closed loop, so that requests do not wait in the generator. */
const fixedRateConnections = 256;
/** Signatures of one algorithm differ in length by a few octets; a refusal is a tenth of a token. */
const answerShareMin = 0.9;
const warmUpPerSecond = 2_000;

/** The measurements of a round, by name. */
export const rowIds = [
  'hono-1',
  'closed-1',
  'closed-16',
  'closed-64',
  'closed-64-chain',
  'bulk',
  'closed-256',
  'half-rate',
  'hono-64',
] as const;
export type RowId = (typeof rowIds)[number];
export type Round = Readonly<Record<RowId, LoadResult>> & { readonly raw: readonly RawSignResult[] };

export interface Measurement {
  readonly algorithm: TsuAlgorithm;
  readonly keyLabel: string;
  readonly threads: number;
  readonly startMs: number;
  /** Samples verified by OpenSSL before the first and after the last round. */
  readonly verified: number;
  readonly rounds: readonly Round[];
  /** Rounds set aside because other programs disturbed them, see `disturbanceMax`. */
  readonly setAside: readonly Round[];
}

/** Beyond this share of the machine in other hands a figure is not worth quoting. An idle Linux takes 1 to 2 % for itself. */
export const disturbanceMax = 0.05;

/** Share of the machine that other programs took from a round. */
export const disturbanceOfRound = ({ raw, ...windows }: Round): number => {
  const shares = [...raw, ...Object.values(windows)].map(({ disturbance }) => disturbance);
  return shares.reduce((sum, share) => sum + share, 0) / shares.length;
};

/**
 * The least disturbed rounds, in the order they were measured. What is set aside is chosen by what other programs did, never by
 * the figures themselves.
 */
export const chooseRounds = (rounds: readonly Round[], count: number): { rounds: Round[]; setAside: Round[] } => {
  const byDisturbance = rounds.toSorted((a, b) => disturbanceOfRound(a) - disturbanceOfRound(b));
  const chosen = new Set(byDisturbance.slice(0, count));
  return { rounds: rounds.filter((round) => chosen.has(round)), setAside: rounds.filter((round) => !chosen.has(round)) };
};

export type Progress = (text: string) => void;

interface Bench {
  readonly plan: Plan;
  readonly load: Helper<LoadJob, LoadAnswer>;
  readonly service: RunningService;
  readonly hono: { readonly origin: string; readonly pid: number };
  readonly samples: SampleAnswers;
}

interface Window {
  readonly template: RequestTemplate;
  readonly connections: number;
  readonly answerBytes: number;
  readonly target?: { readonly origin: string; readonly pid: number };
  readonly requestsPerSecond?: number;
  readonly durationMs?: number;
}

const measureWindow = async ({ plan, load, service }: Bench, window: Window): Promise<LoadResult> => {
  const { origin, pid } = window.target ?? service;
  const common = {
    origin,
    template: window.template,
    connections: window.connections,
    warmupMs: plan.warmupMs,
    durationMs: window.durationMs ?? plan.windowMs,
    answerBytesMin: Math.floor(window.answerBytes * answerShareMin),
    watchPid: pid,
  };
  const { result } = await load.ask(
    window.requestsPerSecond === undefined
      ? { kind: 'closed-loop', ...common }
      : { kind: 'fixed-rate', requestsPerSecond: window.requestsPerSecond, ...common },
  );
  return result;
};

const perSecond = (value: number): string => `${Math.round(value).toLocaleString('en')}/s`;

/** The rows in the order that keeps what is compared close in time. */
const measureRound = async (bench: Bench, raw: RawSigner, earlier: readonly Round[], say: Progress): Promise<Round> => {
  const { samples, hono, plan } = bench;
  const plain = { template: queryTemplate({ certReq: false }), answerBytes: samples.replyBytes };
  const chain = { template: queryTemplate({ certReq: true }), answerBytes: samples.replyWithChainBytes };
  const bulk = { template: bulkTemplate(bulkStamps), answerBytes: samples.bulkBytes };
  const run = async (name: string, window: Window): Promise<LoadResult> => {
    const result = await measureWindow(bench, window);
    say(`${name}: ${perSecond(result.stampsPerSecond)}${result.errors > 0 ? `, ${result.errors} ERRORS (${result.firstError})` : ''}`);
    return result;
  };
  const runRaw = async (): Promise<RawSignResult> => {
    const result = await raw.measure(plan.rawMs);
    say(`raw C_Sign: ${perSecond(result.perSecond)}`);
    return result;
  };
  const hono1 = await run('bare Hono, 1 connection', { ...plain, connections: 1, target: hono });
  const closed1 = await run('1 connection', { ...plain, connections: 1 });
  const closed16 = await run('16 connections', { ...plain, connections: 16 });
  const rawBefore = await runRaw();
  const closed64 = await run('64 connections', { ...plain, connections: 64 });
  const closed64Chain = await run('64 connections, certReq', { ...chain, connections: 64 });
  const bulkResult = await run(`${bulkStamps} imprints a request`, { ...bulk, connections: bulkConnections });
  const rawAfter = await runRaw();
  const closed256 = await run('256 connections', { ...plain, connections: 256 });
  const maximum = Math.max(closed16.stampsPerSecond, closed64.stampsPerSecond, closed256.stampsPerSecond);
  const maxima = [...earlier.map((round) => maximumOf(round)), maximum];
  const halfRate = Math.max(1, Math.round(median(maxima) / 2));
  const half = await run(`fixed ${perSecond(halfRate)}`, { ...plain, connections: fixedRateConnections, requestsPerSecond: halfRate });
  const hono64 = await run('bare Hono, 64 connections', { ...plain, connections: 64, target: hono });
  return {
    raw: [rawBefore, rawAfter],
    'hono-1': hono1,
    'closed-1': closed1,
    'closed-16': closed16,
    'closed-64': closed64,
    'closed-64-chain': closed64Chain,
    bulk: bulkResult,
    'closed-256': closed256,
    'half-rate': half,
    'hono-64': hono64,
  };
};

/** Stamps per second of the fastest closed loop of a round. */
const maximumOf = (round: Round): number =>
  Math.max(...(['closed-16', 'closed-64', 'closed-256'] as const).map((id) => round[id].stampsPerSecond));

const startBareHono = async (reply: Uint8Array): Promise<{ origin: string; pid: number; stop: () => Promise<void> }> => {
  const helper = new Helper<{ reply: Uint8Array; path: string }, { port: number }>('./bare-hono.ts');
  const { port } = await helper.ask({ reply, path: '/tsa' });
  return { origin: `http://127.0.0.1:${port}`, pid: helper.pid, stop: helper.stop };
};

/** The compilers have their say before the first round: in the service, in the bare server, and in both generators of load. */
const warmUp = async (bench: Bench): Promise<void> => {
  const { plan, samples, hono } = bench;
  const plain = { template: queryTemplate({ certReq: false }), answerBytes: samples.replyBytes, connections: 64 };
  await measureWindow(bench, { ...plain, durationMs: plan.firstWarmupMs });
  await measureWindow(bench, { ...plain, durationMs: plan.firstWarmupMs / 4, target: hono });
  await measureWindow(bench, { ...plain, durationMs: plan.firstWarmupMs / 4, target: hono, requestsPerSecond: warmUpPerSecond });
};

export interface MeasureOptions {
  readonly algorithm: TsuAlgorithm;
  readonly threads: number;
  readonly durability: Durability;
  readonly plan: Plan;
  readonly resultsFolder: string;
}

/** Starts a service, verifies, measures all rounds, verifies again, and stops everything. */
export const measureAlgorithm = async (options: MeasureOptions, say: Progress): Promise<Measurement> => {
  const { algorithm, threads, plan } = options;
  say(`${algorithm}: starting a fresh service`);
  const service = await startService(options);
  say(`${algorithm}: ready after ${(service.startMs / 1_000).toFixed(1)} s; verifying samples`);
  const samples = await checkCorrectness(service.origin, bulkStamps);
  const raw = await startRawSigner(service, samples.chain, threads);
  const hono = await startBareHono(samples.reply);
  const load = new Helper<LoadJob, LoadAnswer>('./load-process.ts');
  const bench: Bench = { plan, load, service, hono, samples };
  say(`${algorithm}: ${samples.verified} samples verified; warming up`);
  await warmUp(bench);
  const measured: Round[] = [];
  const undisturbed = (): number => measured.filter((round) => disturbanceOfRound(round) <= disturbanceMax).length;
  while (undisturbed() < plan.rounds && measured.length < plan.rounds + plan.extraRounds) {
    const name = `${algorithm} round ${measured.length + 1}`;
    const round = await measureRound(bench, raw, measured, (text) => say(`${name}  ${text}`));
    measured.push(round);
    const disturbance = disturbanceOfRound(round);
    if (disturbance > disturbanceMax) say(`${name}  other programs took ${(disturbance * 100).toFixed(0)} % of the machine`);
  }
  const after = await checkCorrectness(service.origin, bulkStamps);
  for (const one of [load, hono, raw, service]) await one.stop();
  const verified = samples.verified + after.verified;
  return { algorithm, keyLabel: raw.keyLabel, threads, startMs: service.startMs, verified, ...chooseRounds(measured, plan.rounds) };
};
