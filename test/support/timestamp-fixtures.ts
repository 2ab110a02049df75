/** Certificates by OpenSSL and tokens built octet by octet, so that each rule of RFC 3161 can be broken alone. */
import { execFileSync } from 'node:child_process';
import { constants, createHash, createPrivateKey, type KeyObject, sign, X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Certificate } from 'pkijs';
import { digestAlgorithms, type KeyScheme, type SignatureDigest, signatureAlgorithmIdentifier } from '../../pki/algorithms.ts';
import { type Der, derNull, encode, integer, octetString, oid, sequence, setOf, tag } from '../../pki/der.ts';

export interface Identity {
  readonly name: string;
  readonly key: KeyObject;
  readonly keyFile: string;
  readonly certificate: X509Certificate;
  readonly certificateFile: string;
}

export interface IssueOptions {
  readonly issuer?: Identity;
  readonly subject?: string;
  /** As for `openssl genpkey`. */
  readonly key?: readonly string[];
  /** Lines of an extension file. */
  readonly extensions: readonly string[];
  readonly digest?: string;
  readonly signatureOptions?: readonly string[];
  /** What lies outside is not covered by the certificate. @defaultValue so long that it makes no difference on which day a test runs */
  readonly validity?: { readonly from?: Date; readonly to: Date };
}

const p256 = ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256'];

/** Tests stamp at fixed times, and at the time that it is. */
const bornAt = new Date('2024-01-01T00:00:00Z');
const endsAt = new Date('2089-12-31T23:59:59Z');
const opensslTime = (time: Date): string => `${time.toISOString().slice(0, 19).replace(/[-T:]/g, '')}Z`;

/** `openssl ca` sets both ends of a validity, which `openssl x509` of OpenSSL 3.0 cannot; it wants its books. */
const issuerConfig = `[ca]
default_ca = here
[here]
database = index.txt
serial = serial
new_certs_dir = .
policy = any
unique_subject = no
[any]
organizationName = optional
commonName = optional
`;

/** A folder with certificates in it. */
export class TestPki {
  readonly folder = mkdtempSync(join(tmpdir(), 'sigillo-pki-'));
  #serial = 4_096;

  close(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  file(name: string, content: string | Uint8Array): string {
    const path = join(this.folder, name);
    writeFileSync(path, content);
    return path;
  }

  openssl(...parameters: readonly string[]): Buffer {
    return execFileSync('openssl', parameters, { cwd: this.folder, stdio: ['ignore', 'pipe', 'pipe'] });
  }

  issue(name: string, options: IssueOptions): Identity {
    const keyFile = join(this.folder, `${name}.key`);
    const certificateFile = join(this.folder, `${name}.pem`);
    this.openssl('genpkey', ...(options.key ?? p256), '-out', keyFile);
    const requestFile = join(this.folder, `${name}.csr`);
    this.openssl('req', '-new', '-key', keyFile, '-subj', `/O=Test/CN=${options.subject ?? name}`, '-out', requestFile);
    const extensionFile = this.file(`${name}.ext`, options.extensions.join('\n'));
    const { issuer, validity = { to: endsAt } } = options;
    const signer =
      issuer === undefined ? ['-selfsign', '-keyfile', keyFile] : ['-cert', issuer.certificateFile, '-keyfile', issuer.keyFile];
    this.#serial += 1;
    this.file('serial', this.#serial.toString(16));
    this.file('index.txt', '');
    const books = ['-batch', '-notext', '-preserveDN', '-config', this.file('issuer.conf', issuerConfig)];
    const times = ['-startdate', opensslTime(validity.from ?? bornAt), '-enddate', opensslTime(validity.to)];
    const digest = ['-md', options.digest ?? 'sha256', ...(options.signatureOptions ?? [])];
    this.openssl('ca', ...books, ...signer, ...times, ...digest, '-in', requestFile, '-extfile', extensionFile, '-out', certificateFile);
    const certificate = new X509Certificate(this.openssl('x509', '-in', certificateFile));
    const key = createPrivateKey(this.openssl('pkey', '-in', keyFile));
    return { name, key, keyFile, certificate, certificateFile };
  }
}

/** Everything of a token that a test may want to be wrong. */
export interface TokenOptions {
  readonly signer: Identity;
  readonly scheme?: KeyScheme;
  readonly digest?: SignatureDigest;
  readonly hashedMessage: Uint8Array;
  readonly imprintOid?: string;
  readonly genTime?: string;
  readonly nonce?: Uint8Array;
  readonly tstVersion?: number;
  /** DER values behind genTime in place of accuracy and nonce. */
  readonly tstTail?: readonly Der[];
  readonly certificates?: readonly X509Certificate[];
  readonly signedDataVersion?: number;
  readonly signerInfoVersion?: number;
  readonly sid?: Der;
  readonly contentType?: string;
  readonly messageDigest?: Uint8Array;
  readonly attributeContentType?: string;
  readonly signingCertificate?: Der;
  /** Changes the sorted attributes before they are signed. */
  readonly attributes?: (sorted: Der[]) => Der[];
  readonly noAttributes?: true;
  readonly signatureAlgorithm?: Der;
  readonly digestAlgorithm?: Der;
  readonly signature?: Uint8Array;
  readonly signers?: number;
}

export const oids = {
  signedData: '1.2.840.113549.1.7.2',
  tstInfo: '1.2.840.113549.1.9.16.1.4',
  contentType: '1.2.840.113549.1.9.3',
  messageDigest: '1.2.840.113549.1.9.4',
  signingCertificateV2: '1.2.840.113549.1.9.16.2.47',
} as const;

export const attribute = (type: string, ...values: readonly Der[]): Der => sequence(oid(type), encode(tag.set, ...values));

/** Issuer and serial number of a certificate, as DER. */
export const issuerAndSerialNumber = (certificate: X509Certificate): readonly [Der, Der] => {
  const { issuer, serialNumber } = Certificate.fromBER(certificate.raw);
  return [new Uint8Array(issuer.valueBeforeDecode), encode(tag.integer, serialNumber.valueBlock.valueHexView)];
};

export const sha256 = (data: Uint8Array): Buffer => createHash('sha256').update(data).digest();

/** ESSCertIDv2 with the defaults of RFC 5035. */
export const essCertIdV2 = (certificate: X509Certificate): Der => sequence(octetString(sha256(certificate.raw)));

const makeTstInfo = (options: TokenOptions): Der => {
  const nonce = options.nonce === undefined ? [] : [encode(tag.integer, options.nonce)];
  return sequence(
    integer(options.tstVersion ?? 1),
    oid('1.3.6.1.4.1.32473.1.1'),
    sequence(sequence(oid(options.imprintOid ?? digestAlgorithms.sha256.oid), derNull), octetString(options.hashedMessage)),
    integer(77),
    encode(tag.generalizedTime, Buffer.from(options.genTime ?? `${new Date().toISOString().slice(0, 19).replace(/[-T:]/g, '')}.123Z`)),
    ...(options.tstTail ?? [sequence(integer(1)), ...nonce]),
  );
};

const signAttributes = (options: TokenOptions, scheme: KeyScheme, digest: SignatureDigest, data: Uint8Array): Buffer => {
  const { key } = options.signer;
  if (scheme.kind !== 'rsa-pss') return sign(digest, data, key);
  return sign(digest, data, { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: digestAlgorithms[digest].octets });
};

/** A TimeStampToken; right unless the options say otherwise. */
export const makeToken = (options: TokenOptions): Der => {
  const scheme = options.scheme ?? ({ kind: 'ecdsa', curve: 'P-256' } as const);
  const digest = options.digest ?? 'sha256';
  const { certificate } = options.signer;
  const content = makeTstInfo(options);
  const sorted = [
    attribute(oids.contentType, oid(options.attributeContentType ?? oids.tstInfo)),
    attribute(oids.messageDigest, octetString(options.messageDigest ?? createHash(digest).update(content).digest())),
    attribute(oids.signingCertificateV2, options.signingCertificate ?? sequence(sequence(essCertIdV2(certificate)))),
  ].toSorted(Buffer.compare);
  const attributes = options.attributes?.(sorted) ?? sorted;
  const signature = options.signature ?? signAttributes(options, scheme, digest, encode(tag.set, ...attributes));
  const signerInfo = sequence(
    integer(options.signerInfoVersion ?? 1),
    options.sid ?? sequence(...issuerAndSerialNumber(certificate)),
    options.digestAlgorithm ?? sequence(oid(digestAlgorithms[digest].oid)),
    ...(options.noAttributes ? [] : [encode(tag.contextConstructed(0), ...attributes)]),
    options.signatureAlgorithm ?? signatureAlgorithmIdentifier(scheme, digest),
    octetString(signature),
  );
  const signedData = sequence(
    integer(options.signedDataVersion ?? 3),
    setOf(sequence(oid(digestAlgorithms[digest].oid))),
    sequence(oid(options.contentType ?? oids.tstInfo), encode(tag.contextConstructed(0), octetString(content))),
    encode(tag.contextConstructed(0), ...(options.certificates ?? [certificate]).map(({ raw }) => raw)),
    encode(tag.set, ...Array.from({ length: options.signers ?? 1 }, () => signerInfo)),
  );
  return sequence(oid(oids.signedData), encode(tag.contextConstructed(0), signedData));
};

/** A TimeStampResp around a token, or a refusal. */
export const makeResponse = (status: number, ...rest: readonly Der[]): Der => sequence(sequence(integer(status)), ...rest);
