/** What the certificate of a timestamping unit must say beyond its purpose: ETSI EN 319 422, clause 6, and RFC 5280, 4.2.1.3. */
import { type Der, DerError } from './der.ts';
import { findExtension } from './tsu-usage.ts';

const keyUsageOid = Uint8Array.of(0x55, 0x1d, 0x0f);
/** digitalSignature, nonRepudiation (contentCommitment), or both; every other use is another trade. */
const allowed = new Set([0x80, 0x40, 0xc0]);

/** What is wrong with the key usage of a TSU certificate, or undefined. */
export const keyUsageFault = (certificate: Der): string | undefined => {
  try {
    const extension = findExtension(certificate, keyUsageOid);
    if (extension === undefined) return 'it has no key usage';
    // BIT STRING: identifier, length, unused bits, bits.
    const [, length, , bits] = extension.value;
    if (!extension.critical) return 'its key usage is not critical';
    return length === 2 && bits !== undefined && allowed.has(bits)
      ? undefined
      : 'its key usage must be digitalSignature, nonRepudiation or both';
  } catch (error) {
    if (error instanceof DerError) return 'its extensions cannot be read';
    throw error;
  }
};
