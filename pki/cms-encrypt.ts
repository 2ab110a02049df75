/**
 * Encrypts content of any length to the holder of one certificate: CMS AuthEnvelopedData with AES-256-GCM (RFC 5083, RFC 5084),
 * written while the content is read. One segment of 64 KiB is all that is held. A content that fails on its way leaves octets
 * without end and authentication tag, which every reader refuses.
 *
 * The values around the ciphertext have indefinite lengths (X.690, 8.1.3.6); everything else is DER. The content type inside is
 * id-data, so that no authenticated attributes are needed (RFC 5083, 2.1).
 *
 * Content key and nonce come from the caller's source of randomness; the ephemeral EC key and the seed of OAEP are made inside
 * of node:crypto, which takes neither from elsewhere.
 */
import {
  type CipherGCM,
  constants,
  createCipheriv,
  createHash,
  diffieHellman,
  generateKeyPairSync,
  type KeyObject,
  publicEncrypt,
  type X509Certificate,
} from 'node:crypto';
import { type ParsedCertificate, parseCertificate } from './certificate-path.ts';
import { readContents } from './cms-read.ts';
import { type Der, DerReader, derNull, encode, integer, octetString, oid, sequence, setOf, tag } from './der.ts';

/** What encryption needs besides the content and its recipient. */
export interface EncryptOptions {
  /** The instant at which the certificate must be valid. */
  readonly now: Date;
  /** That many fresh, unpredictable octets, in a buffer that is handed over: it is wiped after use. */
  readonly randomBytes: (octets: number) => Uint8Array;
  /**
   * Longer content is refused. Some readers end earlier: `openssl cms -decrypt` holds the whole file more than twice in memory,
   * and is sure to read 1.6 GB only, whatever the cipher.
   * @defaultValue 68,719,476,704: AES-GCM takes no more (64 GiB), and a greater value changes nothing
   */
  readonly contentOctetsMax?: number;
}

/** Ciphertext in one OCTET STRING, behind a header of 5 octets; content in smaller chunks is gathered to it. */
const segmentOctets = 65_536;
/** 2^39 - 256 bits under one key and nonce (NIST SP 800-38D, 5.2.1.1). */
const gcmOctetsMax = 2 ** 36 - 32;
const keyOctets = 32;
/** The length that GCM takes as it is (RFC 5084, 3.2). Each key encrypts one content, so that no nonce can come again under it. */
const nonceOctets = 12;
const tagOctets = 16;

/** NIST SP 800-57 part 1: less than 112 bits of strength below the first; OpenSSL reads no key above the second. */
const rsaBits = { min: 2_048, max: 16_384 } as const;
const curves: ReadonlySet<string> = new Set(['prime256v1', 'secp384r1', 'secp521r1']);
/** Bits of the first octet of KeyUsage (RFC 5280, 4.2.1.3). */
const usageBits = { keyEncipherment: 0x20, keyAgreement: 0x08 } as const;

const sha256Identifier = sequence(oid('2.16.840.1.101.3.4.2.1'), derNull);
/** id-RSAES-OAEP with SHA-256 for hash and mask; the label is the empty default (RFC 4055, section 4). */
const rsaesOaep = sequence(
  oid('1.2.840.113549.1.1.7'),
  sequence(
    encode(tag.contextConstructed(0), sha256Identifier),
    encode(tag.contextConstructed(1), sequence(oid('1.2.840.113549.1.1.8'), sha256Identifier)),
  ),
);
/** id-aes256-wrap; the parameters are absent (RFC 3565, 2.3.2). */
const aes256Wrap = sequence(oid('2.16.840.1.101.3.4.1.45'));
/** dhSinglePass-stdDH-sha256kdf-scheme, with the key wrap as its parameter (RFC 5753, 7.1.4). */
const stdDhSha256Kdf = sequence(oid('1.3.132.1.11.1'), aes256Wrap);
/** The initial value of the key wrap (RFC 3394, 2.2.3.1). */
const keyWrapIv = Buffer.alloc(8, 0xa6);

/** An identifier with indefinite length, and the end-of-contents octets of as many (X.690, 8.1.3.6 and 8.1.5). */
const open = (identifier: number): Uint8Array => Uint8Array.of(identifier, 0x80);
const close = (levels: number): Uint8Array => new Uint8Array(2 * levels);

const asBuffer = (octets: Uint8Array): Buffer => Buffer.from(octets.buffer, octets.byteOffset, octets.byteLength);

/** Why something cannot be encrypted: the recipient's certificate is not fit for it, or the content is too long. */
export class EncryptionError extends Error {
  readonly reason: 'recipient' | 'content';

  constructor(reason: 'recipient' | 'content', message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'EncryptionError';
    this.reason = reason;
  }
}

const refusal = (recipient: X509Certificate, detail: string, cause?: unknown): EncryptionError => {
  const name = recipient.subject ? recipient.subject.replaceAll('\n', ', ') : `serial number ${recipient.serialNumber}`;
  return new EncryptionError('recipient', `${name}: ${detail}`, cause === undefined ? {} : { cause });
};

type Transport = { readonly kind: 'rsa' } | { readonly kind: 'ec'; readonly namedCurve: string };

/** How a content key can reach the holder of this public key; undefined for a kind or size of key that is not supported. */
const transportFor = (publicKey: KeyObject): Transport | undefined => {
  const { modulusLength = 0, namedCurve = '' } = publicKey.asymmetricKeyDetails ?? {};
  // A key of type rsa-pss is for signatures alone (RFC 4055, 1.2), and has a type of its own here.
  if (publicKey.asymmetricKeyType === 'rsa' && rsaBits.min <= modulusLength && modulusLength <= rsaBits.max) return { kind: 'rsa' };
  if (publicKey.asymmetricKeyType === 'ec' && curves.has(namedCurve)) return { kind: 'ec', namedCurve };
  return undefined;
};

/** Checks that the certificate may be encrypted to (RFC 5280, 4.2.1.3 and 4.2). @throws EncryptionError `recipient` */
const checkRecipient = (recipient: X509Certificate, now: Date): { certificate: ParsedCertificate; transport: Transport } => {
  const certificate = parseCertificate(recipient.raw);
  if (certificate === undefined) throw refusal(recipient, 'it or its public key cannot be read');
  const transport = transportFor(certificate.publicKey);
  if (transport === undefined) throw refusal(recipient, 'encryption is to RSA keys of 2,048 bits or more, and to P-256, P-384 and P-521');
  const usage = transport.kind === 'rsa' ? 'keyEncipherment' : 'keyAgreement';
  if (certificate.keyUsage !== undefined && (certificate.keyUsage & usageBits[usage]) === 0) {
    throw refusal(recipient, `its keyUsage does not have ${usage}`);
  }
  if (certificate.criticalUnknown.length > 0) {
    throw refusal(recipient, `it has the unknown critical extension ${certificate.criticalUnknown[0]}`);
  }
  // Asked the positive way round, so that an invalid date is refused too.
  if (!(certificate.notBefore <= now && now <= certificate.notAfter)) {
    throw refusal(recipient, `it is valid from ${certificate.notBefore.toISOString()} to ${certificate.notAfter.toISOString()}`);
  }
  return { certificate, transport };
};

/** IssuerAndSerialNumber (RFC 5652, 10.2.4). */
const issuerAndSerialNumber = ({ issuer, serialNumber }: ParsedCertificate): Der => sequence(issuer, encode(tag.integer, serialNumber));

/** KeyTransRecipientInfo with RSAES-OAEP (RFC 5652, 6.2.1; RFC 3560). */
const keyTransRecipientInfo = (certificate: ParsedCertificate, contentKey: Uint8Array): Der => {
  const oaep = { key: certificate.publicKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' };
  return sequence(integer(0), issuerAndSerialNumber(certificate), rsaesOaep, octetString(publicEncrypt(oaep, contentKey)));
};

/**
 * The key-encryption key out of the shared secret: one round of the X9.63 KDF, because SHA-256 gives as many bits as are
 * needed (SEC 1, 3.6.1), over the ECC-CMS-SharedInfo (RFC 5753, 7.2). The ephemeral key makes a ukm needless.
 */
const keyEncryptionKey = (sharedSecret: Uint8Array): Buffer => {
  const counter = Uint8Array.of(0, 0, 0, 1);
  const bits = Uint8Array.of(0, 0, 1, 0); // suppPubInfo: 256
  const sharedInfo = sequence(aes256Wrap, encode(tag.contextConstructed(2), octetString(bits)));
  return createHash('sha256').update(sharedSecret).update(counter).update(sharedInfo).digest();
};

/** KeyAgreeRecipientInfo with ephemeral-static ECDH (RFC 5652, 6.2.2; RFC 5753, 3.1). */
const keyAgreeRecipientInfo = (certificate: ParsedCertificate, namedCurve: string, contentKey: Uint8Array): Der => {
  const ephemeral = generateKeyPairSync('ec', { namedCurve });
  const sharedSecret = diffieHellman({ privateKey: ephemeral.privateKey, publicKey: certificate.publicKey });
  const wrapKey = keyEncryptionKey(sharedSecret);
  const wrap = createCipheriv('id-aes256-wrap', wrapKey, keyWrapIv);
  const encryptedKey = Buffer.concat([wrap.update(contentKey), wrap.final()]);
  sharedSecret.fill(0);
  wrapKey.fill(0);
  // OriginatorPublicKey has the fields of a SubjectPublicKeyInfo under another tag.
  const publicKey = readContents(new DerReader(ephemeral.publicKey.export({ format: 'der', type: 'spki' })), tag.sequence);
  return encode(
    tag.contextConstructed(1),
    integer(3),
    encode(tag.contextConstructed(0), encode(tag.contextConstructed(1), publicKey)),
    stdDhSha256Kdf,
    sequence(sequence(issuerAndSerialNumber(certificate), octetString(encryptedKey))),
  );
};

/** Everything in front of the ciphertext (RFC 5083, 2.1), and the cipher for what follows. @throws EncryptionError `recipient` */
const begin = (recipient: X509Certificate, { now, randomBytes }: EncryptOptions): { head: Buffer; cipher: CipherGCM } => {
  const { certificate, transport } = checkRecipient(recipient, now);
  const contentKey = randomBytes(keyOctets);
  const nonce = randomBytes(nonceOctets);
  if (contentKey.length !== keyOctets || nonce.length !== nonceOctets)
    throw new RangeError('random octets in another number than asked for');
  let recipientInfo: Der;
  try {
    recipientInfo =
      transport.kind === 'rsa'
        ? keyTransRecipientInfo(certificate, contentKey)
        : keyAgreeRecipientInfo(certificate, transport.namedCurve, contentKey);
  } catch (cause) {
    throw refusal(recipient, 'nothing can be encrypted to its key', cause);
  }
  const cipher = createCipheriv('aes-256-gcm', contentKey, nonce, { authTagLength: tagOctets });
  contentKey.fill(0);
  const head = Buffer.concat([
    open(tag.sequence),
    oid('1.2.840.113549.1.9.16.1.23'), // id-ct-authEnvelopedData
    open(tag.contextConstructed(0)),
    open(tag.sequence),
    integer(0),
    setOf(recipientInfo),
    open(tag.sequence),
    oid('1.2.840.113549.1.7.1'), // id-data
    // id-aes256-GCM with GCMParameters (RFC 5084, 3.2); 16 is not the default length of the tag.
    sequence(oid('2.16.840.1.101.3.4.1.46'), sequence(octetString(nonce), integer(tagOctets))),
    open(tag.contextConstructed(0)),
  ]);
  return { head, cipher };
};

/** The content in segments of one length, the last one shorter; each is overwritten when the next is asked for. @throws EncryptionError `content` */
async function* segmentsOf(content: AsyncIterable<Uint8Array>, contentOctetsMax: number): AsyncGenerator<Uint8Array> {
  const segment = new Uint8Array(segmentOctets);
  let filled = 0;
  let taken = 0;
  for await (const chunk of content) {
    taken += chunk.length;
    if (taken > contentOctetsMax) throw new EncryptionError('content', `encryption ends at ${contentOctetsMax} octets`);
    for (let at = 0; at < chunk.length; ) {
      const part = chunk.subarray(at, at + segmentOctets - filled);
      segment.set(part, filled);
      at += part.length;
      filled += part.length;
      if (filled === segmentOctets) {
        yield segment;
        filled = 0;
      }
    }
  }
  if (filled > 0) yield segment.subarray(0, filled);
}

/** What lies around the ciphertext, and the ciphertext as the segments of a constructed OCTET STRING (X.690, 8.7.3). */
async function* encryptSegments(head: Buffer, cipher: CipherGCM, segments: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
  yield head;
  for await (const segment of segments) yield asBuffer(octetString(cipher.update(segment)));
  const rest = cipher.final();
  if (rest.length > 0) throw new RangeError('GCM kept octets back');
  // The ends of encryptedContent and of its EncryptedContentInfo; the mac; the ends of all that is around it.
  yield Buffer.concat([close(2), octetString(cipher.getAuthTag()), close(3)]);
}

/**
 * Encrypts the content to the holder of the certificate: a ContentInfo of AuthEnvelopedData, in pieces of some 64 KiB.
 *
 * The certificate is checked at once, before anything of the content is asked for. Whether its issuer is trusted and whether
 * it was revoked is the caller's question.
 * @throws EncryptionError `recipient` at the call, when the certificate is not for encryption or not valid at `now`;
 *   EncryptionError `content` from the stream; whatever the content throws
 */
export const encryptToRecipient = (
  content: AsyncIterable<Uint8Array>,
  recipient: X509Certificate,
  options: EncryptOptions,
): AsyncGenerator<Buffer> => {
  const { head, cipher } = begin(recipient, options);
  return encryptSegments(head, cipher, segmentsOf(content, Math.min(options.contentOctetsMax ?? gcmOctetsMax, gcmOctetsMax)));
};
