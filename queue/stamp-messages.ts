/**
 * What travels through the timestamp lane to a signer: batches of requests, as bytes.
 *
 * Version 1, all integers big-endian:
 *
 *     request batch   u8 version, u16 count, then for each request:
 *                     u32 id, u32 ttlMs, u8 flags (1 certReq), u8+policy, u8+messageImprint, u8+client, u24+nonce
 *
 * `ttlMs` counts from the time of the stream entry, which is Redis's own clock: hosts may disagree about the time of day.
 * policy, messageImprint and nonce are whole DER values; a nonce of length 0 is absent.
 */
import { ByteReader, putShort } from './byte-fields.ts';

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

/** Requests in a batch, without reading them; 0 for what is too short to say. */
export const countStampRequests = (bytes: Buffer): number => (bytes.length < headerOctets ? 0 : bytes.readUInt16BE(1));

/** A request as the signer sees it: views into the batch, and the time it has left. */
export interface ReceivedStampRequest extends StampRequest {
  readonly policy: Buffer;
  readonly ttlMs: number;
}

/** @throws LANE_ENTRY_MALFORMED */
export const decodeStampRequests = (bytes: Buffer): ReceivedStampRequest[] => {
  const reader = new ByteReader(bytes);
  reader.version(messageVersion);
  const count = reader.unsigned(2);
  const requests: ReceivedStampRequest[] = [];
  for (let i = 0; i < count; i += 1) {
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
