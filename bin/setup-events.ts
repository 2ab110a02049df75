/**
 * What the first start, and commands that make keys, tell the journal: the keys and certificates. They run with or without a Redis, so events go to
 * the outbox of the home folder (observability/journal/outbox.ts), before the file is written that puts them to use.
 */
import { hash, type X509Certificate } from 'node:crypto';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import type { EventKind } from '../observability/journal/events.ts';
import { appendToOutbox } from '../observability/journal/outbox.ts';
import { draftOf, type RecordedEvent, type TellClock } from '../observability/journal/recorder.ts';
import { algorithmName } from '../pki/algorithms.ts';
import type { TokenKey } from '../signer/token-keys.ts';

const actor = 'first-start';

/** Without a Redis nobody vouches for the clock. */
const tell = <K extends EventKind>(config: Config, event: RecordedEvent<K> & { readonly by?: By }): void =>
  appendToOutbox(homePaths(config.home).journalOutbox, draftOf(event, actor, event.by?.clock));

/** Who did it, when it was not the first start. */
export type By = NonNullable<RecordedEvent<'key.generated'>['by']> & { readonly clock?: TellClock };

const keyDetail = (token: string, key: Pick<TokenKey, 'scheme' | 'spki'>) => ({
  token,
  algorithm: algorithmName(key.scheme),
  spkiSha256: hash('sha256', key.spki, 'buffer'),
});

/** A key was made in the token of this label. */
export const tellKeyGenerated = (config: Config, token: string, key: TokenKey, by?: By): void =>
  tell(config, { kind: 'key.generated', subject: key.label, outcome: 'success', detail: keyDetail(token, key), ...(by && { by }) });

/** A key of the token of this label was destroyed. */
export const tellKeyDestroyed = (config: Config, token: string, key: TokenKey, by: By): void =>
  tell(config, { kind: 'key.destroyed', subject: key.label, outcome: 'success', detail: keyDetail(token, key), by });

/** A certificate was issued. @param profile name of the profile that it follows (authority/profiles.ts) */
export const tellCertificateIssued = (config: Config, profile: string, certificate: X509Certificate): void => {
  const detail = { issuer: certificate.issuer.replaceAll('\n', ', '), profile, certificate: certificate.raw };
  tell(config, { kind: 'certificate.issued', subject: certificate.serialNumber.toLowerCase(), outcome: 'success', detail });
};
