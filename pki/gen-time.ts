/** GeneralizedTime as RFC 3161, section 2.4.2 wants it: UTC, fraction only where there is one, no trailing zeros. */

const two = (n: number): string => (n < 10 ? `0${n}` : `${n}`);

/** Seconds part `YYYYMMDDHHMMSS` of a Unix time in whole seconds, for the years 0 to 9999. */
const secondsText = (unixSeconds: number): string => {
  const date = new Date(unixSeconds * 1000);
  const year = String(date.getUTCFullYear()).padStart(4, '0');
  const day = `${two(date.getUTCMonth() + 1)}${two(date.getUTCDate())}`;
  return `${year}${day}${two(date.getUTCHours())}${two(date.getUTCMinutes())}${two(date.getUTCSeconds())}`;
};

/** Octets of the contents that `GenTimeWriter.write` writes for this time. */
export const genTimeOctets = (unixMillis: number): number => {
  const millis = unixMillis - Math.floor(unixMillis / 1000) * 1000;
  if (millis === 0) return 15;
  return millis % 100 === 0 ? 17 : millis % 10 === 0 ? 18 : 19;
};

/** Writes the contents of GeneralizedTime; it keeps the text of the current second, which thousands of stamps share. */
export class GenTimeWriter {
  #second = Number.NaN;
  readonly #text = new Uint8Array(14);

  /**
   * Writes `YYYYMMDDHHMMSS[.f[f[f]]]Z`, 15 to 19 octets.
   * @param unixMillis whole milliseconds since 1970 in UTC
   * @returns offset behind the last octet
   */
  write(target: Uint8Array, offset: number, unixMillis: number): number {
    const second = Math.floor(unixMillis / 1000);
    if (second !== this.#second) {
      this.#text.set(Buffer.from(secondsText(second), 'latin1'));
      this.#second = second;
    }
    target.set(this.#text, offset);
    let end = offset + 14;
    const millis = unixMillis - second * 1000;
    if (millis > 0) {
      target[end++] = 0x2e;
      target[end++] = 0x30 + Math.floor(millis / 100);
      if (millis % 100 > 0) {
        target[end++] = 0x30 + (Math.floor(millis / 10) % 10);
        if (millis % 10 > 0) target[end++] = 0x30 + (millis % 10);
      }
    }
    target[end++] = 0x5a;
    return end;
  }
}
