/**
 * The signer: owns the PKCS#11 module for its process, proves its key, and answers the timestamp lane with a pool of
 * worker threads. Without its key it does not start; without Redis it waits; what it has read it answers before it stops.
 */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import { registerClockMetrics } from '../observability/clock-metrics.ts';
import { recordStop } from '../observability/journal/service-events.ts';
import type { Logger } from '../observability/log.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import { registerRecorderMetrics } from '../observability/recorder-metrics.ts';
import { createSignerMetrics, type SignerMetrics } from '../observability/signer-metrics.ts';
import { stampOutcomes } from '../queue/answer-block.ts';
import { HandedBack, type LaneAnswerBatch, type LaneEntry, LaneResponder } from '../queue/lane-responder.ts';
import { type RedisClient, redisHealth } from '../queue/redis.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { createCallMemory } from './call-watch.ts';
import { type ClockWatch, watchClock } from './clock-watch.ts';
import { createEventClock, type EventClock } from './event-clock.ts';
import { type OpenHsm, openHsm } from './hsm-modules.ts';
import { type JournalDuties, takeUpJournalDuties } from './journal-duties.ts';
import { type Hsm, type HsmSlot, resolveHsm, slotForPurpose } from './pkcs11-module.ts';
import { connect } from './redis-connection.ts';
import { stampingSessions, stampingThreads } from './session-count.ts';
import { createPaceMemory } from './session-pace.ts';
import { createTsuMemory, writeTsus } from './shared-tsus.ts';
import { SlotTeller } from './slot-status.ts';
import { SlotTsus } from './slot-tsus.ts';
import { createFailureLog } from './stamp-failures.ts';
import type { StampedBatch, StampWorkerData, Tsu } from './stamp-task.ts';
import { StampingPool } from './stamping-pool.ts';
import { firstTsus, followTsus } from './tsu-follower.ts';

export interface SignerService {
  /** Resolves when the token has failed: the module must be initialised anew, which takes a new process. */
  readonly failed: Promise<Error>;
  metrics(): Promise<unknown>;
  health(): Promise<readonly HealthItem[]>;
  /** @param reason for the journal */
  stop(reason: string): Promise<void>;
}

/** Redis may be away as well; then others claim the entries when this signer's last sign of life is old enough. */
const abandonMsMax = 500;

/** What the pool makes of one lane entry, counted once its answer is on its way. */
const createWork = (pool: StampingPool, metrics: SignerMetrics, tell: (batch: StampedBatch) => void) => {
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
    tell(batch);
  };
  return async (entry: LaneEntry): Promise<LaneAnswerBatch> => {
    const handed = monotonicMs();
    let batch: StampedBatch;
    try {
      batch = await pool.stamp(entry.payload, entry.enteredAtMs);
    } catch (error) {
      // The token has failed, and nothing of this entry was answered.
      if (error instanceof SigilloError && error.code.startsWith('HSM_')) throw new HandedBack(error.code, { cause: error });
      throw error;
    }
    const workedMs = monotonicMs() - handed;
    setImmediate(() => count(batch, handed - entry.enteredAtMs, workedMs));
    const { block } = batch;
    return { block: Buffer.from(block.buffer, block.byteOffset, block.byteLength), stamps: batch.stamps };
  };
};

/** The pool for the TSUs of a slot. @throws HSM_* */
const startPool = (
  config: Config,
  slot: HsmSlot,
  module: OpenHsm,
  log: Logger,
  { tsuMemory, clockMemory }: Pick<StampWorkerData, 'tsuMemory' | 'clockMemory'>,
): Promise<StampingPool> => {
  const embedded = config.hsm.mode === 'embedded';
  const { handle } = module.findSlot(slot.label);
  return StampingPool.start({
    data: {
      modulePath: slot.modulePath,
      slot: handle,
      node: hostname().slice(0, 64),
      tsuMemory,
      timestamp: config.timestamp,
      time: config.time,
      clockMemory,
      callMemory: createCallMemory(),
      paceMemory: createPaceMemory(embedded ? 0 : Math.ceil(1_000 / config.signer.sessionsPerSecond)),
    },
    threads: stampingThreads(config),
    sessionsMax: stampingSessions(config, slot, module.sessionLimit(slot.label)),
    inline: embedded,
    callMsMax: config.signer.callMsMax,
    keepAliveMs: config.signer.keepAliveMs,
    onSetAside: (tsus) =>
      log.error({ slot: slot.label, tsus }, 'signer: TSUs cannot be opened; the others stamp on, and these are looked for again'),
  });
};

export interface SignerOptions {
  /** Token label of the slot that it stamps with. @defaultValue the first with the purpose timestamp */
  readonly slot?: string | undefined;
}

/** Starts the signer of one slot. @throws HSM_*, CERTIFICATE_INVALID, SETUP_INCOMPLETE, REDIS_UNAVAILABLE */
export const startSigner = async (config: Config, log: Logger, options: SignerOptions = {}): Promise<SignerService> => {
  const hsm = resolveHsm(config);
  const slot = slotForPurpose(hsm, 'timestamp', options.slot);
  // Before the token: what becomes of it is told there.
  const command = await connect(config, 'signer', 'command', log);
  const eventClock = createEventClock(command);
  const teller = await SlotTeller.start({ redis: command, slot, log, clock: eventClock.state });
  try {
    return await serveSlot({ config, log, hsm, slot, command, teller, eventClock });
  } catch (error) {
    await teller.end(error);
    eventClock.close();
    command.disconnect();
    throw error;
  }
};

interface SlotParts {
  readonly config: Config;
  readonly log: Logger;
  readonly hsm: Hsm;
  readonly slot: HsmSlot;
  readonly command: RedisClient;
  readonly teller: SlotTeller;
  readonly eventClock: EventClock;
}

interface LaneParts {
  readonly config: Config;
  readonly log: Logger;
  readonly command: RedisClient;
  readonly blocking: RedisClient;
  readonly pool: StampingPool;
  readonly metrics: SignerMetrics;
  readonly told: (batch: StampedBatch) => void;
}

/** Begins to take entries of the lane. */
const joinLane = ({ config, log, command, blocking, pool, metrics, told }: LaneParts): Promise<LaneResponder> =>
  LaneResponder.start({
    command,
    blocking,
    lane: 'timestamp',
    signerId: `${hostname()}-${process.pid}-${randomBytes(4).toString('hex')}`,
    capacity: pool.threads * config.signer.batchesPerWorker,
    // With one signature at once for each thread that is never more than these entries hold.
    requestsWanted: () => pool.atOnce * config.signer.batchesPerWorker,
    deadAfterMs: config.signer.deadAfterMs,
    deadlineMs: config.timestamp.deadlineMs,
    work: createWork(pool, metrics, told),
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
  });

interface MeteredParts {
  readonly label: string;
  readonly pool: StampingPool;
  readonly journal: JournalDuties;
  readonly teller: SlotTeller;
  readonly clock: ClockWatch;
  readonly entriesBusy: () => number;
}

const metricsOf = ({ label, pool, journal, teller, clock, entriesBusy }: MeteredParts): SignerMetrics => {
  const metrics = createSignerMetrics({
    slot: label,
    sessionsOpen: () => pool.atOnce,
    entriesBusy,
    sessionsBusy: () => pool.signing,
    journalKeyUp: () => journal.keyUp,
    redisDurable: () => journal.durability.ok,
  });
  registerClockMetrics(metrics.registry, () => clock.picture());
  registerRecorderMetrics(metrics.registry, () => journal.recorder.lost + teller.eventsLost);
  return metrics;
};

const serveSlot = async ({ config, log, hsm, slot, command, teller, eventClock }: SlotParts): Promise<SignerService> => {
  const module = openHsm(hsm);
  module.login(slot);
  const blocking = await connect(config, 'signer-reader', 'blocking', log);
  const slotTsus = new SlotTsus({ config, redis: command, module, slot, log });
  let tsus = await firstTsus(slotTsus, slot.label, () => teller.waiting());
  const current = (): Tsu | undefined => tsus.find(({ activeFromMs }) => activeFromMs <= Date.now());
  const journal = await takeUpJournalDuties({ config, log, command, hsm, module, tsu: current, clock: eventClock.state });

  const clock = watchClock({ time: config.time, log, recorder: journal.recorder });
  eventClock.follow(clock);
  const tsuMemory = createTsuMemory(tsus);
  const pool = await startPool(config, slot, module, log, { tsuMemory, clockMemory: clock.memory });
  let responder: LaneResponder | undefined;
  const metrics = metricsOf({ label: slot.label, pool, journal, teller, clock, entriesBusy: () => responder?.busy ?? 0 });
  const tellFailure = createFailureLog(log);
  const told = (batch: StampedBatch): void => {
    tellFailure(batch);
    teller.batch(batch);
  };
  responder = await joinLane({ config, log, command, blocking, pool, metrics, told });
  log.info({ slot: slot.label, tsu: current()?.id, key: current()?.keyLabel, threads: pool.threads }, 'signer: stamping');
  teller.serving(() => ({
    sessions: { busy: pool.signing, open: pool.atOnce, max: pool.atMost },
    threads: pool.threads,
    tsus: tsus.filter(({ activeFromMs }) => activeFromMs <= Date.now()),
  }));
  const lane = responder;
  let failure: Error | undefined;

  /** The token is gone: others take over what was read, and nothing here is waited for. */
  const abandon = async (error: Error): Promise<Error> => {
    failure = error;
    log.error({ slot: slot.label, err: error }, 'signer: the slot is given up; a new process takes it up again');
    blocking.disconnect();
    const abandoned = Promise.race([lane.abandon(), delay(abandonMsMax)]).catch((cause: unknown) =>
      log.error({ err: cause }, 'lane: could not be abandoned'),
    );
    await Promise.all([abandoned, teller.end(error)]);
    return error;
  };

  const use = (next: readonly Tsu[]): void => {
    tsus = next;
    writeTsus(tsuMemory, tsus);
    pool.look();
  };
  const follower = followTsus({ slotTsus, log, first: tsus, publish: () => journal.publish(), use });

  return {
    failed: Promise.race([pool.failed, follower.failed, journal.failed]).then(abandon),
    metrics: () => metrics.registry.getMetricsAsJSON(),
    async health() {
      const detail = failure === undefined ? `${pool.atOnce} at once, key ${current()?.keyLabel ?? 'none'}` : failure.message;
      const token = { name: `token ${slot.label}`, ok: failure === undefined, detail };
      return [await redisHealth(command), ...journal.durability.health(), token, clock.health()];
    },
    async stop(reason) {
      follower.stop();
      if (failure === undefined) {
        await lane.close();
        await pool.close();
      }
      clock.close();
      // A thread is inside the module for ever, and would hold up the end of the process for ever. Any other call may hang as well, also
      // the end of the journal's session: no more of them, only what is said to Redis, and that not for long.
      if (pool.stuck) {
        recordStop(journal.recorder, 'signer', reason);
        await Promise.race([Promise.allSettled([teller.end(), journal.recorder.close()]), delay(abandonMsMax)]);
        process.kill(process.pid, 'SIGKILL');
        return;
      }
      await teller.end();
      await journal.stop(reason);
      eventClock.close();
      command.disconnect();
      blocking.disconnect();
      if (failure !== undefined) return;
      try {
        module.close();
      } catch (error) {
        // The token is away, and the process ends anyway.
        log.warn({ err: error }, 'hsm: the module was not finalised');
      }
    },
  };
};
