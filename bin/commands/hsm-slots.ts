/** What the commands `sigillo hsm` have in common: slots of the configuration, opened here, and what is known of their keys. */
import { createPublicKey, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import type { Session } from 'graphene-pk11';
import { SigilloError } from '../../config/errors.ts';
import { homePaths } from '../../config/home.ts';
import type { Config } from '../../config/schema.ts';
import { deliverOutbox } from '../../observability/journal/outbox.ts';
import { samePublicKey } from '../../pki/public-key.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { readTsus, type TsuRecord } from '../../queue/tsu-register.ts';
import { journalKeyLabel } from '../../signer/checkpoint-key.ts';
import type { OpenHsm } from '../../signer/hsm-modules.ts';
import type { Hsm, HsmSlot } from '../../signer/pkcs11-module.ts';
import { TsuFolder } from '../../signer/tsu-folder.ts';
import { caKeyLabels } from '../demonstration-pki.ts';
import { commandRedis } from './command-redis.ts';

export interface OpenedSlot {
  readonly label: string;
  /** Serial number of the token. */
  readonly serial: string;
  readonly session: Session;
}

/** The slot of the configuration with this label. @throws USAGE */
export const configuredSlot = ({ slots }: Hsm, label: string): HsmSlot => {
  const slot = slots.find((one) => one.label === label);
  if (slot !== undefined) return slot;
  throw new SigilloError('USAGE', `no slot "${label}" in the configuration; there are: ${slots.map((one) => one.label).join(', ')}`);
};

/** Logs in, unless the token has refused this PIN before, and opens a session; the module closes it. @throws HSM_*, CONFIG_UNREADABLE */
export const openSlot = (module: OpenHsm, slot: HsmSlot, options: { readWrite: boolean }): OpenedSlot => {
  module.login(slot);
  const serial = module.findSlot(slot.label).getToken().serialNumber.trim();
  return { label: slot.label, serial, session: module.openSession(slot.label, options) };
};

/** The Redis of the configuration, or undefined: what needs none is done without. */
export const redisIfThere = async (config: Config): Promise<RedisClient | undefined> => {
  try {
    return await commandRedis(config);
  } catch (error) {
    if (error instanceof SigilloError && error.code === 'REDIS_UNAVAILABLE') return undefined;
    throw error;
  }
};

/** Brings what waits in the outbox to Redis. @returns false when a signer does it at its next start */
export const deliverEvents = async (config: Config, redis: RedisClient | undefined): Promise<boolean> => {
  if (redis === undefined) return false;
  try {
    await deliverOutbox(homePaths(config.home).journalOutbox, redis);
    return true;
  } catch {
    return false; // nothing is lost: the events are on disk
  }
};

type Spki = Uint8Array;
const spkiOf = (certificate: X509Certificate): Buffer => certificate.publicKey.export({ format: 'der', type: 'spki' });

/** Public keys of files that may be there; what cannot be read is said by whoever needs it. */
const publicKeysOf = (files: readonly string[]): Spki[] =>
  files.filter(existsSync).flatMap((file) => {
    try {
      const pem = readFileSync(file);
      return [
        pem.includes('CERTIFICATE') ? spkiOf(new X509Certificate(pem)) : createPublicKey(pem).export({ format: 'der', type: 'spki' }),
      ];
    } catch {
      return [];
    }
  });

/** What the keys of an installation are for, as register and home folder say. */
export interface KnownKeys {
  /** TSUs of the register; empty without Redis. */
  readonly tsus: readonly TsuRecord[];
  tsuOf(spki: Spki): TsuRecord | undefined;
  /** The certificate of a TSU in the home folder, or of the configuration, with this key. */
  chainOf(spki: Spki): X509Certificate | undefined;
  /** `journal` or `CA`, by label and by the key itself. */
  useOf(label: string, spki: Spki | undefined): 'journal' | 'CA' | undefined;
}

/** Reads them. @throws INTERNAL, CERTIFICATE_INVALID, what Redis says */
export const readKnownKeys = async (config: Config, redis: RedisClient | undefined): Promise<KnownKeys> => {
  const tsus = redis === undefined ? [] : (await readTsus(redis)).tsus;
  const chains = new TsuFolder(config).chains().map(({ chain }) => chain[0]);
  const paths = homePaths(config.home);
  const journal = publicKeysOf([paths.journalKey]);
  const authorities = publicKeysOf([paths.rootCertificate, paths.timestampCaCertificate]);
  const among = (keys: readonly Spki[], spki: Spki | undefined): boolean =>
    spki !== undefined && keys.some((one) => samePublicKey(one, spki));
  return {
    tsus,
    tsuOf: (spki) => tsus.find((record) => samePublicKey(Buffer.from(record.spki, 'base64'), spki)),
    chainOf: (spki) => chains.find((certificate) => samePublicKey(spkiOf(certificate), spki)),
    useOf(label, spki) {
      if (label === journalKeyLabel || among(journal, spki)) return 'journal';
      const isAuthority = Object.values<string>(caKeyLabels).includes(label) || among(authorities, spki);
      return isAuthority ? 'CA' : undefined;
    },
  };
};
