/**
 * The requests the benchmark sends: built once, then changed in place, so that every request asks for another imprint (nothing
 * could be cached) and the generator spends next to nothing on it.
 */
import { randomBytes } from 'node:crypto';
import { digestAlgorithms } from '../pki/algorithms.ts';
import { derNull, encode, integer, octetString, oid, sequence, tag } from '../pki/der.ts';

/** One request with the places in its body that vary. Plain data: it travels to the process that generates the load. */
export interface RequestTemplate {
  readonly path: string;
  readonly contentType: string;
  readonly body: Uint8Array;
  /** Stamps one request asks for. */
  readonly stamps: number;
  /** Where each imprint starts, and where the nonces end in; eight characters of base64 or six octets are rewritten. */
  readonly variations: readonly number[];
  readonly encoding: 'octets' | 'base64';
}

const variedOctets = 6;
const variedCharacters = (variedOctets * 4) / 3;

/** A TimeStampReq (RFC 3161, 2.4.1) with version, SHA-256 imprint, nonce of eight octets and certReq. */
export const timestampQuery = (imprint: Uint8Array, options: { nonce: Uint8Array; certReq: boolean }): Uint8Array =>
  sequence(
    integer(1),
    sequence(sequence(oid(digestAlgorithms.sha256.oid), derNull), octetString(imprint)),
    encode(tag.integer, options.nonce),
    // DEFAULT FALSE: absent in DER when false.
    ...(options.certReq ? [encode(tag.boolean, Uint8Array.of(0xff))] : []),
  );

/** Positive, and minimal whatever the lower octets are. */
export const newNonce = (): Uint8Array => {
  const nonce = randomBytes(8);
  nonce[0] = 0x40;
  return nonce;
};

/** A POST /tsa, as `openssl ts -query` would make it. */
export const queryTemplate = (options: { certReq: boolean }): RequestTemplate => {
  const imprint = randomBytes(digestAlgorithms.sha256.octets);
  const nonce = newNonce();
  const body = Buffer.from(timestampQuery(imprint, { nonce, certReq: options.certReq }));
  return {
    path: '/tsa',
    contentType: 'application/timestamp-query',
    body,
    stamps: 1,
    variations: [body.indexOf(imprint), body.indexOf(nonce) + nonce.length - variedOctets],
    encoding: 'octets',
  };
};

/** A POST /v1/timestamps with this many SHA-256 imprints. */
export const bulkTemplate = (stamps: number): RequestTemplate => {
  const hashes = Array.from({ length: stamps }, () => randomBytes(digestAlgorithms.sha256.octets).toString('base64'));
  const body = Buffer.from(JSON.stringify({ hashes: hashes.map((hash) => ({ algorithm: 'sha256', hash })) }));
  return {
    path: '/v1/timestamps',
    contentType: 'application/json',
    body,
    stamps,
    variations: hashes.map((hash) => body.indexOf(hash)),
    encoding: 'base64',
  };
};

const base64Alphabet = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/', 'latin1');

/** Writes a number of up to 48 bits as eight characters of base64. */
const writeBase64 = (target: Buffer, offset: number, value: number): void => {
  let high = Math.floor(value / 0x100_0000);
  let low = value % 0x100_0000;
  for (let i = variedCharacters / 2 - 1; i >= 0; i -= 1) {
    target[offset + i] = base64Alphabet[high & 63] as number;
    target[offset + i + variedCharacters / 2] = base64Alphabet[low & 63] as number;
    high >>= 6;
    low >>= 6;
  }
};

/**
 * Makes the writer that gives each request imprints of its own.
 *
 * @returns a function that rewrites the body which starts at `bodyStart` in `target`
 */
export const createVariation = ({ variations, encoding }: RequestTemplate): ((target: Buffer, bodyStart: number) => void) => {
  let counter = randomBytes(variedOctets).readUIntBE(0, variedOctets);
  const next = (): number => {
    counter = (counter + 1) % 2 ** (8 * variedOctets);
    return counter;
  };
  if (encoding === 'base64') {
    return function varyBase64(target, bodyStart) {
      for (const offset of variations) writeBase64(target, bodyStart + offset, next());
    };
  }
  return function varyOctets(target, bodyStart) {
    for (const offset of variations) target.writeUIntBE(next(), bodyStart + offset, variedOctets);
  };
};

/** PKIStatusInfo { granted } as it must stand: without a status string. */
const grantedStatus = '\x30\x03\x02\x01\x00';
/** Longest header of the outer SEQUENCE of a TimeStampResp. */
const outerHeaderOctetsMax = 5;
const grantedMember = '"status":"granted"';

/**
 * Stamps that an answer grants, read from its text as an HTTP client without a notion of bytes delivers it: the octets looked
 * for are ASCII, so no decoding of the rest can hide them.
 */
export const countGranted = (text: string, { encoding }: Pick<RequestTemplate, 'encoding'>): number => {
  if (encoding === 'octets') {
    const at = text.slice(0, outerHeaderOctetsMax + grantedStatus.length).indexOf(grantedStatus);
    return at > 0 ? 1 : 0;
  }
  let count = 0;
  for (let at = text.indexOf(grantedMember); at !== -1; at = text.indexOf(grantedMember, at + grantedMember.length)) count += 1;
  return count;
};
