/**
 * Tells Redis every second how a slot of this process is doing, and the journal when the state of one that stamps changes.
 *
 * Best effort: stamps never wait for it, and while Redis is away nothing is told. Before the process ends it says so, within a bound.
 * The count of failures and the last error are taken over from the process before, which has ended because of them.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../config/errors.ts';
import type { KeyPurpose } from '../config/schema.ts';
import { type JournalRecorder, nodeName, type TellClock } from '../observability/journal/recorder.ts';
import { createServiceRecorder } from '../observability/journal/service-recorder.ts';
import type { Logger } from '../observability/log.ts';
import { algorithmName } from '../pki/algorithms.ts';
import type { RedisClient } from '../queue/redis.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import {
  errorCharactersMax,
  type FailureClass,
  forgetOldSlots,
  readSlot,
  type SlotState,
  type SlotStatus,
  tellEveryMs,
  tellSlot,
} from '../queue/slot-status.ts';
import { ckrCode, classifyPkcs11Error } from './pkcs11-errors.ts';
import type { HsmSlot } from './pkcs11-module.ts';
import { SlotError } from './slot-failure.ts';
import type { StampedBatch, Tsu } from './stamp-task.ts';

/** Whoever waits for the end of a failed process waits for its slot: others have its work already. */
const farewellMsMax = 500;
/** Seconds that the rate is over. */
const rateSeconds = 10;

const classByCode: Readonly<Record<string, FailureClass>> = {
  HSM_PIN_REFUSED: 'credential',
  HSM_DEVICE: 'device',
  HSM_TOKEN_MISSING: 'device',
  HSM_KEY_MISSING: 'device',
  HSM_SELFTEST_FAILED: 'device',
  HSM_REQUEST: 'request',
  INTERNAL: 'bug',
};

/** Class of what ended a slot. */
const failureClassOf = (error: unknown): FailureClass => {
  if (error instanceof SlotError) return error.errorClass;
  if (ckrCode(error) !== undefined) return classifyPkcs11Error(error);
  return error instanceof SigilloError ? (classByCode[error.code] ?? 'setup') : 'bug';
};

/** What is asked every second. */
export interface SlotFigures {
  readonly sessions: SlotStatus['sessions'];
  readonly threads: number;
  readonly tsus: readonly Tsu[];
  /** Milliseconds that a signature takes. */
  readonly signMs?: number | undefined;
  /** Made by this process. @defaultValue what its batches have come to */
  readonly signatures?: number;
}

export interface SlotTellerOptions {
  /** Ready. */
  readonly redis: RedisClient;
  readonly slot: Pick<HsmSlot, 'label' | 'modulePath'>;
  readonly purpose: KeyPurpose;
  /** Who has the slot for that: one name for each process that runs beside others. */
  readonly process: string;
  readonly log: Pick<Logger, 'warn' | 'error'>;
  /** What is known about the clock of this host. @defaultValue nothing */
  readonly clock?: TellClock;
}

const nothingYet: SlotFigures = { sessions: { busy: 0, open: 0, max: 0 }, threads: 0, tsus: [] };

export class SlotTeller {
  readonly #options: SlotTellerOptions;
  readonly #recorder: JournalRecorder | undefined;
  readonly #startedAt = new Date().toISOString();
  readonly #before: SlotStatus | undefined;
  readonly #failures: Partial<Record<FailureClass, number>>;
  /** Signatures made by the end of each of the last seconds. */
  readonly #past: { readonly atMs: number; readonly total: number }[] = [{ atMs: monotonicMs(), total: 0 }];
  #figures = (): SlotFigures => nothingYet;
  #state: SlotState = 'starting';
  #since = new Date().toISOString();
  #total = 0;
  #lastError: SlotStatus['lastError'];
  #timer: NodeJS.Timeout | undefined;
  #saidUnheard = false;
  #served = false;
  #failedOf: unknown;

  private constructor(options: SlotTellerOptions, before: SlotStatus | undefined) {
    this.#options = options;
    this.#before = before;
    this.#failures = { ...before?.failures };
    this.#lastError = before?.lastError;
    // What becomes of the others stands in the journal by what they fail to do: a checkpoint, a certificate.
    const { purpose, redis, log, clock } = options;
    this.#recorder = purpose === 'timestamp' ? createServiceRecorder(redis, 'signer', log, clock) : undefined;
    this.#timer = setInterval(() => void this.#tell(), tellEveryMs);
  }

  /** Begins to tell that a process of this slot starts. */
  static async start(options: SlotTellerOptions): Promise<SlotTeller> {
    const { redis, slot, purpose, process } = options;
    const before = await readSlot(redis, { node: nodeName(), slot: slot.label, purpose, process }).catch(() => undefined); // then it is as if new
    const teller = new SlotTeller(options, before);
    await teller.#tell();
    await forgetOldSlots(redis).catch(() => undefined); // the next start will
    return teller;
  }

  /** Events that found no way into the journal. */
  get eventsLost(): number {
    return this.#recorder?.lost ?? 0;
  }

  /** It has no TSU that may stamp, not yet or not any more. */
  waiting(): void {
    this.#become('waiting');
    this.#figures = () => nothingYet;
  }

  /** It signs from now on. */
  serving(figures: () => SlotFigures): void {
    if (this.#state === 'serving') return;
    const before = this.#served ? this.#state : (this.#before?.state ?? 'none');
    this.#served = true;
    this.#figures = figures;
    this.#become('serving');
    const detail = { module: this.#options.slot.modulePath, before };
    this.#recorder?.record({ kind: 'hsm.serving', subject: this.#options.slot.label, outcome: 'success', detail });
    void this.#tell();
  }

  /** It does not sign for now, and its process goes on. The same error is told once. */
  failed(error: unknown): void {
    this.#fail(error);
    this.#figures = () => nothingYet;
    void this.#tell();
  }

  /** Counts what a batch has come to. */
  batch({ outcomes, failure }: Pick<StampedBatch, 'outcomes' | 'failure'>): void {
    this.#total += outcomes.granted;
    if (failure === undefined) return;
    this.#note(classByCode[failure.code] ?? 'setup', failure.code, failure.message, outcomes.systemFailure);
  }

  /** Says how the slot ends, and is silent from then on. @param error what it has failed with; none for an ordinary stop */
  async end(error?: unknown): Promise<void> {
    if (this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    if (error === undefined) this.#become('stopped');
    else this.#fail(error);
    this.#figures = () => nothingYet;
    const told = Promise.all([this.#tell(), this.#recorder?.close()]);
    await Promise.race([told, delay(farewellMsMax)]);
  }

  #fail(error: unknown): void {
    if (this.#failedOf === error) return;
    this.#failedOf = error;
    const code = error instanceof SigilloError ? error.code : 'INTERNAL';
    // A slot that lost its last TSU waits for another: nothing is wrong with its token.
    if (code === 'TSU_NONE_ACTIVE') {
      this.#become('waiting');
      return;
    }
    const failureClass = failureClassOf(error);
    const served = this.#state === 'serving';
    this.#become(failureClass === 'credential' ? 'pin-refused' : 'failed');
    this.#note(failureClass, code, error instanceof Error ? error.message : String(error), 1);
    // A slot that stays away fails anew at every start: the journal hears of the first.
    const known = this.#before?.state === this.#state && this.#before.lastError?.code === code;
    if (!served && known) return;
    const subject = this.#options.slot.label;
    const { message: reason } = this.#lastError as NonNullable<SlotStatus['lastError']>;
    if (failureClass === 'credential') this.#recorder?.record({ kind: 'hsm.pinRefused', subject, outcome: 'refused', detail: { reason } });
    else this.#recorder?.record({ kind: 'hsm.failed', subject, outcome: 'failure', detail: { class: failureClass, code, reason } });
  }

  #note(failureClass: FailureClass, code: string, message: string, times: number): void {
    this.#failures[failureClass] = (this.#failures[failureClass] ?? 0) + times;
    this.#lastError = { at: new Date().toISOString(), class: failureClass, code, message: message.slice(0, errorCharactersMax) };
  }

  #become(state: SlotState): void {
    if (this.#state === state) return;
    this.#state = state;
    // A slot that is as the process before has left it has been so since then.
    const before = this.#before?.state === state && state !== 'serving' ? this.#before.since : undefined;
    this.#since = before ?? new Date().toISOString();
  }

  /** Signatures a second, over the last seconds. */
  #rate(): number {
    const now = { atMs: monotonicMs(), total: this.#total };
    const [oldest = now] = this.#past;
    this.#past.push(now);
    if (this.#past.length > rateSeconds) this.#past.shift();
    const seconds = (now.atMs - oldest.atMs) / 1_000;
    return seconds > 0.1 ? Math.round(((now.total - oldest.total) / seconds) * 10) / 10 : 0;
  }

  #status(): SlotStatus {
    const { slot, purpose, process: name } = this.#options;
    const { label, modulePath } = slot;
    const { sessions, threads, tsus, signMs, signatures = this.#total } = this.#figures();
    this.#total = signatures;
    return {
      version: 2,
      node: nodeName(),
      slot: label,
      purpose,
      process: name,
      module: modulePath,
      state: this.#state,
      since: this.#since,
      processId: process.pid,
      startedAt: this.#startedAt,
      sessions,
      threads,
      ...(signMs !== undefined && { signMs: Math.round(signMs * 1_000) / 1_000 }),
      signatures: { total: this.#total, perSecond: this.#rate() },
      keys: tsus.map(({ keyLabel, scheme, id, activeFromMs }) => ({
        label: keyLabel,
        algorithm: algorithmName(scheme),
        certificateSha256: id,
        activeFrom: new Date(activeFromMs).toISOString(),
      })),
      ...(this.#lastError !== undefined && { lastError: this.#lastError }),
      failures: this.#failures,
    };
  }

  async #tell(): Promise<void> {
    try {
      await tellSlot(this.#options.redis, this.#status());
      this.#saidUnheard = false;
    } catch (error) {
      // Redis is away, which the connection says itself.
      if (!this.#saidUnheard) this.#options.log.warn({ err: error }, 'hsm: the state of the slot is not told');
      this.#saidUnheard = true;
    }
  }
}
