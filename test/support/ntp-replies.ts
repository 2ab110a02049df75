/** Packets of NTP servers, field by field as a test wants them (RFC 5905, figure 8). */

export interface ReplyFields {
  /** 0 none, 1 insert, 2 delete, 3 unsynchronised. */
  readonly leap?: number;
  readonly version?: number;
  readonly mode?: number;
  readonly stratum?: number;
  /** Of 2 to the power of it, seconds. */
  readonly precision?: number;
  readonly rootDelayMs?: number;
  readonly rootDispersionMs?: number;
  /** Four octets: a kiss code, an address. */
  readonly referenceId?: string;
  /** Transmit timestamp of the request. */
  readonly origin: Uint8Array;
  /** Milliseconds since 1970; undefined: zero on the wire. */
  readonly receiveMs: number | undefined;
  readonly transmitMs: number | undefined;
}

const writeTimestamp = (packet: Buffer, at: number, unixMs: number | undefined): void => {
  if (unixMs === undefined) return;
  const seconds = Math.floor(unixMs / 1_000);
  packet.writeUInt32BE((seconds + 2_208_988_800) % 2 ** 32, at);
  packet.writeUInt32BE(Math.floor(((unixMs - seconds * 1_000) / 1_000) * 2 ** 32), at + 4);
};

export const encodeNtpReply = (fields: ReplyFields): Buffer => {
  const {
    leap = 0,
    version = 4,
    mode = 4,
    stratum = 2,
    precision = -20,
    rootDelayMs = 0,
    rootDispersionMs = 0,
    referenceId = 'TEST',
  } = fields;
  const packet = Buffer.alloc(48);
  packet[0] = (leap << 6) | (version << 3) | mode;
  packet[1] = stratum;
  packet.writeInt8(precision, 3);
  packet.writeUInt32BE(Math.round(rootDelayMs * 65.536), 4);
  packet.writeUInt32BE(Math.round(rootDispersionMs * 65.536), 8);
  packet.write(referenceId, 12, 4, 'latin1');
  packet.set(fields.origin, 24);
  writeTimestamp(packet, 32, fields.receiveMs);
  writeTimestamp(packet, 40, fields.transmitMs);
  return packet;
};

/** The nonce of a request, as the server reads it. */
export const originOf = (request: Uint8Array): Uint8Array => request.subarray(40, 48);
