/**
 * What a signer does for the journal beside its stamps: it brings what the first start has left in the outbox, publishes and records
 * the chains of its TSUs, tells when it starts and stops, and signs checkpoints. Without the journal's key it stamps all the same.
 */

import type { SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import { release } from '../config/release.ts';
import type { Config } from '../config/schema.ts';
import { deliverOutbox } from '../observability/journal/outbox.ts';
import { JournalRecorder } from '../observability/journal/recorder.ts';
import { recordStart, recordStop } from '../observability/journal/service-events.ts';
import type { Logger } from '../observability/log.ts';
import { answerCheckpointRequests } from '../queue/checkpoint-signing.ts';
import type { RedisClient } from '../queue/redis.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { findDurabilityShortfall } from '../queue/redis-durability.ts';
import { CheckpointKey } from './checkpoint-key.ts';
import type { OpenHsm } from './hsm-modules.ts';
import { type Hsm, slotForPurpose } from './pkcs11-module.ts';
import { publishChains } from './published-chains.ts';
import type { Tsu } from './stamp-task.ts';

const processName = 'signer';
const sayAgainMs = 10_000;

export interface JournalDuties {
  readonly recorder: JournalRecorder;
  /** Whether checkpoints can be signed. */
  readonly keyUp: boolean;
  /** Resolves when the journal's token has forgotten its login, which another process gets back. */
  readonly failed: Promise<SigilloError>;
  /** Publishes the chains of all TSUs that are known. @throws what Redis says */
  publish(): Promise<void>;
  /** Records the stop and its reason, last of all. */
  stop(reason: string): Promise<void>;
}

export interface JournalDutiesOptions {
  readonly config: Config;
  readonly log: Logger;
  /** Of the signer, ready. */
  readonly command: RedisClient;
  readonly hsm: Hsm;
  readonly module: OpenHsm;
  /** The TSU that this signer stamps with now. */
  readonly tsu: () => Tsu | undefined;
}

/** Says in one line what another Redis than ours must set to keep what is promised. Not fatal: a managed one may do it its own way. */
const checkDurability = async ({ config, log, command }: JournalDutiesOptions): Promise<void> => {
  if (config.redis.mode === 'embedded') return;
  const { durability } = config.journal;
  try {
    const missing = await findDurabilityShortfall(command, durability);
    if (missing.length > 0)
      log.error({ durability, set: missing }, 'redis: keeps less than journal.durability promises; set what is named');
  } catch (error) {
    log.warn({ durability, err: error }, 'redis: does not tell whether it keeps what journal.durability promises (CONFIG GET)');
  }
};

const createRecorder = (command: RedisClient, log: Logger): JournalRecorder => {
  let saidAtMs = Number.NEGATIVE_INFINITY;
  const onFailed = (error: unknown): void => {
    if (monotonicMs() - saidAtMs < sayAgainMs) return;
    saidAtMs = monotonicMs();
    log.warn({ err: error }, 'journal: events wait for Redis');
  };
  return new JournalRecorder({ redis: command, actor: processName, onFailed });
};

/** Joins the journal. @throws HSM_PIN_REFUSED; what Redis says when it takes nothing */
export const takeUpJournalDuties = async (options: JournalDutiesOptions): Promise<JournalDuties> => {
  const { config, log, command, hsm, module, tsu } = options;
  const recorder = createRecorder(command, log);
  const failed = Promise.withResolvers<SigilloError>();
  const key = new CheckpointKey({
    module,
    slot: slotForPurpose(hsm, 'journal'),
    origin: config.journal.origin,
    onFailed: (error) => log.error({ err: error }, 'journal: this signer cannot sign checkpoints; stamping goes on'),
    onLoginLost: failed.resolve,
  });
  const publish = (): Promise<void> => publishChains({ redis: command, recorder, config, tsu: tsu() });
  const announce = async (): Promise<void> => {
    const { delivered, tornLines } = await deliverOutbox(homePaths(config.home).journalOutbox, command);
    if (delivered > 0) log.info({ events: delivered, tornLines }, 'journal: events of the set-up are recorded');
    await publish();
  };
  await announce();
  // A Redis that comes back may have come back empty.
  command.on('ready', () => {
    announce().catch((error: unknown) => log.warn({ err: error }, 'certificates: not published, trying again at the next connection'));
  });
  void recordStart(recorder, command, { process: processName, config, version: release });
  void checkDurability(options);
  const responder = answerCheckpointRequests({
    command,
    sign: (text) => key.sign(text),
    onRefused: (error) => log.warn({ err: error }, 'journal: a checkpoint was not signed'),
  });
  return {
    recorder,
    failed: failed.promise,
    publish,
    get keyUp() {
      return key.up;
    },
    async stop(reason) {
      await responder.close();
      key.close();
      recordStop(recorder, processName, reason);
      await recorder.close();
    },
  };
};
