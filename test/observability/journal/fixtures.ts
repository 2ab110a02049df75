/** Events for tests: one of each kind. */
import { type EventDraft, type EventKind, eventCatalogue, type FieldType } from '../../../observability/journal/events.ts';

const fieldValue = (type: FieldType, name: string): unknown => {
  if (type.startsWith('text')) return `text of ${name}`;
  if (type.startsWith('octets')) return Buffer.from(`octets of ${name}`);
  return type.startsWith('unsigned') ? 1_234_567 : true;
};

export const allKinds = Object.keys(eventCatalogue) as EventKind[];

/** An event of that kind, with or without what it may leave out. */
export const draftOf = (kind: EventKind, options: { optional: boolean }): EventDraft => {
  const fields = Object.entries(eventCatalogue[kind].detail as Readonly<Record<string, FieldType>>);
  const present = fields.filter(([, type]) => options.optional || !type.endsWith('?'));
  return {
    kind,
    unixMicros: 1_795_000_000_123_456,
    clock: 'unverified',
    node: 'node-1',
    role: 'system',
    actor: 'signer',
    subject: 'größe',
    outcome: 'success',
    detail: Object.fromEntries(present.map(([name, type]) => [name, fieldValue(type, name)])),
  } as unknown as EventDraft;
};
