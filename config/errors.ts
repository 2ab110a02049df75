/**
 * The one catalogue of everything that can go wrong and has a name.
 *
 * A code is stable for ever: it is what an operator searches for, what a test matches on and what `docs/errors.md`
 * explains. Codes are never reused; a code that is no longer raised stays listed with `retired: true`.
 */

/** What a caller may do about an error, and how it looks from outside. */
export interface ErrorEntry {
  /** One sentence: what happened. */
  readonly meaning: string;
  /** One sentence for the operator: what to do about it. */
  readonly action: string;
  /** HTTP status where the error reaches an HTTP client; 0 where it never does. */
  readonly httpStatus: number;
  /** True when the same call may succeed later without a change by the caller. */
  readonly retryable: boolean;
  readonly retired?: true;
}

const entry = (meaning: string, action: string, httpStatus: number, options: { retryable: boolean }): ErrorEntry => ({
  meaning,
  action,
  httpStatus,
  retryable: options.retryable,
});
const final = { retryable: false } as const;
const again = { retryable: true } as const;

export const errorCatalogue = {
  USAGE: entry('The command cannot be run as it was written.', '`sigillo COMMAND --help` shows how.', 0, final),
  CONFIG_INVALID: entry(
    'The configuration does not match the schema.',
    'Correct the keys that the message names; `sigillo config check` repeats the check.',
    0,
    final,
  ),
  CONFIG_UNREADABLE: entry(
    'The configuration file, or a file it names, cannot be read.',
    'Check path and permissions of the file in the message.',
    0,
    final,
  ),
  CONFIG_ANONYMOUS_PUBLIC: entry(
    'Anonymous timestamping was asked for on an address that is not loopback.',
    'Set timestamp.access to clients, or confirm with public.anonymousOnPublicAddress: true.',
    0,
    final,
  ),
  HOME_IN_USE: entry('Another Sigillo runs on this home folder.', 'Stop it first, or start this one with another SIGILLO_HOME.', 0, final),
  PORT_IN_USE: entry(
    'The address to listen on is taken.',
    'Stop the program that holds it, or set SIGILLO_PORT / SIGILLO_OPS_PORT.',
    0,
    final,
  ),
  CHILD_NOT_READY: entry(
    'A supervised process did not become ready in time.',
    'Read the lines of that process above; it is started again with back-off.',
    0,
    again,
  ),
  HSM_MODULE_MISSING: entry('The PKCS#11 module cannot be loaded.', 'Install the module, or set hsm.module to its path.', 0, final),
  HSM_TOKEN_MISSING: entry(
    'No slot holds a token with the configured label.',
    'Check hsm.slots[].label against the labels the module reports.',
    0,
    final,
  ),
  HSM_PIN_REFUSED: entry(
    'The token refused the PIN. It is not tried again.',
    'Put the right PIN into the PIN file; a service that runs takes it from there. A few wrong tries lock a token.',
    0,
    final,
  ),
  HSM_PIN_UNRECORDED: entry(
    'It cannot be written down that a PIN is about to be tried, so it is not tried.',
    'Give the disk of the home folder room, and the service the right to write there; it is tried again by itself.',
    0,
    again,
  ),
  HSM_KEY_MISSING: entry('The key is not in the token.', 'Check key label and slot; a demonstration key is made by a restart.', 0, final),
  TSU_NONE_ACTIVE: entry(
    'No timestamping key of this slot may be used at this time.',
    'See `sigillo tsu list`: a key whose usage period has ended must be replaced, one that is not yet activated waited for.',
    0,
    again,
  ),
  HSM_KEY_MISMATCH: entry(
    'The key in the token does not match its certificate.',
    'Install the certificate that was issued for this key.',
    0,
    final,
  ),
  HSM_SELFTEST_FAILED: entry(
    'The key signed, but the signature does not verify.',
    'Do not use this token before its vendor has explained it.',
    0,
    final,
  ),
  HSM_KEY_PURPOSE: entry('The key may not be used for this purpose.', 'Give each purpose its own key (hsm.slots[].purposes).', 0, final),
  HSM_KEY_EXISTS: entry('A key of this label is in the token already.', 'Choose another label: nothing is overwritten.', 0, final),
  HSM_KEY_IN_USE: entry(
    'The key is needed, and is not destroyed.',
    'The message says by what; retire a timestamping unit first (`sigillo tsu retire`).',
    0,
    final,
  ),
  HSM_DEVICE: entry('The token failed while it was used.', 'Check the device; the work is tried elsewhere or refused.', 503, again),
  HSM_LOGIN_LOST: entry(
    'The token has forgotten the login, and shows no private key.',
    'Nothing is done with keys until a new process has logged in, which happens by itself; look why the token was restarted.',
    503,
    again,
  ),
  HSM_REQUEST: entry(
    'The token refused the operation itself.',
    'Check that the token supports the mechanism of the configured key.',
    503,
    final,
  ),
  REDIS_UNAVAILABLE: entry('Redis cannot be reached.', 'Check the redis section of the configuration and the server.', 503, again),
  OVERLOADED: entry(
    'More requests are in flight than the configured bound.',
    'Retry after the time in Retry-After; operators: add signers or raise timestamp.inFlightMax.',
    503,
    again,
  ),
  DEADLINE_EXCEEDED: entry(
    'No signer answered before the deadline of the request.',
    'Retry; operators: look at /readyz and at the queue wait.',
    503,
    again,
  ),
  BODY_TOO_LARGE: entry('The body is longer than the limit.', 'Send a shorter request.', 413, final),
  BODY_INCOMPLETE: entry('The body ended before its announced length, or took too long.', 'Send the whole body.', 400, final),
  METHOD_NOT_ALLOWED: entry('The method is not allowed here.', 'Use the method named in Allow.', 405, final),
  MEDIA_TYPE_UNSUPPORTED: entry('The media type is not accepted here.', 'Send the media type that the message names.', 415, final),
  NOT_FOUND: entry('There is nothing at this address.', 'See docs/timestamp.md for the addresses.', 404, final),
  CERTIFICATES_UNPUBLISHED: entry(
    'No signer has published its certificates yet.',
    'Retry; operators: see /readyz for the signers.',
    503,
    again,
  ),
  REQUEST_INVALID: entry('The request does not match its schema.', 'Correct the fields that the message names.', 400, final),
  REQUEST_MALFORMED: entry(
    'The target of the request, or its Host header, is not well-formed.',
    'Send a path as target, and the name of this host.',
    400,
    final,
  ),
  UNAUTHENTICATED: entry(
    'The credential is missing, wrong or disabled.',
    'Send HTTP Basic or a bearer key of an enabled client.',
    401,
    final,
  ),
  FORBIDDEN: entry(
    'The role of the credential does not permit this.',
    'Use a credential of the role that may: a client stamps, an auditor reads (`sigillo client role` changes it).',
    403,
    final,
  ),
  CLIENT_EXISTS: entry('A client of this name exists already.', 'Choose another name.', 0, final),
  CLIENT_NAME_RETIRED: entry(
    'A client of this name existed and was removed; who got the name now would read its stamps and what the journal tells of it.',
    'Choose another name. `sigillo client secret` gives a client that stays a new secret; one that may come back is disabled, not removed.',
    0,
    final,
  ),
  CLIENT_UNKNOWN: entry('There is no client of this name.', '`sigillo client list` shows the names.', 0, final),
  CLIENT_NAME_INVALID: entry('A client name is 1 to 64 letters, digits, dots, hyphens or underscores.', 'Choose such a name.', 0, final),
  CLIENT_LIMIT: entry('The register of clients is full.', 'Remove clients that are no longer used.', 0, final),
  CERTIFICATE_INVALID: entry(
    'A certificate cannot be used for what it is configured for.',
    'The message says which check failed; install a right one.',
    0,
    final,
  ),
  TSU_UNKNOWN: entry(
    'There is no such timestamping unit, or the name fits more than one.',
    '`sigillo tsu list` shows them; name it by its key, or by the first characters of its id.',
    0,
    final,
  ),
  TSU_LIMIT: entry(
    'The register of timestamping units is full.',
    'Something makes keys far too often: look at the section tsu of the configuration, and at `sigillo tsu list`.',
    0,
    final,
  ),
  TSU_STATE: entry('The timestamping unit is not in a state in which this can be done.', '`sigillo tsu list` shows its state.', 0, final),
  APPROVAL_NEEDED: entry('Operators must agree first.', 'They approve with `sigillo approve`; then run the command again.', 0, again),
  CEREMONY_UNKNOWN: entry('There is no such ceremony.', '`sigillo approve --list` shows them.', 0, final),
  APPROVAL_REFUSED: entry(
    'The approval does not count.',
    'The message says why; each operator signs once, with the key whose public half the configuration names.',
    0,
    final,
  ),
  LANE_ENTRY_MALFORMED: entry(
    'A queue entry cannot be read.',
    'Gateway and signer must be of the same release; the entry was dropped.',
    0,
    final,
  ),
  JOURNAL_MALFORMED: entry(
    'A journal entry is not what the format says.',
    'When writing: a defect of Sigillo, report it. When reading: the entry was changed, or written by a newer release.',
    0,
    final,
  ),
  JOURNAL_STORE_UNAVAILABLE: entry(
    'The store of the journal does not do what it is asked.',
    'Look at the message of ClickHouse behind it; nothing is lost meanwhile: sealed blocks wait on disk.',
    503,
    again,
  ),
  JOURNAL_SCHEMA: entry(
    'The store of the journal has another schema than this release.',
    'Run the release that made the store, or a newer one; a changed migration file means a damaged installation.',
    0,
    final,
  ),
  JOURNAL_SPOOL_FULL: entry(
    'The journal has no room on disk.',
    'Bring ClickHouse back, or give the disk or the bound of the spool more room; until then new work is refused.',
    503,
    again,
  ),
  JOURNAL_SPOOL_DAMAGED: entry(
    'A spooled part of the journal is damaged or missing.',
    'Stop the journal writer, keep the folder as it is, and restore the named file from a copy; check the disk.',
    0,
    final,
  ),
  JOURNAL_FORKED: entry(
    'The journal has two different entries with one number.',
    'Stop all journal writers; find out which of the copies was put back or changed; nothing is written until they agree.',
    0,
    final,
  ),
  JOURNAL_SHORTENED: entry(
    'Entries of the journal are missing that were there.',
    'Restore the store or the spool that held them. To accept the loss, which every later verification names, see docs/journal.md.',
    0,
    final,
  ),
  JOURNAL_ELSEWHERE: entry(
    'Entries of the journal are in the spool of another host.',
    'Start the journal writer on the host that the message names; it ships them. Until then nothing is written here.',
    0,
    again,
  ),
  JOURNAL_BACKLOG: entry(
    'The journal is behind: more answers wait for it than the configured bound.',
    'Retry after the time in Retry-After; operators: see the journal in /readyz, and bring its process or its store back.',
    503,
    again,
  ),
  JOURNAL_UNCHECKPOINTED: entry(
    'The journal has no checkpoint yet.',
    'Retry; operators: see the journal in /readyz, and whether a signer holds the key of the journal.',
    503,
    again,
  ),
  JOURNAL_CHECKPOINT_REFUSED: entry(
    'The signer does not sign this as a checkpoint of the journal.',
    'If journal.origin is the same everywhere, somebody else asked for it, or the journal has lost entries: look at the log of the writer.',
    0,
    final,
  ),
  JOURNAL_STORE_DAMAGED: entry(
    'What the journal has stored is not what was stored.',
    'Run `sigillo journal verify`, which names the entries; restore them from a copy of the store; check the disk.',
    0,
    final,
  ),
  JOURNAL_LEASE_LOST: entry(
    'Another process may be the writer of the journal by now.',
    'Nothing, when it is rare: this one stands by. Often: look at the delay between the journal and Redis.',
    0,
    again,
  ),
  SETUP_INCOMPLETE: entry('The home folder is not set up.', 'Run npm start once, or sigillo init.', 0, final),
  INTERNAL: entry('A defect of Sigillo.', 'Report it with the log lines around it.', 500, final),
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof errorCatalogue;

/** An error with a stable code. Match on `code`, never on the message. */
export class SigilloError extends Error {
  readonly code: ErrorCode;

  /** @param detail what is particular to this case; never a secret */
  constructor(code: ErrorCode, detail?: string, options?: ErrorOptions) {
    super(detail === undefined ? errorCatalogue[code].meaning : `${errorCatalogue[code].meaning} ${detail}`, options);
    this.name = 'SigilloError';
    this.code = code;
  }

  get entry(): ErrorEntry {
    return errorCatalogue[this.code];
  }
}

/** Throws INTERNAL when a condition that the code relies on does not hold. */
export function invariant(condition: unknown, message: string): asserts condition {
  if (!condition) throw new SigilloError('INTERNAL', message);
}
