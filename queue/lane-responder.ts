/**
 * The signer's end of a lane: reads entries as far as there is capacity, and answers each exactly once.
 *
 * The entries of a signer that died are claimed by a living one. While Redis is away nothing is read; an answer that
 * could not be delivered is tried again until its deadline, and never delivered twice (queue/commands/answer-4.lua).
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { type LaneKeys, type LaneName, laneKeys, signerGroup } from './keys.ts';
import { blockMs, type RedisClient } from './redis.ts';
import { createRedisClock, monotonicMs, type RedisClock } from './redis-clock.ts';

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
  readonly replies: Buffer;
  /** Block of journal events; empty when nothing happened that is one. */
  readonly journal: Buffer;
  /** Stamps granted, by client. */
  readonly stamps: ReadonlyMap<string, number>;
}

export interface LaneResponderOptions {
  readonly command: RedisClient;
  readonly blocking: RedisClient;
  readonly lane: LaneName;
  /** Unique for every start of every signer. */
  readonly signerId: string;
  /** Entries worked on at once. */
  readonly capacity: number;
  readonly deadAfterMs: number;
  /** Longest time any gateway waits for an answer. */
  readonly deadlineMs: number;
  readonly journalBlocksMax: number;
  /** Makes the answer; undefined leaves the entry unanswered (its gateway refuses it at the deadline). */
  readonly work: (entry: LaneEntry) => Promise<LaneAnswerBatch | undefined>;
  readonly on: {
    claimed(entries: number): void;
    /** Seconds between the end of the work and the answer's commit in Redis. */
    answered(seconds: number): void;
    failed(stage: 'read' | 'answer' | 'work' | 'claim', error: unknown): void;
  };
}

export interface LaneResponder {
  /** Entries being worked on. */
  readonly busy: number;
  /** True while reads succeed. */
  readonly reading: boolean;
  /** Stops reading, finishes what was read, and leaves the consumer group. */
  close(): Promise<void>;
}

const script = readFileSync(new URL('./commands/answer-4.lua', import.meta.url), 'utf8');
const scriptSha = createHash('sha1').update(script).digest('hex');

const heartbeatMs = 500;
const claimsAtOnce = 16;
const forgetAfterMs = 60_000;
const retryMs = 50;

type StreamEntry = [Buffer, Buffer[] | null];

/** Starts reading. @throws when Redis does not answer at the start */
export const createLaneResponder = async (options: LaneResponderOptions): Promise<LaneResponder> => {
  const { command, blocking, signerId, capacity, deadAfterMs, on } = options;
  const keys: LaneKeys = laneKeys(options.lane);
  const clock: RedisClock = await createRedisClock(command);
  const tasks = new Set<Promise<void>>();
  let closing = false;
  let reading = true;
  let whenFree: (() => void) | undefined;

  const createGroup = async (): Promise<void> => {
    await command.xgroup('CREATE', keys.requests, signerGroup, '0', 'MKSTREAM').catch((error: Error) => {
      if (!error.message.startsWith('BUSYGROUP')) throw error;
    });
  };
  await createGroup();

  /** NOGROUP: Redis was emptied or replaced under us. */
  const recover = async (stage: 'read' | 'claim', error: unknown): Promise<void> => {
    if ((error as Error).message?.startsWith('NOGROUP')) await createGroup().catch(() => undefined); // the next turn fails again and says why
    else on.failed(stage, error);
    await delay(retryMs);
  };

  const evaluate = async (parameters: (string | number | Buffer)[]): Promise<void> => {
    try {
      await command.evalsha(scriptSha, 4, ...parameters);
    } catch (error) {
      if (!(error as Error).message.startsWith('NOSCRIPT')) throw error;
      await command.eval(script, 4, ...parameters);
    }
  };

  const answer = async (entry: LaneEntry, batch: LaneAnswerBatch): Promise<void> => {
    const parameters: (string | number | Buffer)[] = [keys.requests, keys.replies(entry.gatewayId), keys.journal, keys.stamps];
    parameters.push(signerGroup, entry.id, entry.number, batch.replies, 2 * options.deadlineMs, batch.journal, options.journalBlocksMax);
    for (const [client, stamps] of batch.stamps) parameters.push(client, stamps);
    const started = monotonicMs();
    for (let attempt = 1; ; attempt += 1) {
      try {
        await evaluate(parameters);
        on.answered((monotonicMs() - started) / 1_000);
        return;
      } catch (error) {
        if (attempt === 1) on.failed('answer', error);
        if (monotonicMs() - entry.enteredAtMs > options.deadlineMs) {
          // Its gateway has given up; take it out of the books so that nobody signs it again.
          await command.multi().xack(keys.requests, signerGroup, entry.id).xdel(keys.requests, entry.id).exec().catch(() => undefined);
          return;
        }
        await delay(retryMs);
      }
    }
  };

  const handle = async (entry: LaneEntry): Promise<void> => {
    try {
      const batch = await options.work(entry);
      if (batch !== undefined) await answer(entry, batch);
    } catch (error) {
      on.failed('work', error);
    }
  };

  const start = ([id, fields]: StreamEntry): void => {
    const text = id.toString('latin1');
    // A null entry was deleted by its gateway at the deadline, while it was pending here.
    const [, gatewayId, , number, , payload] = fields ?? [];
    if (gatewayId === undefined || number === undefined || payload === undefined) {
      command.multi().xack(keys.requests, signerGroup, text).xdel(keys.requests, text).exec().catch(() => undefined); // best effort: claimed again later
      return;
    }
    const entry: LaneEntry = {
      id: text,
      gatewayId: gatewayId.toString('latin1'),
      number: number.toString('latin1'),
      payload,
      enteredAtMs: clock.toMonotonicMs(Number(text.split('-', 1)[0])),
    };
    const task = handle(entry).finally(() => {
      tasks.delete(task);
      whenFree?.();
    });
    tasks.add(task);
  };

  const freePlaces = async (): Promise<number> => {
    while (tasks.size >= capacity) {
      await new Promise<void>((resolve) => {
        whenFree = resolve;
      });
    }
    return capacity - tasks.size;
  };

  const readEntries = async (): Promise<void> => {
    while (!closing) {
      const free = await freePlaces();
      if (closing) return;
      try {
        const streams = (await blocking.xreadgroupBuffer(
          'GROUP', signerGroup, signerId, 'COUNT', free, 'BLOCK', blockMs, 'STREAMS', keys.requests, '>',
        )) as [Buffer, StreamEntry[]][] | null; // biome-ignore format: one command, one line
        reading = true;
        for (const entry of streams?.[0]?.[1] ?? []) start(entry);
      } catch (error) {
        reading = false;
        if (!closing) await recover('read', error);
      }
    }
  };

  /** Its own sign of life: Redis 7.0 counts a consumer that waits for entries as idle, and a full signer does not read at all. */
  const beat = async (): Promise<void> => {
    await command.zadd(keys.signers, Math.round(clock.nowMs()), signerId);
  };
  await beat();

  const claimFrom = async (dead: string): Promise<void> => {
    const room = Math.min(claimsAtOnce, capacity - tasks.size);
    if (room <= 0) return;
    const pending = (await command.xpending(keys.requests, signerGroup, '-', '+', room, dead)) as [string, ...unknown[]][];
    const ids = pending.map(([id]) => id);
    if (ids.length === 0) return;
    // The minimum idle time lets only one of several claimers win each entry; entries deleted meanwhile leave the books here.
    const claimed = (await command.callBuffer('XCLAIM', keys.requests, signerGroup, signerId, deadAfterMs, ...ids)) as StreamEntry[];
    if (claimed.length > 0) on.claimed(claimed.length);
    for (const entry of claimed) start(entry);
  };

  /** XGROUP DELCONSUMER drops what is pending: only long after the last sign of life, and only when nothing is. */
  const forget = async (dead: string): Promise<void> => {
    const pending = await command.xpending(keys.requests, signerGroup, '-', '+', 1, dead);
    if (pending.length > 0) return;
    await command.xgroup('DELCONSUMER', keys.requests, signerGroup, dead);
    await command.zrem(keys.signers, dead);
  };

  const claimFromDead = async (): Promise<void> => {
    const now = Math.round(clock.nowMs());
    const dead = await command.zrange(keys.signers, '-inf', String(now - deadAfterMs), 'BYSCORE', 'WITHSCORES');
    for (let i = 0; i < dead.length; i += 2) {
      const name = dead[i] as string;
      if (name === signerId) continue;
      await claimFrom(name);
      if (Number(dead[i + 1]) < now - forgetAfterMs) await forget(name);
    }
  };

  const keepHouse = async (): Promise<void> => {
    while (!closing) {
      try {
        await beat();
        await claimFromDead();
      } catch (error) {
        if (!closing) await recover('claim', error);
      }
      await delay(heartbeatMs);
    }
  };

  const loops = [readEntries(), keepHouse()];

  return {
    get busy() {
      return tasks.size;
    },
    get reading() {
      return reading;
    },
    async close() {
      closing = true;
      whenFree?.();
      await Promise.all(loops);
      await Promise.all(tasks);
      clock.close();
      await forget(signerId).catch(() => undefined); // best effort: a living signer does it later
    },
  };
};
