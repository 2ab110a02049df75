/**
 * Whether a signer reads its lane: only while it has a TSU that may stamp. One that reads and cannot stamp would take entries from
 * signers that can, and the more the faster it refuses.
 *
 * Without such a TSU it leaves the lane, and others take over what it has read and not answered; it comes back by itself. When no signer
 * reads the lane, gateways refuse each request at its deadline. A clock that is not trusted is another matter: then requests are
 * answered timeNotAvailable, so whoever reads goes on.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { ClockReading } from './clock.ts';
import type { Tsu } from './stamp-task.ts';

/** A TSU that begins is waited for so long at most. A look reads a clock and compares a few numbers. */
const lookEveryMs = 250;
/** Redis may be away; then others claim the entries when this signer's last sign of life is old enough. */
const leaveMsMax = 500;

/** Whether a key may sign a token with this genTime, by what is known without its certificate. */
export const mayStampAt = ({ activeFromMs, usableUntilMs }: Pick<Tsu, 'activeFromMs' | 'usableUntilMs'>, unixMillis: number): boolean =>
  unixMillis >= activeFromMs && unixMillis <= usableUntilMs;

/** A place in the lane, from one joining to one leaving. */
export interface LanePlace {
  /** Entries being worked on. */
  readonly busy: number;
  /** Reads no more, and leaves to others what is not answered. */
  abandon(): Promise<void>;
  /** Reads no more, and answers what was read. */
  close(): Promise<void>;
}

export interface LaneMembershipOptions {
  /** Takes a new place. */
  readonly join: () => Promise<LanePlace>;
  /** Those that may stamp now or later. */
  readonly tsus: () => readonly Tsu[];
  /** The clock that stamps are dated by. */
  readonly read: () => ClockReading;
  readonly on: {
    /** It is in the lane, for the first time or again. */
    joined(): void;
    /** There is no TSU that may stamp. */
    left(): void;
    failed(error: unknown): void;
  };
  /** @defaultValue 250 ms */
  readonly lookEveryMs?: number;
}

export class LaneMembership {
  readonly #options: LaneMembershipOptions;
  #place: LanePlace | undefined;
  #joining: Promise<void> | undefined;
  readonly #leaving = new Set<Promise<void>>();
  readonly #timer: NodeJS.Timeout;
  #ended = false;

  private constructor(options: LaneMembershipOptions, place: LanePlace) {
    this.#options = options;
    this.#place = place;
    this.#timer = setInterval(() => this.look(), options.lookEveryMs ?? lookEveryMs);
  }

  /** Joins the lane. @throws what `join` throws */
  static async start(options: LaneMembershipOptions): Promise<LaneMembership> {
    const membership = new LaneMembership(options, await options.join());
    options.on.joined();
    return membership;
  }

  /** Entries being worked on. */
  get busy(): number {
    return this.#place?.busy ?? 0;
  }

  get isMember(): boolean {
    return this.#place !== undefined;
  }

  /** Leaves, or comes back, if that is what the TSUs say now. */
  look(): void {
    if (this.#ended) return;
    const reading = this.#options.read();
    // It says nothing about TSUs.
    if (reading.kind === 'unavailable') return;
    const mayStamp = this.#options.tsus().some((tsu) => mayStampAt(tsu, reading.unixMillis));
    if (mayStamp) this.#comeBack();
    else this.leave();
  }

  /** Leaves at once; for a thread that has found no TSU for a request. The next look may bring it back. */
  leave(): void {
    const place = this.#place;
    if (place === undefined || this.#ended) return;
    this.#place = undefined;
    this.#abandon(place);
    this.#options.on.left();
  }

  /** The token is gone: leaves for ever, within a bound. */
  async abandon(): Promise<void> {
    const place = this.#end();
    if (place !== undefined) this.#abandon(place);
    await Promise.all(this.#leaving);
  }

  /** Answers what was read, and leaves for ever. */
  async close(): Promise<void> {
    const place = this.#end();
    await this.#joining;
    await Promise.all([place?.close(), ...this.#leaving]);
  }

  #end(): LanePlace | undefined {
    this.#ended = true;
    clearInterval(this.#timer);
    const place = this.#place;
    this.#place = undefined;
    return place;
  }

  #comeBack(): void {
    if (this.#place !== undefined) return;
    this.#joining ??= this.#join().finally(() => {
      this.#joining = undefined;
    });
  }

  async #join(): Promise<void> {
    try {
      const place = await this.#options.join();
      if (this.#ended) {
        this.#abandon(place);
        return;
      }
      this.#place = place;
    } catch (error) {
      // Redis is away: the next look tries again.
      this.#options.on.failed(error);
      return;
    }
    this.#options.on.joined();
  }

  #abandon(place: LanePlace): void {
    const left = place.abandon().catch((error: unknown) => this.#options.on.failed(error));
    const bounded = Promise.race([left, delay(leaveMsMax)]).finally(() => this.#leaving.delete(bounded));
    this.#leaving.add(bounded);
  }
}
