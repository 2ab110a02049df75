/** Checks a timestamping key and certificate that the operator brought: at start, rather than at the first stamp. */
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import { keyScheme } from '../pki/algorithms.ts';
import { DerError } from '../pki/der.ts';
import { isTimeStampingCertificate } from '../pki/tsu-usage.ts';
import type { OpenHsm } from '../signer/hsm-modules.ts';
import type { Hsm, HsmSlot } from '../signer/pkcs11-module.ts';
import { findKey, selfTest } from '../signer/token-keys.ts';
import { onSlots } from './several-slots.ts';

/** The certificates of a PEM file, in their order. @throws CONFIG_UNREADABLE, CERTIFICATE_INVALID */
export const readCertificates = (file: string): X509Certificate[] => {
  let text: string;
  try {
    text = readFileSync(file, 'latin1');
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', file, { cause });
  }
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  if (blocks.length === 0) throw new SigilloError('CERTIFICATE_INVALID', `${file}: no PEM certificate in it`);
  try {
    return blocks.map((block) => new X509Certificate(block));
  } catch (cause) {
    throw new SigilloError('CERTIFICATE_INVALID', `${file}: one of its certificates cannot be read`, { cause });
  }
};

/** True when the certificate is for timestamping and nothing else, critically so. */
export const hasTimeStampingUsage = (certificate: X509Certificate): boolean => {
  try {
    return isTimeStampingCertificate(certificate.raw);
  } catch (error) {
    if (error instanceof DerError) return false;
    throw error;
  }
};

/** The chain leads to one of the roots, now. @throws CERTIFICATE_INVALID with the fault */
export const checkPath = async (
  chainFile: string,
  chain: readonly X509Certificate[],
  roots: readonly X509Certificate[],
  now: Date,
): Promise<void> => {
  // Path validation reads with pkijs, which the demonstration does not need at every start.
  const { findPath, parseCertificate } = await import('../pki/certificate-path.ts');
  const parse = (certificate: X509Certificate): NonNullable<ReturnType<typeof parseCertificate>> => {
    const parsed = parseCertificate(certificate.raw);
    if (parsed !== undefined) return parsed;
    throw new SigilloError('CERTIFICATE_INVALID', `${certificate.subject.replaceAll('\n', ', ')}: it cannot be read`);
  };
  const [leaf, ...authorities] = chain.map(parse);
  if (leaf === undefined) throw new SigilloError('CERTIFICATE_INVALID', `${chainFile}: no PEM certificate in it`);
  const result = findPath(leaf, authorities, roots.map(parse), now);
  if (result.kind === 'none') throw new SigilloError('CERTIFICATE_INVALID', `${chainFile}: ${result.fault}: ${result.detail}`);
};

/**
 * The key is in a token for timestamps, its chain begins with a certificate for it, critically for timestamping alone, and
 * leads to a configured root.
 *
 * @param module slots with the purpose timestamp are logged in
 * @param report told of a slot that fails while another works
 * @throws HSM_KEY_MISSING, HSM_KEY_MISMATCH, HSM_SELFTEST_FAILED, CERTIFICATE_INVALID, CONFIG_UNREADABLE
 */
export const checkInstalledTsu = async (
  config: Config,
  hsm: Hsm,
  module: OpenHsm,
  now: Date,
  report: (line: string) => void,
): Promise<void> => {
  const { tsu, algorithm, signatureDigest } = config.timestamp;
  if (tsu.source !== 'installed' || config.trust.rootsFile === undefined) return;
  const chain = readCertificates(tsu.chainFile);
  const [certificate] = chain;
  const proveKey = (slot: HsmSlot): boolean => {
    const session = module.openSession(slot.label, { readWrite: false });
    try {
      const key = findKey(session, tsu.keyLabel, keyScheme(algorithm));
      if (key !== undefined) selfTest(key, certificate, signatureDigest);
      return key !== undefined;
    } finally {
      session.close();
    }
  };
  const slots = hsm.slots.filter(({ purposes }) => purposes.includes('timestamp'));
  const found = onSlots(slots, proveKey, report);
  if (!found.includes(true)) throw new SigilloError('HSM_KEY_MISSING', `"${tsu.keyLabel}" is in no slot with the purpose timestamp`);
  if (certificate === undefined || !hasTimeStampingUsage(certificate)) {
    throw new SigilloError(
      'CERTIFICATE_INVALID',
      `${tsu.chainFile}: the first certificate must have timeStamping as its only, critical extended key usage`,
    );
  }
  await checkPath(tsu.chainFile, chain, readCertificates(config.trust.rootsFile), now);
};
