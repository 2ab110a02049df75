/**
 * Blocks of journal events as they leave a signer: one block for each answered batch, written in the transaction of the
 * answer. Version 1, all integers big-endian:
 *
 *     block   u8 version, u16 count, u8+node, then each event
 *     event   u8 kind (1 timestamp issued), u64 time (Unix microseconds), u8 flags (0x01 clock trusted, 0x80 certReq),
 *             u8+client, u8+tsu, u8+serial, u8+policy, u8+messageImprint, u32+token
 *
 * `tsu` is the SHA-256 of the TSU certificate; `policy` and `messageImprint` are whole DER values; `token` is the
 * TimeStampToken without its certificates. With certReq the client got it with the chain of that TSU, which is kept once
 * for all its tokens: `attachCertificates` (pki/token-certificates.ts) makes the issued token again, bit for bit.
 */
import { SigilloError } from '../../config/errors.ts';

export const blockVersion = 1;
const timestampIssued = 1;
const trustedFlag = 0x01;
const certReqFlag = 0x80;

export interface TimestampIssued {
  /** Unix microseconds of genTime. */
  readonly timeMicros: number;
  readonly clock: 'unverified' | 'trusted';
  readonly certReq: boolean;
  readonly client: string;
  /** SHA-256 of the TSU certificate, 32 octets. */
  readonly tsu: Uint8Array;
  readonly serial: Uint8Array;
  readonly policy: Uint8Array;
  readonly messageImprint: Uint8Array;
}

/** Octets of the event around its token. */
export const timestampIssuedOctets = (event: TimestampIssued): number =>
  1 + 8 + 1 + 5 + event.client.length + event.tsu.length + event.serial.length + event.policy.length + event.messageImprint.length + 4;

const putShort = (out: Buffer, at: number, bytes: Uint8Array): number => {
  out[at] = bytes.length;
  out.set(bytes, at + 1);
  return at + 1 + bytes.length;
};

/** Octets of the header of a block. */
export const blockHeaderOctets = (node: string): number => 4 + node.length;

/** Writes the header of a block. @param node ASCII name of the signer @returns offset of the first event */
export const writeBlockHeader = (out: Buffer, count: number, node: string): number => {
  out[0] = blockVersion;
  out.writeUInt16BE(count, 1);
  out[3] = node.length;
  return 4 + out.write(node, 4, 'latin1');
};

/** Writes an event up to its token. @returns offset where the token of `tokenOctets` goes */
export const writeTimestampIssued = (out: Buffer, offset: number, event: TimestampIssued, tokenOctets: number): number => {
  out[offset] = timestampIssued;
  let at = out.writeUInt32BE(Math.floor(event.timeMicros / 2 ** 32), offset + 1);
  at = out.writeUInt32BE(event.timeMicros % 2 ** 32, at);
  out[at++] = (event.certReq ? certReqFlag : 0) | (event.clock === 'trusted' ? trustedFlag : 0);
  out[at] = event.client.length;
  at += 1 + out.write(event.client, at + 1, 'latin1');
  at = putShort(out, at, event.tsu);
  at = putShort(out, at, event.serial);
  at = putShort(out, at, event.policy);
  at = putShort(out, at, event.messageImprint);
  return out.writeUInt32BE(tokenOctets, at);
};

/** A decoded event, with its token. */
export interface DecodedTimestampIssued extends TimestampIssued {
  readonly token: Uint8Array;
}

const malformed = (detail: string): SigilloError => new SigilloError('LANE_ENTRY_MALFORMED', `journal block: ${detail}`);

/** Reads a block. @throws LANE_ENTRY_MALFORMED */
export const decodeBlock = (bytes: Buffer): { readonly node: string; readonly events: DecodedTimestampIssued[] } => {
  let at = 0;
  const take = (octets: number): Buffer => {
    if (at + octets > bytes.length) throw malformed('cut off');
    at += octets;
    return bytes.subarray(at - octets, at);
  };
  const short = (): Buffer => take(take(1)[0] as number);
  if (take(1)[0] !== blockVersion) throw malformed('unknown version');
  const count = take(2).readUInt16BE();
  const node = short().toString('latin1');
  const events: DecodedTimestampIssued[] = [];
  for (let i = 0; i < count; i += 1) {
    if (take(1)[0] !== timestampIssued) throw malformed('unknown kind');
    const time = take(8);
    const flags = take(1)[0] as number;
    events.push({
      timeMicros: time.readUInt32BE(0) * 2 ** 32 + time.readUInt32BE(4),
      clock: (flags & trustedFlag) === 0 ? 'unverified' : 'trusted',
      certReq: (flags & certReqFlag) !== 0,
      client: short().toString('latin1'),
      tsu: short(),
      serial: short(),
      policy: short(),
      messageImprint: short(),
      token: take(take(4).readUInt32BE()),
    });
  }
  if (at !== bytes.length) throw malformed('octets left over');
  return { node, events };
};
