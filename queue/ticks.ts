/**
 * A job that is done again and again by one of the processes that can: a job scheduler of BullMQ and a worker in each of them.
 *
 * Guarantees: a tick is given to one worker; one whose worker dies is given to another when its lock ends, and the ticks behind it
 * come all the same. What a tick does must bear being done twice: BullMQ promises "at least once". A Redis that comes back empty has
 * lost the scheduler, and a clock that was set back has its next tick hours ahead: it is made again when ticks are overdue, and at each
 * connection.
 */
import { Queue, Worker } from 'bullmq';
import type { RedisClient } from './redis.ts';
import { monotonicMs } from './redis-clock.ts';

/** BullMQ's keys of all queues share one hash tag, so that each of its scripts finds its keys on one node of a cluster. */
const prefix = '{tsu}';
const schedulerId = 'tick';
/** Longer than a step that blocks the process, so that its tick is not taken for dead: a key of RSA 4096 takes a token up to a minute. */
const lockMs = 120_000;
/** A worker asks for work that is there at once, and waits so long, in seconds, for work that is not: finite, because a link may be dead. */
const drainDelaySeconds = 1;
const overdueTicks = 5;

export interface TickOptions {
  /** Name of the queue: letters, digits and hyphens. */
  readonly name: string;
  readonly everyMs: number;
  /** A connection of the role `jobs`; BullMQ makes copies of it. */
  readonly connection: RedisClient;
  readonly work: () => Promise<void>;
  /** What BullMQ or the work has thrown; ticks go on. */
  readonly onError: (error: Error) => void;
}

export interface Ticks {
  /** Stops taking ticks; one that is being done is finished. */
  close(): Promise<void>;
}

/** Starts to tick. @throws when Redis does not answer */
export const startTicks = async ({ name, everyMs, connection, work, onError }: TickOptions): Promise<Ticks> => {
  const queue = new Queue(name, {
    connection,
    prefix,
    skipVersionCheck: false,
    skipWaitingForReady: false,
    streams: { events: { maxLen: 100 } }, // nobody listens; the default keeps 10,000
    defaultJobOptions: { attempts: 1, removeOnComplete: true, removeOnFail: 10 },
  });
  queue.on('error', onError);
  const schedule = async (): Promise<void> => {
    await queue.upsertJobScheduler(
      schedulerId,
      { every: everyMs },
      { name: schedulerId, opts: { removeOnComplete: true, removeOnFail: 10 } },
    );
  };
  let tickedAtMs = monotonicMs();
  const tick = async (): Promise<void> => {
    tickedAtMs = monotonicMs();
    try {
      await work();
    } catch (error) {
      onError(error instanceof Error ? error : new Error(String(error)));
    }
  };
  await schedule();
  const worker = new Worker(name, tick, {
    connection,
    prefix,
    concurrency: 1,
    autorun: true,
    lockDuration: lockMs,
    lockRenewTime: lockMs / 2,
    stalledInterval: 30_000,
    maxStalledCount: 1_000, // a tick that is lost is nothing: the next one does what it would have done
    drainDelay: drainDelaySeconds,
    removeOnComplete: { count: 0 },
    removeOnFail: { count: 10 },
    runRetryDelay: 1_000,
  });
  worker.on('error', onError);
  const again = (): void => void schedule().catch(onError);
  connection.on('ready', again);
  const overdueMs = Math.max(overdueTicks * everyMs, 5_000);
  /** BullMQ counts from the tick before: one that a clock has put hours ahead, before it was set back, would stay there. */
  const rescue = async (): Promise<void> => {
    const scheduled = await queue.getJobScheduler(schedulerId);
    if ((scheduled?.next ?? 0) > Date.now() + overdueMs) await queue.removeJobScheduler(schedulerId);
    await schedule();
  };
  const watchdog = setInterval(() => {
    if (connection.status === 'ready' && monotonicMs() - tickedAtMs > overdueMs) rescue().catch(onError);
  }, overdueMs);
  return {
    async close() {
      clearInterval(watchdog);
      connection.off('ready', again);
      await worker.close();
      await queue.close();
    },
  };
};
