/**
 * One token beside two, each with keys of its own, in two services that run at the same time: tokens that take long for a signature,
 * where a second one is twice the hardware, and SoftHSM, whose signatures are made by the same cores whatever token they are asked of,
 * so that what a second signer process costs is all that there is to see.
 */
import { Helper } from './child-process.ts';
import { checkCorrectness } from './correctness.ts';
import type { LoadAnswer, LoadJob } from './load-job.ts';
import type { Progress } from './measure.ts';
import type { Durability, Plan } from './options.ts';
import { formatTable } from './report.ts';
import { queryTemplate } from './requests.ts';
import type { RunningService } from './service.ts';
import { median } from './statistics.ts';
import { type SlowToken, startTokenService } from './token-service.ts';

export interface TwoTokensOptions {
  readonly plan: Plan;
  readonly durability: Durability;
  readonly resultsFolder: string;
}

export interface TwoTokensRow {
  readonly token: 'slow' | 'softhsm';
  readonly connections: number;
  readonly one: number;
  readonly two: number;
}

const answerShareMin = 0.9;
/** 1,600 signatures a second of each token: two are far below what the cores allow. */
const slowToken: SlowToken = { latencyMicros: 5_000, parallel: 8 };
/** Until the signers have found out how many signatures at once the token makes. */
const slowWarmupMs = 8_000;

const compare = async (
  token: TwoTokensRow['token'],
  connections: readonly number[],
  options: TwoTokensOptions,
  say: Progress,
): Promise<TwoTokensRow[]> => {
  const { plan, durability, resultsFolder } = options;
  const slow = token === 'slow' ? slowToken : undefined;
  const services: RunningService[] = [];
  for (const labels of [['one'], ['one', 'two']])
    services.push(await startTokenService({ durability, resultsFolder, algorithm: 'ec-p256', labels, slow }));
  const load = new Helper<LoadJob, LoadAnswer>('./load-process.ts');
  const template = queryTemplate({ certReq: false });
  const { replyBytes } = await checkCorrectness((services[0] as RunningService).origin, 1);
  const measure = async ({ origin, pid }: RunningService, count: number, durationMs: number): Promise<number> => {
    const common = { origin, template, connections: count, warmupMs: plan.warmupMs, durationMs, watchPid: pid };
    const answer = await load.ask({ kind: 'closed-loop', ...common, answerBytesMin: Math.floor(replyBytes * answerShareMin) });
    return answer.result.stampsPerSecond;
  };
  for (const service of services) await measure(service, 64, token === 'slow' ? slowWarmupMs : plan.firstWarmupMs / 2);
  const rows: TwoTokensRow[] = [];
  for (const count of connections) {
    const rates: [number[], number[]] = [[], []];
    for (let round = 0; round < plan.rounds; round += 1) {
      for (const [index, service] of services.entries()) {
        const rate = await measure(service, count, plan.windowMs);
        say(`${index + 1} token(s), ${token}, ${count} connections: ${Math.round(rate).toLocaleString('en')}/s`);
        rates[index as 0 | 1].push(rate);
      }
    }
    rows.push({ token, connections: count, one: median(rates[0]), two: median(rates[1]) });
  }
  for (const one of [load, ...services]) await one.stop();
  return rows;
};

/** @returns stamps a second with one token and with two */
export const compareTokens = async (options: TwoTokensOptions, say: Progress): Promise<TwoTokensRow[]> => [
  ...(await compare('slow', [256], options, say)),
  ...(await compare('softhsm', [1, 64, 256], options, say)),
];

const perSecond = (rate: number): string => `${Math.round(rate).toLocaleString('en')}/s`;
const { latencyMicros, parallel } = slowToken;
const names: Readonly<Record<TwoTokensRow['token'], string>> = {
  slow: `${latencyMicros / 1_000} ms a signature, ${parallel} at once`,
  softhsm: 'SoftHSM, on our cores',
};

export const formatTokens = (rows: readonly TwoTokensRow[]): string =>
  formatTable(
    ['ec-p256', 'connections', 'one token', 'two tokens', 'two/one'],
    rows.map(({ token, connections, one, two }) => [
      names[token],
      String(connections),
      perSecond(one),
      perSecond(two),
      (two / one).toFixed(2),
    ]),
  );

/** Two tokens are at least as fast as one, whatever they are. */
export const tokensPass = (rows: readonly TwoTokensRow[]): boolean => rows.every(({ one, two }) => two >= one);
