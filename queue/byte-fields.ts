/** Fields of the lane's binary messages: length-prefixed, big-endian, and read with bounds: Redis may hold what another release wrote. */
import { SigilloError } from '../config/errors.ts';

/** Writes one octet of length and the bytes, at most 255. @returns offset behind them */
export const putShort = (out: Buffer, at: number, bytes: Uint8Array): number => {
  out[at] = bytes.length;
  out.set(bytes, at + 1);
  return at + 1 + bytes.length;
};

const malformed = (detail: string): SigilloError => new SigilloError('LANE_ENTRY_MALFORMED', detail);

/** Reads fields from the front; everything that does not fit is LANE_ENTRY_MALFORMED. */
export class ByteReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  version(expected: number): void {
    if (this.unsigned(1) !== expected) throw malformed('unknown version');
  }

  unsigned(octets: 1 | 2 | 3 | 4 | 6): number {
    const at = this.#take(octets);
    return this.#bytes.readUIntBE(at, octets);
  }

  /** A view of the bytes behind a length of so many octets. */
  view(lengthOctets: 1 | 3): Buffer {
    return this.fixed(this.unsigned(lengthOctets));
  }

  fixed(octets: number): Buffer {
    const at = this.#take(octets);
    return this.#bytes.subarray(at, at + octets);
  }

  finish(): void {
    if (this.#at !== this.#bytes.length) throw malformed('octets left over');
  }

  #take(octets: number): number {
    const at = this.#at;
    if (at + octets > this.#bytes.length) throw malformed('cut off');
    this.#at = at + octets;
    return at;
  }
}
