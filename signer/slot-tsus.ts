/**
 * The TSUs that a slot may stamp with: those of the register whose key is in its token, and, of the home folder, what the register does
 * not know yet, so that stamping needs no other process. Each has proved its key here before it is handed to the threads.
 *
 * The register is in Redis, and what others can write there brings no key to use: what the home folder says is over stays over, and
 * under dual control a TSU counts only with its operators' signatures, verified here. A file or record that cannot be read keeps
 * no other from its turn.
 */
import { hash, X509Certificate } from 'node:crypto';
import type { Session } from 'graphene-pk11';
import { SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import type { Logger } from '../observability/log.ts';
import { defaultDigest, keyScheme } from '../pki/algorithms.ts';
import { privateKeyUsagePeriod, tsuUsageLimit } from '../pki/tsu-usage.ts';
import type { RedisClient } from '../queue/redis.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { readTsus, readTsusVersion, type TsuRecord } from '../queue/tsu-register.ts';
import type { Approvals, ApprovedStep } from './approvals.ts';
import { createApprovals } from './dual-control.ts';
import type { OpenHsm } from './hsm-modules.ts';
import { mayStampAt } from './lane-membership.ts';
import { ckrCode, classifyPkcs11Error, sessionCountReached } from './pkcs11-errors.ts';
import type { HsmSlot } from './pkcs11-module.ts';
import { describeError, isRefusal } from './slot-failure.ts';
import type { Tsu } from './stamp-task.ts';
import { findKey, findKeyCopy, selfTest } from './token-keys.ts';
import { certificateIn, isOver, recordOfChain, TsuFolder, tsuId, useOfCertificate } from './tsu-folder.ts';

export interface SlotTsusOptions {
  readonly config: Config;
  readonly redis: RedisClient;
  readonly module: OpenHsm;
  readonly slot: HsmSlot;
  readonly log: Pick<Logger, 'warn' | 'error'>;
}

/** How soon a key is asked again to prove itself that the token has refused. Nothing tells when it would not refuse any more. */
const proveAgainMs = 10_000;

const hasNoRoom = (error: unknown): boolean => ckrCode(error) === sessionCountReached;

/** Whether it concerns the one key that was to prove itself; any other error is the token's. */
const isOfKey = (error: unknown): error is SigilloError =>
  error instanceof SigilloError && (error.code === 'HSM_SELFTEST_FAILED' || isRefusal(error) || hasNoRoom(error));

/** A TSU may be used no longer than its certificate and the rules say, whatever the register has (ETSI EN 319 421, 7.7.2). */
const endOfUse = (certificate: X509Certificate, { activateAt, usableUntil }: { activateAt: Date; usableUntil: Date }): number => {
  const stated = useOfCertificate(certificate).until;
  return Math.min(usableUntil.getTime(), stated.getTime(), tsuUsageLimit(activateAt).getTime());
};

/** @throws what cannot be read of its certificate */
const ofRecord = (record: TsuRecord, token: string, digest: Tsu['signatureDigest'] | undefined): Tsu | undefined => {
  const { state, chain, activateAt, usableUntil, keyLabel, algorithm } = record;
  if (isOver(record) || (state !== 'certified' && state !== 'active')) return undefined;
  if (chain === undefined || activateAt === undefined || usableUntil === undefined) return undefined;
  const octets = chain.map((one) => new Uint8Array(Buffer.from(one, 'base64')));
  const certificate = certificateIn(record);
  const scheme = keyScheme(algorithm);
  const from = new Date(activateAt);
  const { notBefore } = privateKeyUsagePeriod(certificate.raw) ?? {};
  return {
    id: hash('sha256', certificate.raw, 'hex'),
    tokenLabel: token,
    keyLabel,
    scheme,
    signatureDigest: digest ?? defaultDigest(scheme),
    chain: octets,
    activeFromMs: Math.max(from.getTime(), notBefore?.getTime() ?? 0),
    usableUntilMs: endOfUse(certificate, { activateAt: from, usableUntil: new Date(usableUntil) }),
  };
};

export class SlotTsus {
  readonly #options: SlotTsusOptions;
  readonly #folder: TsuFolder;
  readonly #approvals: Pick<Approvals, 'agreed'>;
  /** Those that have proved their keys in this token, and the labels that these have here. */
  readonly #proved = new Map<string, string>();
  /** Records whose activation was found to be agreed to: a Redis that comes back empty has no ceremonies any more. */
  readonly #agreed = new Set<string>();
  readonly #warned = new Set<string>();
  #version: string | undefined;
  #proofMs: number | undefined;
  /** When the token has last refused a key that it has; Unix milliseconds. */
  #refusedAtMs: number | undefined;

  /** @throws CONFIG_UNREADABLE, CONFIG_INVALID for the operators of dual control */
  constructor(options: SlotTsusOptions) {
    const { config, redis, log } = options;
    this.#options = options;
    this.#folder = new TsuFolder(config);
    this.#approvals = createApprovals({ config, redis, log, now: () => new Date() });
  }

  /** How long the last proof of a key took, which is one signature and little else; undefined: there was none. */
  get proofMs(): number | undefined {
    return this.#proofMs;
  }

  /**
   * Looks whether the register is another one, and hands over the TSUs that may stamp now or later, the one that was activated last
   * first. Those whose keys have proved themselves before are handed over before a new one is asked to: whatever the token says of that,
   * what is over stamps no more. When they are not taken over, the register is looked at again: it counts as seen only when `take` has
   * succeeded. A key that the token refuses is passed over and asked again, every ten seconds, as long as another TSU may stamp.
   *
   * @param signal when it is aborted, the token is asked nothing any more: the module may be finalised
   * @returns false while the register is what it was, or when it was aborted
   * @throws what `take` throws; HSM_DEVICE and the like, when the token fails; HSM_REQUEST, HSM_SELFTEST_FAILED, when it refuses a key and
   *   no other may stamp; what Redis says
   */
  async look(nowMs: number, take: (tsus: readonly Tsu[]) => void | Promise<void>, signal?: AbortSignal): Promise<boolean> {
    const { redis } = this.#options;
    // Either way, so that a clock that was put back delays nothing.
    const isDue = this.#refusedAtMs !== undefined && Math.abs(nowMs - this.#refusedAtMs) >= proveAgainMs;
    if (this.#version !== undefined && !isDue && (await readTsusVersion(redis)) === this.#version) return false;
    const unreadable: string[] = [];
    const { version, tsus } = await readTsus(redis, (id, err) => {
      unreadable.push(id);
      this.#alarm(id, { tsu: id, err }, 'tsu: a record of the register that cannot be read is passed over');
    });
    const usable = (await this.#candidates(tsus, unreadable)).filter((tsu) => tsu.usableUntilMs >= nowMs);
    const candidates = usable.toSorted((a, b) => b.activeFromMs - a.activeFromMs);
    const proved = this.#provedOf(candidates);
    if (version !== this.#version) await take(proved);
    if (signal?.aborted === true) return false;
    const refusal = this.#prove(candidates);
    const found = this.#provedOf(candidates);
    if (found.length > proved.length) {
      this.#version = undefined;
      await take(found);
    }
    if (refusal !== undefined && !found.some((tsu) => mayStampAt(tsu, nowMs))) throw refusal;
    this.#version = version;
    this.#refusedAtMs = refusal === undefined ? undefined : nowMs;
    return true;
  }

  /** @param unreadable ids that the register has records of: what the home folder says of these may be over */
  async #candidates(registered: readonly TsuRecord[], unreadable: readonly string[]): Promise<Tsu[]> {
    const { config, slot } = this.#options;
    const { algorithm: wanted, signatureDigest: digest } = config.timestamp;
    const kept = this.#folder.records((file, err) => this.#alarm(file, { file, err }, 'tsu: a record that cannot be read is passed over'));
    const known = new Set([...registered.map(({ id }) => id), ...unreadable]);
    // What is over here is over, also when a Redis with an older register, or somebody who writes to it, says something else.
    const over = new Set(kept.filter(isOver).map(({ id }) => id));
    const unregistered = kept.filter(({ id }) => !known.has(id));
    const records = [...registered, ...unregistered, ...this.#chainsOnly(new Set([...known, ...kept.map(({ id }) => id)]))];
    const found: Tsu[] = [];
    // Keys of another algorithm are those of before it was changed.
    for (const record of records.filter(({ algorithm, id }) => algorithm === wanted && !over.has(id))) {
      const tsu = this.#readable(record.keyLabel, () => ofRecord(record, slot.label, digest));
      if (tsu !== undefined && (await this.#isAgreed(record))) found.push(tsu);
    }
    return found;
  }

  /** TSUs that have a chain in the home folder and no record anywhere: of a first start, an earlier release, or an outside CA. */
  #chainsOnly(ids: ReadonlySet<string>): TsuRecord[] {
    const { slot } = this.#options;
    const onUnreadable = (file: string, err: unknown): void =>
      this.#alarm(file, { file, err }, 'tsu: a file that cannot be read is passed over');
    return this.#folder.chains(onUnreadable).flatMap(({ file, ...one }) => {
      const id = tsuId(one.chain[0].publicKey.export({ format: 'der', type: 'spki' }));
      // A record of its own decides, also one that cannot be read: that its use is over may be what it says.
      if (ids.has(id) || this.#folder.hasRecord(one.keyLabel)) return [];
      const token = { label: slot.label, serial: '', hasKey: true, scheme: keyScheme(one.algorithm) };
      return this.#readable(file, () => recordOfChain(one, token, new Date())) ?? [];
    });
  }

  /** Under dual control the register is not believed that operators have agreed: their signatures are, or the home folder. */
  async #isAgreed(record: TsuRecord): Promise<boolean> {
    const { id, token, keyLabel } = record;
    if (this.#options.config.dualControl === undefined || this.#agreed.has(id)) return true;
    const agreed = this.#folder.vouchesFor(record) || (await this.#hasCeremony({ action: 'activate', token, keyLabel, id }));
    if (agreed) this.#agreed.add(id);
    else this.#alarm(id, { key: keyLabel, tsu: id }, 'tsu: not used: the register has it, and operators have not agreed to its activation');
    return agreed;
  }

  async #hasCeremony(step: ApprovedStep): Promise<boolean> {
    try {
      return await this.#approvals.agreed(step);
    } catch (error) {
      // One ceremony that cannot be read must not keep other TSUs, or the end of one, from this signer.
      if (!(error instanceof SigilloError) || error.code !== 'INTERNAL') throw error;
      return false;
    }
  }

  #readable<T>(name: string, read: () => T): T | undefined {
    try {
      return read();
    } catch (err) {
      this.#alarm(name, { name, err }, 'tsu: passed over: its certificate cannot be read');
      return undefined;
    }
  }

  /** Once for each thing: a look may be made four times a second. */
  #alarm(name: string, detail: Readonly<Record<string, unknown>>, message: string): void {
    if (this.#warned.has(name)) return;
    this.#warned.add(name);
    this.#options.log.error({ token: this.#options.slot.label, ...detail }, message);
  }

  /** Those whose keys have proved themselves, as this token has them. */
  #provedOf(tsus: readonly Tsu[]): Tsu[] {
    return tsus.flatMap((tsu) => {
      const keyLabel = this.#proved.get(tsu.id);
      return keyLabel === undefined ? [] : [{ ...tsu, keyLabel }];
    });
  }

  /** Has those prove their keys that have not yet. @returns what the token has said first of a key that it refuses. @throws as proveOne */
  #prove(tsus: readonly Tsu[]): SigilloError | undefined {
    let refusal: SigilloError | undefined;
    for (const tsu of tsus.filter(({ id }) => !this.#proved.has(id))) {
      try {
        this.#proveOne(tsu);
      } catch (error) {
        if (!isOfKey(error)) throw error;
        this.#alarm(tsu.id, { key: tsu.keyLabel, err: error }, 'tsu: not used in this slot');
        // Whatever rule of PKCS#11 the module sees broken, it is this key that it refuses.
        const told = error.code === 'INTERNAL' ? `key "${tsu.keyLabel}": ${describeError(error)}` : undefined;
        refusal ??= told === undefined ? error : new SigilloError('HSM_REQUEST', told, { cause: error });
      }
    }
    return refusal;
  }

  /** Has the key of a TSU prove itself, if it is in this token. @throws what says that the token fails, or refuses the key or a session for it */
  #proveOne({ id, keyLabel, scheme, chain, signatureDigest }: Tsu): void {
    const certificate = new X509Certificate(chain[0] as Uint8Array);
    try {
      this.#withSession((session) => {
        const spki = certificate.publicKey.export({ format: 'der', type: 'spki' });
        const key = findKey(session, keyLabel, scheme) ?? findKeyCopy(session, spki, scheme);
        if (key === undefined) return;
        const started = monotonicMs();
        selfTest(key, certificate, signatureDigest);
        this.#proofMs = monotonicMs() - started;
        this.#proved.set(id, key.label);
      });
    } catch (error) {
      // Of another token or host that gave its key the same name; or somebody has changed what they should not have.
      if (!(error instanceof SigilloError) || error.code !== 'HSM_KEY_MISMATCH') throw error;
      this.#alarm(id, { key: keyLabel, err: error }, 'tsu: not used in this slot');
    }
  }

  /**
   * Gives a session to a step that ends every operation it begins. A token that is full has one that keeps the login; when that is lost,
   * it has no room, which is no failure of the token.
   */
  #withSession(step: (session: Session) => void): void {
    const { module, slot } = this.#options;
    let session: Session;
    try {
      session = module.openSession(slot.label, { readWrite: false });
    } catch (noRoom) {
      const held = hasNoRoom(noRoom) ? module.loginSession(slot.label) : undefined;
      if (held === undefined) throw noRoom;
      try {
        step(held);
        return;
      } catch (error) {
        throw classifyPkcs11Error(error) === 'session' ? noRoom : error;
      }
    }
    try {
      step(session);
    } finally {
      session.close();
    }
  }
}
