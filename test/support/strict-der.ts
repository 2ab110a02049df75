/**
 * The oracle for strict DER: parses with asn1js, which takes any BER, and builds every value anew from what it means. What
 * was DER comes out bit for bit; every freedom of BER that the input took shows as a difference.
 */
import * as asn1js from 'asn1js';

const universal = 1;

const rebuildPrimitive = (block: asn1js.BaseBlock): asn1js.BaseBlock => {
  if (block instanceof asn1js.Boolean) return new asn1js.Boolean({ value: block.getValue() });
  if (block instanceof asn1js.Integer) return rebuildInteger(block);
  if (block instanceof asn1js.OctetString) return new asn1js.OctetString({ valueHex: block.valueBlock.valueHexView });
  if (block instanceof asn1js.BitString) return rebuildBitString(block);
  if (block instanceof asn1js.Null) return new asn1js.Null();
  if (block instanceof asn1js.ObjectIdentifier) return rebuildOid(block);
  if (block instanceof asn1js.GeneralizedTime) return rebuildTime(block);
  if (block instanceof asn1js.Utf8String) return new asn1js.Utf8String({ value: block.getValue() });
  if (block instanceof asn1js.PrintableString) return new asn1js.PrintableString({ value: block.getValue() });
  if (block instanceof asn1js.IA5String) return new asn1js.IA5String({ value: block.getValue() });
  if (block instanceof asn1js.UTCTime) return rebuildUtcTime(block);
  if (block instanceof asn1js.Primitive && block.idBlock.tagClass !== universal) {
    const { tagClass, tagNumber } = block.idBlock;
    return new asn1js.Primitive({ idBlock: { tagClass, tagNumber }, valueHex: block.valueBlock.valueHexView });
  }
  throw new Error(`unexpected ${block.constructor.name}`);
};

/** From the number itself; asn1js's own BigInt conversion takes minutes for nonces of thousands of octets. */
const rebuildInteger = (block: asn1js.Integer): asn1js.Integer => {
  const octets = block.valueBlock.valueHexView;
  if (octets.length === 0) throw new Error('INTEGER empty');
  let start = 0;
  const isPadding = (at: number): boolean => {
    const next = octets[at + 1] ?? 0;
    return (octets[at] === 0x00 && next < 0x80) || (octets[at] === 0xff && next >= 0x80);
  };
  while (start < octets.length - 1 && isPadding(start)) start += 1;
  return new asn1js.Integer({ valueHex: octets.slice(start) });
};

const rebuildBitString = (block: asn1js.BitString): asn1js.BitString => {
  const { unusedBits, valueHexView } = block.valueBlock;
  const octets = valueHexView.slice();
  const last = octets.at(-1);
  if (last !== undefined) octets[octets.length - 1] = last & (0xff << unusedBits);
  return new asn1js.BitString({ unusedBits, valueHex: octets });
};

const rebuildOid = (block: asn1js.ObjectIdentifier): asn1js.ObjectIdentifier => {
  if (block.valueBlock.value.length === 0) throw new Error('OBJECT IDENTIFIER empty');
  // Arcs beyond 64 bits have no dotted form in asn1js: their octets stand as they are.
  if (block.valueBlock.value.some((arc) => arc.isHexOnly)) return block;
  return new asn1js.ObjectIdentifier({ value: block.getValue() });
};

const rebuildTime = (block: asn1js.GeneralizedTime): asn1js.GeneralizedTime => {
  const text = Buffer.from(block.valueBlock.valueHexView).toString('latin1');
  if (!/^\d{14}(\.\d*[1-9])?Z$/.test(text)) throw new Error(`GeneralizedTime not DER: ${text}`);
  return new asn1js.GeneralizedTime({ valueHex: block.valueBlock.valueHexView.slice().buffer });
};

const rebuildUtcTime = (block: asn1js.UTCTime): asn1js.UTCTime => {
  const text = Buffer.from(block.valueBlock.valueHexView).toString('latin1');
  if (!/^\d{12}Z$/.test(text)) throw new Error(`UTCTime not DER: ${text}`);
  return new asn1js.UTCTime({ valueHex: block.valueBlock.valueHexView.slice().buffer });
};

const rebuild = (block: asn1js.BaseBlock): asn1js.BaseBlock => {
  if (block.error !== '' || block.warnings.length > 0) throw new Error(`${block.error}${block.warnings.join()}`);
  if (!block.idBlock.isConstructed) return rebuildPrimitive(block);
  if (!(block instanceof asn1js.Constructed)) throw new Error(`constructed ${block.constructor.name}`);
  const value = block.valueBlock.value.map(rebuild);
  if (block instanceof asn1js.Sequence) return new asn1js.Sequence({ value });
  if (block instanceof asn1js.Set) {
    const sorted = value.toSorted((a, b) => Buffer.compare(Buffer.from(a.toBER()), Buffer.from(b.toBER())));
    return new asn1js.Set({ value: sorted });
  }
  const { tagClass, tagNumber } = block.idBlock;
  if (tagClass === universal) throw new Error(`unexpected ${block.constructor.name}`);
  return new asn1js.Constructed({ idBlock: { tagClass, tagNumber }, value });
};

/** One value, encoded anew in DER. IMPLICIT SET OF is not recognised: check its order apart. @throws when it is no BER */
export const canonicalDer = (bytes: Uint8Array): Buffer => {
  const { offset, result } = asn1js.fromBER(Uint8Array.from(bytes));
  if (offset === -1) throw new Error(result.error);
  if (offset !== bytes.length) throw new Error('octets left over');
  return Buffer.from(rebuild(result).toBER());
};

/** The value that asn1js reads, as the type that is expected. @throws when it is another */
export const parseAs = <T extends asn1js.BaseBlock>(bytes: Uint8Array, type: abstract new (...args: never[]) => T): T => {
  const { offset, result } = asn1js.fromBER(Uint8Array.from(bytes));
  if (offset !== bytes.length || !(result instanceof type))
    throw new Error(`${type.name} expected, found ${result.constructor.name}: ${result.error}`);
  return result;
};
