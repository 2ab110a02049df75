/**
 * The part of CBOR (RFC 8949) that the journal is written in: unsigned integers, octets, text, booleans, arrays, and maps with
 * fixed keys, in the core deterministic encoding (section 4.2.1), so that one value has one sequence of octets for ever.
 *
 * Written here because every stamp passes through it; the tests hold it against another implementation.
 */
import { SigilloError } from '../../config/errors.ts';

const major = { unsigned: 0, bytes: 2, text: 3, array: 4, map: 5, simple: 7 } as const;
const falseValue = 0xf4;
const trueValue = 0xf5;
const headOctetsMax = 9;
const copiesOctets = 256 * 1024;

const malformed = (what: string): SigilloError => new SigilloError('JOURNAL_MALFORMED', what);

/** Octets that the argument of a head takes. */
const argumentOctets = (value: number): 0 | 1 | 2 | 4 | 8 =>
  value < 24 ? 0 : value < 0x100 ? 1 : value < 0x1_0000 ? 2 : value < 0x1_0000_0000 ? 4 : 8;

/** Writes values one after the other into a buffer of its own, which is used again. */
export class CborWriter {
  /** What is copied lies side by side: Node's own pool of 8 KB holds nine stamps, and each pool is another thing to free. */
  #copies: Buffer = Buffer.alloc(0);
  #copied = 0;
  #bytes: Buffer;
  #length = 0;

  constructor(octets: number) {
    this.#bytes = Buffer.allocUnsafeSlow(octets);
  }

  clear(): void {
    this.#length = 0;
  }

  /** A copy of what was written. */
  copy(): Buffer {
    const octets = this.#length;
    if (this.#copied + octets > this.#copies.length) {
      this.#copies = Buffer.allocUnsafeSlow(Math.max(octets, copiesOctets));
      this.#copied = 0;
    }
    const begin = this.#copied;
    this.#copied += octets;
    this.#bytes.copy(this.#copies, begin, 0, octets);
    return this.#copies.subarray(begin, begin + octets);
  }

  /** @param value 0 to 2^53 - 1 */
  unsigned(value: number): void {
    this.#head(major.unsigned, value);
  }

  boolean(value: boolean): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = value ? trueValue : falseValue;
  }

  bytes(value: Uint8Array): void {
    this.#head(major.bytes, value.length);
    this.raw(value);
  }

  text(value: string): void {
    const octets = Buffer.byteLength(value);
    this.#head(major.text, octets);
    this.#reserve(octets);
    this.#length += this.#bytes.write(value, this.#length, 'utf8');
  }

  array(items: number): void {
    this.#head(major.array, items);
  }

  /** The entries follow, in the bytewise order of their encoded keys. */
  map(entries: number): void {
    this.#head(major.map, entries);
  }

  /** Octets that are encoded already. */
  raw(value: Uint8Array): void {
    this.#reserve(value.length);
    this.#bytes.set(value, this.#length);
    this.#length += value.length;
  }

  #head(type: number, argument: number): void {
    if (!Number.isSafeInteger(argument) || argument < 0) throw malformed(`${argument} is no unsigned integer`);
    this.#reserve(headOctetsMax);
    const octets = argumentOctets(argument);
    const at = this.#length;
    this.#length += 1 + octets;
    const initial = type << 5;
    switch (octets) {
      case 0:
        this.#bytes[at] = initial | argument;
        break;
      case 1:
        this.#bytes[at] = initial | 24;
        this.#bytes[at + 1] = argument;
        break;
      case 2:
        this.#bytes[at] = initial | 25;
        this.#bytes.writeUInt16BE(argument, at + 1);
        break;
      case 4:
        this.#bytes[at] = initial | 26;
        this.#bytes.writeUInt32BE(argument, at + 1);
        break;
      case 8:
        this.#bytes[at] = initial | 27;
        this.#bytes.writeUInt32BE(Math.floor(argument / 0x1_0000_0000), at + 1);
        this.#bytes.writeUInt32BE(argument % 0x1_0000_0000, at + 5);
    }
  }

  #reserve(octets: number): void {
    if (this.#length + octets <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafeSlow(2 * (this.#length + octets));
    this.#bytes.copy(larger, 0, 0, this.#length);
    this.#bytes = larger;
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

const texts = new CborWriter(64);

/** A text, for what is encoded once. All lie in one block: 118 names of fields, each with a writer of its own, took 30 MB in every process. */
export const encodedText = (text: string): Buffer => {
  texts.clear();
  texts.text(text);
  return texts.copy();
};

/** Reads what CborWriter writes, and refuses every other spelling of it. @throws JOURNAL_MALFORMED */
export class CborReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  unsigned(): number {
    return this.#head(major.unsigned);
  }

  boolean(): boolean {
    const value = this.#bytes[this.#at];
    if (value !== trueValue && value !== falseValue) throw malformed('a boolean is missing');
    this.#at += 1;
    return value === trueValue;
  }

  /** A view of the octets. */
  octets(): Buffer {
    return this.#take(this.#head(major.bytes));
  }

  text(): string {
    const octets = this.#take(this.#head(major.text));
    try {
      return utf8.decode(octets);
    } catch {
      throw malformed('text is not UTF-8');
    }
  }

  array(items: number): void {
    if (this.#head(major.array) !== items) throw malformed(`an array of ${items} is missing`);
  }

  /** @returns number of entries */
  map(): number {
    return this.#head(major.map);
  }

  /** @throws when anything is left */
  finish(): void {
    if (this.#at !== this.#bytes.length) throw malformed('octets are left over');
  }

  #take(octets: number): Buffer {
    if (octets > this.#bytes.length - this.#at) throw malformed('it is cut off');
    this.#at += octets;
    return this.#bytes.subarray(this.#at - octets, this.#at);
  }

  #head(type: number): number {
    const [initial] = this.#take(1) as unknown as [number];
    const short = initial & 0x1f;
    if (initial >> 5 !== type || short > 27) throw malformed('another type of value was expected');
    if (short < 24) return short;
    const octets = 2 ** (short - 24);
    const bytes = this.#take(octets);
    const value = octets === 8 ? bytes.readUInt32BE(0) * 0x1_0000_0000 + bytes.readUInt32BE(4) : bytes.readUIntBE(0, octets);
    if (!Number.isSafeInteger(value) || argumentOctets(value) !== octets) throw malformed('a number is not in its shortest form');
    return value;
  }
}
