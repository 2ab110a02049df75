/**
 * The signer: owns the PKCS#11 module for its process, proves its key, and answers the timestamp lane with a pool of
 * worker threads. Without its key it does not start; without Redis it waits; what it has read it answers before it stops.
 */
import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import type { Config } from '../config/schema.ts';
import { registerClockMetrics } from '../observability/clock-metrics.ts';
import { recordStop } from '../observability/journal/service-events.ts';
import type { Logger } from '../observability/log.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import { registerRecorderMetrics } from '../observability/recorder-metrics.ts';
import { createSignerMetrics, type SignerMetrics } from '../observability/signer-metrics.ts';
import { type RedisClient, redisHealth } from '../queue/redis.ts';
import { createCallMemory } from './call-watch.ts';
import { type ClockWatch, watchClock } from './clock-watch.ts';
import { restoreEmbeddedTokens } from './embedded-token.ts';
import { createEventClock, type EventClock } from './event-clock.ts';
import { type OpenHsm, openHsm } from './hsm-modules.ts';
import { type JournalDuties, takeUpJournalDuties } from './journal-duties.ts';
import { type LaneMembership, mayStampAt } from './lane-membership.ts';
import { type Hsm, type HsmSlot, resolveHsm, slotForPurpose } from './pkcs11-module.ts';
import { connect } from './redis-connection.ts';
import { stampingSessions, stampingThreads } from './session-count.ts';
import { createPaceMemory } from './session-pace.ts';
import { createTsuMemory, writeTsus } from './shared-tsus.ts';
import { type SlotFigures, SlotTeller } from './slot-status.ts';
import { SlotTsus } from './slot-tsus.ts';
import { createFailureLog } from './stamp-failures.ts';
import type { StampedBatch, StampWorkerData, Tsu } from './stamp-task.ts';
import { takeUpLane } from './stamping-lane.ts';
import { StampingPool } from './stamping-pool.ts';
import { createRefusalMemory } from './token-refusals.ts';
import { firstTsus, followTsus } from './tsu-follower.ts';

export interface SignerService {
  /** Resolves when the token has failed: the module must be initialised anew, which takes a new process. */
  readonly failed: Promise<Error>;
  /** A call into the module does not come back: the process cannot end by itself, and is to be killed after the stop. */
  readonly stuck: boolean;
  metrics(): Promise<unknown>;
  health(): Promise<readonly HealthItem[]>;
  /** @param reason for the journal */
  stop(reason: string): Promise<void>;
}

/** How long a signer that cannot end in order says how it ends. */
const farewellMsMax = 500;

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
      refusalMemory: createRefusalMemory(),
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
  const teller = await SlotTeller.start({ redis: command, slot, purpose: 'timestamp', process: 'signer', log, clock: eventClock.state });
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

interface LeavingParts extends Pick<SlotParts, 'log' | 'command' | 'teller' | 'eventClock'> {
  readonly module: OpenHsm;
  readonly pool: StampingPool;
  readonly journal: JournalDuties;
  readonly hasFailed: boolean;
}

/** The end of a signer that stamps no more: of its keys, of what it tells, and of the module. */
const leaveToken = async (parts: LeavingParts, reason: string): Promise<void> => {
  const { log, command, module, pool, journal, teller, eventClock, hasFailed } = parts;
  if (!pool.stuck) await journal.closeKey();
  // A thread is inside the module for ever, and would hold up the end of the process for ever. Any other call may hang as well, also
  // the end of the journal's session: no more of them, only what is said to Redis, and that not for long.
  if (pool.stuck || journal.stuck) {
    recordStop(journal.recorder, 'signer', reason);
    await Promise.race([Promise.allSettled([teller.end(), journal.recorder.close()]), delay(farewellMsMax)]);
    return;
  }
  await teller.end();
  await journal.stop(reason);
  eventClock.close();
  command.disconnect();
  if (hasFailed) return;
  try {
    module.close();
  } catch (error) {
    // The token is away, and the process ends anyway.
    log.warn({ err: error }, 'hsm: the module was not finalised');
  }
};

const serveSlot = async ({ config, log, hsm, slot, command, teller, eventClock }: SlotParts): Promise<SignerService> => {
  restoreEmbeddedTokens(config, log);
  const module = openHsm(hsm);
  module.login(slot);
  const slotTsus = new SlotTsus({ config, redis: command, module, slot, log });
  let tsus = await firstTsus(slotTsus, slot.label, () => teller.waiting());
  const current = (): Tsu | undefined => tsus.find((tsu) => mayStampAt(tsu, Date.now()));
  const journal = await takeUpJournalDuties({ config, log, command, hsm, module, slot, tsu: current, clock: eventClock.state });

  const clock = watchClock({ time: config.time, log, recorder: journal.recorder });
  eventClock.follow(clock);
  const tsuMemory = createTsuMemory(tsus);
  const pool = await startPool(config, slot, module, log, { tsuMemory, clockMemory: clock.memory });
  let lane: LaneMembership | undefined;
  const metrics = metricsOf({ label: slot.label, pool, journal, teller, clock, entriesBusy: () => lane?.busy ?? 0 });
  const tellFailure = createFailureLog(log);
  const told = (batch: StampedBatch): void => {
    tellFailure(batch);
    teller.batch(batch);
  };
  const figures = (): SlotFigures => ({
    sessions: { busy: pool.signing, open: pool.atOnce, max: pool.atMost },
    threads: pool.threads,
    signMs: pool.signMs ?? slotTsus.proofMs,
    tsus: tsus.filter((tsu) => mayStampAt(tsu, Date.now())),
  });
  const membership = await takeUpLane({
    parts: { config, log, command, pool, metrics, told },
    tsus: () => tsus,
    clockMemory: clock.memory,
    joined() {
      log.info({ slot: slot.label, tsu: current()?.id, key: current()?.keyLabel, threads: pool.threads }, 'signer: stamping');
      teller.serving(figures);
    },
    left() {
      log.warn({ slot: slot.label }, 'signer: no TSU may stamp; it leaves the lane to others until one does');
      teller.waiting();
    },
  });
  lane = membership;
  let failure: Error | undefined;

  /** The token is gone: others take over what was read, and nothing here is waited for. */
  const abandon = async (error: Error): Promise<Error> => {
    failure = error;
    log.error({ slot: slot.label, err: error }, 'signer: the slot is given up; a new process takes it up again');
    await Promise.all([membership.abandon(), teller.end(error)]);
    return error;
  };

  /** The slot is as good as ever: what was read is answered, and the process that follows signs checkpoints again. */
  const leave = (error: Error): Error => {
    log.warn({ slot: slot.label, err: error }, 'signer: makes room for a new process, which can sign checkpoints again');
    return error;
  };

  const use = (next: readonly Tsu[]): void => {
    tsus = next;
    writeTsus(tsuMemory, tsus);
    pool.look();
    membership.look();
  };
  const follower = followTsus({ slotTsus, log, first: tsus, publish: () => journal.publish(), use });

  return {
    failed: Promise.race([Promise.race([pool.failed, follower.failed, journal.failed]).then(abandon), journal.handOver.then(leave)]),
    get stuck() {
      return pool.stuck || journal.stuck;
    },
    metrics: () => metrics.registry.getMetricsAsJSON(),
    async health() {
      const stamping = membership.isMember ? `${pool.atOnce} at once, key ${current()?.keyLabel ?? 'none'}` : 'no TSU may stamp';
      const ok = failure === undefined && membership.isMember;
      const token = { name: `token ${slot.label}`, ok, detail: failure?.message ?? stamping };
      return [await redisHealth(command), ...journal.durability.health(), token, clock.health()];
    },
    async stop(reason) {
      follower.stop();
      if (failure === undefined) {
        await membership.close();
        await pool.close();
      }
      clock.close();
      await leaveToken({ log, command, module, pool, journal, teller, eventClock, hasFailed: failure !== undefined }, reason);
    },
  };
};
