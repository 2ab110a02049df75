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
import { CheckpointKey } from './checkpoint-key.ts';
import { type CheckpointSigner, CheckpointThread, checkpointSignerHere } from './checkpoint-thread.ts';
import { type DurabilityWatch, watchDurability } from './durability-watch.ts';
import type { OpenHsm } from './hsm-modules.ts';
import { type Hsm, type HsmSlot, slotForPurpose } from './pkcs11-module.ts';
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
  /** Resolves when a call into the journal's token will not come back: checkpoints take another process, which can wait for stamps. */
  readonly handOver: Promise<SigilloError>;
  /** Such a call is under way: the process cannot end in order. */
  readonly stuck: boolean;
  /** Publishes the chains of all TSUs that are known. @throws what Redis says */
  publish(): Promise<void>;
  /** Signs no more checkpoints, and closes the key's session. */
  closeKey(): Promise<void>;
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
  /** That this signer stamps with, opened and logged in; each signer of a host has the journal's slot beside it. */
  readonly slot: HsmSlot;
  /** The TSU that this signer stamps with now. */
  readonly tsu: () => Tsu | undefined;
  /** What is known about the clock of this host. */
  readonly clock: TellClock;
}

interface CheckpointEvents {
  readonly loaded: () => void;
  readonly failed: (error: SigilloError) => void;
  readonly loginLost: (error: SigilloError) => void;
  readonly handOver: (error: SigilloError) => void;
}

/** A token in this process cannot hang; one of an operator is asked by a thread of its own. */
const openCheckpointSigner = (
  { config, hsm, module, slot: stamping }: JournalDutiesOptions,
  slot: HsmSlot,
  on: CheckpointEvents,
): CheckpointSigner => {
  const key = { slot, origin: config.journal.origin, onLoaded: on.loaded, onFailed: on.failed, onLoginLost: on.loginLost };
  if (config.hsm.mode === 'embedded') return checkpointSignerHere(new CheckpointKey({ ...key, module }));
  const sharedModule = slot.modulePath === stamping.modulePath ? 'module' : 'nothing';
  return new CheckpointThread({
    ...key,
    refusedPinFolder: hsm.refusedPinFolder,
    shared: slot.label === stamping.label ? 'token' : sharedModule,
    callMsMax: config.signer.callMsMax,
    onHandOver: on.handOver,
  });
};

/** One session, and the journal asks for one signature at a time. @param signer undefined: it is being made */
const figuresOf = (signer: CheckpointSigner | undefined): SlotFigures => ({
  sessions: { busy: 0, open: signer?.up === false ? 0 : 1, max: 1 },
  threads: 1,
  tsus: [],
  signatures: signer?.signatures ?? 0,
});

/** Joins the journal. @throws what Redis says when it takes nothing */
export const takeUpJournalDuties = async (options: JournalDutiesOptions): Promise<JournalDuties> => {
  const { config, log, command, hsm, tsu } = options;
  const recorder = createServiceRecorder(command, processName, log, options.clock);
  const failed = Promise.withResolvers<SigilloError>();
  const handOver = Promise.withResolvers<SigilloError>();
  const slot = slotForPurpose(hsm, 'journal');
  const told = { redis: command, slot, purpose: 'journal', process: `${processName} of ${options.slot.label}`, log } as const;
  const teller = await SlotTeller.start(told);
  let signer: CheckpointSigner | undefined;
  const key = openCheckpointSigner(options, slot, {
    loaded: () => teller.serving(() => figuresOf(signer)),
    failed(error) {
      log.error({ err: error }, 'journal: this signer cannot sign checkpoints; stamping goes on');
      teller.failed(error);
    },
    loginLost: failed.resolve,
    handOver: handOver.resolve,
  });
  signer = key;
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
    handOver: handOver.promise,
    get stuck() {
      return key.stuck;
    },
    publish,
    get keyUp() {
      return key.up;
    },
    async closeKey() {
      await responder.close();
      await key.close();
      await teller.end();
    },
    async stop(reason) {
      durability.close();
      recordStop(recorder, processName, reason);
      await recorder.close();
    },
  };
};
