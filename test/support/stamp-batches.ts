/** Batches of stamp requests as gateways put them into the lane. */
import { createHash } from 'node:crypto';
import { oid } from '../../pki/der.ts';
import { encodeStampRequests } from '../../queue/stamp-messages.ts';
import { testPolicy } from './software-tsu.ts';
import { messageImprint } from './tsp-requests.ts';

const imprint = messageImprint('2.16.840.1.101.3.4.2.1', createHash('sha256').update('document').digest());

/** So many requests of the same imprint, in turn of two clients. */
export const batchOf = (count: number, ttlMs = 60_000): Buffer =>
  encodeStampRequests(
    Array.from({ length: count }, (_, id) => ({
      id,
      certReq: false,
      policy: oid(testPolicy),
      messageImprint: imprint,
      client: id % 2 === 0 ? 'anonymous' : 'bank.one',
      nonce: undefined,
    })),
    () => ttlMs,
  );
