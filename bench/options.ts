/** The command line of the benchmark, and how long and how often it measures. */
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { type Config, type TsuAlgorithm, tsuAlgorithms } from '../config/schema.ts';

export type Durability = Config['journal']['durability'];

export interface Plan {
  readonly rounds: number;
  /** Rounds that may be added in place of those that other programs disturbed. */
  readonly extraRounds: number;
  /** One window of load, after its own warm-up. */
  readonly windowMs: number;
  readonly warmupMs: number;
  /** Load before the first round: the compilers of the service need a few thousand requests. */
  readonly firstWarmupMs: number;
  readonly rawMs: number;
}

export interface BenchOptions {
  readonly mode: 'measure' | 'soak' | 'profile' | 'journal' | 'hsm';
  readonly algorithms: readonly TsuAlgorithm[];
  readonly threads: number;
  readonly plan: Plan;
  /** `journal.durability` of the service. */
  readonly durability: Durability;
  /** A missed target makes the exit status 1. */
  readonly check: boolean;
  /** Stamps of the soak. */
  readonly soakStamps: number;
  /** As given, for the report, and the durability in any case. */
  readonly flags: readonly string[];
}

const fullPlan: Plan = { rounds: 5, extraRounds: 5, windowMs: 3_000, warmupMs: 800, firstWarmupMs: 5_000, rawMs: 2_000 };
/** Two algorithms x two rounds x eleven windows of about 0.65 s are 29 s; two starts, warm-ups and the samples fit into the rest of a minute. */
const quickPlan: Plan = { rounds: 2, extraRounds: 0, windowMs: 500, warmupMs: 150, firstWarmupMs: 1_200, rawMs: 400 };

export const usage = `Usage: npm run bench -- [options]

Measures a fresh service on this machine against raw C_Sign and a bare HTTP server, in one run.

  --quick              under a minute: ec-p256 and rsa-2048, short windows
  --algorithms LIST    comma-separated, of ${tsuAlgorithms.join(', ')}
                       (default: ec-p256,rsa-2048,rsa-3072)
  --threads N          signer workers and raw C_Sign threads (default: the cores)
  --rounds N           rounds of each measurement
  --durability KIND    fsync: an answer is on the disk of Redis before it is given; everysec: within a second
                       (default: everysec, as before there was a choice; the service's own default is fsync)
  --check              exit status 1 when a target is missed
  --million            soak: a million stamps, memory and stream lengths over time
  --stamps N           another number for the soak
  --journal            the journal alone: 20,000 events a second, and a backlog, against raw inserts
  --hsm                slots and keys: how busy a slow token is kept, two tokens beside one, latency over ten changes of keys
  --profile            where the time goes: CPU profiles of gateway and signer under load
  --help

Results (JSON, SVG) are saved under bench/results/.
`;

const positive = (name: string, text: string | undefined, fallback: number): number => {
  if (text === undefined) return fallback;
  if (!/^[1-9]\d{0,9}$/.test(text)) throw new RangeError(`--${name}: a positive number, please`);
  return Number(text);
};

const chooseAlgorithms = (text: string | undefined, fallback: readonly TsuAlgorithm[]): readonly TsuAlgorithm[] =>
  text?.split(',').map((name) => {
    const known = tsuAlgorithms.find((algorithm) => algorithm === name);
    if (known === undefined) throw new RangeError(`--algorithms: ${name} is none of ${tsuAlgorithms.join(', ')}`);
    return known;
  }) ?? fallback;

const chooseDurability = (text: string): Durability => {
  if (text === 'fsync' || text === 'everysec') return text;
  throw new RangeError(`--durability: ${text} is neither fsync nor everysec`);
};

/** @returns undefined when only the usage is asked for. @throws RangeError, TypeError with a sentence for the user */
export const parseOptions = (parameters: readonly string[]): BenchOptions | undefined => {
  const { values } = parseArgs({
    args: [...parameters],
    strict: true,
    options: {
      quick: { type: 'boolean', default: false },
      algorithms: { type: 'string' },
      threads: { type: 'string' },
      rounds: { type: 'string' },
      durability: { type: 'string', default: 'everysec' },
      check: { type: 'boolean', default: false },
      million: { type: 'boolean', default: false },
      stamps: { type: 'string' },
      profile: { type: 'boolean', default: false },
      journal: { type: 'boolean', default: false },
      hsm: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return undefined;
  const modes = (['million', 'profile', 'journal', 'hsm'] as const).filter((name) => values[name]);
  if (modes.length > 1) throw new RangeError('--million, --profile, --journal and --hsm are different runs');
  const mode = modes[0] === 'million' ? 'soak' : (modes[0] ?? 'measure');
  const plan = values.quick ? quickPlan : fullPlan;
  const rounds = positive('rounds', values.rounds, plan.rounds);
  const durability = chooseDurability(values.durability);
  const fallback: Record<BenchOptions['mode'], readonly TsuAlgorithm[]> = {
    measure: values.quick ? ['ec-p256', 'rsa-2048'] : ['ec-p256', 'rsa-2048', 'rsa-3072'],
    soak: ['ec-p256'],
    profile: ['ec-p256'],
    journal: [],
    hsm: [],
  };
  return {
    mode,
    algorithms: chooseAlgorithms(values.algorithms, fallback[mode]),
    threads: positive('threads', values.threads, availableParallelism()),
    plan: { ...plan, rounds, extraRounds: Math.min(plan.extraRounds, rounds) },
    check: values.check,
    soakStamps: positive('stamps', values.stamps, 1_000_000),
    durability,
    flags: parameters.some((flag) => flag.startsWith('--durability')) ? parameters : [...parameters, '--durability', durability],
  };
};
