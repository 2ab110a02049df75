/**
 * The TSUs of one thread, as the main thread has last written them; and which of them stamps at a given time.
 *
 * A TSU that cannot be opened, because its key is not found or the token has no room for another session, takes nothing down as long as
 * another one may stamp: it is set aside, told, and looked for again. One that is scheduled is opened shortly before it is needed, and
 * takes the place of its predecessor where there is room for one only.
 */
import { SigilloError } from '../config/errors.ts';
import { ckrCode, sessionCountReached } from './pkcs11-errors.ts';
import type { SessionTurns } from './session-pace.ts';
import { readTsus, tsuVersion } from './shared-tsus.ts';
import { describeError, isRefusal } from './slot-failure.ts';
import type { StampWorkerData, Tsu } from './stamp-task.ts';
import { type Step, TsuUnit } from './tsu-unit.ts';

const sameTsu = (a: Tsu, b: Tsu): boolean =>
  a.id === b.id && a.keyLabel === b.keyLabel && a.activeFromMs === b.activeFromMs && a.usableUntilMs === b.usableUntilMs;

/** Threads look at least every minute (signer.keepAliveMs), and 64 sessions at the default pace take three seconds. */
const openAheadMs = 120_000;
const lookAgainMs = 10_000;

const hasNoRoom = (error: unknown): boolean => ckrCode(error) === sessionCountReached;

/** Whether it concerns this TSU alone, such as a key that the token will not sign with; any other error is the token's. */
const isOfTsu = (error: unknown): boolean =>
  hasNoRoom(error) ||
  isRefusal(error) ||
  (error instanceof SigilloError && ['HSM_KEY_MISSING', 'HSM_KEY_MISMATCH', 'HSM_SELFTEST_FAILED'].includes(error.code));

/** There is no TSU that may stamp: the token is as good as ever, and so is the request. */
export const isNoTsu = (error: unknown): error is SigilloError => error instanceof SigilloError && error.code === 'TSU_NONE_ACTIVE';

export class TsuUnits {
  readonly #data: StampWorkerData;
  readonly #turns: SessionTurns;
  /** The one that was activated last is the first. */
  #units: readonly TsuUnit[] = [];
  #version = -1;
  /** The version whose list all units were in. */
  #listedVersion = -1;
  /** Those in that list that are yet to be opened, without those set aside. */
  #unopened: readonly Tsu[] = [];
  #failed: readonly Tsu[] = [];
  /** When another look can bring something though nothing was written; Unix milliseconds. */
  #againAtMs = Number.POSITIVE_INFINITY;
  #setAside: readonly string[] = [];

  /** Opens nothing yet. */
  constructor(data: StampWorkerData, turns: SessionTurns) {
    this.#data = data;
    this.#turns = turns;
  }

  /** TSUs that should be there and cannot be used now, and why; for operators. */
  get setAside(): readonly string[] {
    return this.#setAside;
  }

  /**
   * Looks whether the TSUs are others now; opens a session for each that is new and lets its key prove itself. Sessions of those that
   * stay are kept.
   * @throws HSM_KEY_MISSING, HSM_SELFTEST_FAILED when none is left that may stamp; PKCS#11 errors. Those that are still in the list
   * stay then
   */
  refresh(): void {
    const steps = this.#update(Date.now());
    for (let step = steps.next(); !step.done; ) {
      try {
        step.value.now();
      } catch (error) {
        step = steps.throw(error);
        continue;
      }
      step = steps.next();
    }
  }

  /**
   * The same for a thread that must not be held up, neither by a turn nor by a token that takes long for the proof of a key. Nobody else
   * may use the units meanwhile.
   * @returns undefined when there was nothing to wait for, as nearly always: then the stamp goes on before any other lane is looked at
   */
  refreshLater(): Promise<void> | undefined {
    const steps = this.#update(Date.now());
    const goOn = (from: IteratorResult<Step, void>): Promise<void> | undefined => {
      for (let step = from; !step.done; step = steps.next()) {
        const waiting = step.value.later();
        if (waiting === undefined) continue;
        return waiting.then(
          () => goOn(steps.next()),
          (error: unknown) => goOn(steps.throw(error)),
        );
      }
      return undefined;
    };
    return goOn(steps.next());
  }

  /** Whether another look can bring something: the TSUs were written anew, or one is due. */
  isDue(nowMs: number): boolean {
    return tsuVersion(this.#data.tsuMemory) !== this.#version || nowMs >= this.#againAtMs;
  }

  /**
   * Whether a stamp can be made at this time before another look. Whatever is not in the list any more, because it was retired or its key
   * is compromised, stamps nothing from now on; and none stamps beyond the instant of its successor.
   */
  canStampAt(unixMillis: number): boolean {
    if (tsuVersion(this.#data.tsuMemory) !== this.#listedVersion) this.#closeGone(readTsus(this.#data.tsuMemory));
    const unit = this.#units.find((each) => each.mayStampAt(unixMillis));
    if (unit === undefined) return false;
    return !this.#unopened.some(({ activeFromMs }) => activeFromMs <= unixMillis && activeFromMs > unit.tsu.activeFromMs);
  }

  /** Whether one that `at` has found may sign a token with this genTime still. */
  mayStillStamp(unit: TsuUnit, unixMillis: number): boolean {
    return unit.mayStampAt(unixMillis) && readTsus(this.#data.tsuMemory).tsus.some((tsu) => sameTsu(unit.tsu, tsu));
  }

  #closeGone({ version, tsus }: ReturnType<typeof readTsus>): void {
    const isListed = (unit: TsuUnit): boolean => tsus.some((tsu) => sameTsu(unit.tsu, tsu));
    for (const unit of this.#units) if (!isListed(unit)) unit.close();
    this.#units = this.#units.filter(isListed);
    this.#unopened = tsus.filter((tsu) => ![...this.#units.map((unit) => unit.tsu), ...this.#failed].some((known) => sameTsu(known, tsu)));
    this.#listedVersion = version;
  }

  /** Takes over what was written. Yields what is to be done meanwhile: the turn of each session that it opens, and the proof of its key. */
  *#update(nowMs: number): Generator<Step, void> {
    if (!this.isDue(nowMs)) return;
    const { version, tsus } = readTsus(this.#data.tsuMemory);
    // First of all: another one may need the room of their sessions.
    this.#closeGone({ version, tsus });
    const units = [...this.#units];
    const missing = tsus.filter((tsu) => !units.some((unit) => sameTsu(unit.tsu, tsu))).toSorted((a, b) => a.activeFromMs - b.activeFromMs);
    const later = missing.filter(({ activeFromMs }) => activeFromMs > nowMs + openAheadMs);
    const failures: { readonly tsu: Tsu; readonly error: unknown }[] = [];
    const opened: TsuUnit[] = [];
    try {
      for (const tsu of missing) {
        if (later.includes(tsu)) continue;
        yield this.#turns;
        try {
          opened.push(yield* this.#open(tsu, units, nowMs));
          units.push(opened.at(-1) as TsuUnit);
        } catch (error) {
          if (!isOfTsu(error)) throw error;
          failures.push({ tsu, error });
        }
      }
      const [first] = failures;
      if (first !== undefined && !units.some((unit) => unit.mayStampAt(nowMs))) throw first.error;
    } catch (error) {
      for (const unit of opened) unit.close();
      throw error;
    }
    this.#units = units.toSorted((a, b) => b.tsu.activeFromMs - a.tsu.activeFromMs);
    this.#version = version;
    this.#unopened = later;
    this.#failed = failures.map(({ tsu }) => tsu);
    this.#againAtMs = Math.min(
      failures.length > 0 ? nowMs + lookAgainMs : Infinity,
      // From its instant on, one that has found no room gets that of its predecessor.
      ...failures.map(({ tsu }) => tsu.activeFromMs).filter((activeFromMs) => activeFromMs > nowMs),
      ...later.map((tsu) => tsu.activeFromMs - openAheadMs),
    );
    // One that was replaced, and has no session any more because its successor needed it, is not missed.
    const newest = Math.max(...units.map(({ tsu }) => tsu.activeFromMs));
    this.#setAside = failures
      .filter(({ tsu, error }) => !hasNoRoom(error) || tsu.activeFromMs > newest)
      .map(({ tsu, error }) => `TSU ${tsu.id}, key ${tsu.keyLabel}: ${describeError(error)}`);
  }

  /** One that is due and finds no room gets the session of the oldest that it replaces. */
  *#open(tsu: Tsu, units: TsuUnit[], nowMs: number): Generator<Step, TsuUnit> {
    try {
      return yield* this.#openProved(tsu);
    } catch (error) {
      const [oldest] = units.toSorted((a, b) => a.tsu.activeFromMs - b.tsu.activeFromMs);
      const replaces = oldest !== undefined && oldest.tsu.activeFromMs < tsu.activeFromMs && tsu.activeFromMs <= nowMs;
      if (!hasNoRoom(error) || !replaces) throw error;
      units.splice(units.indexOf(oldest), 1);
      this.#units = this.#units.filter((unit) => unit !== oldest);
      oldest.close();
    }
    yield this.#turns;
    return yield* this.#openProved(tsu);
  }

  *#openProved(tsu: Tsu): Generator<Step, TsuUnit> {
    const unit = new TsuUnit(this.#data, tsu, this.#turns);
    try {
      yield unit.proof;
      return unit;
    } catch (error) {
      unit.close();
      throw error;
    }
  }

  /** The TSU for a token with this genTime. @throws TSU_NONE_ACTIVE */
  at(unixMillis: number): TsuUnit {
    for (const unit of this.#units) if (unit.mayStampAt(unixMillis)) return unit;
    throw new SigilloError('TSU_NONE_ACTIVE', new Date(unixMillis).toISOString());
  }

  /** See KeySession; for the one that stamps. */
  prepare(unixMillis: number): void {
    this.#units.find((unit) => unit.mayStampAt(unixMillis))?.prepare();
  }

  /** @throws PKCS#11 errors */
  keepAlive(): void {
    for (const unit of this.#units) unit.keepAlive();
  }

  /** The same for a thread that must not be held up. @throws PKCS#11 errors */
  async keepAliveLater(): Promise<void> {
    for (const unit of this.#units) await unit.keepAliveLater();
  }

  close(): void {
    for (const unit of this.#units) unit.close();
    this.#units = [];
  }
}
