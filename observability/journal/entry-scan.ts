/**
 * Reads of an entry only what a verification follows, without making an event of it: ten times as fast as decodeEvent, which
 * accepts and refuses the same octets (the tests hold them against each other).
 */
import { isUtf8 } from 'node:buffer';
import { SigilloError } from '../../config/errors.ts';
import { encodedText } from './cbor.ts';
import { eventOctetsMax, eventVersion, fieldsOf, hashOctets } from './event-encoding.ts';
import { clockStates, type EventKind, eventCatalogue, eventOutcomes, eventRoles, retentionClasses } from './events.ts';

/** What a verification needs to know of every entry. */
export interface ScannedEntry {
  readonly sequence: number;
  readonly kind: EventKind;
  /** Offset of the hash of the entry before, which is the last thing in an entry. */
  readonly previousAt: number;
}

const malformed = (what: string): SigilloError => new SigilloError('JOURNAL_MALFORMED', what);

/** Heads of CBOR (RFC 8949, section 3): the type is in the upper three bits. */
const type = { unsigned: 0x00, octets: 0x40, text: 0x60, map: 0xa0 } as const;
const arrayOf13 = 0x8d;

type FieldScan = (scan: Scan) => void;
const fieldScans: Readonly<Record<string, FieldScan>> = {
  text: (scan) => scan.text(),
  octets: (scan) => scan.skip(scan.head(type.octets)),
  unsigned: (scan) => void scan.head(type.unsigned),
  boolean: (scan) => scan.boolean(),
};

interface KindScan {
  readonly kind: EventKind;
  readonly name: Buffer;
  readonly retention: Buffer;
  readonly fields: readonly { readonly key: Buffer; readonly optional: boolean; readonly scan: FieldScan }[];
}
const kindScans: readonly KindScan[] = (Object.keys(eventCatalogue) as EventKind[]).map((kind) => ({
  kind,
  name: encodedText(kind),
  retention: encodedText(eventCatalogue[kind].retention),
  fields: fieldsOf(kind).map(({ key, optional, type: of }) => ({
    key,
    optional,
    scan: fieldScans[of.replace('?', '')] as FieldScan,
  })),
}));
const clocks = clockStates.map(encodedText);
const roles = eventRoles.map(encodedText);
const outcomes = eventOutcomes.map(encodedText);
const retentions = retentionClasses.map(encodedText);

class Scan {
  readonly bytes: Buffer;
  at = 0;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  /** Passes over a head of that type, in its shortest form. @returns its argument */
  head(of: number): number {
    const { bytes, at } = this;
    const initial = bytes[at];
    if (initial === undefined) throw malformed('it is cut off');
    const short = initial - of;
    if (short < 0 || short > 27) throw malformed('another type of value was expected');
    if (short < 24) {
      this.at = at + 1;
      return short;
    }
    const octets = 1 << (short - 24);
    this.at = at + 1 + octets;
    if (this.at > bytes.length) throw malformed('it is cut off');
    let value = 0;
    for (let i = at + 1; i < this.at; i += 1) value = value * 256 + (bytes[i] as number);
    const shortest = octets === 1 ? 24 : 256 ** (octets / 2);
    if (value < shortest || value > Number.MAX_SAFE_INTEGER) throw malformed('a number is not in its shortest form');
    return value;
  }

  skip(octets: number): void {
    if (octets > this.bytes.length - this.at) throw malformed('it is cut off');
    this.at += octets;
  }

  text(): void {
    const octets = this.head(type.text);
    const begin = this.at;
    this.skip(octets);
    const { bytes, at } = this;
    for (let i = begin; i < at; i += 1) {
      if ((bytes[i] as number) < 0x80) continue;
      if (isUtf8(bytes.subarray(begin, at))) return;
      throw malformed('text is not UTF-8');
    }
  }

  boolean(): void {
    const value = this.bytes[this.at];
    if (value !== 0xf4 && value !== 0xf5) throw malformed('a boolean is missing');
    this.at += 1;
  }

  /** Passes over these octets, if they are next. */
  accept(encoded: Buffer): boolean {
    const { bytes, at } = this;
    const { length } = encoded;
    if (length > bytes.length - at) return false;
    for (let i = 0; i < length; i += 1) if (bytes[at + i] !== encoded[i]) return false;
    this.at = at + length;
    return true;
  }

  oneOf(members: readonly Buffer[], what: string): void {
    for (const member of members) if (this.accept(member)) return;
    throw malformed(`unknown ${what}`);
  }

  kind(): KindScan {
    for (const one of kindScans) if (this.accept(one.name)) return one;
    throw malformed('unknown kind');
  }

  detail({ kind, fields }: KindScan): void {
    let next = 0;
    for (let left = this.head(type.map); left > 0; left -= 1) {
      let field = fields[next];
      while (field !== undefined && !this.accept(field.key)) {
        if (!field.optional) throw malformed(`a field of ${kind} is missing, or not here`);
        next += 1;
        field = fields[next];
      }
      if (field === undefined) throw malformed(`a field that ${kind} has not, or not here`);
      field.scan(this);
      next += 1;
    }
    for (; next < fields.length; next += 1) if (fields[next]?.optional !== true) throw malformed(`a field of ${kind} is missing`);
  }
}

/** Reads canonical octets, and nothing else. @throws JOURNAL_MALFORMED */
export const scanEntry = (octets: Buffer): ScannedEntry => {
  if (octets.length > eventOctetsMax) throw malformed(`an event of ${octets.length} octets`);
  const scan = new Scan(octets);
  if (octets[0] !== arrayOf13) throw malformed('an array of 13 is missing');
  scan.at = 1;
  const version = scan.head(type.unsigned);
  if (version !== eventVersion) throw malformed(`version ${version}`);
  const sequence = scan.head(type.unsigned);
  scan.head(type.unsigned);
  scan.oneOf(clocks, 'clock state');
  scan.text();
  scan.oneOf(roles, 'role');
  scan.text();
  const kind = scan.kind();
  scan.text();
  scan.oneOf(outcomes, 'outcome');
  const { at } = scan;
  scan.oneOf(retentions, 'retention class');
  scan.at = at;
  if (!scan.accept(kind.retention)) throw malformed(`${kind.kind} is kept as another class`);
  scan.detail(kind);
  if (scan.head(type.octets) !== hashOctets) throw malformed('the hash of the event before has another length');
  const previousAt = scan.at;
  scan.skip(hashOctets);
  if (scan.at !== octets.length) throw malformed('octets are left over');
  return { sequence, kind: kind.kind, previousAt };
};
