/**
 * The signer: owns the PKCS#11 module for its process, proves its key, and answers the timestamp lane with a pool of
 * worker threads. Without its key it does not start; without Redis it waits; what it has read it answers before it stops.
 */
import { randomBytes, X509Certificate } from 'node:crypto';
import { availableParallelism, hostname } from 'node:os';
import { Piscina } from 'piscina';
import { SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import type { Logger } from '../observability/log.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import { createSignerMetrics, type SignerMetrics } from '../observability/signer-metrics.ts';
import { laneKeys } from '../queue/keys.ts';
import { type LaneAnswerBatch, type LaneEntry, LaneResponder } from '../queue/lane-responder.ts';
import { connectRedis, type RedisClient, whenReady } from '../queue/redis.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { type ClockReading, createClockMemory, createGuardedClock } from './clock.ts';
import { configuredTsu } from './configured-tsu.ts';
import { type HsmModule, openModule, resolveHsm, slotForPurpose } from './pkcs11-module.ts';
import type { StampTask, StampTaskResult, StampWorkerData, Tsu } from './stamp-task.ts';
import { findKey, selfTest } from './token-keys.ts';

export interface SignerService {
  metrics(): Promise<unknown>;
  health(): Promise<readonly HealthItem[]>;
  stop(): Promise<void>;
}

/** How long a start waits for Redis before it fails, and the supervisor tries again. */
const redisPatienceMs = 10_000;
/** The clock is looked at so often that slewing never looks like a step (500 ppm of a second: 0.5 ms). */
const clockCheckMs = 1_000;

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

/** Certificates stay published for ever, also those of TSUs long retired: clients verify old stamps with them. */
const publishChain = async (redis: RedisClient, tsu: Tsu): Promise<void> => {
  const fields = tsu.chain.flatMap((der) => {
    const certificate = new X509Certificate(der);
    return [certificate.fingerprint256.replaceAll(':', '').toLowerCase(), certificate.toString()];
  });
  await redis.hset(laneKeys('timestamp').certificates, ...fields);
};

const connect = async (config: Config, name: string, role: 'command' | 'blocking', log: Logger): Promise<RedisClient> => {
  const client = connectRedis(config, name, role);
  let last = '';
  client.on('error', (error: Error) => {
    if (error.message !== last) log.warn({ connection: name, reason: error.message }, 'redis: connection error');
    last = error.message;
  });
  client.on('ready', () => {
    if (last !== '') log.info({ connection: name }, 'redis: connected again');
    last = '';
  });
  await whenReady(client, redisPatienceMs).catch((cause: Error) => {
    client.disconnect();
    throw new SigilloError('REDIS_UNAVAILABLE', cause.message, { cause });
  });
  return client;
};

const describeClock = (reading: ClockReading): HealthItem => ({
  name: 'clock',
  ok: reading.kind === 'time',
  detail: reading.kind === 'time' ? 'system clock, not verified against any source' : `stamping stopped: ${reading.reason}`,
});

/** Makes the worker pool; resolves when its threads have proved their key. */
const startPool = async (data: StampWorkerData, threads: number): Promise<Piscina<StampTask | undefined, StampTaskResult>> => {
  const pool = new Piscina<StampTask | undefined, StampTaskResult>({
    filename: new URL('./stamp-worker.ts', import.meta.url).href,
    minThreads: threads,
    maxThreads: threads,
    concurrentTasksPerWorker: 1,
    idleTimeout: Number.POSITIVE_INFINITY,
    recordTiming: false,
    // A batch leaves little behind; the default of 48 MB in each thread would only be filled with garbage.
    resourceLimits: { maxYoungGenerationSizeMb: 4 },
    workerData: data,
  });
  await Promise.all(Array.from({ length: threads }, () => pool.run(undefined)));
  return pool;
};

/** What the pool makes of one lane entry, counted. */
const createWork =
  (pool: Piscina<StampTask | undefined, StampTaskResult>, tsu: Tsu, metrics: SignerMetrics, log: Logger) =>
  async (entry: LaneEntry): Promise<LaneAnswerBatch> => {
    const handed = monotonicMs();
    metrics.stage('queue', Math.max(0, handed - entry.enteredAtMs) / 1_000);
    // A view of the socket's chunk: transferring that would take other replies with it.
    const payload = new Uint8Array(entry.payload);
    const result = await pool.run({ payload, enteredAtMs: entry.enteredAtMs }, { transferList: [payload.buffer] });
    metrics.stage('sign', (monotonicMs() - handed) / 1_000);
    let requests = 0;
    for (const [outcome, count] of Object.entries(result.outcomes)) {
      requests += count;
      if (count > 0) metrics.outcome(outcome, count);
    }
    metrics.batch(requests);
    metrics.signatures(tsu.tokenLabel, result.outcomes.granted, result.signMs / 1_000);
    if (result.failure !== undefined) log.error(result.failure, 'a stamp failed in the token; its client got systemFailure');
    const { block } = result;
    return { block: Buffer.from(block.buffer, block.byteOffset, block.byteLength), stamps: result.stamps };
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
  await publishChain(command, tsu);

  const clockMemory = createClockMemory();
  const clock = createGuardedClock(clockMemory, { wallMs: Date.now, monotonicMs }, config.time);
  let reading = clock.read();
  const clockTimer = setInterval(() => {
    const before = reading;
    reading = clock.read();
    if (before.kind !== reading.kind) log.warn(describeClock(reading), 'clock: state changed');
  }, clockCheckMs);

  const threads = config.signer.workers ?? availableParallelism();
  const signerId = `${hostname()}-${process.pid}-${randomBytes(4).toString('hex')}`;
  const pool = await startPool(
    {
      modulePath: hsm.modulePath,
      slot: module.findSlot(slot.label).handle,
      node: hostname().slice(0, 64),
      tsu,
      timestamp: config.timestamp,
      time: config.time,
      clockMemory,
    },
    threads,
  );
  let responder: LaneResponder | undefined;
  const metrics = createSignerMetrics({
    slot: slot.label,
    sessionsOpen: threads,
    entriesBusy: () => responder?.busy ?? 0,
    sessionsBusy: () => threads - pool.idleThreads,
  });
  responder = await LaneResponder.start({
    command,
    blocking,
    lane: 'timestamp',
    signerId,
    capacity: threads * config.signer.batchesPerWorker,
    deadAfterMs: config.signer.deadAfterMs,
    deadlineMs: config.timestamp.deadlineMs,
    journalBlocksMax: config.journal.blocksMax,
    work: createWork(pool, tsu, metrics, log),
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
    metrics: () => metrics.registry.getMetricsAsJSON(),
    async health() {
      return [
        { name: 'redis', ok: command.status === 'ready' && lane.reading, detail: command.status },
        { name: `token ${slot.label}`, ok: pool.threads.length > 0, detail: `${threads} sessions, key ${tsu.keyLabel}` },
        describeClock(reading),
      ];
    },
    async stop() {
      await lane.close();
      await pool.close();
      clearInterval(clockTimer);
      command.disconnect();
      blocking.disconnect();
      module.close();
    },
  };
};
