/**
 * What a signer does for the journal beside its stamps: it brings what the first start has left in the outbox, publishes and records
 * the chains of its TSUs, tells when it starts and stops, and signs checkpoints. Without the journal's key it stamps all the same.
 */

import type { SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import { release } from '../config/release.ts';
import type { Config } from '../config/schema.ts';
import { deliverOutbox } from '../observability/journal/outbox.ts';
import type { JournalRecorder, TellClock } from '../observability/journal/recorder.ts';
import { recordStart, recordStop } from '../observability/journal/service-events.ts';
import { createServiceRecorder } from '../observability/journal/service-recorder.ts';
import type { Logger } from '../observability/log.ts';
import { answerCheckpointRequests } from '../queue/checkpoint-signing.ts';
import type { RedisClient } from '../queue/redis.ts';
import { CheckpointKey, type CheckpointKeyOptions } from './checkpoint-key.ts';
import { type DurabilityWatch, watchDurability } from './durability-watch.ts';
import type { OpenHsm } from './hsm-modules.ts';
import { type Hsm, slotForPurpose } from './pkcs11-module.ts';
import { publishChains } from './published-chains.ts';
import { type SlotFigures, SlotTeller } from './slot-status.ts';
import type { Tsu } from './stamp-task.ts';

const processName = 'signer';

export interface JournalDuties {
  readonly recorder: JournalRecorder;
  /** Whether checkpoints can be signed. */
  readonly keyUp: boolean;
  /** Whether Redis keeps what was answered. */
  readonly durability: DurabilityWatch;
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
  /** Token label of the slot that the signer stamps with: each signer of a host has the journal's slot. */
  readonly of: string;
  /** The TSU that this signer stamps with now. */
  readonly tsu: () => Tsu | undefined;
  /** What is known about the clock of this host. */
  readonly clock: TellClock;
}

/** One session, and the journal asks for one signature at a time. */
const figuresOf = ({ up, signatures }: CheckpointKey): SlotFigures => ({
  sessions: { busy: 0, open: up ? 1 : 0, max: 1 },
  tsus: [],
  signatures,
});

/** @throws HSM_PIN_REFUSED */
const loadKey = async (options: CheckpointKeyOptions): Promise<CheckpointKey> => new CheckpointKey(options);

/** Joins the journal. @throws HSM_PIN_REFUSED; what Redis says when it takes nothing */
export const takeUpJournalDuties = async (options: JournalDutiesOptions): Promise<JournalDuties> => {
  const { config, log, command, hsm, module, tsu } = options;
  const recorder = createServiceRecorder(command, processName, log, options.clock);
  const failed = Promise.withResolvers<SigilloError>();
  const slot = slotForPurpose(hsm, 'journal');
  const teller = await SlotTeller.start({ redis: command, slot, purpose: 'journal', process: `${processName} of ${options.of}`, log });
  const key = await loadKey({
    module,
    slot,
    origin: config.journal.origin,
    onLoaded: (loaded) => teller.serving(() => figuresOf(loaded)),
    onFailed(error) {
      log.error({ err: error }, 'journal: this signer cannot sign checkpoints; stamping goes on');
      teller.failed(error);
    },
    onLoginLost: failed.resolve,
  }).catch(async (error: unknown) => {
    await teller.end(error);
    throw error;
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
  const durability = watchDurability(options);
  const responder = answerCheckpointRequests({
    command,
    sign: (text) => key.sign(text),
    onRefused: (error) => log.warn({ err: error }, 'journal: a checkpoint was not signed'),
  });
  return {
    recorder,
    durability,
    failed: failed.promise,
    publish,
    get keyUp() {
      return key.up;
    },
    async stop(reason) {
      await responder.close();
      key.close();
      await teller.end();
      durability.close();
      recordStop(recorder, processName, reason);
      await recorder.close();
    },
  };
};
