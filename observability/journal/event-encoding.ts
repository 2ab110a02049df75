/**
 * The canonical octets of an event, and its hash.
 *
 * Version 1 is an array in deterministic CBOR (RFC 8949, section 4.2.1):
 *
 *     [1, sequence, unixMicros, clock, node, role, actor, kind, subject, outcome, retention, detail, previous]
 *
 * The hash of an event is SHA-256(0x00 || octets): the leaf hash of RFC 6962, section 2.1. So one hash makes both the chain,
 * through `previous`, and the Merkle tree of the checkpoints.
 */
import { SigilloError } from '../../config/errors.ts';
import { sha256 } from '../../pki/digest.ts';
import { CborReader, CborWriter, encodedText } from './cbor.ts';
import {
  clockStates,
  type EventKind,
  eventCatalogue,
  eventOutcomes,
  eventRoles,
  type FieldType,
  type JournalEvent,
  retentionClasses,
} from './events.ts';

export const eventVersion = 1;
export const hashOctets = 32;
/** A token is at most about 9 KB (the longest nonce that a request body carries); certificates and reports are smaller. */
export const eventOctetsMax = 64 * 1024;
const elements = 13;

type FieldValue = string | number | boolean | Uint8Array | undefined;

export interface Field {
  readonly name: string;
  readonly type: FieldType;
  readonly optional: boolean;
  /** The name, encoded. */
  readonly key: Buffer;
}

/** The fields of each kind in the order of their encoded names. */
const fieldsByKind: ReadonlyMap<string, readonly Field[]> = new Map(
  Object.entries(eventCatalogue).map(([kind, { detail }]) => [
    kind,
    Object.entries(detail as Readonly<Record<string, FieldType>>)
      .map(([name, type]): Field => ({ name, type, optional: type.endsWith('?'), key: encodedText(name) }))
      .toSorted((a, b) => Buffer.compare(a.key, b.key)),
  ]),
);
/** What the detail of a kind holds, in the order in which it is written. */
export const fieldsOf = (kind: EventKind): readonly Field[] => fieldsByKind.get(kind) as readonly Field[];

const writeValue = (writer: CborWriter, { name, type }: Field, value: FieldValue): void => {
  if (type.startsWith('text') && typeof value === 'string') writer.text(value);
  else if (type.startsWith('octets') && value instanceof Uint8Array) writer.bytes(value);
  else if (type.startsWith('unsigned') && typeof value === 'number') writer.unsigned(value);
  else if (type.startsWith('boolean') && typeof value === 'boolean') writer.boolean(value);
  else throw new SigilloError('JOURNAL_MALFORMED', `detail.${name} must be ${type}`);
};

const writeDetail = (writer: CborWriter, kind: EventKind, detail: Readonly<Record<string, FieldValue>>): void => {
  const fields = fieldsOf(kind);
  let present = 0;
  for (const { name, optional } of fields) if (!optional || detail[name] !== undefined) present += 1;
  writer.map(present);
  for (const field of fields) {
    const value = detail[field.name];
    if (value === undefined && field.optional) continue;
    writer.raw(field.key);
    writeValue(writer, field, value);
  }
};

const scratch = new CborWriter(4_096);

/** The canonical octets. @throws JOURNAL_MALFORMED when the event does not fit its kind, or is too long */
export const encodeEvent = (event: JournalEvent): Buffer => {
  scratch.clear();
  scratch.array(elements);
  scratch.unsigned(eventVersion);
  scratch.unsigned(event.sequence);
  scratch.unsigned(event.unixMicros);
  scratch.text(event.clock);
  scratch.text(event.node);
  scratch.text(event.role);
  scratch.text(event.actor);
  scratch.text(event.kind);
  scratch.text(event.subject);
  scratch.text(event.outcome);
  scratch.text(eventCatalogue[event.kind].retention);
  writeDetail(scratch, event.kind, event.detail);
  scratch.bytes(event.previous);
  const octets = scratch.copy();
  if (octets.length > eventOctetsMax) throw new SigilloError('JOURNAL_MALFORMED', `an event of ${octets.length} octets`);
  return octets;
};

const readMember = <T extends string>(reader: CborReader, what: string, members: readonly T[]): T => {
  const text = reader.text();
  const member = members.find((one) => one === text);
  if (member === undefined) throw new SigilloError('JOURNAL_MALFORMED', `unknown ${what}`);
  return member;
};

const readValue = (reader: CborReader, type: FieldType): FieldValue => {
  if (type.startsWith('text')) return reader.text();
  if (type.startsWith('octets')) return reader.octets();
  return type.startsWith('unsigned') ? reader.unsigned() : reader.boolean();
};

const readDetail = (reader: CborReader, kind: EventKind): Record<string, FieldValue> => {
  const detail: Record<string, FieldValue> = {};
  const fields = fieldsOf(kind);
  let next = 0;
  for (let left = reader.map(); left > 0; left -= 1) {
    const name = reader.text();
    // Canonical order, so each field is at or behind the last; what is passed over must be optional.
    while (fields[next] !== undefined && fields[next]?.name !== name && fields[next]?.optional === true) next += 1;
    const field = fields[next];
    if (field?.name !== name) throw new SigilloError('JOURNAL_MALFORMED', `a field that ${kind} has not, or not here`);
    detail[name] = readValue(reader, field.type);
    next += 1;
  }
  if (fields.slice(next).some(({ optional }) => !optional)) throw new SigilloError('JOURNAL_MALFORMED', `a field of ${kind} is missing`);
  return detail;
};

/** Reads canonical octets, and nothing else. @throws JOURNAL_MALFORMED */
export const decodeEvent = (octets: Buffer): JournalEvent => {
  if (octets.length > eventOctetsMax) throw new SigilloError('JOURNAL_MALFORMED', `an event of ${octets.length} octets`);
  const reader = new CborReader(octets);
  reader.array(elements);
  const version = reader.unsigned();
  if (version !== eventVersion) throw new SigilloError('JOURNAL_MALFORMED', `version ${version}`);
  const sequence = reader.unsigned();
  const unixMicros = reader.unsigned();
  const clock = readMember(reader, 'clock state', clockStates);
  const node = reader.text();
  const role = readMember(reader, 'role', eventRoles);
  const actor = reader.text();
  const kind = readMember(reader, 'kind', Object.keys(eventCatalogue) as EventKind[]);
  const subject = reader.text();
  const outcome = readMember(reader, 'outcome', eventOutcomes);
  const retention = readMember(reader, 'retention class', retentionClasses);
  if (retention !== eventCatalogue[kind].retention) throw new SigilloError('JOURNAL_MALFORMED', `${kind} is not kept as ${retention}`);
  const detail = readDetail(reader, kind);
  const previous = reader.octets();
  if (previous.length !== hashOctets) throw new SigilloError('JOURNAL_MALFORMED', 'the hash of the event before has another length');
  reader.finish();
  // The catalogue has just checked what the type says, field by field.
  return { sequence, unixMicros, clock, node, role, actor, kind, subject, outcome, detail, previous } as unknown as JournalEvent;
};

/** The prefix of a leaf, and room for the octets behind it: cheaper than a new buffer for each entry. */
const leaf = Buffer.alloc(1 + eventOctetsMax);

/** Hash of an event: its leaf hash (RFC 6962, section 2.1), 32 octets. */
export const hashEvent = (octets: Uint8Array): Buffer => {
  if (octets.length > eventOctetsMax) throw new SigilloError('JOURNAL_MALFORMED', `an event of ${octets.length} octets`);
  leaf.set(octets, 1);
  return sha256(leaf.subarray(0, 1 + octets.length));
};
