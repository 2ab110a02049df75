/** Timestamps for the journal itself, from our own TSA by the same lane as everybody's. */
import { randomBytes } from 'node:crypto';
import { SigilloError } from '../../config/errors.ts';
import type { Config } from '../../config/schema.ts';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { derNull, octetString, oid, sequence } from '../../pki/der.ts';
import { type LaneAnswer, LaneRequester } from '../../queue/lane-requester.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { journalClient } from './writer-options.ts';

export interface SelfStamping {
  /** A TimeStampToken over a SHA-256, without certificates. @throws DEADLINE_EXCEEDED, REDIS_UNAVAILABLE, OVERLOADED, HSM_DEVICE */
  stamp(digest: Uint8Array): Promise<Uint8Array>;
  close(): Promise<void>;
}

const tokenOf = (answer: LaneAnswer): Uint8Array => {
  switch (answer.kind) {
    case 'granted':
      return answer.token;
    case 'refused':
      throw new SigilloError('HSM_DEVICE', `the TSA answered ${answer.failInfo}`);
    case 'expired':
      throw new SigilloError('DEADLINE_EXCEEDED', 'No signer stamped the checkpoint.');
    case 'unavailable':
      throw new SigilloError('REDIS_UNAVAILABLE', 'The checkpoint could not be sent to a signer.');
  }
};

/** @param connections of their own: `blocking` waits for replies */
export const createSelfStamping = (
  timestamp: Config['timestamp'],
  connections: { readonly command: RedisClient; readonly blocking: RedisClient },
): SelfStamping => {
  const lane = new LaneRequester({
    ...connections,
    lane: 'timestamp',
    gatewayId: randomBytes(8).toString('hex'),
    inFlightMax: 16,
    entriesOutstandingMax: 4,
    fullEntriesBesides: 0,
    batchMin: 1,
    batchMax: 16,
    deadlineMs: timestamp.deadlineMs,
    onBatch: () => undefined,
    onReadError: () => undefined, // the stamp ends at its deadline
  });
  const policy = oid(timestamp.policies[0] as string);
  return {
    stamp: (digest) =>
      new Promise((resolve, reject) => {
        const messageImprint = sequence(sequence(oid(digestAlgorithms.sha256.oid), derNull), octetString(digest));
        const request = { policy, messageImprint, nonce: undefined, certReq: false, client: journalClient };
        const taken = lane.submit(request, (answer) => {
          try {
            resolve(tokenOf(answer));
          } catch (error) {
            reject(error as Error);
          }
        });
        if (!taken) reject(new SigilloError('OVERLOADED', 'The journal has too many stamps under way.'));
      }),
    close: () => lane.close(),
  };
};
