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

/** Kind by kind; the subject is what the comment says. The time register is what begins with `time.`. */
export const eventCatalogue = {
  /** Serial number, hex. The token is without certificates; with certReq the client got it with the chain of the TSU. */
  'timestamp.issued': {
    retention: 'timestamp',
    detail: { tsu: 'octets', policy: 'octets', messageImprint: 'octets', certReq: 'boolean', token: 'octets' },
  },
  /**
   * Empty: there is no serial number. The reason is a failInfo. A signer tells policy and imprint always; a gateway, which refuses what
   * is wrong in itself, those of the request as far as it could read them. `count`: so many refusals of this client for this reason,
   * within the same moment, whose policies and imprints are not told (gateway/refusal-recording.ts); absent for one.
   */
  'timestamp.refused': {
    retention: 'service',
    detail: { reason: 'text', policy: 'octets?', messageImprint: 'octets?', count: 'unsigned?' },
  },

  /** Label of the key. */
  'key.generated': { retention: 'certificate', detail: keyDetail },
  'key.activated': { retention: 'certificate', detail: keyDetail },
  'key.retired': { retention: 'certificate', detail: keyDetail },
  'key.destroyed': { retention: 'certificate', detail: keyDetail },
  /** A key that is older than the register: it was found beside its certificate, in this state. */
  'key.registered': { retention: 'certificate', detail: { ...keyDetail, state: 'text' } },
  /** When the key's use begins, and when it ends at the latest; ISO 8601. */
  'key.scheduled': { retention: 'certificate', detail: { ...keyDetail, activateAt: 'text', usableUntil: 'text' } },
  'key.compromised': { retention: 'certificate', detail: { ...keyDetail, reason: 'text' } },
  /** The end of the key's use is near, and nothing follows it. */
  'key.ending': { retention: 'certificate', detail: { ...keyDetail, usableUntil: 'text', daysLeft: 'unsigned' } },
  /** Label of the token. A new key was asked for ahead of its time. */
  'key.rotationOrdered': { retention: 'certificate', detail: { algorithm: 'text' } },
  /** Label of the key. The CertificationRequest of RFC 2986. */
  'certificate.requested': { retention: 'certificate', detail: { ...keyDetail, request: 'octets' } },
  /** Serial number, hex. */
  'certificate.issued': { retention: 'certificate', detail: { issuer: 'text', profile: 'text', certificate: 'octets' } },
  /** Serial number, hex. It came from an outside CA. */
  'certificate.installed': { retention: 'certificate', detail: { issuer: 'text', certificate: 'octets' } },
  /** Serial number, hex. The reason is a CRLReason by its name in RFC 5280, 5.3.1. */
  'certificate.revoked': { retention: 'certificate', detail: { issuer: 'text', reason: 'text' } },
  /** CRL number, decimal. */
  'crl.published': { retention: 'certificate', detail: { issuer: 'text', crl: 'octets' } },
  /**
   * Label of the token whose keys stamp; `before` is the state that it was in last, as told in Redis, or `none`. `class` is that of the
   * PKCS#11 error (docs/hsm.md), or `setup`.
   */
  'hsm.serving': { retention: 'certificate', detail: { module: 'text', before: 'text' } },
  'hsm.failed': { retention: 'certificate', detail: { class: 'text', code: 'text', reason: 'text' } },
  /** Label of the token. The PIN is not tried again. */
  'hsm.pinRefused': { retention: 'certificate', detail: { reason: 'text' } },
  /**
   * Id of the ceremony. `text` is what each operator signs; `signature` is that of the operator who is named. Refused is what did not
   * count, with its reason.
   */
  'ceremony.requested': { retention: 'certificate', detail: { action: 'text', token: 'text', key: 'text', text: 'text' } },
  'ceremony.approved': { retention: 'certificate', detail: { action: 'text', operator: 'text', signature: 'octets' } },
  'ceremony.refused': { retention: 'certificate', detail: { operator: 'text', reason: 'text' } },
  'ceremony.executed': { retention: 'certificate', detail: { action: 'text', token: 'text', key: 'text' } },
  /** SHA-256 of the TSU certificate, hex. The chain that tokens with certReq carry: TSU first, DER one behind the other. */
  'tsu.published': { retention: 'certificate', detail: { chain: 'octets' } },

  /**
   * Name of the clock's host. States are those of docs/time.md. `offsetMicros` is decimal, with its sign: UTC less the clock, as the last
   * quorum found it; `errorMicros` is how far the clock can be from UTC, `agreed` names the servers of that quorum.
   */
  'time.state': {
    retention: 'timestamp',
    detail: { from: 'text', to: 'text', offsetMicros: 'text?', errorMicros: 'unsigned?', agreed: 'text?' },
  },
  /** Name of the clock's host. `state` is the one it was in; `server` is the one that did it. */
  'time.anomaly': { retention: 'timestamp', detail: { reason: 'text', state: 'text', observed: 'text?', server: 'text?' } },

  /** Name of the process. */
  'service.started': { retention: 'service', detail: { version: 'text', configSha256: 'octets' } },
  'service.stopped': { retention: 'service', detail: { reason: 'text' } },
  'service.logLevel': { retention: 'service', detail: { from: 'text', to: 'text' } },
  'service.logStarted': { retention: 'service', detail: {} },
  'service.logStopped': { retention: 'service', detail: { reason: 'text?' } },

  /** Name of the client or operator concerned. */
  'client.added': { retention: 'certificate', detail: personDetail },
  'client.enabled': { retention: 'certificate', detail: personDetail },
  'client.disabled': { retention: 'certificate', detail: personDetail },
  'client.removed': { retention: 'certificate', detail: personDetail },
  'client.secretRenewed': { retention: 'certificate', detail: personDetail },
  'operator.added': { retention: 'certificate', detail: { name: 'text', permissions: 'text' } },
  'operator.removed': { retention: 'certificate', detail: personDetail },
  'permission.changed': { retention: 'certificate', detail: { from: 'text', to: 'text' } },
  /** The name that was claimed, or empty. */
  'authentication.failed': { retention: 'certificate', detail: { reason: 'text', address: 'text?' } },

  /** What was read: a range or a query. */
  'journal.read': { retention: 'certificate', detail: { query: 'text', entries: 'unsigned' } },
  /**
   * Size of the tree, decimal. The checkpoint as it was signed (checkpoint.ts), and a TimeStampToken over the SHA-256 of its
   * octets, without certificates; absent when no timestamp could be had.
   */
  'journal.checkpoint': { retention: 'certificate', detail: { note: 'text', token: 'octets?' } },
  /** Stream in Redis and id of the entry that could not be read. Its octets, in parts that fit. */
  'journal.quarantined': {
    retention: 'certificate',
    detail: { reason: 'text', part: 'unsigned', parts: 'unsigned', octets: 'octets' },
  },
  /**
   * Name of the partition. `lastHash` is the hash of the last entry that went with it; `hashesSha256` is the SHA-256 of what
   * stays of it: for each entry its sequence number in eight octets and its hash.
   */
  'journal.expired': {
    retention: 'certificate',
    detail: { retention: 'text', first: 'unsigned', last: 'unsigned', entries: 'unsigned', lastHash: 'octets', hashesSha256: 'octets' },
  },
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
