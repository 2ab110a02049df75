/**
 * A TimeStampToken with its certificates put in, as SignedData.certificates (RFC 5652, 5.1). The archive keeps each token
 * without them and each certificate once; this makes the issued token again, bit for bit.
 */
import { type Der, DerReader, encode, setOf, tag } from './der.ts';

/** CertificateSet [0] of a SignedData: a SET OF, sorted (RFC 5652, 10.2.3; X.690, 11.6). */
export const certificateSet = (certificates: readonly Uint8Array[]): Der => {
  const set = setOf(...certificates);
  set[0] = tag.contextConstructed(0);
  return set;
};

/**
 * @param token TimeStampToken without certificates
 * @param certificates in any order
 * @throws DerError when `token` is none, or has certificates already
 */
export const attachCertificates = (token: Uint8Array, certificates: readonly Uint8Array[]): Der => {
  const outer = new DerReader(token);
  const contentInfo = outer.enter(tag.sequence);
  outer.finish();
  const typeStart = contentInfo.offset;
  contentInfo.oid();
  const contentType = token.subarray(typeStart, contentInfo.offset);
  const signedData = contentInfo.enter(tag.contextConstructed(0)).enter(tag.sequence);
  const headStart = signedData.offset;
  signedData.integer();
  signedData.next(tag.set);
  signedData.next(tag.sequence);
  const head = token.subarray(headStart, signedData.offset);
  const tailStart = signedData.offset;
  signedData.next(tag.set);
  signedData.finish();
  const tail = token.subarray(tailStart, signedData.offset);
  return encode(
    tag.sequence,
    contentType,
    encode(tag.contextConstructed(0), encode(tag.sequence, head, certificateSet(certificates), tail)),
  );
};
