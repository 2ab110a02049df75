/** Scratch space that is filled from the front, grows when it must, and is used again: no allocation for most batches. */
export class GrowingBuffer {
  bytes: Buffer;
  #length = 0;

  constructor(octets: number) {
    this.bytes = Buffer.alloc(octets);
  }

  /** Starts again, with `octets` left free at the front. */
  clear(octets: number): void {
    this.#length = octets;
  }

  /** Makes room for `octets`. @returns the offset where they go; `bytes` may have been replaced */
  reserve(octets: number): number {
    const start = this.#length;
    this.#length += octets;
    if (this.#length > this.bytes.length) {
      const larger = Buffer.alloc(2 * this.#length);
      this.bytes.copy(larger, 0, 0, start);
      this.bytes = larger;
    }
    return start;
  }

  /** A copy of what was filled, in an ArrayBuffer of its own that can be transferred. */
  copy(): Uint8Array {
    const copy = new Uint8Array(this.#length);
    copy.set(this.bytes.subarray(0, this.#length));
    return copy;
  }
}
