/** The parts of an X.509 certificate that a CMS signature names (RFC 5280, 4.1), as the exact bytes of the certificate. */
import { type Der, DerReader, tag } from './der.ts';

export interface SignerCertificate {
  readonly der: Uint8Array;
  /** Name, whole value. */
  readonly issuer: Der;
  /** Name, whole value. */
  readonly subject: Der;
  /** INTEGER, whole value. */
  readonly serialNumber: Der;
}

/** Reads issuer, subject and serial number out of a certificate. @throws DerError when it is none */
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
  return { der, issuer, subject, serialNumber };
};
