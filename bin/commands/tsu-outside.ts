/**
 * `sigillo tsu request` and `sigillo tsu install`: a TSU whose certificate comes from an outside CA (RFC 2986 there, a chain back).
 *
 * They are run where the token is, with the service running or not; Redis must be there. The key is made by the rules of the calendar:
 * a name that is settled first, an event with its record, and approvals under dual control.
 */
import { hash, type X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { writeFileAtomic } from '../../config/atomic-file.ts';
import { SigilloError } from '../../config/errors.ts';
import type { Config } from '../../config/schema.ts';
import { tsuChangeTeller } from '../../observability/journal/tsu-events.ts';
import { createLogger } from '../../observability/log.ts';
import { defaultDigest, keyScheme } from '../../pki/algorithms.ts';
import {
  certificationRequest,
  certificationRequestInfo,
  certificationRequestPem,
  parseSubject,
  type SubjectAttribute,
} from '../../pki/certification-request.ts';
import { samePublicKey } from '../../pki/public-key.ts';
import { tsuProfileFault } from '../../pki/tsu-profile.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { changeTsu, readTsus, type TsuChange, type TsuRecord } from '../../queue/tsu-register.ts';
import { createApprovals } from '../../signer/dual-control.ts';
import { type OpenHsm, openHsm } from '../../signer/hsm-modules.ts';
import { resolveHsm, slotForPurpose } from '../../signer/pkcs11-module.ts';
import { findKey, selfTest, type TokenKey } from '../../signer/token-keys.ts';
import { chainOctets, isUnreadable, TsuFolder, tsuId, useOfCertificate } from '../../signer/tsu-folder.ts';
import { TsuLifecycle } from '../../signer/tsu-lifecycle.ts';
import { checkPath, hasTimeStampingUsage, readCertificates } from '../installed-tsu.ts';
import type { CommandOperator } from './command-redis.ts';
import { holdToken } from './token-lease.ts';
import { withRegister } from './tsu.ts';

const print = (text: string): void => void process.stdout.write(text);

export interface RequestOptions {
  readonly subject: string;
  readonly out: string;
  readonly token?: string;
  readonly force?: true;
}

interface OpenedToken {
  readonly module: OpenHsm;
  readonly label: string;
  readonly serial: string;
}

const openToken = (config: Config, wanted: string | undefined): OpenedToken => {
  const hsm = resolveHsm(config);
  const slot =
    wanted === undefined
      ? slotForPurpose(hsm, 'timestamp')
      : hsm.slots.find(({ label, purposes }) => label === wanted && purposes.includes('timestamp'));
  if (slot === undefined) throw new SigilloError('USAGE', `${wanted} is no slot with the purpose timestamp`);
  const module = openHsm(hsm);
  try {
    module.login(slot);
    return { module, label: slot.label, serial: module.findSlot(slot.label).getToken().serialNumber.trim() };
  } catch (error) {
    module.close();
    throw error;
  }
};

/** A key that waits for a certificate is used again: a second request must not make a second key. */
const waitingKey = async (redis: RedisClient, config: Config, { label, serial }: OpenedToken): Promise<TsuRecord | undefined> =>
  (await readTsus(redis)).tsus.find(
    ({ state, token, tokenSerial, algorithm, compromised }) =>
      state === 'generated' &&
      token === label &&
      (tokenSerial ?? serial) === serial &&
      algorithm === config.timestamp.algorithm &&
      compromised === undefined,
  );

const makeKey = async (
  redis: RedisClient,
  config: Config,
  { module, label, serial }: OpenedToken,
  operator: CommandOperator,
): Promise<TsuRecord> => {
  const log = createLogger(config.log, 'tsu-request');
  const now = (): Date => new Date();
  const session = module.openSession(label, { readWrite: true });
  const lease = await holdToken(redis, label, serial);
  try {
    const approvals = createApprovals({ config, redis, log, now, by: operator });
    const lifecycle = new TsuLifecycle({
      config,
      redis,
      log,
      token: { label, serial, session },
      folder: new TsuFolder(config),
      certify: undefined,
      approvals,
      lease,
      publish: async () => undefined, // a key without a certificate has nothing to publish
      now,
      tell: tsuChangeTeller(operator),
    });
    const record = await lifecycle.generate();
    if (record === undefined) throw new SigilloError('APPROVAL_NEEDED', '`sigillo approve --list` shows the ceremony.');
    return record;
  } finally {
    session.close();
    await lease.release().catch(() => undefined); // best effort: it ends by itself
  }
};

const keyOf = (record: TsuRecord, { module, label }: OpenedToken): TokenKey => {
  const key = findKey(module.openSession(label, { readWrite: false }), record.keyLabel, keyScheme(record.algorithm));
  if (key === undefined) throw new SigilloError('HSM_KEY_MISSING', `"${record.keyLabel}" in token ${label}`);
  if (tsuId(key.spki) !== record.id) throw new SigilloError('HSM_KEY_MISMATCH', `"${record.keyLabel}" in token ${label}`);
  return key;
};

const requestFor = (subject: readonly SubjectAttribute[], key: TokenKey): Buffer => {
  const digest = defaultDigest(key.scheme);
  const info = certificationRequestInfo(subject, key.spki);
  return Buffer.from(certificationRequest(info, key.scheme, digest, key.sign(info, digest)));
};

/** Makes a key, unless one waits already, and writes its request. @throws APPROVAL_NEEDED, USAGE, HSM_*, REDIS_UNAVAILABLE */
export const requestCommand = (options: RequestOptions): Promise<void> =>
  withRegister(async (redis, config, operator) => {
    const subject = parseSubject(options.subject);
    if (typeof subject === 'string') throw new SigilloError('USAGE', `--subject: ${subject}`);
    if (options.force !== true && existsSync(options.out)) throw new SigilloError('USAGE', `${options.out} exists (--force replaces it)`);
    const token = openToken(config, options.token);
    try {
      const record = (await waitingKey(redis, config, token)) ?? (await makeKey(redis, config, token, operator));
      const der = requestFor(subject, keyOf(record, token));
      const request = der.toString('base64');
      await changeTsu(redis, record.id, (current) => [{ kind: 'requested', record: { ...current, request } }], tsuChangeTeller(operator));
      writeFileAtomic(options.out, certificationRequestPem(der), { mode: 0o644 });
      print(
        `${options.out}: request for ${record.keyLabel} in ${record.token}\n` +
          `  key (SHA-256 of SubjectPublicKeyInfo)  ${record.id}\n  request (SHA-256)                      ${hash('sha256', der, 'hex')}\n` +
          'Tell the CA the fingerprint by another way than the file. Then: sigillo tsu install CHAIN.pem\n',
      );
    } finally {
      token.module.close();
    }
  });

/** The TSU that a certificate is for. @throws TSU_UNKNOWN, TSU_STATE */
const recordFor = (tsus: readonly TsuRecord[], certificate: X509Certificate): TsuRecord => {
  const spki = certificate.publicKey.export({ format: 'der', type: 'spki' });
  const record = tsus.find((one) => samePublicKey(Buffer.from(one.spki, 'base64'), spki));
  if (record === undefined) throw new SigilloError('TSU_UNKNOWN', 'The certificate is for a key that is not in the register.');
  if (record.compromised !== undefined) throw new SigilloError('TSU_STATE', `${record.keyLabel} is compromised.`);
  if (record.state === 'generated') return record;
  throw new SigilloError('TSU_STATE', `${record.keyLabel} is ${record.state}: a key has one certificate.`);
};

/** When the key may be used last, as the certificate says; undefined when it says it in another form than RFC 5280's. */
const endOfUse = (certificate: X509Certificate): Date | undefined => {
  try {
    return useOfCertificate(certificate).until;
  } catch (error) {
    if (isUnreadable(error)) return undefined;
    throw error;
  }
};

/** Key, purpose, time of use, chain and profile of a certificate that came from outside. @throws CERTIFICATE_INVALID */
const checkCertificate = async (
  file: string,
  chain: readonly [X509Certificate, ...X509Certificate[]],
  config: Config,
  now: Date,
): Promise<void> => {
  const [certificate] = chain;
  const refuse = (why: string): never => {
    throw new SigilloError('CERTIFICATE_INVALID', `${file}: ${why}`);
  };
  if (config.trust.rootsFile === undefined) return refuse('trust.rootsFile must name the roots that it leads to');
  if (!hasTimeStampingUsage(certificate)) refuse('the first certificate must have timeStamping as its only, critical extended key usage');
  if (now < certificate.validFromDate) refuse(`it is valid from ${certificate.validFromDate.toISOString()}; check the clock`);
  if (now >= certificate.validToDate) refuse(`it has expired at ${certificate.validToDate.toISOString()}`);
  const until = endOfUse(certificate);
  if (until === undefined) return refuse('its privateKeyUsagePeriod cannot be read');
  if (until <= now) refuse(`its key may not be used after ${until.toISOString()}`);
  const fault = tsuProfileFault(certificate.raw);
  if (fault !== undefined) refuse(fault);
  await checkPath(file, chain, readCertificates(config.trust.rootsFile), now);
};

/**
 * Takes the certificate of an outside CA; the calendar settles from when it is used.
 * @throws CERTIFICATE_INVALID, HSM_KEY_MISMATCH, TSU_UNKNOWN, TSU_STATE, HSM_*, REDIS_UNAVAILABLE
 */
export const installCommand = (file: string): Promise<void> =>
  withRegister(async (redis, config, operator) => {
    const [first, ...others] = readCertificates(file);
    if (first === undefined) throw new SigilloError('CERTIFICATE_INVALID', `${file}: no PEM certificate in it`);
    const chain = [first, ...others] as const;
    const now = new Date();
    const record = recordFor((await readTsus(redis)).tsus, first);
    await checkCertificate(file, chain, config, now);
    const token = openToken(config, record.token);
    try {
      selfTest(keyOf(record, token), first);
    } finally {
      token.module.close();
    }
    const decide = (current: TsuRecord): TsuChange[] => {
      if (current.state !== 'generated') throw new SigilloError('TSU_STATE', `${current.keyLabel} is ${current.state}.`);
      const certified = { ...current, state: 'certified', certifiedAt: now.toISOString(), chain: chainOctets(chain) } as const;
      return [{ kind: 'certified', by: 'outside', record: certified }];
    };
    await changeTsu(redis, record.id, decide, tsuChangeTeller(operator));
    print(`${record.keyLabel} is certified. The lifecycle process settles from when it is used: see sigillo tsu list\n`);
  });
