/** What the certificate of a timestamping unit must say beyond its purpose: ETSI EN 319 422, clause 6, and RFC 5280, 4.2.1.3 and 4.2.1.9. */
import { type Der, DerError, DerReader, tag } from './der.ts';
import { findExtension } from './tsu-usage.ts';

const keyUsageOid = Uint8Array.of(0x55, 0x1d, 0x0f);
const basicConstraintsOid = Uint8Array.of(0x55, 0x1d, 0x13);
/** digitalSignature, nonRepudiation (contentCommitment), or both; every other use is another trade. */
const allowedUses = new Set([0x80, 0x40, 0xc0]);

const keyUsageFault = (certificate: Der): string | undefined => {
  const extension = findExtension(certificate, keyUsageOid);
  if (extension === undefined) return 'it has no key usage';
  if (!extension.critical) return 'its key usage is not critical';
  // BIT STRING: identifier, length, unused bits, bits.
  const [, length, , bits] = extension.value;
  return length === 2 && bits !== undefined && allowedUses.has(bits)
    ? undefined
    : 'its key usage must be digitalSignature, nonRepudiation or both';
};

/** By the extension itself: OpenSSL, and so `X509Certificate.ca`, takes one that says cA without keyCertSign for none. */
const isCa = (certificate: Der): boolean => {
  const extension = findExtension(certificate, basicConstraintsOid);
  if (extension === undefined) return false;
  const constraints = new DerReader(extension.value).enter(tag.sequence);
  return constraints.peek() === tag.boolean && constraints.boolean();
};

/** What is wrong with the certificate of a TSU, or undefined. */
export const tsuProfileFault = (certificate: Der): string | undefined => {
  try {
    return isCa(certificate) ? 'the first certificate is that of a CA' : keyUsageFault(certificate);
  } catch (error) {
    if (error instanceof DerError) return 'its extensions cannot be read';
    throw error;
  }
};
