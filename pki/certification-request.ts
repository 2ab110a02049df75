/**
 * A CertificationRequest (RFC 2986, known as PKCS#10) for a timestamping unit: what an outside CA gets. It asks for the extensions that
 * RFC 3161, 2.3 and ETSI EN 319 422, clause 6 want, by extensionRequest (RFC 2985, 5.4.2). The signature is made elsewhere.
 */
import { type KeyScheme, type SignatureDigest, signatureAlgorithmIdentifier } from './algorithms.ts';
import { type Der, encode, integer, octetString, oid, sequence, setOf, tag, utf8String } from './der.ts';

/** Attributes of a subject, by the short names of RFC 4514 and X.520; serialNumber is 2.5.4.5. */
const attributeOids = {
  CN: '2.5.4.3',
  serialNumber: '2.5.4.5',
  C: '2.5.4.6',
  L: '2.5.4.7',
  ST: '2.5.4.8',
  O: '2.5.4.10',
  OU: '2.5.4.11',
  /** ETSI EN 319 412-3: identifier of a legal person, such as VATIT-12345678901. */
  organizationIdentifier: '2.5.4.97',
} as const;
type AttributeName = keyof typeof attributeOids;

/** One attribute of the subject, most significant first as in the certificate. */
export interface SubjectAttribute {
  readonly type: AttributeName;
  readonly value: string;
}

const printableTag = 0x13;
const attributesMax = 16;

/**
 * Reads a subject such as `C=IT,O=Example S.p.A.,CN=Example TSU 1`; a backslash before a comma, a plus, an equals sign or a backslash
 * takes it as it is.
 * @returns why it is none, as text
 */
export const parseSubject = (text: string): readonly SubjectAttribute[] | string => {
  const parts = text.match(/(?:[^,\\]|\\.)+/g) ?? [];
  if (parts.length === 0 || parts.length > attributesMax) return 'a subject is a list such as C=IT,O=Example,CN=Example TSU 1';
  const attributes: SubjectAttribute[] = [];
  for (const part of parts) {
    const [, name, escaped] = /^\s*([A-Za-z]+)\s*=\s*(.*?)\s*$/.exec(part) ?? [];
    const type = Object.keys(attributeOids).find((known): known is AttributeName => known.toLowerCase() === name?.toLowerCase());
    if (type === undefined || escaped === undefined)
      return `${part.trim()}: must be one of ${Object.keys(attributeOids).join(', ')}, and its value`;
    const value = escaped.replace(/\\(.)/g, '$1');
    if (value === '' || value.length > 64) return `${type}: 1 to 64 characters`;
    if (type === 'C' && !/^[A-Z]{2}$/.test(value)) return 'C: two capital letters (ISO 3166)';
    attributes.push({ type, value });
  }
  if (!attributes.some(({ type }) => type === 'CN')) return 'CN is missing: a TSU has a name of its own';
  return attributes;
};

/** countryName and serialNumber are PrintableStrings by definition (RFC 5280, appendix A.1). */
const attributeValue = ({ type, value }: SubjectAttribute): Der =>
  type === 'C' || type === 'serialNumber' ? encode(printableTag, Buffer.from(value, 'latin1')) : utf8String(value);

const name = (attributes: readonly SubjectAttribute[]): Der =>
  sequence(...attributes.map((attribute) => setOf(sequence(oid(attributeOids[attribute.type]), attributeValue(attribute)))));

const critical = encode(tag.boolean, Uint8Array.of(0xff));
/** digitalSignature alone, as a named BIT STRING (X.690, 11.2.2), and timeStamping alone; both critical. */
const extensions = sequence(
  sequence(oid('2.5.29.15'), critical, octetString(encode(tag.bitString, Uint8Array.of(7, 0x80)))),
  sequence(oid('2.5.29.37'), critical, octetString(sequence(oid('1.3.6.1.5.5.7.3.8')))),
);
const extensionRequest = sequence(oid('1.2.840.113549.1.9.14'), setOf(extensions));

/** CertificationRequestInfo: what the key of the request signs. */
export const certificationRequestInfo = (subject: readonly SubjectAttribute[], spki: Der): Der =>
  sequence(integer(0), name(subject), spki, encode(tag.contextConstructed(0), extensionRequest));

/** @param signature of the CertificationRequestInfo by the key in it, as X.509 carries signatures */
export const certificationRequest = (info: Der, scheme: KeyScheme, digest: SignatureDigest, signature: Uint8Array): Der =>
  sequence(info, signatureAlgorithmIdentifier(scheme, digest), encode(tag.bitString, Uint8Array.of(0), signature));

/** PEM of RFC 7468, section 7. */
export const certificationRequestPem = (der: Der): string => {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE REQUEST-----\n${lines.join('\n')}\n-----END CERTIFICATE REQUEST-----\n`;
};
