/**
 * A lease in Redis: at most one holder at a time, and another one within the lease's length when the holder dies.
 *
 * It is a promise for a time, not a lock: a holder that stood still may have lost it without knowing. So the holder asks
 * `heldForMs` before everything that only one may do, and does it only when it is done well before the lease ends.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { RedisClient } from './redis.ts';
import { monotonicMs } from './redis-clock.ts';

const scriptOf = (name: string): string => readFileSync(new URL(`./commands/${name}`, import.meta.url), 'utf8');
const acquireScript = scriptOf('acquireLease-1.lua');
const releaseScript = scriptOf('releaseLease-1.lua');

export interface LeaseOptions {
  readonly key: string;
  /** Length of the lease; it is to be renewed several times within. */
  readonly lengthMs: number;
}

export class Lease {
  readonly #redis: RedisClient;
  readonly #options: LeaseOptions;
  /** What Redis knows this holder by: unique for every start of every process. */
  readonly holder = randomBytes(16).toString('hex');
  #heldUntilMs = Number.NEGATIVE_INFINITY;

  constructor(redis: RedisClient, options: LeaseOptions) {
    this.#redis = redis;
    this.#options = options;
  }

  /**
   * Takes the lease, or renews it. Counted from before the question was sent: the answer may have been long under way.
   * @returns whether it is held now
   * @throws when Redis does not answer; what was held goes on until its end
   */
  async acquire(): Promise<boolean> {
    const askedMs = monotonicMs();
    const { key, lengthMs } = this.#options;
    const got = (await this.#redis.eval(acquireScript, 1, key, this.holder, lengthMs)) as number;
    this.#heldUntilMs = got === 1 ? askedMs + lengthMs : Number.NEGATIVE_INFINITY;
    return got === 1;
  }

  /** Milliseconds for which it is certainly held; 0 when it is not. */
  get heldForMs(): number {
    return Math.max(0, this.#heldUntilMs - monotonicMs());
  }

  /** Gives it back, so that the next holder need not wait for its end. @throws when Redis does not answer */
  async release(): Promise<void> {
    this.#heldUntilMs = Number.NEGATIVE_INFINITY;
    await this.#redis.eval(releaseScript, 1, this.#options.key, this.holder);
  }
}
