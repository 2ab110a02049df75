/**
 * What the kinds of the catalogue (events.ts) mean, for whoever reads the journal without Sigillo: docs/journal-events.md is made of
 * this. The types see to it that no kind and no field is without its meaning.
 *
 * A value that was ever written stays listed where a field has a closed set of them: the journal is read longer than it is written.
 */
import type { EventKind, eventCatalogue } from './events.ts';

/** What a field holds; `values` when it is always one of these. */
export type FieldMeaning = string | { readonly meaning: string; readonly values: readonly string[] };

export interface KindMeaning<K extends EventKind = EventKind> {
  readonly meaning: string;
  /** What its subject is. */
  readonly subject: string;
  readonly fields: { readonly [F in keyof (typeof eventCatalogue)[K]['detail']]: FieldMeaning };
}

const keyLabel = 'Label of the key (CKA_LABEL).';
const serialNumber = 'Serial number of the certificate, lower-case hexadecimal.';
const clockHost = "Name of the clock's host.";
const tokenLabel = 'Label of the token.';
const ceremonyId = 'Id of the ceremony: 16 hexadecimal digits, made of what it is about.';
const personName = 'Name of the client or operator concerned.';
const processName = 'Name of the process: `signer`, `gateway`, `journal`, `lifecycle`.';

const keyFields = {
  token: 'Label of the token that the key is in.',
  algorithm: 'Kind of key, as it is configured: `ec-p256`, `rsa-3072`, `rsa-pss-2048` and their like.',
  spkiSha256: 'SHA-256 of the SubjectPublicKeyInfo (DER).',
} as const;
const personFields = { name: 'The same name as the subject.' } as const;
const issuer = 'Name of the issuer, most general part first, separated by `, `.';
const certificate = 'The certificate, DER.';
const ceremonyActions: FieldMeaning = { meaning: 'What is to be done with the key.', values: ['generate', 'activate', 'destroy'] };
const logLevels = ['debug', 'info', 'warn', 'error'] as const;
const clockStates = ['trusted', 'unverified', 'starting', 'offset', 'uncertain', 'noQuorum', 'stepped', 'leap'] as const;
const roles = ['client', 'auditor'] as const;

const operatorKey = 'SHA-256 of the public key that they approve with (SubjectPublicKeyInfo, DER).';

/** Kind by kind, as the catalogue has them. */
export const eventMeanings: { readonly [K in EventKind]: KindMeaning<K> } = {
  'timestamp.issued': {
    meaning: 'A timestamp was granted. The actor is the client that asked, the time of the event is genTime.',
    subject: 'Serial number of the token, lower-case hexadecimal.',
    fields: {
      tsu: 'SHA-256 of the certificate of the TSU (DER); `tsu.published` has the certificate.',
      policy: 'TSAPolicyId of the token: an OBJECT IDENTIFIER, DER with tag and length.',
      messageImprint: 'MessageImprint of the request, DER with tag and length.',
      certReq: 'Whether the client asked for certificates: then its token carried the chain of the TSU, in `tsu.published`.',
      token: 'The TimeStampToken (RFC 3161), DER, without certificates.',
    },
  },
  'timestamp.refused': {
    meaning:
      'No timestamp was granted: a signer could not, or a gateway refused what was wrong in the request. The actor is the client that asked.',
    subject: 'Empty, because there is no serial number.',
    fields: {
      reason: {
        meaning:
          'The failInfo that the client got (RFC 3161, section 2.4.2); `expired`: the request had waited longer than its client would.',
        values: [
          'badAlg',
          'badRequest',
          'badDataFormat',
          'unacceptedPolicy',
          'unacceptedExtension',
          'timeNotAvailable',
          'systemFailure',
          'expired',
        ],
      },
      policy:
        'The policy of the request, as far as it could be read, or the one in its place: an OBJECT IDENTIFIER, DER with tag and length.',
      messageImprint: 'MessageImprint of the request, as far as it could be read, DER with tag and length.',
      count:
        'So many refusals of this client for this reason within the same moment, whose policies and imprints are not told; absent for one.',
    },
  },

  'key.generated': { meaning: 'A key was made in a token.', subject: keyLabel, fields: keyFields },
  'key.activated': { meaning: 'A key was put to use. It may be told more than once.', subject: keyLabel, fields: keyFields },
  'key.retired': { meaning: 'A key came to the end of its use: it signs nothing any more.', subject: keyLabel, fields: keyFields },
  'key.destroyed': { meaning: 'A private key was destroyed in its token.', subject: keyLabel, fields: keyFields },
  'key.registered': {
    meaning: 'A key that is older than the register of TSUs was taken into it: it was found beside its certificate.',
    subject: keyLabel,
    fields: {
      ...keyFields,
      state: { meaning: 'The state in which it was found.', values: ['generated', 'certified', 'active', 'retired', 'destroyed'] },
    },
  },
  'key.scheduled': {
    meaning: 'It was decided when a key is used.',
    subject: keyLabel,
    fields: {
      ...keyFields,
      activateAt: 'When its use begins, ISO 8601 in UTC.',
      usableUntil: 'When it ends at the latest, ISO 8601 in UTC.',
    },
  },
  'key.compromised': {
    meaning: 'A key is not to be trusted any more, and signs nothing from here on.',
    subject: keyLabel,
    fields: { ...keyFields, reason: 'Why, in the words of the operator.' },
  },
  'key.ending': {
    meaning: "The end of a key's use is near, and no other key follows it.",
    subject: keyLabel,
    fields: { ...keyFields, usableUntil: 'When its use ends, ISO 8601 in UTC.', daysLeft: 'Days until then.' },
  },
  'key.rotationOrdered': {
    meaning: 'A new key was asked for, ahead of its time.',
    subject: tokenLabel,
    fields: { algorithm: keyFields.algorithm },
  },
  'certificate.requested': {
    meaning: 'A certificate was asked for from an outside CA.',
    subject: keyLabel,
    fields: { ...keyFields, request: 'CertificationRequest (RFC 2986), DER.' },
  },
  'certificate.issued': {
    meaning: 'The embedded CA issued a certificate.',
    subject: serialNumber,
    fields: { issuer, profile: { meaning: 'What it is for.', values: ['root-ca', 'timestamp-ca', 'tsu'] }, certificate },
  },
  'certificate.installed': {
    meaning: 'A certificate of an outside CA was put to its key.',
    subject: serialNumber,
    fields: { issuer, certificate },
  },
  'certificate.revoked': {
    meaning: 'A certificate of the embedded CA was revoked: the next CRL has it.',
    subject: serialNumber,
    fields: {
      issuer,
      reason: {
        meaning: 'CRLReason (RFC 5280, section 5.3.1).',
        values: ['unspecified', 'keyCompromise', 'affiliationChanged', 'superseded', 'cessationOfOperation'],
      },
    },
  },
  'crl.published': {
    meaning: 'A certificate revocation list was made, to be published.',
    subject: 'CRL number, decimal.',
    fields: { issuer, crl: 'The CertificateList, DER.' },
  },

  'hsm.serving': {
    meaning: 'A slot stamps from now on.',
    subject: tokenLabel,
    fields: {
      module: 'Path of the PKCS#11 module.',
      before: {
        meaning: 'The state that the slot was in last, as told in Redis; `none`: nothing was told.',
        values: ['none', 'starting', 'waiting', 'serving', 'failed', 'pin-refused', 'stopped'],
      },
    },
  },
  'hsm.failed': {
    meaning: 'A slot does not work. One that stays away is told of once.',
    subject: tokenLabel,
    fields: {
      class: {
        meaning: 'Class of the PKCS#11 error (hsm.md); `setup`: what is wrong is in module, files or certificates.',
        values: ['session', 'device', 'credential', 'request', 'bug', 'setup'],
      },
      code: 'Code of the error (errors.md).',
      reason: 'Its text, for people.',
    },
  },
  'hsm.pinRefused': {
    meaning: 'A token refused the PIN, which is not tried again.',
    subject: tokenLabel,
    fields: { reason: 'Text of the error, for people.' },
  },

  'ceremony.requested': {
    meaning: 'A step with a key waits for the agreement of operators.',
    subject: ceremonyId,
    fields: {
      action: ceremonyActions,
      token: 'Label of the token.',
      key: 'Label of the key.',
      text: 'What each operator signs: these octets in UTF-8.',
    },
  },
  'ceremony.approved': {
    meaning: 'An operator agreed.',
    subject: ceremonyId,
    fields: {
      action: ceremonyActions,
      operator: 'Who agreed: a name of the configuration. The actor is who brought the signature.',
      signature: "The operator's signature over the text in `ceremony.requested`.",
    },
  },
  'ceremony.refused': {
    meaning: 'An approval did not count.',
    subject: ceremonyId,
    fields: { operator: 'Whose approval it claimed to be.', reason: 'Why it did not count, for people.' },
  },
  'ceremony.executed': {
    meaning: 'The step that operators agreed to was done.',
    subject: ceremonyId,
    fields: { action: ceremonyActions, token: 'Label of the token.', key: 'Label of the key.' },
  },
  'tsu.published': {
    meaning: 'The certificates of a TSU, for those who verify its tokens. They may be told more than once.',
    subject: 'SHA-256 of the certificate of the TSU (DER), lower-case hexadecimal.',
    fields: {
      chain:
        'Certificates that tokens with certReq carry, DER one behind the other: the TSU first, then its authorities, without the root.',
    },
  },

  'time.state': {
    meaning: 'What is known about a clock changed. A signer that starts tells its first state.',
    subject: clockHost,
    fields: {
      from: { meaning: 'The state before (time.md); `unknown`: the signer starts.', values: ['unknown', ...clockStates] },
      to: { meaning: 'The state from now on.', values: clockStates },
      offsetMicros: 'UTC less the clock in microseconds, decimal with its sign, as the last quorum of time servers found it.',
      errorMicros: 'How far the clock can be from UTC, microseconds.',
      agreed: 'Names of the servers of that quorum, separated by blanks.',
    },
  },
  'time.anomaly': {
    meaning: 'Something about a clock, or a time server, is not as it should be.',
    subject: clockHost,
    fields: {
      reason: {
        meaning: 'What it is (time.md).',
        values: ['step', 'offset', 'uncertain', 'quorumLost', 'falseticker', 'leapAnnounced', 'kissOfDeath'],
      },
      state: { meaning: 'The state that the clock was in.', values: ['unknown', ...clockStates] },
      observed: 'What was measured or received, for people.',
      server: 'The server that did it.',
    },
  },

  'service.started': {
    meaning: 'A process started.',
    subject: processName,
    fields: {
      version: 'Release of Sigillo.',
      configSha256: 'Digest of the configuration in force (journal.md).',
    },
  },
  'service.stopped': { meaning: 'A process stopped.', subject: processName, fields: { reason: 'Why: a signal, or an error for people.' } },
  'service.logLevel': {
    meaning: 'A process logs at another level than at its last start.',
    subject: processName,
    fields: { from: { meaning: 'The level before.', values: logLevels }, to: { meaning: 'The level from now on.', values: logLevels } },
  },
  'service.logStarted': { meaning: 'The log of a process began.', subject: processName, fields: {} },
  'service.logStopped': {
    meaning: 'The log of a process ended.',
    subject: processName,
    fields: { reason: 'Why, as in `service.stopped`.' },
  },

  'client.added': {
    meaning: 'Somebody may use the service from now on, in the role `client` unless `permission.changed` follows.',
    subject: personName,
    fields: personFields,
  },
  'client.enabled': { meaning: 'Somebody who was disabled may use the service again.', subject: personName, fields: personFields },
  'client.disabled': { meaning: 'Somebody may not use the service until enabled again.', subject: personName, fields: personFields },
  'client.removed': { meaning: 'Somebody may not use the service any more.', subject: personName, fields: personFields },
  'client.secretRenewed': { meaning: 'Somebody has a new secret; the old one is refused.', subject: personName, fields: personFields },
  'operator.added': {
    meaning: 'Somebody operates the service from now on.',
    subject: personName,
    fields: { ...personFields, permissions: 'What they may do.', spkiSha256: operatorKey },
  },
  'operator.removed': {
    meaning: 'Somebody does not operate the service any more.',
    subject: personName,
    fields: { ...personFields, spkiSha256: operatorKey },
  },
  'permission.changed': {
    meaning: 'Somebody has another role.',
    subject: personName,
    fields: {
      from: { meaning: 'The role before; `none`: the name is new.', values: ['none', ...roles] },
      to: { meaning: 'The role from now on.', values: roles },
    },
  },
  'authentication.failed': {
    meaning: 'A request was not let in.',
    subject: 'The name that was claimed; empty when none was, or when the event stands for several names that no client has.',
    fields: {
      reason: {
        meaning: 'What was wrong with its credential; `role`: nothing, but its role may not do this.',
        values: ['missing', 'malformed', 'unknown', 'wrong', 'disabled', 'role'],
      },
      address:
        'Address of the other end of the connection. With `count` an IPv6 address is told by its network (/64), and none is told where too many different ones came at once.',
      count: 'So many requests within the same moment with this name, reason and address; absent for one.',
    },
  },

  'journal.read': {
    meaning: 'Somebody read what entries say. Refused: they asked for what they may not read.',
    subject: 'What was read: `entries`, `statistics`, `export`, `timestamp`.',
    fields: { query: 'What was asked for.', entries: 'How many entries were given out.' },
  },
  'journal.checkpoint': {
    meaning: 'A checkpoint of the journal was signed. It covers entries before this one.',
    subject: 'Number of entries that it covers, decimal.',
    fields: {
      note: 'The signed note.',
      token: 'TimeStampToken over the SHA-256 of the note, DER, without certificates; absent when no timestamp could be had.',
    },
  },
  'journal.quarantined': {
    meaning: 'What was to become an entry could not be read. It is kept as it was, in parts that fit.',
    subject: 'Stream in Redis, a blank, and the id of the entry in it.',
    fields: {
      reason: 'Why, for people.',
      part: 'Number of this part, from 1.',
      parts: 'How many parts there are.',
      octets: 'The octets of this part.',
    },
  },
  'journal.expired': {
    meaning: 'The retention of entries is over: what they said goes, their hashes stay.',
    subject: 'Name of the partition: class of retention, `-`, year and month (UTC) of the entries.',
    fields: {
      retention: { meaning: 'Their class.', values: ['certificate', 'timestamp', 'mail', 'service'] },
      first: 'Sequence number of the first of them.',
      last: 'Sequence number of the last.',
      entries: 'How many they are; entries of other partitions may lie between.',
      lastHash: 'Hash of the last.',
      hashesSha256: 'SHA-256 of what stays: for each of them its sequence number in eight octets, big-endian, and its hash.',
    },
  },
  'journal.retold': {
    meaning: 'An entry that is still needed was told again before its partition went.',
    subject: 'Subject of that entry.',
    fields: { entry: 'That entry as it was, octet for octet; it is what it says only when its hash is that of its place.' },
  },
};
