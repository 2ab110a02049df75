/**
 * Which stream in Redis carries which kinds of events: for each, what the code that writes there can tell, and nothing else.
 *
 * Guarantee: who can write to Redis, or a fault in one program, cannot put an event into the journal that only the journal's own
 * process makes. A forged checkpoint would make every later verification fail, and a forged expiry would excuse a deleted entry.
 */
import type { EventKind } from './events.ts';

/** By who writes them: answers of signers; recorders and the outbox; the register of clients; that of TSUs, with its ceremonies. */
export const eventStreams = ['answers', 'events', 'clients', 'tsus'] as const;
export type EventStream = (typeof eventStreams)[number];

/** Only the journal's writer makes these, of what it has found out itself (`JournalWriter.append`, quarantine.ts). */
const byJournal = [] as const;

const streamsOfKinds: Readonly<Record<EventKind, readonly EventStream[]>> = {
  'timestamp.issued': ['answers'],
  // A signer's travel with its answers, a gateway's by its recorder.
  'timestamp.refused': ['answers', 'events'],

  // What the first start and `sigillo hsm` do with keys comes by way of the outbox.
  'key.generated': ['events', 'tsus'],
  'key.activated': ['events', 'tsus'],
  'key.retired': ['tsus'],
  'key.destroyed': ['events', 'tsus'],
  'key.registered': ['tsus'],
  'key.scheduled': ['tsus'],
  'key.compromised': ['tsus'],
  'key.ending': ['tsus'],
  'key.rotationOrdered': ['tsus'],
  'certificate.requested': ['tsus'],
  'certificate.issued': ['events', 'tsus'],
  'certificate.installed': ['tsus'],
  'certificate.revoked': ['events'],
  'crl.published': ['events'],
  'hsm.serving': ['events'],
  'hsm.failed': ['events'],
  'hsm.pinRefused': ['events'],
  'ceremony.requested': ['tsus'],
  'ceremony.approved': ['tsus'],
  'ceremony.refused': ['events'],
  'ceremony.executed': ['tsus'],
  'tsu.published': ['events'],

  'time.state': ['events'],
  'time.anomaly': ['events'],

  'service.started': ['events'],
  'service.stopped': ['events'],
  'service.logLevel': ['events'],
  'service.logStarted': ['events'],
  'service.logStopped': ['events'],

  'client.added': ['clients'],
  'client.enabled': ['clients'],
  'client.disabled': ['clients'],
  'client.removed': ['clients'],
  'client.secretRenewed': ['clients'],
  'operator.added': ['events'],
  'operator.removed': ['events'],
  'permission.changed': ['clients'],
  'authentication.failed': ['events'],

  'journal.read': ['events'],
  'journal.checkpoint': byJournal,
  'journal.quarantined': byJournal,
  'journal.expired': byJournal,
  'journal.retold': byJournal,
};

/** The kinds that a stream may carry. */
export const kindsOn = (stream: EventStream): ReadonlySet<EventKind> =>
  new Set((Object.keys(streamsOfKinds) as EventKind[]).filter((kind) => streamsOfKinds[kind].includes(stream)));
