/**
 * Whether the clock of this host is trusted, told by its signers to its other processes: they make events too, and every event says
 * what was known about the clock that dates it.
 *
 * Only what is fresh, and of this very clock, counts. A signer tells with its verdict how far the system clock was from CLOCK_MONOTONIC,
 * which all processes of a host share: a clock that was set since, or another host of the same name, does not fit, and is `unverified`.
 * So is everything while Redis is away, or no signer runs here.
 */
import { z } from 'zod';
import type { RedisClient } from './redis.ts';
import { monotonicMs } from './redis-clock.ts';

/** What is known about a clock, in the words of the journal. */
export type HostClockState = 'trusted' | 'unverified';

/** How often a signer tells, and others ask: one SET and one GET. */
export const tellClockEveryMs = 1_000;
/** Five that were not told: the signer is gone, or stands still. */
const freshMs = 5_000;
/** A reader that has heard nothing for so long does not know; with `freshMs` no verdict counts for more than 8 s. */
const heardMsMax = 3_000;

const hostClockKey = (node: string): string => `clock:{clock}:${node}`;

const toldSchema = z.strictObject({
  version: z.literal(1),
  state: z.enum(['trusted', 'unverified']),
  /** System clock less CLOCK_MONOTONIC. */
  differenceMs: z.number(),
  /** Beyond it the clock was set (`time.stepMsMax`). */
  stepMsMax: z.number().min(0),
});

/** A verdict, and the clock that it is about. */
export type ToldClock = Omit<z.output<typeof toldSchema>, 'version'>;

/** Tells it; it is forgotten when it is not told again. @throws what Redis says */
export const tellHostClock = async (redis: RedisClient, node: string, told: ToldClock): Promise<void> => {
  await redis.set(hostClockKey(node), JSON.stringify(toldSchema.parse({ version: 1, ...told })), 'PX', freshMs);
};

const readTold = (json: string | null): ToldClock | undefined => {
  if (json === null) return undefined;
  let tree: unknown;
  try {
    tree = JSON.parse(json);
  } catch {
    return undefined; // the schema would refuse it as well
  }
  // Another release may tell it in another form: then nothing is known.
  const told = toldSchema.safeParse(tree);
  return told.success ? told.data : undefined;
};

export interface HostClockOptions {
  readonly redis: RedisClient;
  /** Name of this host. */
  readonly node: string;
  /** For tests. @defaultValue the clocks of the machine */
  readonly clocks?: { wallMs(): number; monotonicMs(): number };
}

/** What the signers of this host say of its clock, followed until the connection is closed. */
export class HostClock {
  readonly #options: HostClockOptions;
  readonly #clocks: NonNullable<HostClockOptions['clocks']>;
  readonly #timer: NodeJS.Timeout;
  #told: ToldClock | undefined;
  #heardAtMs = Number.NEGATIVE_INFINITY;

  /** Begins to ask; until the first answer nothing is known. */
  constructor(options: HostClockOptions) {
    this.#options = options;
    this.#clocks = options.clocks ?? { wallMs: Date.now, monotonicMs };
    this.#timer = setInterval(() => void this.look(), tellClockEveryMs);
    this.#timer.unref();
    options.redis.once('end', this.close);
    void this.look();
  }

  /** What an event says that happens now; bound, so that it can be handed around. */
  readonly state = (): HostClockState => {
    if (this.#told?.state !== 'trusted') return 'unverified';
    const now = this.#clocks.monotonicMs();
    if (now - this.#heardAtMs > heardMsMax) return 'unverified';
    const { differenceMs, stepMsMax } = this.#told;
    return Math.abs(this.#clocks.wallMs() - now - differenceMs) <= stepMsMax ? 'trusted' : 'unverified';
  };

  /** Asks now; it is done every second anyway. It never fails. */
  async look(): Promise<void> {
    if (this.#options.redis.status !== 'ready') return;
    try {
      this.#told = readTold(await this.#options.redis.get(hostClockKey(this.#options.node)));
      this.#heardAtMs = this.#clocks.monotonicMs();
    } catch {
      // Redis is away, which the connection says itself: what was heard grows old.
    }
  }

  readonly close = (): void => {
    clearInterval(this.#timer);
    this.#options.redis.off('end', this.close);
  };
}
