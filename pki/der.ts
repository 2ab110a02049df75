/**
 * DER as bytes: a writer that concatenates and a reader that accepts nothing but DER (ITU-T X.690, clause 10).
 *
 * The reader is what strangers reach. It never recurses, never allocates by an announced length and never reads past its
 * input; each refusal is a `DerError`, nothing else.
 */

/** Bytes that hold exactly one DER-encoded value. */
export type Der = Uint8Array & { readonly __der?: never };

/** Universal and context tags by their identifier octet. */
export const tag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  utf8String: 0x0c,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
  /** [n] primitive, IMPLICIT. */
  context: (n: number): number => 0x80 | n,
  /** [n] constructed: EXPLICIT, or IMPLICIT over a constructed type. */
  contextConstructed: (n: number): number => 0xa0 | n,
} as const;

/** Octets that hold a length of `n` in DER. */
export const lengthOctets = (n: number): number => (n < 0x80 ? 1 : n < 0x100 ? 2 : n < 0x1_0000 ? 3 : n < 0x100_0000 ? 4 : 5);

/** Writes identifier and length of a value of `n` octets into `target`; returns the offset behind them. */
export const writeHeader = (target: Uint8Array, offset: number, identifier: number, n: number): number => {
  target[offset] = identifier;
  if (n < 0x80) {
    target[offset + 1] = n;
    return offset + 2;
  }
  const octets = lengthOctets(n) - 1;
  target[offset + 1] = 0x80 | octets;
  for (let i = octets; i > 0; i -= 1) target[offset + 1 + i] = (n / 2 ** (8 * (octets - i))) & 0xff;
  return offset + 2 + octets;
};

/** One value with the given identifier octet around the concatenated contents. */
export const encode = (identifier: number, ...contents: readonly Uint8Array[]): Der => {
  let length = 0;
  for (const content of contents) length += content.length;
  // Small buffers share a slab: an ArrayBuffer for each would cost more than its contents.
  const out = Buffer.allocUnsafe(1 + lengthOctets(length) + length);
  let offset = writeHeader(out, 0, identifier, length);
  for (const content of contents) {
    out.set(content, offset);
    offset += content.length;
  }
  return out;
};

export const sequence = (...contents: readonly Uint8Array[]): Der => encode(tag.sequence, ...contents);

/** SET OF: the elements in ascending order of their encodings (X.690, 11.6). */
export const setOf = (...elements: readonly Der[]): Der => encode(tag.set, ...elements.toSorted((a, b) => Buffer.compare(a, b)));

/** INTEGER of a non-negative safe number. */
export const integer = (value: number): Der => {
  const octets: number[] = [];
  let rest = value;
  do {
    octets.unshift(rest & 0xff);
    rest = Math.floor(rest / 256);
  } while (rest > 0);
  if ((octets[0] as number) >= 0x80) octets.unshift(0);
  return encode(tag.integer, Uint8Array.from(octets));
};

/** INTEGER of unsigned big-endian octets, as signatures deliver them. */
export const unsignedInteger = (octets: Uint8Array): Der => {
  let start = 0;
  while (start < octets.length - 1 && octets[start] === 0) start += 1;
  const trimmed = octets.subarray(start);
  return (trimmed[0] ?? 0) >= 0x80 ? encode(tag.integer, Uint8Array.of(0), trimmed) : encode(tag.integer, trimmed);
};

/** OBJECT IDENTIFIER from its dotted form. */
export const oid = (dotted: string): Der => {
  const [first, second, ...rest] = dotted.split('.').map(BigInt) as [bigint, bigint, ...bigint[]];
  const octets: number[] = [];
  for (const arc of [first * 40n + second, ...rest]) {
    const group = [Number(arc & 0x7fn)];
    for (let left = arc >> 7n; left > 0n; left >>= 7n) group.unshift(Number(left & 0x7fn) | 0x80);
    octets.push(...group);
  }
  return encode(tag.oid, Uint8Array.from(octets));
};

export const octetString = (octets: Uint8Array): Der => encode(tag.octetString, octets);
export const utf8String = (text: string): Der => encode(tag.utf8String, Buffer.from(text, 'utf8'));
export const derNull: Der = Uint8Array.of(tag.null, 0);

/** What the bytes break of X.690; the offset is into the reader's input. */
export class DerError extends Error {
  readonly offset: number;
  constructor(message: string, offset: number) {
    super(`${message} at octet ${offset}`);
    this.name = 'DerError';
    this.offset = offset;
  }
}

/** A cursor over DER values that lie side by side. */
export class DerReader {
  readonly bytes: Uint8Array;
  readonly end: number;
  offset: number;
  /** Start and end of the contents of the value that `next` read last. */
  contentStart = 0;
  contentEnd = 0;

  constructor(bytes: Uint8Array, start = 0, end = bytes.length) {
    this.bytes = bytes;
    this.offset = start;
    this.end = end;
  }

  /** Identifier octet of the value ahead, or -1 at the end. */
  peek(): number {
    return this.offset < this.end ? (this.bytes[this.offset] as number) : -1;
  }

  /** Reads one value that must have this identifier, and stands behind it. @throws DerError */
  next(identifier: number): void {
    const { bytes, end } = this;
    const at = this.offset;
    if (at >= end) throw new DerError('value missing', at);
    if (bytes[at] !== identifier) throw new DerError(`identifier ${identifier} expected`, at);
    if (at + 1 >= end) throw new DerError('length missing', at + 1);
    let length = bytes[at + 1] as number;
    let start = at + 2;
    if (length >= 0x80) {
      const octets = length & 0x7f;
      // Four octets reach 4 GiB: more than any body that is let in, and safe in a double.
      if (octets === 0 || octets > 4) throw new DerError('length form not DER', at + 1);
      if (start + octets > end) throw new DerError('length cut off', at + 1);
      length = 0;
      for (let i = 0; i < octets; i += 1) length = length * 256 + (bytes[start + i] as number);
      if (lengthOctets(length) !== octets + 1) throw new DerError('length not minimal', at + 1);
      start += octets;
    }
    if (length > end - start) throw new DerError('value cut off', start);
    this.contentStart = start;
    this.contentEnd = start + length;
    this.offset = this.contentEnd;
  }

  /** A reader over the contents of the constructed value ahead, which this one then stands behind. @throws DerError */
  enter(identifier: number): DerReader {
    this.next(identifier);
    return new DerReader(this.bytes, this.contentStart, this.contentEnd);
  }

  /** Contents of an INTEGER in minimal two's complement. @throws DerError */
  integer(): Uint8Array {
    this.next(tag.integer);
    const { bytes, contentStart: start, contentEnd: end } = this;
    if (end === start) throw new DerError('INTEGER empty', start);
    if (end - start > 1) {
      const first = bytes[start] as number;
      const negative = (bytes[start + 1] as number) >= 0x80;
      if ((first === 0 && !negative) || (first === 0xff && negative)) throw new DerError('INTEGER not minimal', start);
    }
    return bytes.subarray(start, end);
  }

  /** Contents of an OBJECT IDENTIFIER. @throws DerError */
  oid(): Uint8Array {
    this.next(tag.oid);
    const { bytes, contentStart: start, contentEnd: end } = this;
    if (end === start || (bytes[end - 1] as number) >= 0x80) throw new DerError('OBJECT IDENTIFIER cut off', start);
    for (let i = start, first = true; i < end; i += 1) {
      if (first && bytes[i] === 0x80) throw new DerError('OBJECT IDENTIFIER not minimal', i);
      first = (bytes[i] as number) < 0x80;
    }
    return bytes.subarray(start, end);
  }

  /** BOOLEAN: 0x00 or 0xFF (X.690, 11.1). @throws DerError */
  boolean(): boolean {
    this.next(tag.boolean);
    const value = this.bytes[this.contentStart];
    if (this.contentEnd - this.contentStart !== 1 || (value !== 0 && value !== 0xff))
      throw new DerError('BOOLEAN not DER', this.contentStart);
    return value === 0xff;
  }

  /** @throws DerError when something is left */
  finish(): void {
    if (this.offset !== this.end) throw new DerError('octets left over', this.offset);
  }
}

const constructedBit = 0x20;
/** EXTERNAL, EMBEDDED PDV, SEQUENCE, SET: of the universal types these alone are constructed in DER (X.690, 8 and 10.2). */
const constructedTypes: ReadonlySet<number> = new Set([0x28, 0x2b, tag.sequence, tag.set]);

/** Reads the value ahead of a cursor, and says whether there may be values inside. @throws DerError */
const nextOfAnyType = (reader: DerReader): boolean => {
  const identifier = reader.peek();
  const at = reader.offset;
  // 0 is the end of contents, which DER has not; a tag of several octets is in nothing that is read here.
  if (identifier === 0 || (identifier & 0x1f) === 0x1f) throw new DerError('identifier not DER', at);
  const isConstructed = (identifier & constructedBit) !== 0;
  if (identifier < 0x40 && constructedTypes.has(identifier | constructedBit) !== isConstructed) {
    throw new DerError('identifier not DER', at);
  }
  switch (identifier) {
    case tag.boolean:
      reader.boolean();
      break;
    case tag.integer:
      reader.integer();
      break;
    case tag.oid:
      reader.oid();
      break;
    case tag.null:
      reader.next(identifier);
      if (reader.contentStart !== reader.contentEnd) throw new DerError('NULL with contents', at);
      break;
    default:
      reader.next(identifier);
  }
  return isConstructed;
};

/** Reads one value of whatever type, and all that is inside of it, without recursion, and stands behind it. @throws DerError */
export const skipDer = (reader: DerReader): void => {
  const open: DerReader[] = [];
  for (let current: DerReader | undefined = reader; current !== undefined; current = open.at(-1)) {
    if (current !== reader && current.peek() === -1) open.pop();
    else if (nextOfAnyType(current)) open.push(new DerReader(current.bytes, current.contentStart, current.contentEnd));
  }
};

/** Dotted form of the contents of an OBJECT IDENTIFIER that `DerReader.oid` has accepted. */
export const dottedOid = (contents: Uint8Array): string => {
  const arcs: bigint[] = [];
  let arc = 0n;
  for (const octet of contents) {
    arc = (arc << 7n) | BigInt(octet & 0x7f);
    if (octet < 0x80) {
      arcs.push(arc);
      arc = 0n;
    }
  }
  const head = arcs[0] ?? 0n;
  const first = head >= 80n ? 2n : head / 40n;
  return [first, head - first * 40n, ...arcs.slice(1)].join('.');
};

/** Splits the values that lie side by side in the contents of a constructed value. @throws DerError */
export const splitDer = (bytes: Uint8Array): Der[] => {
  const reader = new DerReader(bytes);
  const values: Der[] = [];
  while (reader.peek() !== -1) {
    const start = reader.offset;
    reader.next(reader.peek());
    values.push(bytes.subarray(start, reader.offset));
  }
  return values;
};
