/** Stamps with real signatures, and the events that a signer tells of them. */
import { createHash } from 'node:crypto';
import type { EventDraft } from '../../observability/journal/events.ts';
import { oid } from '../../pki/der.ts';
import type { LaneAnswer } from '../../queue/lane-requester.ts';
import { makeTemplate, type SoftwareTsu, stampWith, testPolicy } from './software-tsu.ts';
import type { LaneRequest } from './stamping-bench.ts';

export interface SignedStamp {
  readonly answer: Extract<LaneAnswer, { kind: 'granted' }>;
  readonly event: Extract<EventDraft, { kind: 'timestamp.issued' }>;
  readonly serial: string;
}

/** Stamps one request after the other; serial numbers count up from `first`. */
export const createSigner = (tsu: SoftwareTsu, first = 1): ((request: LaneRequest, unixMillis?: number) => SignedStamp) => {
  const template = makeTemplate(tsu);
  const id = createHash('sha256').update(tsu.identity.certificate.raw).digest();
  let count = first;
  return ({ messageImprint, nonce, certReq, client, policy }, unixMillis = 1_795_000_000_000 + count) => {
    const serial = Buffer.alloc(20, 0x41);
    serial.writeUInt32BE(count, 16);
    count += 1;
    const token = stampWith(tsu, template, 'sha256', { messageImprint, nonce, serial, unixMillis });
    const subject = serial.toString('hex');
    return {
      answer: { kind: 'granted', token, tsu: id },
      serial: subject,
      event: {
        kind: 'timestamp.issued',
        unixMicros: unixMillis * 1_000,
        clock: 'unverified',
        node: 'node',
        role: 'client',
        actor: client,
        subject,
        outcome: 'success',
        detail: { tsu: id, policy, messageImprint, certReq, token },
      },
    };
  };
};

/** A request as it reaches the lane. */
export const laneRequest = (messageImprint: Uint8Array, client: string, certReq = false): LaneRequest => ({
  messageImprint,
  client,
  certReq,
  policy: oid(testPolicy),
  nonce: undefined,
});
