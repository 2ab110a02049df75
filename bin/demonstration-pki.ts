/**
 * Makes and checks the demonstration PKI: keys in the tokens, certificates as PEM files.
 *
 * A certificate file is written last and at once, so what an interruption leaves is a key without a file: a CA key is then
 * certified by the next run. A file is never overwritten: one that does not match its key stops the start and is named.
 */
import { X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { writeFileAtomic } from '../config/atomic-file.ts';
import { SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import { type KeyScheme, keyScheme } from '../pki/algorithms.ts';
import { DerError } from '../pki/der.ts';
import { samePublicKey } from '../pki/public-key.ts';
import { parseTsuFileName, tsuFileName, tsuKeyLabel } from '../pki/tsu-files.ts';
import { isTimeStampingCertificate, privateKeyUsagePeriod, tsuUse } from '../pki/tsu-usage.ts';
import { findKey, keyState, selfTest, type TokenKey } from '../signer/token-keys.ts';
import { TsuFolder } from '../signer/tsu-folder.ts';
import { makeKey, type OpenToken } from './make-key.ts';
import { tellCertificateIssued, tellKeyGenerated } from './setup-events.ts';

/** With less time left a TSU is followed by another at start; otherwise that is the business of the lifecycle process, and its calendar. */
const usageLeftMsMin = 3_600_000;

/** Key of both CAs. */
export const caScheme: KeyScheme = { kind: 'ecdsa', curve: 'P-384' };
/** Long labels: a token that is shared with others may well have a "root-ca" of its own. */
export const caKeyLabels = { root: 'sigillo-demonstration-root-ca', timestampCa: 'sigillo-demonstration-timestamp-ca' } as const;

/** A key with its certificate. */
interface Holder {
  readonly key: TokenKey;
  readonly certificate: X509Certificate;
}

/** What the demonstration PKI stands on. */
export interface DemonstrationContext {
  readonly config: Config;
  /** The token with the CA keys, and the one with the TSU keys; one session if they are one. */
  readonly authority: OpenToken;
  readonly timestamp: OpenToken;
  readonly now: () => Date;
  readonly made: (what: string) => void;
}

const startAnew =
  'Put back what belongs together from a backup; to begin a new demonstration PKI, move the folders pki, tokens and pins of the home folder away and start again.';

const invalid = (file: string, what: string, cause?: unknown): SigilloError =>
  new SigilloError('CERTIFICATE_INVALID', `${file}: ${what}. ${startAnew}`, cause === undefined ? {} : { cause });

/** The certificates of a PEM file of the home folder. @throws CERTIFICATE_INVALID */
export const readChain = (file: string): [X509Certificate, ...X509Certificate[]] => {
  const blocks = readFileSync(file, 'latin1').match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  try {
    const [first, ...others] = blocks.map((block) => new X509Certificate(block));
    if (first !== undefined) return [first, ...others];
  } catch (cause) {
    throw invalid(file, 'not a certificate', cause);
  }
  throw invalid(file, 'no certificate in it');
};

const writeChain = (file: string, chain: readonly X509Certificate[]): void =>
  writeFileAtomic(file, chain.map((certificate) => certificate.toString()).join(''), { mode: 0o644 });

const checkIssuedBy = (file: string, certificate: X509Certificate, issuer: X509Certificate): void => {
  if (!certificate.checkIssued(issuer) || !certificate.verify(issuer.publicKey))
    throw invalid(file, `not issued by ${issuer.subject.replaceAll('\n', ', ')}`);
};

/** Self-test with the certificate of a file, where a mismatch names the file. */
const checkKey = (file: string, key: TokenKey | undefined, label: string, certificate: X509Certificate): TokenKey => {
  if (key === undefined) throw new SigilloError('HSM_KEY_MISSING', `"${label}", which ${file} belongs to. ${startAnew}`);
  if (!samePublicKey(certificate.publicKey.export({ format: 'der', type: 'spki' }), key.spki)) {
    throw new SigilloError('HSM_KEY_MISMATCH', `${file}, key "${label}". ${startAnew}`);
  }
  selfTest(key, certificate);
  return key;
};

const ensureCa = async (context: DemonstrationContext, kind: 'root-ca' | 'timestamp-ca', issuer: Holder | undefined): Promise<Holder> => {
  const paths = homePaths(context.config.home);
  const [file, label] =
    kind === 'root-ca' ? [paths.rootCertificate, caKeyLabels.root] : [paths.timestampCaCertificate, caKeyLabels.timestampCa];
  const { config, authority } = context;
  const found = findKey(authority.session, label, caScheme);
  if (existsSync(file)) {
    const [certificate] = readChain(file);
    checkIssuedBy(file, certificate, issuer?.certificate ?? certificate);
    if (!certificate.ca) throw invalid(file, 'not the certificate of a CA');
    if (certificate.validToDate <= context.now()) throw invalid(file, `expired at ${certificate.validToDate.toISOString()}`);
    return { key: checkKey(file, found, label, certificate), certificate };
  }
  // A CA key has no limit of use, so one that lost its certificate can have another; under the same key and name, what it issued stays valid.
  const key = found ?? makeKey(config, authority, label, caScheme);
  // An interruption may have come before it was told. A token that is not ours alone may have its key from another host.
  if (found !== undefined && config.hsm.mode === 'embedded') tellKeyGenerated(config, authority.label, found);
  // pkijs costs 60 ms to load, and only a start that makes something needs it.
  const { issueCertificate } = await import('../authority/issue.ts');
  const certificate = await issueCertificate({
    kind,
    spki: key.spki,
    issuer: issuer === undefined ? { signer: key, certificate: undefined } : { signer: issuer.key, certificate: issuer.certificate },
    now: context.now(),
  });
  selfTest(key, certificate);
  tellCertificateIssued(config, kind, certificate);
  writeChain(file, [certificate]);
  context.made(basename(file));
  return { key, certificate };
};

/** Root CA and timestamp CA. */
export const ensureAuthorities = async (context: DemonstrationContext): Promise<{ root: Holder; timestampCa: Holder }> => {
  const root = await ensureCa(context, 'root-ca', undefined);
  return { root, timestampCa: await ensureCa(context, 'timestamp-ca', root) };
};

const usageEnd = (file: string, certificate: X509Certificate): Date => {
  try {
    const end = privateKeyUsagePeriod(certificate.raw)?.notAfter;
    if (end !== undefined && isTimeStampingCertificate(certificate.raw)) return end;
  } catch (cause) {
    if (!(cause instanceof DerError)) throw cause;
  }
  throw invalid(file, 'not the certificate of a timestamping unit of Sigillo');
};

/** What the register last said of a TSU: one that was retired before its time, or is in another token, is not this start's business. */
const isInUse = (context: DemonstrationContext, keyLabel: string): boolean => {
  const record = new TsuFolder(context.config).records().find((one) => one.keyLabel === keyLabel);
  if (record === undefined) return true;
  const { state, token, compromised } = record;
  return state !== 'retired' && state !== 'destroyed' && compromised === undefined && token === context.timestamp.label;
};

/** Checks one TSU file; the time its key may still be used. */
const checkTsu = (context: DemonstrationContext, name: string, timestampCa: X509Certificate): number => {
  const file = join(homePaths(context.config.home).pkiFolder, name);
  const parsed = parseTsuFileName(name);
  if (parsed === undefined) throw invalid(file, 'not the name of a TSU file');
  const [certificate] = readChain(file);
  checkIssuedBy(file, certificate, timestampCa);
  const leftMs = usageEnd(file, certificate).getTime() - context.now().getTime();
  if (!isInUse(context, parsed.keyLabel)) return Number.NEGATIVE_INFINITY;
  const key = findKey(context.timestamp.session, parsed.keyLabel, keyScheme(parsed.algorithm));
  // The key of a retired TSU is destroyed some day; its certificate stays for ever.
  if (key !== undefined || leftMs > 0) checkKey(file, key, parsed.keyLabel, certificate);
  return leftMs;
};

/**
 * The next free number. A whole key without a certificate is passed over: it cannot be told whether an interruption left
 * it unused or its certificate was lost after months of use, and a key must not get a second life beyond its limit.
 */
const nextTsuNumber = (context: DemonstrationContext, algorithm: string, last: number): number => {
  let n = last + 1;
  while (keyState(context.timestamp.session, tsuKeyLabel(algorithm, n)) === 'whole') n += 1;
  return n;
};

const makeTsu = async (context: DemonstrationContext, n: number, timestampCa: Holder): Promise<void> => {
  const { algorithm } = context.config.timestamp;
  const { tsu } = context.config;
  const file = join(homePaths(context.config.home).pkiFolder, tsuFileName(algorithm, n));
  const key = makeKey(context.config, context.timestamp, tsuKeyLabel(algorithm, n), keyScheme(algorithm));
  const { issueCertificate } = await import('../authority/issue.ts');
  const certificate = await issueCertificate({
    kind: 'tsu',
    spki: key.spki,
    issuer: { signer: timestampCa.key, certificate: timestampCa.certificate },
    now: context.now(),
    use: tsuUse(context.now(), tsu.usageMsMax),
    validityYears: tsu.certificateYears,
  });
  selfTest(key, certificate);
  if (usageEnd(file, certificate) >= certificate.validToDate) {
    throw invalid(homePaths(context.config.home).timestampCaCertificate, 'it ends too early to issue another timestamping unit');
  }
  tellCertificateIssued(context.config, 'tsu', certificate);
  writeChain(file, [certificate, timestampCa.certificate]);
  context.made(basename(file));
};

/** Checks all TSUs, and makes one for the configured algorithm when none is usable: so the first stamp need not wait for the calendar. */
export const ensureTsu = async (context: DemonstrationContext, timestampCa: Holder): Promise<void> => {
  const { algorithm } = context.config.timestamp;
  let last = 0;
  let leftMs = 0;
  for (const name of readdirSync(homePaths(context.config.home).pkiFolder)) {
    const parsed = parseTsuFileName(name);
    if (parsed === undefined) continue;
    const left = checkTsu(context, name, timestampCa.certificate);
    if (parsed.algorithm !== algorithm) continue;
    last = Math.max(last, parsed.n);
    leftMs = Math.max(leftMs, left);
  }
  // Under dual control only the set-up itself makes one, in the presence of those who set it up; every other waits for its operators.
  if (context.config.dualControl !== undefined && last > 0) return;
  const { usageMsMax } = context.config.tsu;
  if (leftMs >= Math.min(usageLeftMsMin, (usageMsMax ?? Number.POSITIVE_INFINITY) / 4)) return;
  await makeTsu(context, nextTsuNumber(context, algorithm, last), timestampCa);
};
