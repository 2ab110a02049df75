/** Rows as ClickHouse's RowBinary has them: each column behind the other, numbers with the lowest octet first, texts behind their length. */

/** What a row may need beside what it is told to make room for. */
const marginOctets = 1_024;
/** A text with fewer UTF-16 units has fewer than 128 octets in UTF-8, so its length is one octet. */
const shortTextUnits = 42;

export class RowBinaryWriter {
  #out: Buffer;
  #at = 0;

  /** @param scratch where it writes, while there is room: a buffer that was large enough for one block is for most others */
  constructor(scratch: Buffer) {
    this.#out = scratch;
  }

  /** Everything that was written; it shares its memory with `scratch`. */
  get rows(): Buffer {
    return this.#out.subarray(0, this.#at);
  }

  /** For the next writer, when nobody reads the rows any more. */
  get scratch(): Buffer {
    return this.#out;
  }

  /** To be called before each row. @param octets more than its texts and octets take together */
  makeRoom(octets: number): void {
    const needed = this.#at + octets + marginOctets;
    if (needed <= this.#out.length) return;
    // Of its own: what Node cuts off its pool lies beside buffers of others.
    const larger = Buffer.allocUnsafeSlow(2 * needed);
    this.#out.copy(larger, 0, 0, this.#at);
    this.#out = larger;
  }

  uint32(value: number): void {
    this.#at = this.#out.writeUInt32LE(value, this.#at);
  }

  /** @param value not negative, up to 2^53 */
  uint64(value: number): void {
    this.uint32(value % 0x1_0000_0000);
    this.uint32(Math.floor(value / 0x1_0000_0000));
  }

  /** @param bigEndian the eight octets of the number, the highest first */
  uint64Of(bigEndian: Uint8Array): void {
    for (let i = 7; i >= 0; i -= 1) this.#out[this.#at + 7 - i] = bigEndian[i] as number;
    this.#at += 8;
  }

  string(text: string): void {
    if (text.length <= shortTextUnits) {
      const written = this.#out.write(text, this.#at + 1, 'utf8');
      this.#out[this.#at] = written;
      this.#at += written + 1;
      return;
    }
    this.#length(Buffer.byteLength(text, 'utf8'));
    this.#at += this.#out.write(text, this.#at, 'utf8');
  }

  octets(bytes: Uint8Array): void {
    this.#length(bytes.length);
    this.#out.set(bytes, this.#at);
    this.#at += bytes.length;
  }

  /** Seven bits an octet, the lowest first; the highest bit says that another one follows. */
  #length(length: number): void {
    let rest = length;
    while (rest > 0x7f) {
      this.#out[this.#at] = (rest & 0x7f) | 0x80;
      this.#at += 1;
      rest >>>= 7;
    }
    this.#out[this.#at] = rest;
    this.#at += 1;
  }
}
