/**
 * The TSUs that a slot may stamp with: those of the register whose key is in its token, and, of the home folder, what the register does
 * not know yet, so that stamping needs no other process. Each has proved its key here before it is handed to the threads.
 */
import { createHash, X509Certificate } from 'node:crypto';
import { SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import type { Logger } from '../observability/log.ts';
import { defaultDigest, keyScheme } from '../pki/algorithms.ts';
import { tsuUsageLimit } from '../pki/tsu-usage.ts';
import type { RedisClient } from '../queue/redis.ts';
import { readTsus, readTsusVersion, type TsuRecord } from '../queue/tsu-register.ts';
import type { OpenHsm } from './hsm-modules.ts';
import type { HsmSlot } from './pkcs11-module.ts';
import type { Tsu } from './stamp-task.ts';
import { findKey, selfTest } from './token-keys.ts';
import { chainOctets, TsuFolder, tsuId, useOfCertificate } from './tsu-folder.ts';

export interface SlotTsusOptions {
  readonly config: Config;
  readonly redis: RedisClient;
  readonly module: OpenHsm;
  readonly slot: HsmSlot;
  readonly log: Pick<Logger, 'warn'>;
}

const ofRecord = (record: TsuRecord, token: string, digest: Tsu['signatureDigest'] | undefined): Tsu | undefined => {
  const { state, chain, activateAt, usableUntil, compromised, keyLabel, algorithm } = record;
  if (compromised !== undefined || (state !== 'certified' && state !== 'active')) return undefined;
  if (chain === undefined || activateAt === undefined || usableUntil === undefined) return undefined;
  const octets = chain.map((one) => new Uint8Array(Buffer.from(one, 'base64')));
  const scheme = keyScheme(algorithm);
  return {
    id: createHash('sha256')
      .update(octets[0] as Uint8Array)
      .digest('hex'),
    tokenLabel: token,
    keyLabel,
    scheme,
    signatureDigest: digest ?? defaultDigest(scheme),
    chain: octets,
    activeFromMs: Date.parse(activateAt),
    usableUntilMs: Date.parse(usableUntil),
  };
};

export class SlotTsus {
  readonly #options: SlotTsusOptions;
  readonly #folder: TsuFolder;
  /** Those that have proved their keys in this token. */
  readonly #proved = new Set<string>();
  readonly #warned = new Set<string>();
  #version: string | undefined;

  constructor(options: SlotTsusOptions) {
    this.#options = options;
    this.#folder = new TsuFolder(options.config);
  }

  /**
   * Looks whether the register is another one.
   * @returns the TSUs that may stamp now or later, the one that was activated last first; undefined while the register is what it was
   * @throws CERTIFICATE_INVALID; HSM_DEVICE and the like, when the token fails; what Redis says
   */
  async look(nowMs: number): Promise<readonly Tsu[] | undefined> {
    const { redis } = this.#options;
    if (this.#version !== undefined && (await readTsusVersion(redis)) === this.#version) return undefined;
    const { version, tsus } = await readTsus(redis);
    const found = this.#candidates(tsus).filter((tsu) => tsu.usableUntilMs >= nowMs && this.#isHere(tsu));
    this.#version = version;
    return found.toSorted((a, b) => b.activeFromMs - a.activeFromMs);
  }

  #candidates(records: readonly TsuRecord[]): Tsu[] {
    const { config, slot } = this.#options;
    const { algorithm: wanted, signatureDigest: digest } = config.timestamp;
    // Keys of another algorithm are those of before it was changed.
    const ofAlgorithm = <T extends { readonly algorithm: string }>(all: readonly T[]): T[] =>
      all.filter(({ algorithm }) => algorithm === wanted);
    const registered = ofAlgorithm(records).flatMap((record) => ofRecord(record, slot.label, digest) ?? []);
    const known = new Set(records.map(({ id }) => id));
    const unregistered = ofAlgorithm(this.#folder.chains()).flatMap(({ chain, keyLabel, algorithm }): Tsu[] => {
      const [certificate] = chain;
      // What the register knows it decides, also that a key must not be used any more.
      if (known.has(tsuId(certificate.publicKey.export({ format: 'der', type: 'spki' })))) return [];
      const { from, until } = useOfCertificate(certificate);
      const scheme = keyScheme(algorithm);
      return [
        {
          id: createHash('sha256').update(certificate.raw).digest('hex'),
          tokenLabel: slot.label,
          keyLabel,
          scheme,
          signatureDigest: digest ?? defaultDigest(scheme),
          chain: chainOctets(chain).map((der) => new Uint8Array(Buffer.from(der, 'base64'))),
          activeFromMs: from.getTime(),
          // A certificate of another CA may say nothing of it; the limit holds all the same (ETSI EN 319 421, 7.7.2).
          usableUntilMs: Math.min(until.getTime(), tsuUsageLimit(from).getTime()),
        },
      ];
    });
    return [...registered, ...unregistered];
  }

  /** Whether the key is in this token, and has proved itself. @throws what says that the token fails */
  #isHere(tsu: Tsu): boolean {
    const { module, slot, log } = this.#options;
    if (this.#proved.has(tsu.id)) return true;
    const session = module.openSession(slot.label, { readWrite: false });
    try {
      const key = findKey(session, tsu.keyLabel, tsu.scheme);
      if (key === undefined) return false;
      selfTest(key, new X509Certificate(tsu.chain[0] as Uint8Array), tsu.signatureDigest);
      this.#proved.add(tsu.id);
      return true;
    } catch (error) {
      // Of another token or host that gave its key the same name; or somebody has changed what they should not have.
      if (!(error instanceof SigilloError) || error.code !== 'HSM_KEY_MISMATCH') throw error;
      if (!this.#warned.has(tsu.id)) log.warn({ token: slot.label, err: error }, 'tsu: not used in this slot');
      this.#warned.add(tsu.id);
      return false;
    } finally {
      session.close();
    }
  }
}
