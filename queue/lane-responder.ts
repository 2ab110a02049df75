/**
 * The signer's end of a lane: reads entries as far as there is capacity, and answers each exactly once.
 *
 * The entries of a signer that died are claimed by a living one, and at once those of a signer that gave up. While Redis is away nothing is read; an answer that
 * could not be delivered is tried again until its deadline, and never delivered twice (queue/commands/answer-4.lua).
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises';
import { type LaneKeys, type LaneName, laneKeys, signerGroup } from './keys.ts';
import { blockMs, type RedisClient } from './redis.ts';
import { createRedisClock, monotonicMs, type RedisClock } from './redis-clock.ts';
import { countStampRequests } from './stamp-messages.ts';

/** One batch of requests, as it was read. */
export interface LaneEntry {
  readonly id: string;
  readonly gatewayId: string;
  /** Number of the entry in its gateway. */
  readonly number: string;
  readonly payload: Buffer;
  /** When it was put into the stream, on this machine's monotonic clock. */
  readonly enteredAtMs: number;
}

export interface LaneAnswerBatch {
  /** Block of answers (queue/answer-block.ts): the reply, and the journal's events. */
  readonly block: Buffer;
  /** Stamps granted, by client. */
  readonly stamps: ReadonlyMap<string, number>;
}

/** Thrown by the work of an entry that is not answered here, and stays for others: this signer is about to abandon the lane. */
export class HandedBack extends Error {}

export const laneFailureStages = ['read', 'answer', 'work', 'claim'] as const;
/** What a responder was about when it failed. */
export type LaneFailureStage = (typeof laneFailureStages)[number];

export interface LaneResponderOptions {
  readonly command: RedisClient;
  readonly blocking: RedisClient;
  readonly lane: LaneName;
  /** Unique for every start of every signer. */
  readonly signerId: string;
  /** Entries worked on at once; what is claimed while a read waits may double it for a moment. */
  readonly capacity: number;
  /**
   * Requests that it can make use of at once now. While it has fewer, it reads on behind `capacity` entries, one at a time: a signer
   * that took more than it needs would keep it from the others.
   */
  readonly requestsWanted: () => number;
  readonly deadAfterMs: number;
  /** Longest time any gateway waits for an answer. */
  readonly deadlineMs: number;
  /**
   * Makes the answer. When it throws HandedBack, another signer makes it; at any other error the entry stays unanswered, and its gateway
   * refuses it at the deadline.
   */
  readonly work: (entry: LaneEntry) => Promise<LaneAnswerBatch>;
  readonly on: {
    claimed(entries: number): void;
    /** Seconds between the end of the work and the answer's commit in Redis. */
    answered(seconds: number): void;
    failed(stage: LaneFailureStage, error: unknown): void;
  };
}

const script = readFileSync(new URL('./commands/answer-4.lua', import.meta.url), 'utf8');
const scriptSha = createHash('sha1').update(script).digest('hex');

const heartbeatMs = 500;
/** How soon the entries of a signer that gave up are taken over. */
const claimEveryMs = 100;
/** Two that claim at once: the one that comes second must find the entry claimed. */
const abandonedIdleMs = 10;
const claimsAtOnce = 16;
const forgetAfterMs = 60_000;
const retryMs = 50;
const oldest = '0';

type StreamEntry = [Buffer, Buffer[] | null];
type ScriptArgument = string | number | Buffer;

const startsWith = (error: unknown, prefix: string): boolean => error instanceof Error && error.message.startsWith(prefix);

export class LaneResponder {
  readonly #options: LaneResponderOptions;
  readonly #keys: LaneKeys;
  readonly #clock: RedisClock;
  /** Entries being worked on, by id. */
  readonly #tasks = new Map<string, Promise<void>>();
  /** In those entries. */
  #requests = 0;
  #closing = false;
  #reading = true;
  #whenFree: (() => void) | undefined;
  #loops: Promise<void>[] = [];

  private constructor(options: LaneResponderOptions, clock: RedisClock) {
    this.#options = options;
    this.#keys = laneKeys(options.lane);
    this.#clock = clock;
  }

  /** Joins the lane and starts to read. @throws when Redis does not answer at the start */
  static async start(options: LaneResponderOptions): Promise<LaneResponder> {
    const responder = new LaneResponder(options, await createRedisClock(options.command));
    await responder.#createGroup();
    await responder.#beat();
    responder.#loops = [responder.#readEntries(), responder.#keepHouse()];
    return responder;
  }

  /** Entries being worked on. */
  get busy(): number {
    return this.#tasks.size;
  }

  /** True while reads succeed. */
  get reading(): boolean {
    return this.#reading;
  }

  /** Stops reading, finishes what was read, and leaves the consumer group. The connections are the caller's. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#whenFree?.();
    await Promise.all(this.#loops);
    await Promise.all(this.#tasks.values());
    this.#clock.close();
    await this.#forget(this.#options.signerId).catch(() => undefined); // best effort: a living signer does it later
  }

  /**
   * Leaves the lane at once: what was read and not answered is taken over by others. Answers that are under way may still be given,
   * each by one signer only. The connections are the caller's, and the one that reads is to be closed.
   */
  async abandon(): Promise<void> {
    this.#closing = true;
    this.#whenFree?.();
    this.#clock.close();
    // A time before zero: this one is not dead for want of a heartbeat, and need not be waited for.
    await this.#options.command.zadd(this.#keys.signers, -Math.round(this.#clock.nowMs()), this.#options.signerId);
  }

  async #createGroup(): Promise<void> {
    await this.#options.command.xgroup('CREATE', this.#keys.requests, signerGroup, '0', 'MKSTREAM').catch((error: unknown) => {
      if (!startsWith(error, 'BUSYGROUP')) throw error;
    });
  }

  async #readEntries(): Promise<void> {
    const { blocking, signerId } = this.#options;
    let missedFrom: string | undefined = oldest;
    while (!this.#closing) {
      const free = await this.#freePlaces();
      if (this.#closing) return;
      try {
        if (missedFrom !== undefined) {
          missedFrom = await this.#startMissed(missedFrom, free);
          this.#reading = true;
          continue;
        }
        const group = ['GROUP', signerGroup, signerId, 'COUNT', free, 'BLOCK', blockMs, 'STREAMS', this.#keys.requests, '>'] as const;
        const streams = (await blocking.xreadgroupBuffer(...group)) as [Buffer, StreamEntry[]][] | null;
        this.#reading = true;
        // Nothing came, or nothing in time: ioredis answers null for a server that stood still, and drops what it sends later.
        if (streams === null) missedFrom = oldest;
        for (const entry of streams?.[0]?.[1] ?? []) this.#start(entry);
        // What was answered at once goes out first: its write comes by promises that come after this one.
        await turn();
      } catch (error) {
        this.#reading = false;
        missedFrom = oldest;
        await this.#recover('read', error);
      }
    }
  }

  /**
   * Starts what Redis counts as delivered to this signer in a read whose reply was lost: its own history, less what it works on.
   * @param from id behind which to look
   * @returns where to go on, or undefined at the end of the history
   */
  async #startMissed(from: string, count: number): Promise<string | undefined> {
    const { blocking, signerId } = this.#options;
    const group = ['GROUP', signerGroup, signerId, 'COUNT', count, 'STREAMS', this.#keys.requests, from] as const;
    const streams = (await blocking.xreadgroupBuffer(...group)) as [Buffer, StreamEntry[]][] | null;
    const entries = streams?.[0]?.[1] ?? [];
    for (const entry of entries) this.#start(entry);
    return entries.at(-1)?.[0].toString('latin1');
  }

  async #freePlaces(): Promise<number> {
    let places = this.#places();
    while (places === 0 && !this.#closing) {
      await new Promise<void>((resolve) => {
        this.#whenFree = resolve;
      });
      places = this.#places();
    }
    return places;
  }

  /** Entries that there is room for. */
  #places(): number {
    const { capacity, requestsWanted } = this.#options;
    const left = capacity - this.#tasks.size;
    if (left > 0) return left;
    return this.#requests < requestsWanted() ? 1 : 0;
  }

  /** NOGROUP: Redis was emptied or replaced under us. */
  async #recover(stage: LaneFailureStage, error: unknown): Promise<void> {
    if (this.#closing) return;
    if (startsWith(error, 'NOGROUP'))
      await this.#createGroup().catch(() => undefined); // the next turn fails again and says why
    else this.#options.on.failed(stage, error);
    await delay(retryMs);
  }

  #start([id, fields]: StreamEntry): void {
    const text = id.toString('latin1');
    if (this.#tasks.has(text)) return;
    // A null entry was deleted by its gateway at the deadline, while it was pending here.
    const [, gatewayId, , number, , payload] = fields ?? [];
    if (gatewayId === undefined || number === undefined || payload === undefined) {
      this.#drop(text).catch(() => undefined); // best effort: it is claimed and dropped again later
      return;
    }
    const entry: LaneEntry = {
      id: text,
      gatewayId: gatewayId.toString('latin1'),
      number: number.toString('latin1'),
      payload,
      enteredAtMs: this.#clock.toMonotonicMs(Number(text.split('-', 1)[0])),
    };
    const requests = countStampRequests(payload);
    this.#requests += requests;
    const task = this.#handle(entry).finally(() => {
      this.#requests -= requests;
      this.#tasks.delete(text);
      this.#whenFree?.();
    });
    this.#tasks.set(text, task);
  }

  async #handle(entry: LaneEntry): Promise<void> {
    let batch: LaneAnswerBatch;
    try {
      batch = await this.#options.work(entry);
    } catch (error) {
      if (error instanceof HandedBack) return;
      this.#options.on.failed('work', error);
      // Signing it again would fail again: out of the books, its gateway refuses it at the deadline.
      await this.#drop(entry.id).catch(() => undefined); // best effort: it is dropped by its deadline
      return;
    }
    await this.#answer(entry, batch);
  }

  async #answer(entry: LaneEntry, batch: LaneAnswerBatch): Promise<void> {
    const { on, deadlineMs } = this.#options;
    const keys = [this.#keys.requests, this.#keys.replies(entry.gatewayId), this.#keys.journal, this.#keys.stamps];
    const parameters: ScriptArgument[] = [...keys, signerGroup, entry.id, entry.number, batch.block, 2 * deadlineMs];
    for (const [client, stamps] of batch.stamps) parameters.push(client, stamps);
    const started = monotonicMs();
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#evaluate(parameters);
        on.answered((monotonicMs() - started) / 1_000);
        return;
      } catch (error) {
        if (attempt === 1) on.failed('answer', error);
        if (monotonicMs() - entry.enteredAtMs > deadlineMs) {
          // Its gateway has given up; nobody needs to sign it again.
          await this.#drop(entry.id).catch(() => undefined); // best effort: it is dropped by its deadline
          return;
        }
        await delay(retryMs);
      }
    }
  }

  async #evaluate(parameters: ScriptArgument[]): Promise<void> {
    const { command } = this.#options;
    try {
      await command.evalsha(scriptSha, 4, ...parameters);
    } catch (error) {
      if (!startsWith(error, 'NOSCRIPT')) throw error;
      await command.eval(script, 4, ...parameters);
    }
  }

  async #drop(id: string): Promise<void> {
    await this.#options.command.multi().xack(this.#keys.requests, signerGroup, id).xdel(this.#keys.requests, id).exec();
  }

  async #keepHouse(): Promise<void> {
    let beatAtMs = Number.NEGATIVE_INFINITY;
    while (!this.#closing) {
      try {
        const now = monotonicMs();
        if (now - beatAtMs >= heartbeatMs) {
          await this.#beat();
          beatAtMs = now;
        }
        await this.#claimFromDead();
      } catch (error) {
        await this.#recover('claim', error);
      }
      await delay(claimEveryMs);
    }
  }

  /** Its own sign of life: Redis 7.0 counts a consumer that waits for entries as idle, and a full signer does not read at all. */
  async #beat(): Promise<void> {
    await this.#options.command.zadd(this.#keys.signers, Math.round(this.#clock.nowMs()), this.#options.signerId);
  }

  async #claimFromDead(): Promise<void> {
    const { command, deadAfterMs, signerId } = this.#options;
    const now = Math.round(this.#clock.nowMs());
    const dead = await command.zrange(this.#keys.signers, '-inf', String(now - deadAfterMs), 'BYSCORE', 'WITHSCORES');
    for (let i = 0; i < dead.length; i += 2) {
      const name = dead[i] as string;
      if (name === signerId) continue;
      const lastMs = Number(dead[i + 1]);
      await this.#claimFrom(name, lastMs < 0 ? abandonedIdleMs : deadAfterMs);
      // One that gave up may have been handed an entry in its last moment, so it is not forgotten at once either.
      if (Math.abs(lastMs) < now - forgetAfterMs) await this.#forget(name);
    }
  }

  async #claimFrom(dead: string, idleMsMin: number): Promise<void> {
    const { command, on, signerId } = this.#options;
    const room = Math.min(claimsAtOnce, this.#places());
    if (room === 0) return;
    const pending = (await command.xpending(this.#keys.requests, signerGroup, '-', '+', room, dead)) as [string, ...unknown[]][];
    const ids = pending.map(([id]) => id);
    if (ids.length === 0) return;
    // The minimum idle time lets only one of several claimers win each entry; entries deleted meanwhile leave the books here.
    const claimed = (await command.callBuffer('XCLAIM', this.#keys.requests, signerGroup, signerId, idleMsMin, ...ids)) as StreamEntry[];
    if (claimed.length > 0) on.claimed(claimed.length);
    for (const entry of claimed) this.#start(entry);
  }

  /** XGROUP DELCONSUMER drops what is pending: only long after the last sign of life, and only when nothing is. */
  async #forget(dead: string): Promise<void> {
    const { command } = this.#options;
    const pending = await command.xpending(this.#keys.requests, signerGroup, '-', '+', 1, dead);
    if (pending.length > 0) return;
    await command.xgroup('DELCONSUMER', this.#keys.requests, signerGroup, dead);
    await command.zrem(this.#keys.signers, dead);
  }
}
