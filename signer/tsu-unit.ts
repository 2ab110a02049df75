/**
 * One TSU in one thread: a session of its own with the key, and the templates of its tokens.
 *
 * A session for each TSU, because a signature that was begun ahead with one key (KeySession.prepare) cannot be ended with another; more
 * than one is open only around a change of keys.
 */
import { createHash, randomBytes, verify, X509Certificate } from 'node:crypto';
import { SigilloError } from '../config/errors.ts';
import { digestAlgorithms } from '../pki/algorithms.ts';
import { readSignerCertificate } from '../pki/signer-certificate.ts';
import type { TokenTemplate } from '../pki/token-template.ts';
import { privateKeyUsagePeriod } from '../pki/tsu-usage.ts';
import { type KeySession, openKeySession } from './key-session.ts';
import type { SessionTurns } from './session-pace.ts';
import type { StampWorkerData, Tsu } from './stamp-task.ts';
import { TokenTemplates } from './token-templates.ts';

/** A challenge for the key of a TSU: what to sign, and how that is verified against the certificate. */
const challengeFor = ({ scheme, signatureDigest, chain, keyLabel }: Tsu) => {
  const challenge = randomBytes(32);
  const { name, octets } = digestAlgorithms[signatureDigest];
  return {
    hash: createHash(name).update(challenge).digest(),
    /** @throws HSM_SELFTEST_FAILED */
    verify(signature: Uint8Array): void {
      const key = new X509Certificate(chain[0] as Uint8Array).publicKey;
      const padding = scheme.kind === 'rsa-pss' ? { padding: 6, saltLength: octets } : {};
      if (!verify(name, challenge, { key, ...padding }, signature)) throw new SigilloError('HSM_SELFTEST_FAILED', `key ${keyLabel}`);
    },
  };
};

/** Something that takes its time, done in either of two ways. */
export interface Step {
  /** Holds the thread up. */
  now(): void;
  /** @returns undefined when there was nothing to wait for */
  later(): Promise<void> | undefined;
}

export class TsuUnit {
  readonly tsu: Tsu;
  /** SHA-256 of the certificate. */
  readonly id: Buffer;
  /** The key signs a challenge, and the certificate verifies it: no self-test, no service. Throws HSM_SELFTEST_FAILED, PKCS#11 errors. */
  readonly proof: Step = { now: () => this.#prove(), later: () => this.#proveLater() };
  readonly #templates: TokenTemplates;
  readonly #session: KeySession;
  readonly #fromMs: number;
  readonly #untilMs: number;

  /** Opens the session, whose turn it is. The unit is for use when its key has proved itself. @throws HSM_KEY_MISSING, PKCS#11 errors */
  constructor(data: StampWorkerData, tsu: Tsu, turns: SessionTurns) {
    this.tsu = tsu;
    this.id = Buffer.from(tsu.id, 'hex');
    const { keyLabel, scheme, signatureDigest } = tsu;
    const { modulePath, slot } = data;
    const certificate = readSignerCertificate(tsu.chain[0] as Uint8Array);
    this.#templates = new TokenTemplates(data, tsu, certificate);
    // Here, at the signature itself: whatever a schedule or the register did, the key is not used beyond its period.
    const period = privateKeyUsagePeriod(certificate.der);
    this.#fromMs = Math.max(tsu.activeFromMs, period?.notBefore?.getTime() ?? Number.NEGATIVE_INFINITY);
    this.#untilMs = Math.min(tsu.usableUntilMs, period?.notAfter?.getTime() ?? Number.POSITIVE_INFINITY);
    // Last: nothing after it can fail and leave it open.
    this.#session = openKeySession({ modulePath, slot, keyLabel, purpose: 'timestamp', scheme, digest: signatureDigest, turns });
  }

  #prove(): void {
    const challenge = challengeFor(this.tsu);
    challenge.verify(this.#session.sign(challenge.hash));
  }

  async #proveLater(): Promise<void> {
    const challenge = challengeFor(this.tsu);
    challenge.verify(await this.#session.signLater(challenge.hash));
  }

  /** Whether the key may sign a token with this genTime. */
  mayStampAt(unixMillis: number): boolean {
    return unixMillis >= this.#fromMs && unixMillis <= this.#untilMs;
  }

  /**
   * The template of its tokens for a policy.
   * @param policy OBJECT IDENTIFIER, DER
   * @param errorMs how far the time of the stamp can be from UTC, milliseconds
   * @throws CONFIG_INVALID when the policy is none of this signer's
   */
  templateFor(policy: Buffer, errorMs: number): TokenTemplate {
    const template = this.#templates.pick(policy.toString('latin1'), errorMs);
    if (template === undefined) throw new SigilloError('CONFIG_INVALID', 'gateway and signer are configured with different policies');
    return template;
  }

  /** See KeySession. @returns the signature as CMS carries it, valid until the next call. @throws HSM_KEY_PURPOSE, PKCS#11 errors */
  sign(hash: Buffer, again: () => void): Uint8Array {
    if (this.#session.purpose !== 'timestamp') throw new SigilloError('HSM_KEY_PURPOSE', this.tsu.keyLabel);
    return this.#session.sign(hash, again);
  }

  /** See KeySession. @throws HSM_KEY_PURPOSE, PKCS#11 errors */
  signLater(hash: Buffer, again: () => void): Promise<Uint8Array> {
    if (this.#session.purpose !== 'timestamp') throw new SigilloError('HSM_KEY_PURPOSE', this.tsu.keyLabel);
    return this.#session.signLater(hash, again);
  }

  /** See KeySession. */
  prepare(): void {
    this.#session.prepare();
  }

  /** Asks the token something, so that it does not close the session for want of use. @throws PKCS#11 errors */
  keepAlive(): void {
    this.#session.keepAlive();
  }

  /** See KeySession. @throws PKCS#11 errors */
  keepAliveLater(): Promise<void> {
    return this.#session.keepAliveLater();
  }

  close(): void {
    this.#session.close();
  }
}
