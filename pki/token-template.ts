/**
 * TimeStampToken by template (RFC 3161, 2.4.2; RFC 5816; RFC 5652; ETSI EN 319 422): all that is the same for every token
 * of a TSU and a policy is encoded once, a stamp only fills in its own fields and copies. No ASN.1 tree per request:
 * the oracle in test/pki shows byte for byte that pkijs and OpenSSL read the same thing.
 */
import {
  digestAlgorithmIdentifier,
  digestAlgorithms,
  type KeyScheme,
  type SignatureDigest,
  signatureAlgorithmIdentifier,
} from './algorithms.ts';
import { type Der, encode, integer, lengthOctets, octetString, oid, sequence, setOf, tag, writeHeader } from './der.ts';
import { sha256, writeDigest } from './digest.ts';
import { GenTimeWriter, genTimeOctets } from './gen-time.ts';
import type { SignerCertificate } from './signer-certificate.ts';

/** Serial numbers are always of this many octets, the first one 0x40 to 0x7f: positive, minimal and at most 20 (RFC 3161, 2.4.2). */
export const serialOctets = 20;
/** Nonces are echoed whatever their length; this bounds the scratch space by the largest body the schema allows. */
const nonceOctetsMax = 1_048_576;
/** A TSTInfo without tsa and extensions: 3 + 12 + 83 + 22 + 21 + 14 and an 8-octet nonce, rounded up; it grows when it must. */
const tstInfoOctets = 256;

const signedDataOid = oid('1.2.840.113549.1.7.2');
const tstInfoOid = oid('1.2.840.113549.1.9.16.1.4');
const versionThree = integer(3);

/** Accuracy (RFC 3161, 2.4.2): seconds, and milliseconds and microseconds only where they are not zero. */
const accuracyField = (micros: number): Der => {
  const seconds = Math.floor(micros / 1_000_000);
  const millis = Math.floor(micros / 1_000) % 1_000;
  const rest = micros % 1_000;
  const fields: Der[] = [];
  if (seconds > 0) fields.push(integer(seconds));
  for (const [n, value] of [millis, rest].entries()) {
    if (value > 0) fields.push(encode(tag.context(n), integer(value).subarray(2)));
  }
  return sequence(...fields);
};

/** qcStatements with esi4-qtstStatement-1 (ETSI EN 319 422, 9.1), in the [1] extensions of TSTInfo. */
const qualifiedExtensions = (): Der => {
  const statements = sequence(sequence(oid('0.4.0.19422.1.1')));
  return encode(tag.contextConstructed(1), sequence(oid('1.3.6.1.5.5.7.1.3'), octetString(statements)));
};

const attribute = (type: string, value: Der): Der => sequence(oid(type), encode(tag.set, value));

/** ESSCertIDv2 with SHA-256 as its DEFAULT, left out in DER, and issuerSerial to bind the issuer too (RFC 5816; RFC 5035). */
const signingCertificateV2 = (certificate: SignerCertificate): Der => {
  const directoryName = encode(tag.contextConstructed(4), certificate.issuer);
  const issuerSerial = sequence(sequence(directoryName), certificate.serialNumber);
  return sequence(sequence(sequence(octetString(sha256(certificate.der)), issuerSerial)));
};

export interface TokenTemplateOptions {
  /** Whole OBJECT IDENTIFIER value. */
  readonly policy: Uint8Array;
  readonly scheme: KeyScheme;
  readonly signatureDigest: SignatureDigest;
  /** Certificate of the TSU's key. */
  readonly certificate: SignerCertificate;
  readonly accuracyMicros: number;
  /** Puts the subject of the TSU certificate into the tsa field. */
  readonly tsaName: 'none' | 'subject';
  readonly qualified: boolean;
}

/** What differs from stamp to stamp. */
export interface StampFields {
  /** Whole MessageImprint value as the client sent it. */
  readonly messageImprint: Uint8Array;
  /** Whole INTEGER value as the client sent it. */
  readonly nonce: Uint8Array | undefined;
}

/**
 * One stamp at a time: `prepare` fills TSTInfo and signed attributes and returns the hash to sign; `tokenLength` and
 * `writeToken` deliver the token, without certificates (pki/token-certificates.ts puts them in). Not reentrant.
 */
export class TokenTemplate {
  readonly #tstHead: Uint8Array;
  readonly #tstAccuracy: Uint8Array;
  readonly #tstTail: Uint8Array;
  readonly #digestAlgorithms: Uint8Array;
  readonly #signerHead: Uint8Array;
  readonly #signatureAlgorithm: Uint8Array;
  /** Signed attributes as SET OF, the form that is hashed; in the token the identifier is [0] (RFC 5652, 5.4). */
  readonly #signedAttributes: Buffer;
  readonly #messageDigestOffset: number;
  readonly #digest: SignatureDigest;
  /** Of the signed attributes. */
  readonly #hash: Buffer;
  readonly #genTime = new GenTimeWriter();
  #tstInfo: Buffer = Buffer.alloc(tstInfoOctets);
  #tstInfoEnd = 0;

  constructor(options: TokenTemplateOptions) {
    const { certificate, signatureDigest } = options;
    const digestIdentifier = digestAlgorithmIdentifier(signatureDigest);
    this.#digest = signatureDigest;
    this.#hash = Buffer.alloc(digestAlgorithms[signatureDigest].octets);
    this.#tstHead = Buffer.concat([integer(1), options.policy]);
    this.#tstAccuracy = accuracyField(options.accuracyMicros);
    this.#tstTail = Buffer.concat([
      options.tsaName === 'subject'
        ? encode(tag.contextConstructed(0), encode(tag.contextConstructed(4), certificate.subject))
        : new Uint8Array(),
      options.qualified ? qualifiedExtensions() : new Uint8Array(),
    ]);
    this.#digestAlgorithms = encode(tag.set, digestIdentifier);
    this.#signerHead = Buffer.concat([integer(1), sequence(certificate.issuer, certificate.serialNumber), digestIdentifier]);
    this.#signatureAlgorithm = signatureAlgorithmIdentifier(options.scheme, signatureDigest);

    const placeholder = new Uint8Array(digestAlgorithms[signatureDigest].octets);
    const messageDigest = attribute('1.2.840.113549.1.9.4', octetString(placeholder));
    // The digest is the last field of its attribute and behind longer-differing headers, so its value never changes the order.
    this.#signedAttributes = Buffer.from(
      setOf(
        attribute('1.2.840.113549.1.9.3', tstInfoOid),
        messageDigest,
        attribute('1.2.840.113549.1.9.16.2.47', signingCertificateV2(certificate)),
      ),
    );
    this.#messageDigestOffset = this.#signedAttributes.indexOf(messageDigest) + messageDigest.length - placeholder.length;
  }

  /**
   * Fills in one stamp.
   * @param serial `serialOctets` octets
   * @param genTime whole milliseconds since 1970, UTC
   * @returns hash of the signed attributes, to be signed by the TSU's key; valid until the next call
   */
  prepare(fields: StampFields, serial: Uint8Array, genTime: number): Buffer {
    this.#writeTstInfo(fields, serial, genTime);
    writeDigest(this.#digest, this.#tstInfo.subarray(0, this.#tstInfoEnd), this.#signedAttributes, this.#messageDigestOffset);
    writeDigest(this.#digest, this.#signedAttributes, this.#hash, 0);
    return this.#hash;
  }

  #writeTstInfo({ messageImprint, nonce }: StampFields, serial: Uint8Array, genTime: number): void {
    const nonceOctets = nonce?.length ?? 0;
    if (nonceOctets > nonceOctetsMax || serial.length !== serialOctets) throw new RangeError('nonce or serial out of bounds');
    const timeOctets = genTimeOctets(genTime);
    const content =
      this.#tstHead.length +
      messageImprint.length +
      (2 + serialOctets) +
      (2 + timeOctets) +
      this.#tstAccuracy.length +
      nonceOctets +
      this.#tstTail.length;
    const needed = 1 + lengthOctets(content) + content;
    if (this.#tstInfo.length < needed) this.#tstInfo = Buffer.alloc(needed);
    const out = this.#tstInfo;
    let at = writeHeader(out, 0, tag.sequence, content);
    at = put(out, at, this.#tstHead);
    at = put(out, at, messageImprint);
    at = writeHeader(out, at, tag.integer, serialOctets);
    at = put(out, at, serial);
    at = writeHeader(out, at, tag.generalizedTime, timeOctets);
    at = this.#genTime.write(out, at, genTime);
    at = put(out, at, this.#tstAccuracy);
    if (nonce !== undefined) at = put(out, at, nonce);
    this.#tstInfoEnd = put(out, at, this.#tstTail);
  }

  /** Lengths of the nested contents, from the inside out. */
  #lengths(signatureOctets: number) {
    const wrapped = (n: number): number => 1 + lengthOctets(n) + n;
    const tst = this.#tstInfoEnd;
    const explicitTst = wrapped(tst);
    const encapsulated = tstInfoOid.length + wrapped(explicitTst);
    const signerInfo = this.#signerHead.length + this.#signedAttributes.length + this.#signatureAlgorithm.length + wrapped(signatureOctets);
    const signerInfos = wrapped(signerInfo);
    const signedData = versionThree.length + this.#digestAlgorithms.length + wrapped(encapsulated) + wrapped(signerInfos);
    const content = wrapped(signedData);
    const contentInfo = signedDataOid.length + wrapped(content);
    return { explicitTst, encapsulated, signerInfo, signerInfos, signedData, content, contentInfo, token: wrapped(contentInfo) };
  }

  /**
   * Writes the TimeStampToken of the prepared stamp.
   * @param signature value as CMS carries it (DER for ECDSA)
   * @returns offset behind the token
   */
  writeToken(out: Buffer, offset: number, signature: Uint8Array): number {
    const lengths = this.#lengths(signature.length);
    let at = writeHeader(out, offset, tag.sequence, lengths.contentInfo);
    at = put(out, at, signedDataOid);
    at = writeHeader(out, at, tag.contextConstructed(0), lengths.content);
    at = writeHeader(out, at, tag.sequence, lengths.signedData);
    at = put(out, at, versionThree);
    at = put(out, at, this.#digestAlgorithms);
    at = writeHeader(out, at, tag.sequence, lengths.encapsulated);
    at = put(out, at, tstInfoOid);
    at = writeHeader(out, at, tag.contextConstructed(0), lengths.explicitTst);
    at = writeHeader(out, at, tag.octetString, this.#tstInfoEnd);
    this.#tstInfo.copy(out, at, 0, this.#tstInfoEnd);
    at += this.#tstInfoEnd;
    at = writeHeader(out, at, tag.set, lengths.signerInfos);
    at = writeHeader(out, at, tag.sequence, lengths.signerInfo);
    at = put(out, at, this.#signerHead);
    this.#signedAttributes.copy(out, at);
    out[at] = tag.contextConstructed(0);
    at += this.#signedAttributes.length;
    at = put(out, at, this.#signatureAlgorithm);
    at = writeHeader(out, at, tag.octetString, signature.length);
    return put(out, at, signature);
  }

  /** Octets of the token that `writeToken` would write. */
  tokenLength(signatureOctets: number): number {
    return this.#lengths(signatureOctets).token;
  }
}

const put = (out: Buffer, at: number, bytes: Uint8Array): number => {
  out.set(bytes, at);
  return at + bytes.length;
};
