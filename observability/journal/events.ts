/**
 * The catalogue of the journal: every kind of event, how long it is kept, and what its detail holds. A kind is never removed
 * and never changes; what must change gets a new name.
 */

/** How long an event is kept is configured for each class. */
export const retentionClasses = ['certificate', 'timestamp', 'mail', 'service'] as const;
export type RetentionClass = (typeof retentionClasses)[number];

/** In what capacity the actor acted. */
export const eventRoles = ['client', 'operator', 'auditor', 'system'] as const;
export type EventRole = (typeof eventRoles)[number];

export const eventOutcomes = ['success', 'refused', 'failure'] as const;
export type EventOutcome = (typeof eventOutcomes)[number];

/** What is known about the clock that gave an event its time. */
export const clockStates = ['trusted', 'unverified'] as const;
export type ClockState = (typeof clockStates)[number];

/** Types of detail fields; with a question mark the field may be absent. */
export type FieldType = 'text' | 'octets' | 'unsigned' | 'boolean' | 'text?' | 'octets?' | 'unsigned?' | 'boolean?';

interface KindEntry {
  readonly retention: RetentionClass;
  readonly detail: Readonly<Record<string, FieldType>>;
}

/** A key, wherever one is spoken of: where it is, what it is, and the SHA-256 of its SubjectPublicKeyInfo. */
const keyDetail = { token: 'text', algorithm: 'text', spkiSha256: 'octets' } as const;
const personDetail = { name: 'text' } as const;

/** Kind by kind. What kinds, subjects and fields mean is in event-meanings.ts. The time register is what begins with `time.`. */
export const eventCatalogue = {
  'timestamp.issued': {
    retention: 'timestamp',
    detail: { tsu: 'octets', policy: 'octets', messageImprint: 'octets', certReq: 'boolean', token: 'octets' },
  },
  'timestamp.refused': {
    retention: 'service',
    detail: { reason: 'text', policy: 'octets?', messageImprint: 'octets?', count: 'unsigned?' },
  },

  /** Label of the key. */
  'key.generated': { retention: 'certificate', detail: keyDetail },
  'key.activated': { retention: 'certificate', detail: keyDetail },
  'key.retired': { retention: 'certificate', detail: keyDetail },
  'key.destroyed': { retention: 'certificate', detail: keyDetail },
  'key.registered': { retention: 'certificate', detail: { ...keyDetail, state: 'text' } },
  'key.scheduled': { retention: 'certificate', detail: { ...keyDetail, activateAt: 'text', usableUntil: 'text' } },
  'key.compromised': { retention: 'certificate', detail: { ...keyDetail, reason: 'text' } },
  'key.ending': { retention: 'certificate', detail: { ...keyDetail, usableUntil: 'text', daysLeft: 'unsigned' } },
  'key.rotationOrdered': { retention: 'certificate', detail: { algorithm: 'text' } },
  'certificate.requested': { retention: 'certificate', detail: { ...keyDetail, request: 'octets' } },
  'certificate.issued': { retention: 'certificate', detail: { issuer: 'text', profile: 'text', certificate: 'octets' } },
  'certificate.installed': { retention: 'certificate', detail: { issuer: 'text', certificate: 'octets' } },
  'certificate.revoked': { retention: 'certificate', detail: { issuer: 'text', reason: 'text' } },
  'crl.published': { retention: 'certificate', detail: { issuer: 'text', crl: 'octets' } },
  'hsm.serving': { retention: 'certificate', detail: { module: 'text', before: 'text' } },
  'hsm.failed': { retention: 'certificate', detail: { class: 'text', code: 'text', reason: 'text' } },
  'hsm.pinRefused': { retention: 'certificate', detail: { reason: 'text' } },
  'ceremony.requested': { retention: 'certificate', detail: { action: 'text', token: 'text', key: 'text', text: 'text' } },
  'ceremony.approved': { retention: 'certificate', detail: { action: 'text', operator: 'text', signature: 'octets' } },
  'ceremony.refused': { retention: 'certificate', detail: { operator: 'text', reason: 'text' } },
  'ceremony.executed': { retention: 'certificate', detail: { action: 'text', token: 'text', key: 'text' } },
  'tsu.published': { retention: 'certificate', detail: { chain: 'octets' } },

  'time.state': {
    retention: 'timestamp',
    detail: { from: 'text', to: 'text', offsetMicros: 'text?', errorMicros: 'unsigned?', agreed: 'text?' },
  },
  'time.anomaly': { retention: 'timestamp', detail: { reason: 'text', state: 'text', observed: 'text?', server: 'text?' } },

  'service.started': { retention: 'service', detail: { version: 'text', configSha256: 'octets' } },
  'service.stopped': { retention: 'service', detail: { reason: 'text' } },
  'service.logLevel': { retention: 'service', detail: { from: 'text', to: 'text' } },
  'service.logStarted': { retention: 'service', detail: {} },
  'service.logStopped': { retention: 'service', detail: { reason: 'text?' } },

  'client.added': { retention: 'certificate', detail: personDetail },
  'client.enabled': { retention: 'certificate', detail: personDetail },
  'client.disabled': { retention: 'certificate', detail: personDetail },
  'client.removed': { retention: 'certificate', detail: personDetail },
  'client.secretRenewed': { retention: 'certificate', detail: personDetail },
  /**
   * Of dualControl, as this host's configuration has them. `spkiSha256` came before the first event of these kinds was ever written; a
   * changed key is a removal and an addition.
   */
  'operator.added': { retention: 'certificate', detail: { name: 'text', permissions: 'text', spkiSha256: 'octets?' } },
  'operator.removed': { retention: 'certificate', detail: { ...personDetail, spkiSha256: 'octets?' } },
  'permission.changed': { retention: 'certificate', detail: { from: 'text', to: 'text' } },
  'authentication.failed': { retention: 'certificate', detail: { reason: 'text', address: 'text?', count: 'unsigned?' } },

  'journal.read': { retention: 'certificate', detail: { query: 'text', entries: 'unsigned' } },
  'journal.checkpoint': { retention: 'certificate', detail: { note: 'text', token: 'octets?' } },
  'journal.quarantined': {
    retention: 'certificate',
    detail: { reason: 'text', part: 'unsigned', parts: 'unsigned', octets: 'octets' },
  },
  'journal.expired': {
    retention: 'certificate',
    detail: { retention: 'text', first: 'unsigned', last: 'unsigned', entries: 'unsigned', lastHash: 'octets', hashesSha256: 'octets' },
  },
  /**
   * Subject of the entry that is told again: it is needed, and its partition goes. `entry` is that entry as it was, octet for octet; it
   * is what it says only when its hash is that of its place.
   */
  'journal.retold': { retention: 'certificate', detail: { entry: 'octets' } },
} as const satisfies Readonly<Record<string, KindEntry>>;

export type EventKind = keyof typeof eventCatalogue;

type ValueOf<T extends FieldType> = T extends `${infer Base}?`
  ? ValueOf<Base & FieldType> | undefined
  : T extends 'text'
    ? string
    : T extends 'octets'
      ? Uint8Array
      : T extends 'unsigned'
        ? number
        : boolean;

/** The detail of a kind, by field. */
export type EventDetail<K extends EventKind> = {
  readonly [F in keyof (typeof eventCatalogue)[K]['detail']]: (typeof eventCatalogue)[K]['detail'][F] extends FieldType
    ? ValueOf<(typeof eventCatalogue)[K]['detail'][F]>
    : never;
};

interface EventOf<K extends EventKind> {
  readonly kind: K;
  /** Microseconds since 1970-01-01T00:00:00Z, from the guarded clock. */
  readonly unixMicros: number;
  readonly clock: ClockState;
  /** Host that made the event. */
  readonly node: string;
  readonly role: EventRole;
  /** Client, operator or program. */
  readonly actor: string;
  readonly subject: string;
  readonly outcome: EventOutcome;
  readonly detail: EventDetail<K>;
}

/** An event as it happens: it has no place in the journal yet. */
export type EventDraft = { readonly [K in EventKind]: EventOf<K> }[EventKind];

/** An event in its place. */
export type JournalEvent = EventDraft & {
  /** From 0, without gap or repeat. */
  readonly sequence: number;
  /** Hash of the event before, 32 octets; zeros before the first. */
  readonly previous: Uint8Array;
};
