/** The TSUs of one thread, as the main thread has last written them; and which of them stamps at a given time. */
import { SigilloError } from '../config/errors.ts';
import { readTsus, tsuVersion } from './shared-tsus.ts';
import type { StampWorkerData, Tsu } from './stamp-task.ts';
import { TsuUnit } from './tsu-unit.ts';

const sameTsu = (a: Tsu, b: Tsu): boolean =>
  a.id === b.id && a.keyLabel === b.keyLabel && a.activeFromMs === b.activeFromMs && a.usableUntilMs === b.usableUntilMs;

export class TsuUnits {
  readonly #data: StampWorkerData;
  /** The one that was activated last is the first. */
  #units: readonly TsuUnit[] = [];
  #version = -1;

  /** Opens a session for each and lets its key prove itself. @throws HSM_KEY_MISSING, HSM_SELFTEST_FAILED, PKCS#11 errors */
  constructor(data: StampWorkerData) {
    this.#data = data;
    this.refresh();
  }

  /**
   * Looks whether the TSUs are others now. Sessions of those that stay are kept.
   * @throws as the constructor; then the earlier TSUs stay, and the next look tries again
   */
  refresh(): void {
    if (tsuVersion(this.#data.tsuMemory) === this.#version) return;
    const { version, tsus } = readTsus(this.#data.tsuMemory);
    const opened: TsuUnit[] = [];
    try {
      const units = tsus.map((tsu) => {
        const known = this.#units.find((unit) => sameTsu(unit.tsu, tsu));
        if (known !== undefined) return known;
        const unit = new TsuUnit(this.#data, tsu);
        opened.push(unit);
        return unit;
      });
      for (const gone of this.#units) if (!units.includes(gone)) gone.close();
      this.#units = units.toSorted((a, b) => b.tsu.activeFromMs - a.tsu.activeFromMs);
      this.#version = version;
    } catch (error) {
      for (const unit of opened) unit.close();
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

  close(): void {
    for (const unit of this.#units) unit.close();
    this.#units = [];
  }
}
