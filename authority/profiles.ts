/**
 * What the certificates of the demonstration PKI say: subject, validity and extensions, by kind (RFC 5280, 4).
 *
 * pkijs builds the structures here, off the hot path. Nothing is signed here.
 */
import { hash } from 'node:crypto';
import { OctetString } from 'asn1js';
import {
  AuthorityKeyIdentifier,
  BasicConstraints,
  CertificatePolicies,
  Extension,
  ExtKeyUsage,
  PolicyInformation,
  PrivateKeyUsagePeriod,
  RelativeDistinguishedNames,
} from 'pkijs';
import { type Der, encode, oid, sequence, setOf, tag, utf8String } from '../pki/der.ts';
import { subjectPublicKeyBits } from '../pki/public-key.ts';
import { tsuUsageLimit } from '../pki/tsu-usage.ts';

export type CertificateKind = 'root-ca' | 'timestamp-ca' | 'tsu';

export interface Profile {
  /** Validity in calendar years; shortened where the issuer ends earlier. */
  readonly validityYears: number;
  readonly subject: RelativeDistinguishedNames;
  readonly extensions: readonly Extension[];
}

/** What a profile is made from. */
export interface ProfileInput {
  readonly spki: Der;
  /** subjectKeyIdentifier of the issuer; undefined for a self-signed certificate. */
  readonly issuerKeyIdentifier: Uint8Array | undefined;
  readonly serialHex: string;
  readonly notBefore: Date;
  /** When the key of a TSU may be used. @defaultValue from `notBefore` to the limit */
  readonly use?: { readonly activateAt: Date; readonly usableUntil: Date };
}

const extensionOid = {
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  privateKeyUsagePeriod: '2.5.29.16',
  basicConstraints: '2.5.29.19',
  certificatePolicies: '2.5.29.32',
  authorityKeyIdentifier: '2.5.29.35',
  extKeyUsage: '2.5.29.37',
} as const;
const anyPolicy = '2.5.29.32.0';
const timeStampingPurpose = '1.3.6.1.5.5.7.3.8';

/** Leftmost 160 bits of the SHA-256 of the key (RFC 7093, section 2, method 1). */
export const keyIdentifier = (spki: Der): Uint8Array => hash('sha256', subjectPublicKeyBits(spki), 'buffer').subarray(0, 20);

const exactBytes = (octets: Uint8Array): ArrayBuffer => Uint8Array.from(octets).buffer;

const extension = (extnID: string, value: ArrayBuffer, options: { critical: boolean }): Extension =>
  new Extension({ extnID, critical: options.critical, extnValue: value });

/** KeyUsage as a named BIT STRING: unused bits counted, no trailing zero bits (X.690, 11.2.2). */
const keyUsage = {
  digitalSignature: encode(tag.bitString, Uint8Array.of(7, 0x80)),
  keyCertSignAndCrlSign: encode(tag.bitString, Uint8Array.of(1, 0x06)),
} as const;

/**
 * Every name says DEMONSTRATION, so that nobody takes a token of this PKI for more than it is. There is no countryName:
 * EN 319 422 asks for the country where the provider is established, and a demonstration is established nowhere.
 */
const name = (commonName: string): RelativeDistinguishedNames => {
  const attributes = [
    ['2.5.4.10', 'Sigillo Demonstration'],
    ['2.5.4.3', commonName],
  ] as const;
  // One attribute to an RDN. pkijs would put all of them into one; what it reads it writes again byte for byte.
  const der = sequence(...attributes.map(([type, value]) => setOf(sequence(oid(type), utf8String(value)))));
  return RelativeDistinguishedNames.fromBER(exactBytes(der));
};

const keyIdentifiers = ({ spki, issuerKeyIdentifier }: ProfileInput): Extension[] => {
  const own = new OctetString({ valueHex: exactBytes(keyIdentifier(spki)) }).toBER();
  const extensions = [extension(extensionOid.subjectKeyIdentifier, own, { critical: false })];
  if (issuerKeyIdentifier !== undefined) {
    const authority = new AuthorityKeyIdentifier({ keyIdentifier: new OctetString({ valueHex: exactBytes(issuerKeyIdentifier) }) });
    extensions.push(extension(extensionOid.authorityKeyIdentifier, authority.toSchema().toBER(), { critical: false }));
  }
  return extensions;
};

const caExtensions = (input: ProfileInput, constraints: BasicConstraints): Extension[] => [
  extension(extensionOid.basicConstraints, constraints.toSchema().toBER(), { critical: true }),
  extension(extensionOid.keyUsage, exactBytes(keyUsage.keyCertSignAndCrlSign), { critical: true }),
  ...keyIdentifiers(input),
];

/** A CA of another installation has another key, and so another name: validators that look issuers up by name stay right. */
const caName = (role: string, { spki }: ProfileInput): RelativeDistinguishedNames =>
  name(`Sigillo Demonstration ${role} ${Buffer.from(keyIdentifier(spki)).toString('hex').slice(0, 8)}`);

const rootCa = (input: ProfileInput): Profile => ({
  validityYears: 20,
  subject: caName('Root CA', input),
  extensions: caExtensions(input, new BasicConstraints({ cA: true })),
});

const timestampCa = (input: ProfileInput): Profile => {
  const policies = new CertificatePolicies({ certificatePolicies: [new PolicyInformation({ policyIdentifier: anyPolicy })] });
  return {
    validityYears: 12,
    subject: caName('Timestamp CA', input),
    extensions: [
      ...caExtensions(input, new BasicConstraints({ cA: true, pathLenConstraint: 0 })),
      extension(extensionOid.certificatePolicies, policies.toSchema().toBER(), { critical: false }),
    ],
  };
};

/**
 * A timestamping unit: RFC 3161, 2.3 (one extended key usage, critical), ETSI EN 319 422, clause 6 (key usage
 * digitalSignature only, a name of its own) and ETSI EN 319 421, 7.7.2 (the key's use ends before the certificate).
 */
const tsu = (input: ProfileInput): Profile => {
  const { activateAt, usableUntil } = input.use ?? { activateAt: input.notBefore, usableUntil: tsuUsageLimit(input.notBefore) };
  const usage = new PrivateKeyUsagePeriod({ notBefore: activateAt, notAfter: usableUntil });
  const purposes = new ExtKeyUsage({ keyPurposes: [timeStampingPurpose] });
  return {
    validityYears: 6,
    subject: name(`Sigillo Demonstration TSU ${input.notBefore.toISOString().slice(0, 10)} ${input.serialHex.slice(0, 16)}`),
    extensions: [
      extension(extensionOid.keyUsage, exactBytes(keyUsage.digitalSignature), { critical: true }),
      extension(extensionOid.extKeyUsage, purposes.toSchema().toBER(), { critical: true }),
      ...keyIdentifiers(input),
      // Never critical (RFC 3280, 4.2.1.4): a validator that does not know it judges by the certificate's own validity.
      extension(extensionOid.privateKeyUsagePeriod, usage.toSchema().toBER(), { critical: false }),
    ],
  };
};

/** The profile of each kind of certificate. */
export const profiles: Readonly<Record<CertificateKind, (input: ProfileInput) => Profile>> = {
  'root-ca': rootCa,
  'timestamp-ca': timestampCa,
  tsu,
};
