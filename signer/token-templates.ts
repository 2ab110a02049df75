/** The templates of a TSU: one for each policy and each accuracy that its clock may have to state. */
import { oid } from '../pki/der.ts';
import type { SignerCertificate } from '../pki/signer-certificate.ts';
import { TokenTemplate } from '../pki/token-template.ts';
import { accuracySteps, stepFor } from './clock-accuracy.ts';
import type { StampWorkerData, Tsu } from './stamp-task.ts';

export class TokenTemplates {
  readonly #steps: readonly number[];
  readonly #make: (policy: string, accuracyMicros: number) => TokenTemplate;
  /** By the policy's octets as latin1 text, then by step. The coarser ones are made when they are first needed. */
  readonly #byPolicy: ReadonlyMap<string, (TokenTemplate | undefined)[]>;

  /** Encodes a template for each policy, with the configured accuracy. */
  constructor(
    { timestamp, time }: Pick<StampWorkerData, 'timestamp' | 'time'>,
    { scheme, signatureDigest }: Tsu,
    certificate: SignerCertificate,
  ) {
    const { policies, accuracyMicros, tsaName, qualified } = timestamp;
    this.#steps = accuracySteps(accuracyMicros, time.accuracyMicrosMax);
    this.#make = (policy, micros) =>
      new TokenTemplate({
        policy: Buffer.from(policy, 'latin1'),
        scheme,
        signatureDigest,
        certificate,
        accuracyMicros: micros,
        tsaName,
        qualified,
      });
    const keys = policies.map((dotted) => Buffer.from(oid(dotted)).toString('latin1'));
    this.#byPolicy = new Map(keys.map((policy) => [policy, [this.#make(policy, accuracyMicros)]]));
  }

  /**
   * The template that states no better accuracy than what was proved.
   * @param policy octets of the OBJECT IDENTIFIER as latin1 text
   * @param errorMs how far the time of the stamp can be from UTC, milliseconds
   * @returns undefined when the policy is not one of this TSU
   */
  pick(policy: string, errorMs: number): TokenTemplate | undefined {
    const templates = this.#byPolicy.get(policy);
    if (templates === undefined) return undefined;
    const step = stepFor(this.#steps, errorMs);
    templates[step] ??= this.#make(policy, this.#steps[step] as number);
    return templates[step];
  }
}
