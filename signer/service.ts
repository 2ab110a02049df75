/**
 * The signer: owns the PKCS#11 module for its process, proves its key, and answers the timestamp lane with a pool of
 * worker threads. Without its key it does not start; without Redis it waits; what it has read it answers before it stops.
 */
import { randomBytes, X509Certificate } from 'node:crypto';
import { availableParallelism, hostname } from 'node:os';
import { SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import { registerClockMetrics } from '../observability/clock-metrics.ts';
import { logConnection } from '../observability/connection-log.ts';
import type { Logger } from '../observability/log.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import { createSignerMetrics, type SignerMetrics } from '../observability/signer-metrics.ts';
import { stampOutcomes } from '../queue/answer-block.ts';
import { type LaneAnswerBatch, type LaneEntry, LaneResponder } from '../queue/lane-responder.ts';
import { connectRedis, type RedisClient, redisHealth, whenReady } from '../queue/redis.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { watchClock } from './clock-watch.ts';
import { configuredTsu } from './configured-tsu.ts';
import { takeUpJournalDuties } from './journal-duties.ts';
import { type HsmModule, openModule, resolveHsm, slotForPurpose } from './pkcs11-module.ts';
import type { StampTaskResult, Tsu } from './stamp-task.ts';
import { StampingPool } from './stamping-pool.ts';
import { findKey, selfTest } from './token-keys.ts';
import { TokenWatch } from './token-watch.ts';

export interface SignerService {
  /** Resolves when the token has failed for longer than the patience: the module must be loaded anew, which takes a new process. */
  readonly failed: Promise<Error>;
  metrics(): Promise<unknown>;
  health(): Promise<readonly HealthItem[]>;
  /** @param reason for the journal */
  stop(reason: string): Promise<void>;
}

/** How long a start waits for Redis before it fails, and the supervisor tries again. */
const redisPatienceMs = 10_000;

/** Finds key and certificate in the token and lets the key prove itself. @throws HSM_KEY_MISSING, HSM_KEY_MISMATCH, HSM_SELFTEST_FAILED */
const proveTsu = (module: HsmModule, tsu: Tsu): void => {
  const session = module.openSession(tsu.tokenLabel, { readWrite: false });
  try {
    const key = findKey(session, tsu.keyLabel, tsu.scheme);
    if (key === undefined) throw new SigilloError('HSM_KEY_MISSING', `key ${tsu.keyLabel} in token ${tsu.tokenLabel}`);
    selfTest(key, new X509Certificate(tsu.chain[0] as Uint8Array), tsu.signatureDigest);
  } finally {
    session.close();
  }
};

const connect = async (config: Config, name: string, role: 'command' | 'blocking', log: Logger): Promise<RedisClient> => {
  const client = connectRedis(config, name, role);
  logConnection(client, name, log);
  await whenReady(client, redisPatienceMs).catch((cause: Error) => {
    client.disconnect();
    throw new SigilloError('REDIS_UNAVAILABLE', cause.message, { cause });
  });
  return client;
};

/** What the pool makes of one lane entry, counted once its answer is on its way. */
const createWork = (pool: StampingPool, watch: TokenWatch, metrics: SignerMetrics) => {
  const count = (result: StampTaskResult, queuedMs: number, workedMs: number): void => {
    const { outcomes, signMs } = result;
    metrics.stage('queue', Math.max(0, queuedMs) / 1_000);
    metrics.stage('sign', workedMs / 1_000);
    let requests = 0;
    for (const outcome of stampOutcomes) {
      requests += outcomes[outcome];
      if (outcomes[outcome] > 0) metrics.outcome(outcome, outcomes[outcome]);
    }
    metrics.batch(requests);
    metrics.signatures(outcomes.granted, signMs / 1_000);
    watch.note(result);
  };
  return async (entry: LaneEntry): Promise<LaneAnswerBatch> => {
    const handed = monotonicMs();
    const result = await pool.stamp(entry.payload, entry.enteredAtMs);
    const workedMs = monotonicMs() - handed;
    setImmediate(() => count(result, handed - entry.enteredAtMs, workedMs));
    const { block } = result;
    return { block: Buffer.from(block.buffer, block.byteOffset, block.byteLength), stamps: result.stamps };
  };
};

/** Starts a signer. @throws HSM_*, CERTIFICATE_INVALID, SETUP_INCOMPLETE, REDIS_UNAVAILABLE */
export const startSigner = async (config: Config, log: Logger): Promise<SignerService> => {
  const hsm = resolveHsm(config);
  const slot = slotForPurpose(hsm, 'timestamp');
  const tsu = configuredTsu(config, slot.label);
  const module = openModule(hsm);
  module.login(slot);
  proveTsu(module, tsu);

  const command = await connect(config, 'signer', 'command', log);
  const blocking = await connect(config, 'signer-reader', 'blocking', log);
  const journal = await takeUpJournalDuties({ config, log, command, hsm, module, tsu });

  const clock = watchClock({ time: config.time, log, recorder: journal.recorder });
  const threads = config.signer.workers ?? availableParallelism();
  const signerId = `${hostname()}-${process.pid}-${randomBytes(4).toString('hex')}`;
  const pool = await StampingPool.start(
    {
      modulePath: hsm.modulePath,
      slot: module.findSlot(slot.label).handle,
      node: hostname().slice(0, 64),
      tsu,
      timestamp: config.timestamp,
      time: config.time,
      clockMemory: clock.memory,
    },
    threads,
  );
  const watch = new TokenWatch(log);
  let responder: LaneResponder | undefined;
  const metrics = createSignerMetrics({
    slot: slot.label,
    sessionsOpen: threads + 1,
    entriesBusy: () => responder?.busy ?? 0,
    sessionsBusy: () => pool.busyThreads,
    journalKeyUp: () => journal.keyUp,
  });
  registerClockMetrics(metrics.registry, () => clock.picture());
  responder = await LaneResponder.start({
    command,
    blocking,
    lane: 'timestamp',
    signerId,
    capacity: threads * config.signer.batchesPerWorker,
    deadAfterMs: config.signer.deadAfterMs,
    deadlineMs: config.timestamp.deadlineMs,
    work: createWork(pool, watch, metrics),
    on: {
      claimed(entries) {
        metrics.claimed(entries);
        log.warn({ entries }, 'lane: took over the entries of a dead signer');
      },
      answered: (seconds) => metrics.stage('reply', seconds),
      failed(stage, error) {
        metrics.failed(stage);
        log.error({ stage, err: error }, 'lane: failure');
      },
    },
  });
  log.info({ tsu: tsu.id, key: tsu.keyLabel, threads }, 'signer: stamping');
  const lane = responder;

  return {
    failed: watch.failed,
    metrics: () => metrics.registry.getMetricsAsJSON(),
    async health() {
      return [
        await redisHealth(command),
        { name: `token ${slot.label}`, ok: !watch.failing, detail: `${threads + 1} sessions, key ${tsu.keyLabel}` },
        clock.health(),
      ];
    },
    async stop(reason) {
      await lane.close();
      await pool.close();
      clock.close();
      watch.close();
      await journal.stop(reason);
      command.disconnect();
      blocking.disconnect();
      try {
        module.close();
      } catch (error) {
        // The token is away, and the process ends anyway.
        log.warn({ err: error }, 'hsm: the module was not finalised');
      }
    },
  };
};
