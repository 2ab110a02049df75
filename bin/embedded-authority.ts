/**
 * The embedded timestamp CA as the lifecycle process has it: it certifies TSUs, and publishes its CRL.
 *
 * The list is issued when there is none, when a TSU was compromised that is not in it, and from time to time. It is kept in Redis, for
 * the gateways, and in the home folder; an entry is never dropped, because stamps are verified long after the certificate has ended.
 */
import type { X509Certificate } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import type { Session } from 'graphene-pk11';
import type { Crl, RevokedCertificate } from '../authority/crl.ts';
import type { CertificateSigner } from '../authority/issue.ts';
import { writeFileAtomic } from '../config/atomic-file.ts';
import { SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import type { JournalRecorder } from '../observability/journal/recorder.ts';
import { crlFileName } from '../queue/keys.ts';
import { Lease } from '../queue/lease.ts';
import type { RedisClient } from '../queue/redis.ts';
import { readTsus, type TsuRecord, tsuRegisterKeys } from '../queue/tsu-register.ts';
import type { EmbeddedAuthority } from '../signer/authority-slot.ts';
import type { OpenHsm } from '../signer/hsm-modules.ts';
import { type Hsm, slotForPurpose } from '../signer/pkcs11-module.ts';
import { findKey, type TokenKey } from '../signer/token-keys.ts';
import { requireLogin } from '../signer/token-login.ts';
import { certificateOf, TsuFolder } from '../signer/tsu-folder.ts';
import { caKeyLabels, caScheme, readChain } from './demonstration-pki.ts';

/** pkijs costs 60 ms to load, which a start need not wait for. */
const loadCrls = (): Promise<typeof import('../authority/crl.ts')> => import('../authority/crl.ts');
const loadIssuing = (): Promise<typeof import('../authority/issue.ts')> => import('../authority/issue.ts');

const leaseMs = 30_000;
const minuteMs = 60_000;
const dayMs = 86_400_000;

const wholeSecond = (at: Date): Date => new Date(Math.floor(at.getTime() / 1_000) * 1_000);

/** What must be in the list: what was in the last one, and every compromised TSU of this CA. */
const revokedNow = (last: Crl | undefined, tsus: readonly TsuRecord[], ca: X509Certificate): RevokedCertificate[] => {
  const listed = last?.revoked ?? [];
  const known = new Set(listed.map(({ serial }) => serial));
  const added = tsus.flatMap((record): RevokedCertificate[] => {
    const certificate = certificateOf(record);
    if (record.compromised === undefined || certificate === undefined || !certificate.checkIssued(ca)) return [];
    const serial = certificate.serialNumber.toLowerCase();
    if (known.has(serial)) return [];
    known.add(serial);
    return [{ serial, revokedAt: wholeSecond(new Date(record.compromised.at)), reason: 'keyCompromise' }];
  });
  return [...listed, ...added];
};

interface AuthorityContext {
  readonly config: Config;
  readonly ca: X509Certificate;
  /** Runs an action with the CA's key. */
  readonly withKey: <T>(action: (signer: CertificateSigner) => Promise<T>) => Promise<T>;
  readonly now: () => Date;
  /** Reads a list; the last one that was read is remembered. */
  readonly readLast: (der: Uint8Array) => Promise<Crl>;
}

const rememberingReader = (): AuthorityContext['readLast'] => {
  let known: { readonly der: Buffer; readonly crl: Crl } | undefined;
  return async (der) => {
    if (known === undefined || !known.der.equals(der)) known = { der: Buffer.from(der), crl: (await loadCrls()).readCrl(der) };
    return known.crl;
  };
};

/** The newest list, from Redis or the home folder. */
const lastCrl = async ({ config }: AuthorityContext, redis: RedisClient): Promise<{ der: Uint8Array; inRedis: boolean } | undefined> => {
  const stored = await redis.hgetBuffer(tsuRegisterKeys.crls, crlFileName);
  if (stored !== null) return { der: stored, inRedis: true };
  const { timestampCaCrl } = homePaths(config.home);
  return existsSync(timestampCaCrl) ? { der: readFileSync(timestampCaCrl), inRedis: false } : undefined;
};

const publishCrl = async (
  context: AuthorityContext,
  redis: RedisClient,
  recorder: JournalRecorder,
  crl: Crl,
  added: readonly RevokedCertificate[],
): Promise<void> => {
  const { config, ca, withKey } = context;
  const { issueCrl } = await loadCrls();
  const der = await withKey((signer) => issueCrl({ signer, issuer: ca, ...crl }));
  const issuer = ca.subject.replaceAll('\n', ', ');
  // Told before it is shown: interrupted in between, it is told again with the next number.
  for (const { serial, reason } of added) {
    await recorder.recordNow({ kind: 'certificate.revoked', subject: serial, outcome: 'success', detail: { issuer, reason } });
  }
  await recorder.recordNow({ kind: 'crl.published', subject: String(crl.number), outcome: 'success', detail: { issuer, crl: der } });
  writeFileAtomic(homePaths(config.home).timestampCaCrl, der, { mode: 0o644 });
  await redis.hset(tsuRegisterKeys.crls, crlFileName, Buffer.from(der));
};

/** Sees to it that the published list is right and young enough. @returns when it was issued, and when it ends */
const keepCrl = async (
  context: AuthorityContext,
  redis: RedisClient,
  recorder: JournalRecorder,
): Promise<Pick<Crl, 'thisUpdate' | 'nextUpdate'>> => {
  const { config, ca, now } = context;
  const last = await lastCrl(context, redis);
  const read = last === undefined ? undefined : await context.readLast(last.der);
  // What the last list has stays in it, so a record that cannot be read takes nothing back and keeps no other from it.
  const { tsus } = await readTsus(redis, () => undefined);
  // A register that came back empty is filled again by whoever has the token of each TSU, which may take long.
  const revoked = revokedNow(read, [...tsus, ...new TsuFolder(config).records()], ca);
  const added = revoked.slice(read?.revoked.length ?? 0);
  const at = now();
  const isYoung = read !== undefined && at.getTime() - read.thisUpdate.getTime() < config.tsu.crlMinutes * minuteMs;
  if (isYoung && added.length === 0) {
    if (last !== undefined && !last.inRedis) await redis.hset(tsuRegisterKeys.crls, crlFileName, Buffer.from(last.der));
    return read;
  }
  const thisUpdate = wholeSecond(at);
  const nextUpdate = new Date(Math.min(thisUpdate.getTime() + config.tsu.crlDays * dayMs, ca.validToDate.getTime()));
  // By the clock, so that it grows also where the last one is lost; by one where the clock has gone back.
  const number = Math.max((read?.number ?? 0) + 1, thisUpdate.getTime() / 1_000);
  await publishCrl(context, redis, recorder, { number, thisUpdate, nextUpdate, revoked }, added);
  return { thisUpdate, nextUpdate };
};

/** Opens the CA. @throws HSM_*, CERTIFICATE_INVALID, SETUP_INCOMPLETE */
export const openEmbeddedAuthority = async (
  config: Config,
  module: OpenHsm,
  hsm: Hsm,
  now: () => Date = () => new Date(),
): Promise<EmbeddedAuthority> => {
  const slot = slotForPurpose(hsm, 'authority');
  module.login(slot);
  const file = homePaths(config.home).timestampCaCertificate;
  if (!existsSync(file)) throw new SigilloError('SETUP_INCOMPLETE', file);
  const [ca] = readChain(file);
  let signatures = 0;
  /** A session for each signature: a few in a quarter of a year, and a token that was away is found again. */
  const openKey = (): { readonly session: Session; readonly key: TokenKey } => {
    const session = module.openSession(slot.label, { readWrite: false });
    try {
      requireLogin(session);
      const key = findKey(session, caKeyLabels.timestampCa, caScheme);
      if (key === undefined) throw new SigilloError('HSM_KEY_MISSING', `"${caKeyLabels.timestampCa}" in token ${slot.label}`);
      return { session, key };
    } catch (error) {
      session.close();
      throw error;
    }
  };
  const withKey = <T>(action: (signer: CertificateSigner) => Promise<T>): Promise<T> => {
    const { session, key } = openKey();
    const sign: CertificateSigner['sign'] = (tbs) => {
      const signature = key.sign(tbs);
      signatures += 1;
      return signature;
    };
    return action({ scheme: key.scheme, spki: key.spki, sign }).finally(() => session.close());
  };
  const readLast = rememberingReader();
  return {
    get signatures() {
      return signatures;
    },
    look() {
      openKey().session.close();
    },
    certify: ({ spki, use, validityYears, now: at }) =>
      withKey(async (signer) => {
        const { issueCertificate } = await loadIssuing();
        const issuer = { signer, certificate: ca };
        return [await issueCertificate({ kind: 'tsu', spki, issuer, now: at, use, validityYears }), ca];
      }),
    async keep(redis, recorder) {
      const lease = new Lease(redis, { key: tsuRegisterKeys.lease('timestamp-ca'), lengthMs: leaseMs });
      if (!(await lease.acquire())) return;
      try {
        return await keepCrl({ config, ca, withKey, now, readLast }, redis, recorder);
      } finally {
        await lease.release().catch(() => undefined); // best effort: it ends by itself
      }
    },
  };
};
