/**
 * The work of one signer thread with a token that takes long for a signature and makes many at once: the thread begins one after the
 * other and waits for none of them. The rules for each request are those of stamper.ts.
 *
 * Each signature under way has a lane of its own, with a session and templates for each TSU: a template holds one stamp at a time.
 * Threads that wait, one for each signature, would do the same with 30 MB each.
 */
import { SigilloError } from '../config/errors.ts';
import type { ReceivedStampRequest } from '../queue/stamp-messages.ts';
import { AnswerWriter, type Grant } from './answer-writer.ts';
import { type CallMark, takeCallMark } from './call-watch.ts';
import { type ClockReading, createGuardedClock, type GuardedClock } from './clock.ts';
import { machineClocks } from './clock-sources.ts';
import { outdatedCheck, StampOutdated } from './outdated-stamp.ts';
import { ckrCode, sessionCountReached } from './pkcs11-errors.ts';
import { readBatch } from './received-batch.ts';
import { createSerialNumbers } from './serial-numbers.ts';
import { turnsOutside } from './session-pace.ts';
import { asSlotFailed, describeError, SlotFailed, slotFailed, slotFailureOf } from './slot-failure.ts';
import type { LookResult, StampTask, StampTaskResult, StampWorkerData } from './stamp-task.ts';
import { TokenRefusals } from './token-refusals.ts';
import type { TsuUnit } from './tsu-unit.ts';
import { isNoTsu, TsuUnits } from './tsu-units.ts';

/** How soon a token that had no room is asked again. */
const roomAgainAfterMs = 60_000;

/** The stamper of the same thread that waits for each signature (stamper.ts). */
interface PlainStamper {
  stamp(task: StampTask): StampTaskResult | Promise<StampTaskResult>;
}

interface Lane {
  readonly units: TsuUnits;
  readonly call: CallMark;
}

/** How a request ended, kept until all of its batch have. */
type Answer =
  | { readonly kind: 'granted'; readonly grant: Grant; readonly token: Buffer }
  | { readonly kind: 'refused'; readonly outcome: 'expired' | 'timeNotAvailable'; readonly reading: ClockReading }
  | { readonly kind: 'failed'; readonly code: string; readonly message: string; readonly reading: ClockReading };

export class ConcurrentStamper {
  readonly #data: StampWorkerData;
  readonly #plain: PlainStamper | undefined;
  #plainUntilMs = Number.NEGATIVE_INFINITY;
  readonly #clock: GuardedClock;
  readonly #nowMs: () => number;
  readonly #nextSerial = createSerialNumbers();
  readonly #refusals: TokenRefusals;
  readonly #writer: AnswerWriter;
  readonly #idle: Lane[] = [];
  readonly #waiting: { readonly take: (lane: Lane) => void; readonly failed: (error: unknown) => void }[] = [];
  /** Lanes that are there, or about to be. */
  #lanes = 0;
  /** SHA-256 of each TSU's certificate, one object for all lanes: answers with the same one share a section. */
  readonly #ids = new Map<string, Uint8Array>();
  #inUse = 0;
  #atOnce = 1;
  #cpu = process.threadCpuUsage();
  /** A lane is being refreshed that no stamp waits for. */
  #refreshing = false;
  /** Why that has failed, until the next stamp or look says so. */
  #notRefreshed: unknown;
  /** Until then the token is believed that it has no room for another session beside those of the lanes that are open. */
  #fullUntilMs = Number.NEGATIVE_INFINITY;
  readonly #roomAgainMs: number;
  /** Call marks of lanes that could not be opened: there is a fixed number of them. */
  readonly #unusedMarks: CallMark[] = [];

  /**
   * @param plain stamps when the token has no room for a single session beside those that it has
   * @param roomAgainMs how soon a token without room is asked again. @defaultValue a minute
   */
  constructor(data: StampWorkerData, plain?: PlainStamper, roomAgainMs = roomAgainAfterMs) {
    this.#data = data;
    this.#plain = plain;
    this.#roomAgainMs = roomAgainMs;
    const clocks = machineClocks();
    this.#clock = createGuardedClock(data.clockMemory, clocks, data.time);
    this.#nowMs = clocks.monotonicMs;
    this.#refusals = new TokenRefusals(data.refusalMemory);
    this.#writer = new AnswerWriter(data.node);
  }

  /** Answers every request of a batch, or none. Batches may be under way together. */
  async stamp(task: StampTask): Promise<StampTaskResult> {
    const { payload, enteredAtMs, atOnce } = task;
    if (this.#plain !== undefined && this.#nowMs() < this.#plainUntilMs) return this.#plain.stamp(task);
    const requests = readBatch(payload);
    if (!Array.isArray(requests)) return requests;
    const spent = { signMs: 0 };
    const settled = await Promise.allSettled(requests.map((request) => this.#answer(request, enteredAtMs, atOnce, spent)));
    const failures = settled.flatMap((one) => (one.status === 'rejected' ? [one.reason as unknown] : []));
    if (failures.length > 0) {
      // A token that fails is worse than a TSU that is over.
      const failure = failures.find((reason) => !isNoTsu(reason)) ?? failures[0];
      if (isNoTsu(failure)) return { kind: 'noTsu', message: failure.message };
      if (this.#plain === undefined || ckrCode(failure) !== sessionCountReached) return slotFailureOf(failure);
      // There is not one lane, so nothing of this batch was answered.
      this.#plainUntilMs = this.#nowMs() + this.#roomAgainMs;
      return this.#plain.stamp(task);
    }
    const answers = settled.map((one, index) => ({
      request: requests[index] as ReceivedStampRequest,
      answer: (one as PromiseFulfilledResult<Answer>).value,
    }));
    return { kind: 'stamped', ...this.#write(answers), ...spent, cpuMs: this.#cpuSinceLastMs() };
  }

  /** Takes over TSUs that are new, and keeps the sessions that are idle from being closed for want of use. */
  async look(): Promise<LookResult> {
    const setAside = new Set<string>();
    try {
      this.#throwNotRefreshed();
      for (const lane of [...this.#idle]) {
        const at = this.#idle.indexOf(lane);
        // It is at work now, which keeps it alive as well.
        if (at < 0) continue;
        this.#idle.splice(at, 1);
        this.#inUse += 1;
        try {
          await this.#calling(lane, async () => {
            await lane.units.refreshLater();
            await lane.units.keepAliveLater();
          });
          for (const message of lane.units.setAside) setAside.add(message);
        } finally {
          this.#giveBack(lane);
        }
      }
      return setAside.size === 0 ? undefined : { kind: 'setAside', messages: [...setAside] };
    } catch (error) {
      return slotFailureOf(error);
    }
  }

  async #answer(request: ReceivedStampRequest, enteredAtMs: number, atOnce: number, spent: { signMs: number }): Promise<Answer> {
    const lane = await this.#borrow(atOnce);
    const isLate = (): boolean => this.#nowMs() > enteredAtMs + request.ttlMs;
    try {
      for (;;) {
        const gettingReady = isLate() ? undefined : this.#getReady(lane);
        if (gettingReady !== undefined) await gettingReady;
        if (isLate()) return { kind: 'refused', outcome: 'expired', reading: this.#clock.read() };
        const answer = await this.#stamp(lane, request, isLate, spent);
        if (answer !== undefined) return answer;
      }
    } catch (error) {
      if (error instanceof SlotFailed || isNoTsu(error)) throw error;
      const code = error instanceof SigilloError ? error.code : 'HSM_REQUEST';
      return { kind: 'failed', code, message: describeError(error), reading: this.#clock.read() };
    } finally {
      this.#giveBack(lane);
    }
  }

  /** @returns undefined when it was outdated before it was signed */
  async #stamp(lane: Lane, request: ReceivedStampRequest, isLate: () => boolean, spent: { signMs: number }): Promise<Answer | undefined> {
    const reading = this.#clock.read();
    if (reading.kind === 'unavailable') return { kind: 'refused', outcome: 'timeNotAvailable', reading };
    const { unixMillis, state, errorMs } = reading;
    const unit = lane.units.at(unixMillis);
    const template = unit.templateFor(request.policy, errorMs);
    // Its next value goes into the same buffer, long before this one is written.
    const serial = Uint8Array.from(this.#nextSerial());
    const hash = template.prepare(request, serial, unixMillis);
    const started = this.#nowMs();
    lane.call.begin(started);
    let signature: Uint8Array;
    try {
      signature = await unit.signLater(hash, outdatedCheck(isLate, this.#clock, lane.units, unit));
    } catch (error) {
      if (error instanceof StampOutdated) return undefined;
      throw asSlotFailed(error, this.#refusals);
    } finally {
      lane.call.end();
      spent.signMs += this.#nowMs() - started;
    }
    this.#refusals.signed();
    const token = Buffer.allocUnsafe(template.tokenLength(signature.length));
    template.writeToken(token, 0, signature);
    return { kind: 'granted', grant: { tsu: this.#idOf(unit), clock: state, unixMillis, serial, tokenOctets: token.length }, token };
  }

  /** What the thread has worked since the last batch that ended: batches overlap, but their sum comes out right. */
  #cpuSinceLastMs(): number {
    const { user, system } = process.threadCpuUsage(this.#cpu);
    this.#cpu = process.threadCpuUsage();
    return (user + system) / 1_000;
  }

  /** Answers of one TSU come behind each other, whatever order they were ready in. */
  #write(answers: readonly { readonly request: ReceivedStampRequest; readonly answer: Answer }[]): ReturnType<AnswerWriter['finish']> {
    this.#writer.clear();
    for (const group of Map.groupBy(answers, ({ answer }) => (answer.kind === 'granted' ? answer.grant.tsu : undefined)).values()) {
      for (const { request, answer } of group) {
        if (answer.kind === 'refused') this.#writer.refuse(request, answer.outcome, answer.reading);
        else if (answer.kind === 'failed') this.#writer.fail(request, answer, answer.reading);
        else this.#writer.grant(request, answer.grant, (out, at) => answer.token.copy(out, at));
      }
    }
    return this.#writer.finish();
  }

  #idOf({ tsu, id }: TsuUnit): Uint8Array {
    const known = this.#ids.get(tsu.id) ?? id;
    this.#ids.set(tsu.id, known);
    return known;
  }

  /**
   * Lets a stamp go first when the lane has a TSU for it: one that is opened for later, such as the successor in a rotation, must not hold
   * it up (see #giveBack).
   * @returns undefined when nothing had to be waited for
   */
  #getReady(lane: Lane): Promise<void> | undefined {
    this.#throwNotRefreshed();
    const now = Date.now();
    if (!lane.units.isDue(now)) return undefined;
    lane.call.begin(this.#nowMs());
    const canStamp = lane.units.canStampAt(now);
    lane.call.end();
    if (canStamp) return undefined;
    // The TSUs may be others again when it has waited.
    return this.#refresh(lane)?.then(() => this.#getReady(lane));
  }

  /** @throws SlotFailed for a lane that could not be refreshed when no stamp waited for it */
  #throwNotRefreshed(): void {
    const failure = this.#notRefreshed;
    this.#notRefreshed = undefined;
    if (failure !== undefined) throw failure;
  }

  /** @returns undefined when nothing had to be waited for */
  #refresh(lane: Lane): Promise<void> | undefined {
    const failed = (error: unknown): never => {
      lane.call.end();
      throw slotFailed(error);
    };
    lane.call.begin(this.#nowMs());
    try {
      const refreshing = lane.units.refreshLater();
      // The mark is the turns' while one is waited for.
      if (refreshing !== undefined) return refreshing.then(() => lane.call.end(), failed);
    } catch (error) {
      failed(error);
    }
    lane.call.end();
    return undefined;
  }

  async #calling(lane: Lane, step: () => Promise<void>): Promise<void> {
    lane.call.begin(this.#nowMs());
    try {
      await step();
    } catch (error) {
      throw slotFailed(error);
    } finally {
      lane.call.end();
    }
  }

  /** The lane that was used last, or the next that is free; another one is opened beside it while there may be more. */
  async #borrow(atOnce: number): Promise<Lane> {
    this.#atOnce = atOnce;
    const idle = this.#inUse < atOnce ? this.#idle.pop() : undefined;
    if (idle !== undefined) {
      this.#inUse += 1;
      return idle;
    }
    // Queued first: a lane that cannot be opened fails those that wait.
    const lane = new Promise<Lane>((take, failed) => this.#waiting.push({ take, failed }));
    if (this.#lanes < atOnce && this.#nowMs() >= this.#fullUntilMs) void this.#open();
    return lane;
  }

  /** Opens a lane when its turn has come, and holds nothing up meanwhile. */
  async #open(): Promise<void> {
    this.#lanes += 1;
    let call: CallMark | undefined;
    try {
      call = this.#unusedMarks.pop() ?? takeCallMark(this.#data.callMemory);
      const units = new TsuUnits(this.#data, turnsOutside(call, this.#data.paceMemory));
      call.begin(this.#nowMs());
      await units.refreshLater();
      call.end();
      this.#inUse += 1;
      this.#giveBack({ units, call });
    } catch (error) {
      call?.end();
      if (call !== undefined) this.#unusedMarks.push(call);
      this.#lanes -= 1;
      this.#notOpened(error);
    }
  }

  /** Those that wait get the next lane that is free, or the next that is opened; where neither can come, they have failed. */
  #notOpened(error: unknown): void {
    if (ckrCode(error) === sessionCountReached) {
      // Only lanes that are really open: where all others are still about to be, they may find no room either.
      if (this.#idle.length + this.#inUse > 0) this.#fullUntilMs = this.#nowMs() + this.#roomAgainMs;
      if (this.#lanes > 0) return;
    }
    // Whatever it was: a session that cannot be opened, or whose keys do not prove themselves, is no slot to stamp with.
    for (const { failed } of this.#waiting.splice(0)) failed(slotFailed(error));
  }

  /** A lane that has other TSUs to open does so between two stamps, but one at a time, so that the others stamp meanwhile. */
  #giveBack(lane: Lane): void {
    if (!this.#refreshing && this.#notRefreshed === undefined && lane.units.isDue(Date.now())) void this.#refreshFrom(lane);
    else this.#free(lane);
  }

  /** Refreshes this lane, and then those that are idle. */
  async #refreshFrom(first: Lane): Promise<void> {
    this.#refreshing = true;
    for (let lane: Lane | undefined = first; lane !== undefined; lane = this.#takeIdleDue()) {
      try {
        await this.#refresh(lane);
      } catch (error) {
        this.#notRefreshed = error;
      }
      this.#free(lane);
    }
    this.#refreshing = false;
  }

  #takeIdleDue(): Lane | undefined {
    const now = Date.now();
    const at = this.#notRefreshed === undefined ? this.#idle.findIndex(({ units }) => units.isDue(now)) : -1;
    if (at < 0) return undefined;
    this.#inUse += 1;
    return this.#idle.splice(at, 1)[0];
  }

  #free(lane: Lane): void {
    const next = this.#inUse <= this.#atOnce ? this.#waiting.shift() : undefined;
    if (next !== undefined) {
      next.take(lane);
      return;
    }
    this.#inUse -= 1;
    this.#idle.push(lane);
  }
}
