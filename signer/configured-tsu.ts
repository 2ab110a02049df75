/** The TSU that a signer stamps with, as configuration and home folder describe it; whether the token agrees is checked when it is loaded. */
import { createHash, X509Certificate } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import { defaultDigest, keyScheme } from '../pki/algorithms.ts';
import { parseTsuFileName, tsuKeyLabel } from '../pki/tsu-files.ts';
import type { Tsu } from './stamp-task.ts';

const pemBlocks = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** Reads the certificates of a PEM file in their order. @throws CONFIG_UNREADABLE, CERTIFICATE_INVALID */
const readChainFile = (file: string): X509Certificate[] => {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new SigilloError('CONFIG_UNREADABLE', file, { cause });
  }
  try {
    const certificates = (text.match(pemBlocks) ?? []).map((pem) => new X509Certificate(pem));
    if (certificates.length > 0) return certificates;
  } catch (cause) {
    throw new SigilloError('CERTIFICATE_INVALID', `${file}: not a certificate`, { cause });
  }
  throw new SigilloError('CERTIFICATE_INVALID', `${file}: holds no certificate`);
};

/** The TSU files in the home folder, of every algorithm. @throws SETUP_INCOMPLETE when there is no such folder */
const demonstrationFiles = (config: Config): { algorithm: string; n: number; file: string }[] => {
  const folder = homePaths(config.home).pkiFolder;
  try {
    return readdirSync(folder).flatMap((name) => {
      const parsed = parseTsuFileName(name);
      return parsed === undefined ? [] : [{ ...parsed, file: join(folder, name) }];
    });
  } catch (cause) {
    throw new SigilloError('SETUP_INCOMPLETE', folder, { cause });
  }
};

const newestDemonstrationTsu = (config: Config): { keyLabel: string; chainFile: string } => {
  const { algorithm } = config.timestamp;
  const [newest] = demonstrationFiles(config)
    .filter((one) => one.algorithm === algorithm)
    .sort((a, b) => b.n - a.n);
  if (newest === undefined) throw new SigilloError('SETUP_INCOMPLETE', `no TSU for ${algorithm} in ${config.home}`);
  return { keyLabel: tsuKeyLabel(algorithm, newest.n), chainFile: newest.file };
};

/** Every chain that this signer stamps with, or its home folder ever stamped with. @throws CONFIG_UNREADABLE, CERTIFICATE_INVALID */
export const knownChains = (config: Config): X509Certificate[][] => {
  const { tsu } = config.timestamp;
  const files = tsu.source === 'installed' ? [tsu.chainFile] : demonstrationFiles(config).map(({ file }) => file);
  return files.map(readChainFile);
};

/** @throws SETUP_INCOMPLETE, CONFIG_UNREADABLE, CERTIFICATE_INVALID */
export const configuredTsu = (config: Config, tokenLabel: string): Tsu => {
  const { tsu, algorithm, signatureDigest } = config.timestamp;
  const { keyLabel, chainFile } = tsu.source === 'installed' ? tsu : newestDemonstrationTsu(config);
  const chain = readChainFile(chainFile).map((certificate) => new Uint8Array(certificate.raw));
  const scheme = keyScheme(algorithm);
  return {
    id: createHash('sha256')
      .update(chain[0] as Uint8Array)
      .digest('hex'),
    tokenLabel,
    keyLabel,
    scheme,
    signatureDigest: signatureDigest ?? defaultDigest(scheme),
    chain,
    activeFromMs: Number.MIN_SAFE_INTEGER,
  };
};
