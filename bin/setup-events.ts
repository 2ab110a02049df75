/**
 * What the first start tells the journal: the keys and certificates that it makes. It runs with or without a Redis, so events go to
 * the outbox of the home folder (observability/journal/outbox.ts), before the file is written that puts them to use.
 */
import { hash, type X509Certificate } from 'node:crypto';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import type { EventKind } from '../observability/journal/events.ts';
import { appendToOutbox } from '../observability/journal/outbox.ts';
import { draftOf, type RecordedEvent } from '../observability/journal/recorder.ts';
import { algorithmName } from '../pki/algorithms.ts';
import type { TokenKey } from '../signer/token-keys.ts';

const actor = 'first-start';

const tell = <K extends EventKind>(config: Config, event: RecordedEvent<K>): void =>
  appendToOutbox(homePaths(config.home).journalOutbox, draftOf(event, actor));

/** A key was made in the token of this label. */
export const tellKeyGenerated = (config: Config, token: string, key: TokenKey): void => {
  const detail = { token, algorithm: algorithmName(key.scheme), spkiSha256: hash('sha256', key.spki, 'buffer') };
  tell(config, { kind: 'key.generated', subject: key.label, outcome: 'success', detail });
};

/** A certificate was issued. @param profile name of the profile that it follows (authority/profiles.ts) */
export const tellCertificateIssued = (config: Config, profile: string, certificate: X509Certificate): void => {
  const detail = { issuer: certificate.issuer.replaceAll('\n', ', '), profile, certificate: certificate.raw };
  tell(config, { kind: 'certificate.issued', subject: certificate.serialNumber.toLowerCase(), outcome: 'success', detail });
};
