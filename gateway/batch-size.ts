/**
 * How many requests share a stream entry. One worker signs an entry from its first request to its last, so an entry should
 * not take long: the last client waits for all of it while other workers may be idle. Nor may it be too small: each entry
 * costs its own way through gateway, Redis and signer, whatever is in it.
 */
import type { Config, TsuAlgorithm } from '../config/schema.ts';

/** 3 to 8 ms of C_Sign, measured with SoftHSM 2.6.1: 0.04 ms a signature for P-256, 0.6 for P-384, 0.5, 1.1 and 2.0 for RSA-2048, 3072 and 4096. */
const requestsByAlgorithm: Readonly<Record<TsuAlgorithm, number>> = {
  'ec-p256': 64,
  'ec-p384': 8,
  'rsa-2048': 12,
  'rsa-3072': 6,
  'rsa-4096': 4,
  'rsa-pss-2048': 12,
  'rsa-pss-3072': 6,
  'rsa-pss-4096': 4,
};

/**
 * Requests that are worth another entry while an earlier one is without a reply. An entry costs all processes together about
 * 0.5 ms of CPU, whatever is in it: with P-256, where that is a dozen signatures, entries of a few requests cost a tenth more
 * CPU at half load. A slow signature gains more from a second worker than from company.
 */
const togetherByAlgorithm: Readonly<Record<TsuAlgorithm, number>> = {
  'ec-p256': 16,
  'ec-p384': 1,
  'rsa-2048': 2,
  'rsa-3072': 1,
  'rsa-4096': 1,
  'rsa-pss-2048': 2,
  'rsa-pss-3072': 1,
  'rsa-pss-4096': 1,
};

/** Requests that one stream entry holds: at most, and at least while others are without a reply. */
export const batchSizes = ({ batchMax, algorithm }: Config['timestamp']): { readonly batchMax: number; readonly batchMin: number } => {
  const most = batchMax ?? requestsByAlgorithm[algorithm];
  return { batchMax: most, batchMin: Math.min(togetherByAlgorithm[algorithm], most) };
};
