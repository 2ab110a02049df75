/**
 * The work of one signer thread: turns a batch of requests into a block of answers, which is also their journal.
 *
 * The order for each request is: still wanted, genTime, a key within its usage period, signature. A request whose deadline has passed
 * costs no HSM time. A token that fails answers nothing: the batch is given back, for another slot or a later try; what the token will
 * not do, or we did wrong, is refused and takes no other request down.
 */
import { SigilloError } from '../config/errors.ts';
import {
  answerOctets,
  blockHeaderOctets,
  type StampAnswer,
  type StampOutcome,
  sectionHeaderOctets,
  writeAnswer,
  writeBlockHeader,
  writeSectionHeader,
} from '../queue/answer-block.ts';
import { decodeStampRequests, type ReceivedStampRequest } from '../queue/stamp-messages.ts';
import { type CallMark, takeCallMark } from './call-watch.ts';
import { type ClockReading, createGuardedClock, type GuardedClock } from './clock.ts';
import { machineClocks } from './clock-sources.ts';
import { GrowingBuffer } from './growing-buffer.ts';
import { ckrCode, ckrName, classifyPkcs11Error } from './pkcs11-errors.ts';
import { createSerialNumbers } from './serial-numbers.ts';
import type { SlotFailure, StampedBatch, StampTask, StampTaskResult, StampWorkerData } from './stamp-task.ts';
import type { TsuUnit } from './tsu-unit.ts';
import { TsuUnits } from './tsu-units.ts';

type TimeReading = Extract<ClockReading, { kind: 'time' }>;
const noSerial = new Uint8Array();
/** A block of 64 stamps is about 60 KB; larger ones grow the buffer once. */
const blockOctets = 128 * 1024;

const noOutcomes = (): Record<StampOutcome, number> => ({ granted: 0, timeNotAvailable: 0, systemFailure: 0, expired: 0 });

/** Thrown through a batch when the token fails. */
class SlotFailed extends Error {}

/** What went wrong in the token, or undefined when it was not the token. */
const slotFailureOf = (error: unknown): SlotFailure | undefined => {
  if (!(error instanceof SlotFailed)) return undefined;
  const errorClass = classifyPkcs11Error(error);
  const message = error.message;
  return { kind: 'slotFailed', errorClass: errorClass === 'session' || errorClass === 'credential' ? errorClass : 'device', message };
};

/** Whether an error is the token's: whoever asks it next meets the same. */
const isOfSlot = (error: unknown): boolean => {
  // A key that was there at the start and cannot be found on a new session has gone with its token.
  if (error instanceof SigilloError) return error.code === 'HSM_KEY_MISSING' || error.code === 'HSM_SELFTEST_FAILED';
  return ckrCode(error) !== undefined && !['request', 'bug'].includes(classifyPkcs11Error(error));
};

const describeError = (error: unknown): string => {
  const code = ckrCode(error);
  return code === undefined ? (error as Error).message : ckrName(code);
};

/** A section of the block that is being written. */
interface Section {
  readonly tsu: Uint8Array;
  /** Offset of its header. */
  readonly at: number;
  answers: number;
}

const noTsu = new Uint8Array(32);

/** Stamps batches with one session for each TSU of its slot; one for each thread. */
export class Stamper {
  readonly #data: StampWorkerData;
  readonly #units: TsuUnits;
  readonly #clock: GuardedClock;
  readonly #nowMs: () => number;
  readonly #call: CallMark;
  readonly #nextSerial = createSerialNumbers();
  readonly #block = new GrowingBuffer(blockOctets);
  #sections: Section[] = [];
  #outcomes: Record<StampOutcome, number> = noOutcomes();
  #stamps = new Map<string, number>();
  #signMs = 0;
  #preparedMs = 0;
  #failure: StampedBatch['failure'];

  /** Opens the sessions and lets the keys prove themselves. @throws HSM_KEY_MISSING, HSM_SELFTEST_FAILED, PKCS#11 errors */
  constructor(data: StampWorkerData) {
    this.#data = data;
    const clocks = machineClocks();
    this.#clock = createGuardedClock(data.clockMemory, clocks, data.time);
    this.#nowMs = clocks.monotonicMs;
    this.#call = takeCallMark(data.callMemory);
    this.#units = this.#calling(() => new TsuUnits(data));
  }

  /** Answers every request of a batch, or none. @throws LANE_ENTRY_MALFORMED when the batch cannot be read */
  stamp({ payload, enteredAtMs }: StampTask): StampTaskResult {
    const requests = decodeStampRequests(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength));
    const cpu = process.threadCpuUsage();
    this.#outcomes = noOutcomes();
    this.#stamps = new Map();
    this.#sections = [];
    this.#signMs = 0;
    this.#failure = undefined;
    this.#block.clear(blockHeaderOctets(this.#data.node));
    try {
      this.#refresh();
      for (const request of requests) this.#answer(request, enteredAtMs);
    } catch (error) {
      const failed = slotFailureOf(error);
      if (failed === undefined) throw error;
      return failed;
    }
    writeBlockHeader(this.#block.bytes, this.#data.node, this.#sections.length);
    for (const { at, tsu, answers } of this.#sections) writeSectionHeader(this.#block.bytes, at, tsu, answers);
    const { user, system } = process.threadCpuUsage(cpu);
    return {
      kind: 'stamped',
      block: this.#block.copy(),
      stamps: this.#stamps,
      outcomes: this.#outcomes,
      signMs: this.#signMs,
      cpuMs: (user + system) / 1_000,
      failure: this.#failure,
    };
  }

  /** Makes the next stamp faster, see KeySession; for a moment when nobody waits. */
  prepare(): void {
    const started = performance.now();
    this.#units.prepare(Date.now());
    // Part of the next signature's cost: without it a prepared stamp looks three times as cheap as it is.
    this.#preparedMs += performance.now() - started;
  }

  /** Takes over TSUs that are new, and keeps the sessions from being closed for want of use. */
  look(): SlotFailure | undefined {
    try {
      this.#refresh();
      this.#ofSlot(() => this.#calling(() => this.#units.keepAlive()));
      return undefined;
    } catch (error) {
      const failed = slotFailureOf(error);
      if (failed === undefined) throw error;
      return failed;
    }
  }

  /** Closes the sessions; a thread that ends does not. */
  close(): void {
    this.#units.close();
  }

  #refresh(): void {
    this.#ofSlot(() => this.#calling(() => this.#units.refresh()));
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

  /** Runs a step that the token may fail. @throws SlotFailed then, and everything else as it is */
  #ofSlot<T>(step: () => T): T {
    try {
      return step();
    } catch (error) {
      throw isOfSlot(error) ? new SlotFailed(describeError(error), { cause: error }) : error;
    }
  }

  #answer(request: ReceivedStampRequest, enteredAtMs: number): void {
    if (this.#nowMs() > enteredAtMs + request.ttlMs) {
      this.#refuse(request, 'expired');
      return;
    }
    const reading = this.#clock.read();
    if (reading.kind === 'unavailable') {
      this.#refuse(request, 'timeNotAvailable');
      return;
    }
    try {
      this.#grant(request, reading);
    } catch (error) {
      if (error instanceof SlotFailed) throw error;
      this.#fail(request, error instanceof SigilloError ? error.code : 'HSM_REQUEST', describeError(error));
    }
  }

  #grant(request: ReceivedStampRequest, { unixMillis, state, errorMs }: TimeReading): void {
    const unit = this.#units.at(unixMillis);
    const template = unit.templates.pick(request.policy.toString('latin1'), errorMs);
    if (template === undefined) throw new SigilloError('CONFIG_INVALID', 'gateway and signer are configured with different policies');
    const serial = this.#nextSerial();
    const signature = this.#sign(unit, template.prepare(request, serial, unixMillis));
    this.#enterSection(unit.id);
    const answer = this.#answerTo(request, 'granted', state, unixMillis, serial);
    const tokenOctets = template.tokenLength(signature.length);
    const at = this.#block.reserve(answerOctets(answer) + tokenOctets);
    template.writeToken(this.#block.bytes, writeAnswer(this.#block.bytes, at, answer, tokenOctets), signature);
    this.#stamps.set(request.client, (this.#stamps.get(request.client) ?? 0) + 1);
  }

  #sign(unit: TsuUnit, hash: Buffer): Uint8Array {
    const started = performance.now();
    const signature = this.#ofSlot(() => this.#calling(() => unit.sign(hash)));
    this.#signMs += performance.now() - started + this.#preparedMs;
    this.#preparedMs = 0;
    return signature;
  }

  /** The answers that follow are of this TSU. */
  #enterSection(tsu: Uint8Array): Section {
    const last = this.#sections.at(-1);
    if (last?.tsu === tsu) return last;
    const section: Section = { tsu, at: this.#block.reserve(sectionHeaderOctets), answers: 0 };
    this.#sections.push(section);
    return section;
  }

  #fail(request: ReceivedStampRequest, code: string, message: string): void {
    this.#failure ??= { code, message };
    this.#refuse(request, 'systemFailure');
  }

  #refuse(request: ReceivedStampRequest, outcome: Exclude<StampOutcome, 'granted'>): void {
    if (this.#sections.length === 0) this.#enterSection(noTsu); // no TSU has refused it
    const answer = this.#answerTo(request, outcome, 'unverified', Date.now(), noSerial);
    // First reserve, which may replace the buffer, then look at it.
    const at = this.#block.reserve(answerOctets(answer));
    writeAnswer(this.#block.bytes, at, answer, 0);
  }

  #answerTo(
    { id, certReq, client, policy, messageImprint }: ReceivedStampRequest,
    outcome: StampOutcome,
    clock: StampAnswer['clock'],
    unixMillis: number,
    serial: Uint8Array,
  ): StampAnswer {
    this.#outcomes[outcome] += 1;
    (this.#sections.at(-1) as Section).answers += 1;
    return { id, outcome, clock, certReq, unixMillis, client, policy, messageImprint, serial };
  }
}
