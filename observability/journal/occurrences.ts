/**
 * How many occurrences an entry tells of: what comes in a flood is told together, in one entry with a `count`. No column has it, so it
 * is read out of the entries themselves, where they are; rows of kinds that never have one are not touched.
 */
import { CborWriter } from './cbor.ts';
import { fieldsOf } from './event-encoding.ts';
import { type EventKind, eventCatalogue } from './events.ts';

/** The field of a detail that says for how many its entry stands. */
const field = 'count';

const writer = new CborWriter(64);
const needleFor = (kind: EventKind, fields: number): string => {
  writer.clear();
  writer.text(eventCatalogue[kind].retention);
  writer.map(fields);
  writer.text(field);
  return writer.copy().toString('hex');
};

/**
 * What stands before the number, for a detail of that many fields: the class of retention, the head of the detail, and the name of
 * its first field. It is nowhere before that: the octet of the head is no UTF-8 behind an ASCII character, and what is
 * no text there is shorter.
 */
const needlesOf = (kind: EventKind): string[] => {
  const fields = fieldsOf(kind);
  const needed = fields.filter(({ optional }) => !optional).length;
  // The canonical order has the shortest name first.
  if (fields[0]?.name !== field) throw new Error(`${kind}: ${field} is not the first field of its detail`);
  return Array.from({ length: fields.length - needed }, (_, i) => needleFor(kind, needed + 1 + i));
};

/** Kinds whose entries may stand for many. */
export const countedKinds: readonly EventKind[] = (Object.keys(eventCatalogue) as EventKind[]).filter((kind) =>
  fieldsOf(kind).some(({ name }) => name === field),
);

const countOf = (kind: EventKind): string => {
  const needles = needlesOf(kind);
  const at = `multiSearchFirstPosition(octets, [${needles.map((hex) => `unhex('${hex}')`).join(', ')}])`;
  const head = `(${at} + ${(needles[0] as string).length / 2})`;
  const first = `reinterpretAsUInt8(substring(octets, ${head}, 1))`;
  // An unsigned number (RFC 8949, 3.1): in its first octet, or in the 1, 2, 4 or 8 behind it, the most significant one first.
  const behind = `reinterpretAsUInt64(reverse(substring(octets, ${head} + 1, bitShiftLeft(1, bitAnd(${first} - 24, 3)))))`;
  return `if(${at} = 0, 1, greatest(1, if(${first} < 24, toUInt64(${first}), ${behind})))`;
};

/** SQL: how many a row of the counted kinds stands for. */
export const occurrencesSql = `multiIf(${countedKinds.map((kind) => `kind = '${kind}', ${countOf(kind)}`).join(', ')}, 1)`;
