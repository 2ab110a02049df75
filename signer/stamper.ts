/**
 * The work of one signer thread with a fast token: turns a batch of requests into a block of answers, which is also their journal.
 *
 * The order for each request is: still wanted, genTime, a key within its usage period, signature. A request whose deadline has passed
 * costs no HSM time. A token that fails answers nothing, and neither does a slot without a TSU that may stamp: the batch is given back,
 * for another slot or a later try; what the token will not do, or we did wrong, is refused and takes no other request down.
 */
import { SigilloError } from '../config/errors.ts';
import type { ReceivedStampRequest } from '../queue/stamp-messages.ts';
import { AnswerWriter } from './answer-writer.ts';
import { type CallMark, takeCallMark } from './call-watch.ts';
import { type ClockReading, createGuardedClock, type GuardedClock } from './clock.ts';
import { machineClocks } from './clock-sources.ts';
import { outdatedCheck, StampOutdated } from './outdated-stamp.ts';
import { readBatch } from './received-batch.ts';
import { createSerialNumbers } from './serial-numbers.ts';
import { turnsOutside } from './session-pace.ts';
import { asSlotFailed, describeError, SlotFailed, slotFailed, slotFailureOf } from './slot-failure.ts';
import type { LookResult, StampTask, StampTaskResult, StampWorkerData } from './stamp-task.ts';
import { TokenRefusals } from './token-refusals.ts';
import type { TsuUnit } from './tsu-unit.ts';
import { isNoTsu, TsuUnits } from './tsu-units.ts';

type TimeReading = Extract<ClockReading, { kind: 'time' }>;

/** Stamps batches with one session for each TSU of its slot; one for each thread. */
export class Stamper {
  readonly #units: TsuUnits;
  readonly #clock: GuardedClock;
  readonly #nowMs: () => number;
  readonly #call: CallMark;
  readonly #refusals: TokenRefusals;
  readonly #nextSerial = createSerialNumbers();
  readonly #writer: AnswerWriter;
  #signMs = 0;
  #preparedMs = 0;

  /** Opens the sessions and lets the keys prove themselves. @throws HSM_KEY_MISSING, HSM_SELFTEST_FAILED, PKCS#11 errors */
  constructor(data: StampWorkerData) {
    const clocks = machineClocks();
    this.#clock = createGuardedClock(data.clockMemory, clocks, data.time);
    this.#nowMs = clocks.monotonicMs;
    this.#call = takeCallMark(data.callMemory);
    this.#refusals = new TokenRefusals(data.refusalMemory);
    this.#writer = new AnswerWriter(data.node);
    this.#units = new TsuUnits(data, turnsOutside(this.#call, data.paceMemory));
    this.#calling(() => this.#units.refresh());
  }

  /** Answers every request of a batch, or none. */
  stamp({ payload, enteredAtMs }: StampTask): StampTaskResult {
    const requests = readBatch(payload);
    if (!Array.isArray(requests)) return requests;
    const cpu = process.threadCpuUsage();
    this.#signMs = 0;
    this.#writer.clear();
    try {
      this.#ready(() => this.#units.refresh());
      for (const request of requests) this.#answer(request, enteredAtMs);
    } catch (error) {
      return isNoTsu(error) ? { kind: 'noTsu', message: error.message } : slotFailureOf(error);
    }
    const { user, system } = process.threadCpuUsage(cpu);
    return { kind: 'stamped', ...this.#writer.finish(), signMs: this.#signMs, cpuMs: (user + system) / 1_000 };
  }

  /** Makes the next stamp faster, see KeySession; for a moment when nobody waits. */
  prepare(): void {
    const started = performance.now();
    this.#units.prepare(Date.now());
    // Part of the next signature's cost: without it a prepared stamp looks three times as cheap as it is.
    this.#preparedMs += performance.now() - started;
  }

  /** Takes over TSUs that are new, and keeps the sessions from being closed for want of use. */
  look(): LookResult {
    try {
      this.#ready(() => this.#units.refresh());
      this.#ready(() => this.#units.keepAlive());
      return this.#setAside();
    } catch (error) {
      return slotFailureOf(error);
    }
  }

  /** The same for a thread that must not be held up by a turn, or by the proof of a key. Nothing may be stamped here meanwhile. */
  async lookLater(): Promise<LookResult> {
    this.#call.begin(this.#nowMs());
    try {
      await this.#units.refreshLater();
      await this.#units.keepAliveLater();
      return this.#setAside();
    } catch (error) {
      return slotFailureOf(slotFailed(error));
    } finally {
      this.#call.end();
    }
  }

  #setAside(): LookResult {
    const messages = this.#units.setAside;
    return messages.length === 0 ? undefined : { kind: 'setAside', messages };
  }

  /** Closes the sessions; a thread that ends does not. */
  close(): void {
    this.#units.close();
  }

  /** Runs a step inside the module, and says so to whoever watches for calls that never end. */
  #calling<T>(step: () => T): T {
    this.#call.begin(this.#nowMs());
    try {
      return step();
    } finally {
      this.#call.end();
    }
  }

  /** The same, for a step without which nothing is signed. @throws SlotFailed */
  #ready(step: () => void): void {
    try {
      this.#calling(step);
    } catch (error) {
      throw slotFailed(error);
    }
  }

  #answer(request: ReceivedStampRequest, enteredAtMs: number): void {
    const isLate = (): boolean => this.#nowMs() > enteredAtMs + request.ttlMs;
    while (!this.#tryToAnswer(request, isLate)) this.#ready(() => this.#units.refresh());
  }

  /** @returns false when the stamp was outdated before it was signed */
  #tryToAnswer(request: ReceivedStampRequest, isLate: () => boolean): boolean {
    const late = isLate();
    const reading = this.#clock.read();
    if (late || reading.kind === 'unavailable') {
      this.#writer.refuse(request, late ? 'expired' : 'timeNotAvailable', reading);
      return true;
    }
    try {
      this.#grant(request, reading, isLate);
    } catch (error) {
      if (error instanceof StampOutdated) return false;
      if (error instanceof SlotFailed || isNoTsu(error)) throw error;
      const code = error instanceof SigilloError ? error.code : 'HSM_REQUEST';
      this.#writer.fail(request, { code, message: describeError(error) }, reading);
    }
    return true;
  }

  #grant(request: ReceivedStampRequest, { unixMillis, state, errorMs }: TimeReading, isLate: () => boolean): void {
    const unit = this.#units.at(unixMillis);
    const template = unit.templateFor(request.policy, errorMs);
    const serial = this.#nextSerial();
    const signature = this.#sign(unit, template.prepare(request, serial, unixMillis), isLate);
    const tokenOctets = template.tokenLength(signature.length);
    this.#writer.grant(request, { tsu: unit.id, clock: state, unixMillis, serial, tokenOctets }, (out, at) =>
      template.writeToken(out, at, signature),
    );
  }

  #sign(unit: TsuUnit, hash: Buffer, isLate: () => boolean): Uint8Array {
    const started = performance.now();
    let signature: Uint8Array;
    try {
      signature = this.#calling(() => unit.sign(hash, outdatedCheck(isLate, this.#clock, this.#units, unit)));
    } catch (error) {
      if (error instanceof StampOutdated) throw error;
      throw asSlotFailed(error, this.#refusals);
    }
    this.#refusals.signed();
    this.#signMs += performance.now() - started + this.#preparedMs;
    this.#preparedMs = 0;
    return signature;
  }
}
