/**
 * Counts signatures that a token would not make (classes `request` and `bug`, and what is no signature), over all threads of its signer.
 *
 * One is refused to its client, and no other suffers. But all hashes that are signed have one form, so a token that refuses many would
 * refuse any; and because it refuses in no time, it would look like the least loaded of all and draw the requests that others would
 * have stamped. So it counts as failed then: its signer gives up, and the next one has the keys prove themselves before it reads.
 */

/** In tenths of a refusal: one in eleven is borne for ever, and from nothing the eighth in a row is too many. */
const refused = 10;
const limit = 8 * refused;

/** Memory that threads count in together. */
export const createRefusalMemory = (): SharedArrayBuffer => new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);

export class TokenRefusals {
  readonly #count: Int32Array;

  constructor(memory: SharedArrayBuffer) {
    this.#count = new Int32Array(memory);
  }

  /** A signature was made. */
  signed(): void {
    // Nearly always there is nothing to forget. Threads that forget at once may go a little below it.
    if (Atomics.load(this.#count, 0) > 0) Atomics.sub(this.#count, 0, 1);
  }

  /** A signature was refused. @returns true when there were so many that the token is of no use */
  refused(): boolean {
    return Atomics.add(this.#count, 0, refused) + refused >= limit;
  }
}
