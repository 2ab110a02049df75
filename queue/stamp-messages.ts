/**
 * What travels through the timestamp lane, as bytes: batches of requests to a signer and batches of replies to a gateway.
 *
 * Version 1, all integers big-endian:
 *
 *     request batch   u8 version, u16 count, then for each request:
 *                     u32 id, u32 ttlMs, u8 flags (1 certReq), u8+policy, u8+messageImprint, u8+client, u24+nonce
 *     reply batch     u8 version, u16 count, then for each reply:
 *                     u32 id, u8 outcome, u24+TimeStampResp
 *
 * `ttlMs` counts from the time of the stream entry, which is Redis's own clock: hosts may disagree about the time of day.
 * policy, messageImprint and nonce are whole DER values; a nonce of length 0 is absent.
 */
import { SigilloError } from '../config/errors.ts';

export const messageVersion = 1;

export interface StampRequest {
  /** Number of the request in its gateway. */
  readonly id: number;
  readonly certReq: boolean;
  readonly policy: Uint8Array;
  readonly messageImprint: Uint8Array;
  /** UTF-8, at most 64 octets: a name of the client register, or `anonymous`. */
  readonly client: string;
  readonly nonce: Uint8Array | undefined;
}

/** How a signer answered; the closed set of the `outcome` label of the metrics. */
export const stampOutcomes = ['granted', 'timeNotAvailable', 'systemFailure', 'expired'] as const;
export type StampOutcome = (typeof stampOutcomes)[number];

const certReqFlag = 1;
const headerOctets = 3;

const requestOctets = (request: StampRequest): number =>
  4 + 4 + 1 + 1 + request.policy.length + 1 + request.messageImprint.length + 1 + request.client.length + 3 + (request.nonce?.length ?? 0);

/** Encodes requests with the time each has left; `client` must be ASCII, as the register demands. */
export const encodeStampRequests = (requests: readonly StampRequest[], ttlMs: (index: number) => number): Buffer => {
  let length = headerOctets;
  for (const request of requests) length += requestOctets(request);
  const out = Buffer.allocUnsafe(length);
  out[0] = messageVersion;
  let at = out.writeUInt16BE(requests.length, 1);
  for (let i = 0; i < requests.length; i += 1) {
    const request = requests[i] as StampRequest;
    at = out.writeUInt32BE(request.id, at);
    at = out.writeUInt32BE(Math.max(0, Math.floor(ttlMs(i))), at);
    out[at++] = request.certReq ? certReqFlag : 0;
    at = putShort(out, at, request.policy);
    at = putShort(out, at, request.messageImprint);
    out[at] = request.client.length;
    at += 1 + out.write(request.client, at + 1, 'latin1');
    const nonce = request.nonce;
    at = out.writeUIntBE(nonce?.length ?? 0, at, 3);
    if (nonce !== undefined) {
      out.set(nonce, at);
      at += nonce.length;
    }
  }
  return out;
};

const putShort = (out: Buffer, at: number, bytes: Uint8Array): number => {
  out[at] = bytes.length;
  out.set(bytes, at + 1);
  return at + 1 + bytes.length;
};

const malformed = (detail: string): SigilloError => new SigilloError('LANE_ENTRY_MALFORMED', detail);

/** Bounds-checked reading: Redis is another process, and may hold what another release wrote. */
class MessageReader {
  readonly #bytes: Buffer;
  #at = 0;
  readonly count: number;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    if (bytes.length < headerOctets || bytes[0] !== messageVersion) throw malformed('unknown version');
    this.count = bytes.readUInt16BE(1);
    this.#at = headerOctets;
  }

  unsigned(octets: 1 | 3 | 4): number {
    const at = this.#take(octets);
    return this.#bytes.readUIntBE(at, octets);
  }

  view(lengthOctets: 1 | 3): Buffer {
    const length = this.unsigned(lengthOctets);
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  finish(): void {
    if (this.#at !== this.#bytes.length) throw malformed('octets left over');
  }

  #take(octets: number): number {
    const at = this.#at;
    if (at + octets > this.#bytes.length) throw malformed('cut off');
    this.#at = at + octets;
    return at;
  }
}

/** A request as the signer sees it: views into the batch, and the time it has left. */
export interface ReceivedStampRequest extends StampRequest {
  readonly policy: Buffer;
  readonly ttlMs: number;
}

/** @throws LANE_ENTRY_MALFORMED */
export const decodeStampRequests = (bytes: Buffer): ReceivedStampRequest[] => {
  const reader = new MessageReader(bytes);
  const requests: ReceivedStampRequest[] = [];
  for (let i = 0; i < reader.count; i += 1) {
    const id = reader.unsigned(4);
    const ttlMs = reader.unsigned(4);
    const certReq = (reader.unsigned(1) & certReqFlag) !== 0;
    const policy = reader.view(1);
    const messageImprint = reader.view(1);
    const client = reader.view(1).toString('latin1');
    const nonce = reader.view(3);
    requests.push({ id, ttlMs, certReq, policy, messageImprint, client, nonce: nonce.length === 0 ? undefined : nonce });
  }
  reader.finish();
  return requests;
};

/** Octets in front of the replies of a batch. */
export const replyHeaderOctets = headerOctets;
/** Octets in front of the TimeStampResp of one reply. */
export const replyPrefixOctets = 8;

/** Writes the header of a reply batch. @returns offset of the first reply */
export const writeReplyHeader = (out: Buffer, count: number): number => {
  out[0] = messageVersion;
  return out.writeUInt16BE(count, 1);
};

/** Writes what stands in front of a TimeStampResp of `octets`. @returns offset where it goes */
export const writeReplyPrefix = (out: Buffer, offset: number, id: number, outcome: StampOutcome, octets: number): number => {
  const at = out.writeUInt32BE(id, offset);
  out[at] = stampOutcomes.indexOf(outcome);
  return out.writeUIntBE(octets, at + 1, 3);
};

export interface StampReply {
  readonly id: number;
  readonly outcome: StampOutcome;
  /** TimeStampResp; empty for `expired`. */
  readonly response: Buffer;
}

/** @throws LANE_ENTRY_MALFORMED */
export const decodeStampReplies = (bytes: Buffer): StampReply[] => {
  const reader = new MessageReader(bytes);
  const replies: StampReply[] = [];
  for (let i = 0; i < reader.count; i += 1) {
    const id = reader.unsigned(4);
    const outcome = stampOutcomes[reader.unsigned(1)];
    if (outcome === undefined) throw malformed('unknown outcome');
    replies.push({ id, outcome, response: reader.view(3) });
  }
  reader.finish();
  return replies;
};
