/**
 * How long a timestamping key may sign: decided when its certificate is made, stated in the certificate's
 * privateKeyUsagePeriod, and read back from there. The certificate itself lives on, so that old tokens verify.
 */
import { type Der, DerError, DerReader, tag } from './der.ts';
import { readGeneralizedTime } from './tsp-read.ts';

const dayMs = 86_400_000;
/** YYYYMMDDHHMMSSZ, without a fraction. */
const generalizedTimeOctets = 15;
const usageDaysMax = 90;
const usageMonthsMax = 3;

/** The same day and time of a later month in UTC, or that month's last day where the day does not exist. */
const addMonths = (start: Date, months: number): Date => {
  const result = new Date(start);
  // Day 1 first: 31 November would otherwise roll over into December.
  result.setUTCDate(1);
  result.setUTCMonth(result.getUTCMonth() + months);
  const lastDay = new Date(Date.UTC(result.getUTCFullYear(), result.getUTCMonth() + 1, 0)).getUTCDate();
  result.setUTCDate(Math.min(start.getUTCDate(), lastDay));
  return result;
};

/**
 * The last instant a TSU key that starts now may be used: 90 days or three calendar months, whichever ends first.
 * Three months are 89 days from 1 February to 1 May, and 92 from 1 July to 1 October.
 */
export const tsuUsageLimit = (start: Date): Date =>
  new Date(Math.min(start.getTime() + usageDaysMax * dayMs, addMonths(start, usageMonthsMax).getTime()));

const wholeSeconds = (millis: number): Date => new Date(Math.floor(millis / 1_000) * 1_000);

/**
 * The use of a key that begins at an instant: from that second to its limit, or to an earlier end that is asked for. In whole seconds,
 * because a certificate states them so (RFC 5280, 4.1.2.5.2).
 */
export const tsuUse = (start: Date, usageMsMax: number | undefined): { readonly activateAt: Date; readonly usableUntil: Date } => {
  const activateAt = wholeSeconds(start.getTime());
  const limit = tsuUsageLimit(activateAt).getTime();
  return { activateAt, usableUntil: wholeSeconds(Math.min(limit, activateAt.getTime() + (usageMsMax ?? Number.POSITIVE_INFINITY))) };
};

/** An extension of a certificate: whether it is critical, and the DER in its extnValue (RFC 5280, 4.1). */
export interface CertificateExtension {
  readonly critical: boolean;
  readonly value: Der;
}

const fromHex = (hex: string): Buffer => Buffer.from(hex, 'hex');
/** Contents of the OBJECT IDENTIFIERs 2.5.29.16 and 2.5.29.37. */
const privateKeyUsagePeriodOid = fromHex('551d10');
const extKeyUsageOid = fromHex('551d25');
/** SEQUENCE of id-kp-timeStamping (1.3.6.1.5.5.7.3.8) alone. */
const onlyTimeStamping = fromHex('300a06082b06010505070308');

/** One extension of a certificate by the contents of its object identifier. @throws DerError */
export const findExtension = (certificate: Der, extnId: Uint8Array): CertificateExtension | undefined => {
  const tbs = new DerReader(certificate).enter(tag.sequence).enter(tag.sequence);
  const extensionsTag = tag.contextConstructed(3);
  while (tbs.peek() !== -1 && tbs.peek() !== extensionsTag) tbs.next(tbs.peek());
  if (tbs.peek() === -1) return undefined;
  const extensions = tbs.enter(extensionsTag).enter(tag.sequence);
  while (extensions.peek() !== -1) {
    const extension = extensions.enter(tag.sequence);
    const found = Buffer.compare(extension.oid(), extnId) === 0;
    const critical = extension.peek() === tag.boolean && extension.boolean();
    extension.next(tag.octetString);
    if (found) return { critical, value: certificate.subarray(extension.contentStart, extension.contentEnd) };
  }
  return undefined;
};

/** A PrivateKeyUsagePeriod; RFC 3280, 4.2.1.4, since RFC 5280 only names the extension. */
export interface UsagePeriod {
  readonly notBefore?: Date;
  readonly notAfter?: Date;
}

/** The privateKeyUsagePeriod of a certificate, or undefined when it has none. @throws DerError */
export const privateKeyUsagePeriod = (certificate: Der): UsagePeriod | undefined => {
  const extension = findExtension(certificate, privateKeyUsagePeriodOid);
  if (extension === undefined) return undefined;
  const reader = new DerReader(extension.value).enter(tag.sequence);
  const read = (n: number): Date | undefined => {
    if (reader.peek() !== tag.context(n)) return undefined;
    reader.next(tag.context(n));
    const contents = extension.value.subarray(reader.contentStart, reader.contentEnd);
    if (contents.length !== generalizedTimeOctets) throw new DerError('GeneralizedTime not of RFC 5280, 4.1.2.5.2', reader.contentStart);
    return readGeneralizedTime(contents, reader.contentStart).date;
  };
  const notBefore = read(0);
  const notAfter = read(1);
  reader.finish();
  return { ...(notBefore && { notBefore }), ...(notAfter && { notAfter }) };
};

/** True when the certificate is for timestamping and nothing else, critically so (RFC 3161, 2.3). @throws DerError */
export const isTimeStampingCertificate = (certificate: Der): boolean => {
  const extension = findExtension(certificate, extKeyUsageOid);
  return extension?.critical === true && Buffer.compare(extension.value, onlyTimeStamping) === 0;
};
