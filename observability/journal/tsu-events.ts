/** What happens to the register of TSUs (queue/tsu-register.ts), as the journal tells it. */
import { hash, X509Certificate } from 'node:crypto';
import type { TellTsuChanges, TsuChange, TsuRecord } from '../../queue/tsu-register.ts';
import { encodeDrafts } from './draft-block.ts';
import type { EventDraft, EventKind } from './events.ts';
import { draftOf, type RecordedEvent, type TellClock } from './recorder.ts';

/** Who changes the register: a program by itself, or an operator with a command. */
export interface TsuActor {
  readonly role: 'system' | 'operator';
  readonly actor: string;
  /** What is known about the clock of this host. @defaultValue nothing */
  readonly clock?: TellClock;
}

const keyDetail = ({ token, algorithm, spki }: TsuRecord) => ({
  token,
  algorithm,
  spkiSha256: hash('sha256', Buffer.from(spki, 'base64'), 'buffer'),
});

const certificateOf = ({ chain }: TsuRecord): X509Certificate | undefined => {
  const [first] = chain ?? [];
  return first === undefined ? undefined : new X509Certificate(Buffer.from(first, 'base64'));
};

const subjectOf = (name: string): string => name.replaceAll('\n', ', ');

const draftsOf = (change: TsuChange, by: TsuActor): EventDraft[] => {
  const { record } = change;
  const draft = <K extends EventKind>(event: Omit<RecordedEvent<K>, 'outcome' | 'by'>): EventDraft =>
    draftOf<K>({ ...event, outcome: 'success', by } as RecordedEvent<K>, by.actor, by.clock);
  const key = <K extends EventKind>(kind: K, more: Readonly<Record<string, unknown>> = {}): EventDraft =>
    draft({ kind, subject: record.keyLabel, detail: { ...keyDetail(record), ...more } } as unknown as RecordedEvent<K>);
  switch (change.kind) {
    case 'generated':
    case 'activated':
    case 'retired':
    case 'destroyed':
      return [key(`key.${change.kind}`)];
    case 'destructionBegun':
      return [];
    case 'registered':
      return [key('key.registered', { state: record.state })];
    case 'requested':
      return [key('certificate.requested', { request: Buffer.from(record.request ?? '', 'base64') })];
    case 'scheduled':
      return [key('key.scheduled', { activateAt: record.activateAt, usableUntil: record.usableUntil })];
    case 'compromised':
      return [key('key.compromised', { reason: change.reason })];
    case 'reminded':
      return [key('key.ending', { usableUntil: record.usableUntil, daysLeft: change.daysLeft })];
    case 'certified': {
      const certificate = certificateOf(record);
      if (certificate === undefined) return [];
      const subject = certificate.serialNumber.toLowerCase();
      const detail = { issuer: subjectOf(certificate.issuer), certificate: certificate.raw };
      return change.by === 'embedded'
        ? [draft({ kind: 'certificate.issued', subject, detail: { ...detail, profile: 'tsu' } })]
        : [draft({ kind: 'certificate.installed', subject, detail })];
    }
  }
};

/** Tells of changes that are made by this actor. */
export const tsuChangeTeller =
  (by: TsuActor): TellTsuChanges =>
  (changes) => {
    const drafts = changes.flatMap((change) => draftsOf(change, by));
    return drafts.length === 0 ? Buffer.alloc(0) : encodeDrafts(drafts);
  };

/** The order of a rotation, by an operator. */
export const rotationOrderEvent = (token: string, algorithm: string, by: TsuActor): Buffer =>
  encodeDrafts([
    draftOf({ kind: 'key.rotationOrdered', subject: token, outcome: 'success', detail: { algorithm }, by }, by.actor, by.clock),
  ]);
