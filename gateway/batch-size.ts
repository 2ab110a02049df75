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

/** Requests that one stream entry holds at most. */
export const batchSize = ({ batchMax, algorithm }: Config['timestamp']): number => batchMax ?? requestsByAlgorithm[algorithm];
