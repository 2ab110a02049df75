/** docs/journal-events.md is the catalogue of events, told in Markdown; `UPDATE_DOCS=1 npm test -- test/docs` writes it anew. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import type { CrlReason } from '../../authority/crl.ts';
import type { CertificateKind } from '../../authority/profiles.ts';
import { configSchema } from '../../config/schema.ts';
import type { RefusalReason } from '../../gateway/client-access.ts';
import { eventMeanings, type FieldMeaning } from '../../observability/journal/event-meanings.ts';
import {
  clockStates,
  type EventKind,
  eventCatalogue,
  eventOutcomes,
  eventRoles,
  type FieldType,
  retentionClasses,
} from '../../observability/journal/events.ts';
import { stampOutcomes } from '../../queue/answer-block.ts';
import { ceremonyActions } from '../../queue/ceremonies.ts';
import { clientRoles } from '../../queue/client-register.ts';
import { failureClasses, slotStates } from '../../queue/slot-status.ts';
import type { TsuRecord } from '../../queue/tsu-register.ts';
import type { WatchedState } from '../../signer/clock-picture.ts';
import type { ClockAnomaly } from '../../signer/clock-verifier.ts';

const page = new URL('../../docs/journal-events.md', import.meta.url);
const kinds = Object.keys(eventCatalogue) as EventKind[];

const code = (values: readonly string[]): string => values.map((value) => `\`${value}\``).join(', ');
const fieldsOf = (kind: EventKind): [string, FieldType, FieldMeaning][] => {
  const meanings = eventMeanings[kind].fields as Readonly<Record<string, FieldMeaning>>;
  return Object.entries(eventCatalogue[kind].detail).map(([name, type]) => [name, type as FieldType, meanings[name] as FieldMeaning]);
};
const row = ([name, type, told]: [string, FieldType, FieldMeaning]): string => {
  const meaning = typeof told === 'string' ? told : `${told.meaning} One of ${code(told.values)}.`;
  return `| \`${name}\` | ${type.replace('?', ', may be absent')} | ${meaning} |`;
};
const section = (kind: EventKind): string[] => {
  const { meaning, subject } = eventMeanings[kind];
  const fields = fieldsOf(kind);
  const table = fields.length === 0 ? ['No fields.'] : ['| field | type | meaning |', '|---|---|---|', ...fields.map(row)];
  return [`## ${kind}`, '', meaning, '', `- Subject: ${subject}`, `- Retention: \`${eventCatalogue[kind].retention}\``, '', ...table, ''];
};

const render = (): string =>
  [
    '# Events of the journal',
    '',
    'Every kind of event, and what its detail holds. This page is made from `observability/journal/events.ts` and `event-meanings.ts`',
    'beside it, and a test keeps them the same. How an entry is written is in [journal.md](journal.md).',
    '',
    'A kind is never removed and never changes its meaning; a field that came later may be absent. Types are those of CBOR: text (UTF-8),',
    'octets (a byte string), unsigned, boolean. Where a field has a closed set of values, they are listed, with those of the past.',
    '',
    'What all entries have with a closed set of values:',
    '',
    '| element | values |',
    '|---|---|',
    `| clock | ${code(clockStates)} |`,
    `| role | ${code(eventRoles)} |`,
    `| outcome | ${code(eventOutcomes)} |`,
    `| retention | ${code(retentionClasses)} |`,
    '',
    ...kinds.flatMap(section),
  ].join('\n');

test('docs/journal-events.md tells the catalogue', () => {
  if (process.env['UPDATE_DOCS'] === '1') writeFileSync(page, render());
  assert.equal(readFileSync(page, 'utf8'), render());
});

test('every meaning is a sentence that fits into a table', () => {
  for (const kind of kinds) {
    const { meaning, subject } = eventMeanings[kind];
    const told = fieldsOf(kind).map(([, , field]) => (typeof field === 'string' ? field : field.meaning));
    for (const text of [meaning, subject, ...told]) assert.match(text, /^[A-Z0-9].*\.$/, kind);
    assert.doesNotMatch([...told].join(''), /[|\n]/, kind);
  }
});

/** The members of a union, which the type makes complete. */
const membersOf = <T extends string>(members: Readonly<Record<T, true>>): string[] => Object.keys(members);
const clocks = membersOf<WatchedState>({
  trusted: true,
  unverified: true,
  starting: true,
  offset: true,
  uncertain: true,
  noQuorum: true,
  stepped: true,
  leap: true,
});
const anomalies = membersOf<ClockAnomaly>({
  offset: true,
  uncertain: true,
  quorumLost: true,
  falseticker: true,
  leapAnnounced: true,
  kissOfDeath: true,
});
const refusals = membersOf<RefusalReason>({ missing: true, malformed: true, unknown: true, wrong: true, disabled: true });
const crlReasons = membersOf<CrlReason>({
  unspecified: true,
  keyCompromise: true,
  affiliationChanged: true,
  superseded: true,
  cessationOfOperation: true,
});
const tsuStates = membersOf<TsuRecord['state']>({ generated: true, certified: true, active: true, retired: true, destroyed: true });
const profiles = membersOf<CertificateKind>({ 'root-ca': true, 'timestamp-ca': true, tsu: true });
const logLevels: readonly string[] = configSchema.shape.log.unwrap().shape.level.unwrap().options;

/** What the code can write into each field with a closed set of values. */
const written: Readonly<Record<string, readonly string[]>> = {
  'timestamp.refused reason': stampOutcomes.filter((outcome) => outcome !== 'granted'),
  'key.registered state': tsuStates,
  'certificate.issued profile': profiles,
  'certificate.revoked reason': crlReasons,
  'hsm.serving before': ['none', ...slotStates],
  'hsm.failed class': failureClasses,
  'ceremony.requested action': ceremonyActions,
  'ceremony.approved action': ceremonyActions,
  'ceremony.executed action': ceremonyActions,
  'time.state from': ['unknown', ...clocks],
  'time.state to': clocks,
  'time.anomaly reason': ['step', ...anomalies],
  'time.anomaly state': ['unknown', ...clocks],
  'service.logLevel from': logLevels,
  'service.logLevel to': logLevels,
  'permission.changed from': ['none', ...clientRoles],
  'permission.changed to': clientRoles,
  'authentication.failed reason': [...refusals, 'role'],
  'journal.expired retention': retentionClasses,
};

describe('closed sets of values hold all that the code writes', () => {
  const closed = kinds.flatMap((kind) =>
    fieldsOf(kind).flatMap(([name, , told]) => (typeof told === 'string' ? [] : [[`${kind} ${name}`, told.values] as const])),
  );
  test('each is looked at', () => {
    assert.deepEqual(
      closed.map(([name]) => name),
      Object.keys(written),
    );
  });
  for (const [name, values] of closed) {
    test(name, () => {
      for (const value of written[name] ?? []) assert.ok(values.includes(value), value);
    });
  }
});
