/**
 * The packets of an NTP client (RFC 5905, 7.3 and 14; the client's view of SNTP): values in, values out.
 *
 * A request carries nothing of this machine: its transmit timestamp is eight random octets, which the server must return as the
 * origin timestamp. Who cannot see the request cannot answer it (RFC 9109 does the same for the port). A reply is either usable,
 * a kiss-o'-death, or refused with a reason; nothing is thrown, whatever the octets are.
 */

/** Header without extension fields and MAC (RFC 5905, figure 8). */
export const ntpOctets = 48;
/** Octets of the random transmit timestamp. */
export const ntpNonceOctets = 8;

const clientVersion4 = 0x23;
const modeServer = 4;
const versions: readonly number[] = [3, 4];
/** Stratum 16 means unsynchronised, more is reserved (RFC 5905, figure 11). */
const stratumUnsynchronised = 16;
const leapUnsynchronised = 3;
/** From 1900 (NTP) to 1970 (Unix). */
const unixEpochSeconds = 2_208_988_800;
const eraMs = 2 ** 32 * 1_000;

/** What a server says of the last minute of the day: nothing, 61 seconds, or 59 (RFC 5905, figure 9). */
export type LeapIndicator = 'none' | 'insert' | 'delete';
const leapIndicators: readonly LeapIndicator[] = ['none', 'insert', 'delete'];

/** Why a packet is no usable answer. `origin`: it answers no question of ours, and may come from anybody. */
export type NtpRefusal = 'length' | 'origin' | 'mode' | 'version' | 'unsynchronised' | 'timestamps';

export interface NtpReply {
  readonly kind: 'reply';
  readonly leap: LeapIndicator;
  /** 1 to 15. */
  readonly stratum: number;
  /** Round trip and largest error of the server against its primary source, milliseconds. */
  readonly rootDelayMs: number;
  readonly rootDispersionMs: number;
  /** How finely the server reads its clock, milliseconds. */
  readonly precisionMs: number;
  /** When the request came to the server, and when the reply left it; milliseconds since 1970. */
  readonly receiveMs: number;
  readonly transmitMs: number;
}

export type NtpAnswer =
  | NtpReply
  /** Kiss-o'-death: four characters of ASCII that say why (RFC 5905, 7.4). */
  | { readonly kind: 'kiss'; readonly code: string }
  | { readonly kind: 'refused'; readonly reason: NtpRefusal };

const refused = (reason: NtpRefusal): NtpAnswer => ({ kind: 'refused', reason });

/** A request of a client, version 4. @param nonce `ntpNonceOctets` random octets */
export const encodeNtpRequest = (nonce: Uint8Array): Uint8Array => {
  if (nonce.length !== ntpNonceOctets) throw new RangeError('a transmit timestamp has eight octets');
  const octets = new Uint8Array(ntpOctets);
  octets[0] = clientVersion4;
  octets.set(nonce, ntpOctets - ntpNonceOctets);
  return octets;
};

/** NTP short format: seconds in 16.16 bits. */
const shortMs = (view: DataView, at: number): number => (view.getUint32(at) * 1_000) / 65_536;

/** NTP timestamp in the era that lies nearest to `pivotMs`: 32 bits of seconds begin again in 2036. 0 means that there is none. */
const timestampMs = (view: DataView, at: number, pivotMs: number): number | undefined => {
  const seconds = view.getUint32(at);
  const fraction = view.getUint32(at + 4);
  if (seconds === 0 && fraction === 0) return undefined;
  const ms = (seconds - unixEpochSeconds) * 1_000 + (fraction * 1_000) / 2 ** 32;
  return ms + Math.round((pivotMs - ms) / eraMs) * eraMs;
};

/** Four characters of ASCII; what is not printable cannot be a code, and is not repeated into logs. */
const kissCode = (octets: Uint8Array): string =>
  Array.from(octets.subarray(12, 16), (octet) => (octet > 0x20 && octet < 0x7f ? String.fromCharCode(octet) : '.')).join('');

/** True when a packet answers the request with this nonce; anything else on the socket is not worth a look. */
export const answersNonce = (octets: Uint8Array, nonce: Uint8Array): boolean =>
  octets.length >= ntpOctets && nonce.every((octet, index) => octets[24 + index] === octet);

/**
 * Reads the answer to the request with this nonce. Extension fields behind the header are not looked at: none was asked for.
 * @param pivotMs a time not more than 68 years off, milliseconds since 1970: it decides the era
 */
export const decodeNtpReply = (octets: Uint8Array, nonce: Uint8Array, pivotMs: number): NtpAnswer => {
  if (octets.length < ntpOctets) return refused('length');
  if (!answersNonce(octets, nonce)) return refused('origin');
  const view = new DataView(octets.buffer, octets.byteOffset, octets.byteLength);
  const first = view.getUint8(0);
  if ((first & 0x07) !== modeServer) return refused('mode');
  if (!versions.includes((first >> 3) & 0x07)) return refused('version');
  const stratum = view.getUint8(1);
  // Before the leap indicator: a kiss comes with 3 there.
  if (stratum === 0) return { kind: 'kiss', code: kissCode(octets) };
  const leap = first >> 6;
  if (leap === leapUnsynchronised || stratum >= stratumUnsynchronised) return refused('unsynchronised');
  const receiveMs = timestampMs(view, 32, pivotMs);
  const transmitMs = timestampMs(view, 40, pivotMs);
  if (receiveMs === undefined || transmitMs === undefined || transmitMs < receiveMs) return refused('timestamps');
  return {
    kind: 'reply',
    leap: leapIndicators[leap] as LeapIndicator,
    stratum,
    rootDelayMs: shortMs(view, 4),
    rootDispersionMs: shortMs(view, 8),
    precisionMs: 2 ** view.getInt8(3) * 1_000,
    receiveMs,
    transmitMs,
  };
};
