/** The parts of an X.509 certificate that a CMS signature names (RFC 5280, 4.1), as the exact bytes of the certificate. */
import { type Der, DerError, DerReader, oid, tag } from './der.ts';

export interface SignerCertificate {
  readonly der: Uint8Array;
  /** Name, whole value. */
  readonly issuer: Der;
  /** Name, whole value. */
  readonly subject: Der;
  /** INTEGER, whole value. */
  readonly serialNumber: Der;
  /** notAfter of the PrivateKeyUsagePeriod, Unix milliseconds: the key must not sign later. undefined: no such extension. */
  readonly keyUsableUntil: number | undefined;
}

const privateKeyUsagePeriodOid = Buffer.from(oid('2.5.29.16').subarray(2));

/** `YYYYMMDDHHMMSSZ`, the only form RFC 5280, 4.1.2.5.2 allows. */
const generalizedTimeMillis = (contents: Uint8Array): number => {
  const match = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(Buffer.from(contents).toString('latin1'));
  if (match === null) throw new DerError('GeneralizedTime not of RFC 5280', 0);
  const [year, month, day, hour, minute, second] = match.slice(1).map(Number) as [number, number, number, number, number, number];
  return Date.UTC(year, month - 1, day, hour, minute, second);
};

/** PrivateKeyUsagePeriod (RFC 3280, 4.2.1.4): [0] notBefore, [1] notAfter, both optional GeneralizedTime. */
const keyUsableUntil = (extensions: DerReader): number | undefined => {
  while (extensions.peek() !== -1) {
    const extension = extensions.enter(tag.sequence);
    const id = extension.oid();
    if (extension.peek() === tag.boolean) extension.boolean();
    const value = extension.enter(tag.octetString);
    if (Buffer.compare(id, privateKeyUsagePeriodOid) !== 0) continue;
    const period = value.enter(tag.sequence);
    if (period.peek() === tag.context(0)) period.next(tag.context(0));
    if (period.peek() === -1) return undefined;
    period.next(tag.context(1));
    return generalizedTimeMillis(period.bytes.subarray(period.contentStart, period.contentEnd));
  }
  return undefined;
};

/** Reads what a signer needs of its certificate. @throws DerError when it is none */
export const readSignerCertificate = (der: Uint8Array): SignerCertificate => {
  const outer = new DerReader(der);
  const certificate = outer.enter(tag.sequence);
  outer.finish();
  const tbs = certificate.enter(tag.sequence);
  if (tbs.peek() === tag.contextConstructed(0)) tbs.next(tag.contextConstructed(0));
  const take = (read: () => void): Der => {
    const start = tbs.offset;
    read();
    return der.slice(start, tbs.offset);
  };
  const serialNumber = take(() => tbs.integer());
  tbs.next(tag.sequence);
  const issuer = take(() => tbs.next(tag.sequence));
  tbs.next(tag.sequence);
  const subject = take(() => tbs.next(tag.sequence));
  tbs.next(tag.sequence);
  for (const unused of [tag.context(1), tag.context(2)]) if (tbs.peek() === unused) tbs.next(unused);
  const hasExtensions = tbs.peek() === tag.contextConstructed(3);
  const until = hasExtensions ? keyUsableUntil(tbs.enter(tag.contextConstructed(3)).enter(tag.sequence)) : undefined;
  return { der, issuer, subject, serialNumber, keyUsableUntil: until };
};
