/**
 * How busy a far token is kept by a whole service: a key whose stream entries are small, so that a gateway must have more of them on their
 * way than with a token on our own cores.
 */
import { Helper } from './child-process.ts';
import { checkCorrectness } from './correctness.ts';
import type { LoadAnswer, LoadJob } from './load-job.ts';
import type { Progress } from './measure.ts';
import type { Durability, Plan } from './options.ts';
import { formatTable } from './report.ts';
import { queryTemplate } from './requests.ts';
import { median } from './statistics.ts';
import { type SlowToken, startTokenService } from './token-service.ts';

export interface FarTokenOptions {
  readonly threads: number;
  readonly plan: Plan;
  readonly durability: Durability;
  readonly resultsFolder: string;
}

export interface FarTokenRow {
  readonly connections: number;
  readonly possible: number;
  readonly reached: number;
}

const busyShareMin = 0.9;
const answerShareMin = 0.9;
const algorithm = 'rsa-3072';
/** 320 signatures a second, 2 ms of CPU each in SoftHSM: the token is the wall, and not our cores. */
const farToken: SlowToken = { latencyMicros: 100_000, parallel: 32 };
/** As with the slow tokens of the pool alone: some wait in the module for others. */
const sessions = 64;
const connections = 256;
/** Until the signer has found out what the token makes at once, and the gateway has heard of it. */
const warmupMs = 15_000;
/** Signatures end in waves of 32: three seconds are thirty of them. */
const windowMsMin = 3_000;

/** @returns stamps a second through a gateway, beside what the token allows */
export const measureFarToken = async (options: FarTokenOptions, say: Progress): Promise<FarTokenRow> => {
  const { plan } = options;
  const service = await startTokenService({ ...options, algorithm, labels: ['far'], slow: farToken, sessions });
  const load = new Helper<LoadJob, LoadAnswer>('./load-process.ts');
  const { replyBytes } = await checkCorrectness(service.origin, 1);
  const { origin, pid: watchPid } = service;
  const common = { origin, template: queryTemplate({ certReq: false }), connections, watchPid };
  const rates: number[] = [];
  for (let round = 0; round < Math.min(3, plan.rounds); round += 1) {
    const job = { ...common, warmupMs: round === 0 ? warmupMs : plan.warmupMs, durationMs: Math.max(windowMsMin, plan.windowMs) };
    const { result } = await load.ask({ kind: 'closed-loop', ...job, answerBytesMin: Math.floor(replyBytes * answerShareMin) });
    say(`a far token through a gateway, ${algorithm}: ${Math.round(result.stampsPerSecond).toLocaleString('en')}/s`);
    rates.push(result.stampsPerSecond);
  }
  for (const one of [load, service]) await one.stop();
  return { connections, possible: (farToken.parallel * 1e6) / farToken.latencyMicros, reached: median(rates) };
};

export const formatFarToken = ({ connections: clients, possible, reached }: FarTokenRow): string =>
  formatTable(
    [algorithm, 'connections', 'possible', 'reached', 'share'],
    [
      [
        `${farToken.latencyMicros / 1_000} ms a signature, ${farToken.parallel} at once`,
        String(clients),
        `${Math.round(possible)}/s`,
        `${Math.round(reached)}/s`,
        (reached / possible).toFixed(2),
      ],
    ],
  );

/** A gateway keeps it as busy as the pool alone keeps a token. */
export const farTokenPasses = ({ possible, reached }: FarTokenRow): boolean => reached / possible >= busyShareMin;
