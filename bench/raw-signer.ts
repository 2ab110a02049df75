/** Our end of the raw C_Sign process: finds the service's own key, proves it, and measures on demand. */
import { createHash, createPublicKey, verify as verifySignature, X509Certificate } from 'node:crypto';
import { defaultDigest, keyScheme } from '../pki/algorithms.ts';
import { rawSignatureOctets, signatureValue, signInput, signMechanism } from '../signer/mechanisms.ts';
import { resolveHsm, slotForPurpose } from '../signer/pkcs11-module.ts';
import { Helper } from './child-process.ts';
import type { RawSignAnswer, RawSignRequest, RawSignResult } from './raw-sign.ts';
import type { RunningService } from './service.ts';

export interface RawSigner {
  readonly keyLabel: string;
  measure(durationMs: number): Promise<RawSignResult>;
  stop(): Promise<void>;
}

/** True when a certificate of the PEM chain holds the public key of this signature. */
const madeByChain = (chain: string, digest: string, message: Uint8Array, signature: Uint8Array, pss: boolean): boolean =>
  (chain.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []).some((pem) => {
    const key = createPublicKey(new X509Certificate(pem).publicKey.export({ type: 'spki', format: 'pem' }));
    // RSA_PKCS1_PSS_PADDING is 6, RSA_PKCS1_PADDING 1 (node:crypto constants).
    return verifySignature(digest, message, { key, ...(pss ? { padding: 6 } : {}) }, signature);
  });

/** @throws when the key in the token is not the one of a published certificate */
export const startRawSigner = async (service: RunningService, chain: string, threads: number): Promise<RawSigner> => {
  const { config } = service;
  const hsm = resolveHsm(config);
  const slot = slotForPurpose(hsm, 'timestamp');
  const scheme = keyScheme(config.timestamp.algorithm);
  const digest = config.timestamp.signatureDigest ?? defaultDigest(scheme);
  const message = Buffer.from('sigillo bench');
  const helper = new Helper<RawSignRequest, RawSignAnswer>('./raw-sign.ts', { environment: slot.environment });
  const answer = await helper.ask({
    setup: {
      module: slot.modulePath,
      tokenLabel: slot.label,
      pinFile: slot.pinFile,
      keyLabelPrefix: `tsu-${config.timestamp.algorithm}-`,
      mechanism: signMechanism(scheme, digest),
      data: signInput(scheme, digest, createHash(digest).update(message).digest()),
      signatureOctets: rawSignatureOctets(scheme),
      threads,
    },
  });
  if (!('ready' in answer)) throw new Error('the raw C_Sign process answered out of turn');
  const { keyLabel, signature } = answer.ready;
  if (!madeByChain(chain, digest, message, signatureValue(scheme, signature), scheme.kind === 'rsa-pss')) {
    throw new Error(`the key ${keyLabel} is not the one of a published certificate`);
  }
  return {
    keyLabel,
    stop: helper.stop,
    measure: async (durationMs) => {
      const measured = await helper.ask({ durationMs });
      if (!('result' in measured)) throw new Error('the raw C_Sign process answered out of turn');
      return measured.result;
    },
  };
};
