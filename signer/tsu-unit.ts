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

/** Signs a challenge and verifies it against the certificate: no self-test, no service. @throws HSM_SELFTEST_FAILED */
const proveKey = (session: KeySession, { scheme, signatureDigest, chain, keyLabel }: Tsu): void => {
  const challenge = randomBytes(32);
  const { name, octets } = digestAlgorithms[signatureDigest];
  const signature = session.sign(createHash(name).update(challenge).digest());
  const key = new X509Certificate(chain[0] as Uint8Array).publicKey;
  const padding = scheme.kind === 'rsa-pss' ? { padding: 6, saltLength: octets } : {};
  if (!verify(name, challenge, { key, ...padding }, signature)) throw new SigilloError('HSM_SELFTEST_FAILED', `key ${keyLabel}`);
};

export class TsuUnit {
  readonly tsu: Tsu;
  /** SHA-256 of the certificate. */
  readonly id: Buffer;
  readonly #templates: TokenTemplates;
  readonly #session: KeySession;
  readonly #fromMs: number;
  readonly #untilMs: number;

  /** Opens the session, whose turn it is, and lets the key prove itself. @throws HSM_KEY_MISSING, HSM_SELFTEST_FAILED, PKCS#11 errors */
  constructor(data: StampWorkerData, tsu: Tsu, turns: SessionTurns) {
    this.tsu = tsu;
    this.id = Buffer.from(tsu.id, 'hex');
    const { keyLabel, scheme, signatureDigest } = tsu;
    const { modulePath, slot } = data;
    this.#session = openKeySession({ modulePath, slot, keyLabel, purpose: 'timestamp', scheme, digest: signatureDigest, turns });
    try {
      proveKey(this.#session, tsu);
    } catch (error) {
      this.#session.close();
      throw error;
    }
    const certificate = readSignerCertificate(tsu.chain[0] as Uint8Array);
    this.#templates = new TokenTemplates(data, tsu, certificate);
    // Here, at the signature itself: whatever a schedule or the register did, the key is not used beyond its period.
    const period = privateKeyUsagePeriod(certificate.der);
    this.#fromMs = Math.max(tsu.activeFromMs, period?.notBefore?.getTime() ?? Number.NEGATIVE_INFINITY);
    this.#untilMs = Math.min(tsu.usableUntilMs, period?.notAfter?.getTime() ?? Number.POSITIVE_INFINITY);
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

  /** @returns the signature as CMS carries it, valid until the next call. @throws HSM_KEY_PURPOSE, PKCS#11 errors */
  sign(hash: Buffer): Uint8Array {
    if (this.#session.purpose !== 'timestamp') throw new SigilloError('HSM_KEY_PURPOSE', this.tsu.keyLabel);
    return this.#session.sign(hash);
  }

  /** See KeySession. @throws HSM_KEY_PURPOSE, PKCS#11 errors */
  signLater(hash: Buffer): Promise<Uint8Array> {
    if (this.#session.purpose !== 'timestamp') throw new SigilloError('HSM_KEY_PURPOSE', this.tsu.keyLabel);
    return this.#session.signLater(hash);
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
