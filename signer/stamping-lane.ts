/** How a signer takes its part of the timestamp lane: what it reads goes to the pool, and it reads while it has a TSU that may stamp. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import type { Logger } from '../observability/log.ts';
import type { SignerMetrics } from '../observability/signer-metrics.ts';
import { stampOutcomes } from '../queue/answer-block.ts';
import { HandedBack, type LaneAnswerBatch, type LaneEntry, LaneResponder } from '../queue/lane-responder.ts';
import type { RedisClient } from '../queue/redis.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { createGuardedClock } from './clock.ts';
import { machineClocks } from './clock-sources.ts';
import { LaneMembership, type LanePlace } from './lane-membership.ts';
import { connect } from './redis-connection.ts';
import type { StampedBatch, Tsu } from './stamp-task.ts';
import type { StampingPool } from './stamping-pool.ts';

interface LaneParts {
  readonly config: Config;
  readonly log: Logger;
  readonly command: RedisClient;
  readonly pool: Pick<StampingPool, 'stamp' | 'threads' | 'atOnce'>;
  readonly metrics: SignerMetrics;
  readonly told: (batch: StampedBatch) => void;
  /** A thread has found no TSU that may stamp. */
  readonly noTsu: () => void;
}

/** What the pool makes of one lane entry, counted once its answer is on its way. */
const createWork = ({ pool, metrics, told, noTsu }: Pick<LaneParts, 'pool' | 'metrics' | 'told' | 'noTsu'>) => {
  const count = (batch: StampedBatch, queuedMs: number, workedMs: number): void => {
    const { outcomes, signMs } = batch;
    metrics.stage('queue', Math.max(0, queuedMs) / 1_000);
    metrics.stage('sign', workedMs / 1_000);
    let requests = 0;
    for (const outcome of stampOutcomes) {
      requests += outcomes[outcome];
      if (outcomes[outcome] > 0) metrics.outcome(outcome, outcomes[outcome]);
    }
    metrics.batch(requests);
    metrics.signatures(outcomes.granted, signMs / 1_000);
    told(batch);
  };
  return async (entry: LaneEntry): Promise<LaneAnswerBatch> => {
    const handed = monotonicMs();
    let batch: StampedBatch;
    try {
      batch = await pool.stamp(entry.payload, entry.enteredAtMs);
    } catch (error) {
      if (!(error instanceof SigilloError)) throw error;
      // The last one ended a moment ago. Whoever hands back leaves the lane: else the entry would stay here until its deadline.
      if (error.code === 'TSU_NONE_ACTIVE') noTsu();
      // The token has failed, which ends the pool.
      else if (!error.code.startsWith('HSM_')) throw error;
      throw new HandedBack(error.code, { cause: error });
    }
    const workedMs = monotonicMs() - handed;
    setImmediate(() => count(batch, handed - entry.enteredAtMs, workedMs));
    const { block } = batch;
    return { block: Buffer.from(block.buffer, block.byteOffset, block.byteLength), stamps: batch.stamps };
  };
};

/** Begins to take entries of the lane, with a connection of its own. @throws what Redis says */
const joinLane = async ({ config, log, command, ...parts }: LaneParts): Promise<LanePlace> => {
  const { pool, metrics } = parts;
  const blocking = await connect(config, 'signer-reader', 'blocking', log);
  const responder = await LaneResponder.start({
    command,
    blocking,
    lane: 'timestamp',
    signerId: `${hostname()}-${process.pid}-${randomBytes(4).toString('hex')}`,
    capacity: pool.threads * config.signer.batchesPerWorker,
    // With one signature at once for each thread that is never more than these entries hold.
    requestsWanted: () => pool.atOnce * config.signer.batchesPerWorker,
    deadAfterMs: config.signer.deadAfterMs,
    deadlineMs: config.timestamp.deadlineMs,
    work: createWork(parts),
    on: {
      claimed(entries) {
        metrics.claimed(entries);
        log.warn({ entries }, 'lane: took over the entries of a signer that died or gave up');
      },
      answered: (seconds) => metrics.stage('reply', seconds),
      failed(stage, error) {
        metrics.failed(stage);
        log.error({ stage, err: error }, 'lane: failure');
      },
    },
  }).catch((error: unknown) => {
    blocking.disconnect();
    throw error;
  });
  return {
    get busy() {
      return responder.busy;
    },
    abandon() {
      blocking.disconnect();
      return responder.abandon();
    },
    async close() {
      await responder.close();
      blocking.disconnect();
    },
  };
};

export interface StampingLaneOptions {
  readonly parts: Omit<LaneParts, 'noTsu'>;
  /** Those that may stamp now or later. */
  readonly tsus: () => readonly Tsu[];
  /** Of the clock that stamps are dated by. */
  readonly clockMemory: SharedArrayBuffer;
  readonly joined: () => void;
  readonly left: () => void;
}

/** Joins the timestamp lane. @throws what Redis says */
export const takeUpLane = async ({ parts, tsus, clockMemory, joined, left }: StampingLaneOptions): Promise<LaneMembership> => {
  let membership: LaneMembership | undefined;
  membership = await LaneMembership.start({
    join: () => joinLane({ ...parts, noTsu: () => membership?.leave() }),
    tsus,
    read: createGuardedClock(clockMemory, machineClocks(), parts.config.time).read,
    on: { joined, left, failed: (error) => parts.log.warn({ err: error }, 'lane: could not be joined or left') },
  });
  return membership;
};
