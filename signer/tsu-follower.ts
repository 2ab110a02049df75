/** Takes over what the register of TSUs says, as long as a signer runs. */
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../config/errors.ts';
import type { Logger } from '../observability/log.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { mayStampAt } from './lane-membership.ts';
import type { SlotTsus } from './slot-tsus.ts';
import type { Tsu } from './stamp-task.ts';

/** How soon a TSU that is compromised stamps no more. A look is one GET. */
const followEveryMs = 250;
const firstTsuMsMax = 60_000;

/** A slot without a TSU, as a new one is, waits for its first: no signer, no readiness. @throws TSU_NONE_ACTIVE when there is none in time */
export const firstTsus = async (slotTsus: Pick<SlotTsus, 'look'>, token: string, waiting: () => void): Promise<readonly Tsu[]> => {
  const until = monotonicMs() + firstTsuMsMax;
  let found: readonly Tsu[] = [];
  for (;;) {
    await slotTsus.look(Date.now(), (tsus) => {
      found = tsus;
    });
    // Asked at every look: one that is there may begin meanwhile, or end.
    if (found.some((tsu) => mayStampAt(tsu, Date.now()))) return found;
    if (monotonicMs() > until) throw new SigilloError('TSU_NONE_ACTIVE', `token ${token}`);
    waiting();
    await delay(followEveryMs);
  }
};

export interface TsuFollower {
  /** Resolves when the token fails, or what it needs to judge a TSU by: the slot is of no use then. */
  readonly failed: Promise<SigilloError>;
  /** Asks the token nothing from here on, and takes nothing over. */
  stop(): void;
}

export interface FollowOptions {
  readonly slotTsus: Pick<SlotTsus, 'look'>;
  readonly log: Pick<Logger, 'warn' | 'info'>;
  /** What the signer begins with: their chains are published. */
  readonly first: readonly Tsu[];
  /** Hands chains to gateways, which must have them before a client can get a token with them. */
  readonly publish: () => Promise<void>;
  /** From here on these stamp, and no others. */
  readonly use: (tsus: readonly Tsu[]) => void;
  /** @defaultValue 250 ms */
  readonly everyMs?: number;
}

/**
 * Takes over what the register says, within `followEveryMs`. While Redis is away, what was known holds: each key knows its own end.
 * What is not to be used any more goes at once; what is new waits until its chain is published.
 */
export const followTsus = ({ slotTsus, log, first, publish, use, everyMs = followEveryMs }: FollowOptions): TsuFollower => {
  const stopping = new AbortController();
  const failed = Promise.withResolvers<SigilloError>();
  const published = new Set(first.map(({ id }) => id));
  const { signal } = stopping;
  const take = async (next: readonly Tsu[]): Promise<void> => {
    // The pool and the token are closed, or about to be.
    if (signal.aborted) return;
    const known = next.filter(({ id }) => published.has(id));
    use(known);
    if (known.length < next.length) {
      await publish();
      if (signal.aborted) return;
      for (const { id } of next) published.add(id);
      use(next);
    }
    log.info({ tsus: next.map(({ keyLabel }) => keyLabel) }, 'signer: TSUs from now on');
  };
  const follow = async (): Promise<void> => {
    for (;;) {
      await delay(everyMs, undefined, { signal }).catch(() => undefined); // its end by the stop
      if (signal.aborted) return;
      await slotTsus.look(Date.now(), take, signal).catch((error: unknown) => {
        // Redis and the token are being left.
        if (signal.aborted) return;
        if (error instanceof SigilloError && /^(HSM_|TSU_)/.test(error.code)) failed.resolve(error);
        else log.warn({ err: error }, 'signer: the register of TSUs cannot be taken over; it is tried again');
      });
    }
  };
  void follow();
  return { failed: failed.promise, stop: () => stopping.abort() };
};
