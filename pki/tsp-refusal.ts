/** TimeStampResp without a token (RFC 3161, section 2.4.2): encoded once for each failInfo, for there are only seven. */
import { type Der, encode, integer, sequence, tag, utf8String } from './der.ts';
import type { FailInfo } from './tsp-request.ts';

const rejection = 2;

const catalogue: Readonly<Record<FailInfo, { readonly bit: number; readonly text: string }>> = {
  badAlg: { bit: 0, text: 'the hash algorithm is not accepted; use SHA-256, SHA-384, SHA-512 or SHA3 of these sizes' },
  badRequest: { bit: 2, text: 'the request is not a version 1 TimeStampReq' },
  badDataFormat: { bit: 5, text: 'the request is not a DER-encoded TimeStampReq, or its hash has a wrong length' },
  timeNotAvailable: { bit: 14, text: 'the time source is not trusted at the moment; try again later' },
  unacceptedPolicy: { bit: 15, text: 'the requested policy is not served here' },
  unacceptedExtension: { bit: 16, text: 'no request extension is served here' },
  systemFailure: { bit: 25, text: 'the service cannot stamp at the moment; try again later' },
};

/** Named-bit BIT STRING with its one bit set and trailing zero bits removed (X.690, 11.2.2). */
const namedBit = (bit: number): Der => {
  const octets = new Uint8Array(Math.floor(bit / 8) + 2);
  octets[0] = 7 - (bit % 8);
  octets[octets.length - 1] = 0x80 >> (bit % 8);
  return encode(tag.bitString, octets);
};

const encodeRefusal = (failInfo: FailInfo): Der => {
  const { bit, text } = catalogue[failInfo];
  return sequence(sequence(integer(rejection), sequence(utf8String(text)), namedBit(bit)));
};

const encoded = Object.fromEntries(
  (Object.keys(catalogue) as FailInfo[]).map((failInfo) => [failInfo, encodeRefusal(failInfo)]),
) as Readonly<Record<FailInfo, Der>>;

/** The TimeStampResp that refuses for this reason. Shared: do not write into it. */
export const refusalResponse = (failInfo: FailInfo): Der => encoded[failInfo];
