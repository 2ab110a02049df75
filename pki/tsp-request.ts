/**
 * TimeStampReq (RFC 3161, section 2.4.1): what a stranger's bytes ask for, or why they are refused.
 *
 * Pure and bounded: one pass over the input, no recursion, no copy. Every refusal is a value.
 */
import { type DigestAlgorithm, digestAlgorithms } from './algorithms.ts';
import { DerError, DerReader, oid, skipDer, tag } from './der.ts';

export type ImprintDigest = keyof typeof digestAlgorithms;

/** PKIFailureInfo bits that RFC 3161, section 2.4.2 gives to timestamping. */
export type FailInfo =
  | 'badAlg'
  | 'badRequest'
  | 'badDataFormat'
  | 'timeNotAvailable'
  | 'unacceptedPolicy'
  | 'unacceptedExtension'
  | 'systemFailure';

/** A well-formed request. All byte fields are views into the input and are echoed as they are. */
export interface TimeStampReq {
  /** Whole MessageImprint value, identifier and length included. */
  readonly messageImprint: Uint8Array;
  /** undefined: an algorithm that is not known here, or with parameters that make it another one. */
  readonly digest: ImprintDigest | undefined;
  /** Whole OBJECT IDENTIFIER value; undefined leaves the choice to the TSA. */
  readonly reqPolicy: Uint8Array | undefined;
  /** Whole INTEGER value, of any sign and length. */
  readonly nonce: Uint8Array | undefined;
  readonly certReq: boolean;
  readonly hasExtensions: boolean;
}

export interface Refusal {
  readonly kind: 'refused';
  readonly failInfo: FailInfo;
}
export type TimeStampReqResult = { readonly kind: 'request'; readonly request: TimeStampReq } | Refusal;

const refusals = Object.fromEntries(
  (['badAlg', 'badRequest', 'badDataFormat', 'unacceptedPolicy', 'unacceptedExtension'] as const).map((failInfo) => [
    failInfo,
    { kind: 'refused', failInfo } as const,
  ]),
) as Record<FailInfo, Refusal>;

/** NIST digests share all but the last octet of their identifiers, so that octet selects. */
const nistPrefix = Buffer.from(oid(digestAlgorithms.sha256.oid).subarray(2, -1));
const digestByLastOctet = new Map(
  (Object.entries(digestAlgorithms) as [ImprintDigest, DigestAlgorithm][]).map(([name, algorithm]) => [oid(algorithm.oid).at(-1), name]),
);

const digestOf = (contents: Uint8Array): ImprintDigest | undefined => {
  if (contents.length !== nistPrefix.length + 1) return undefined;
  for (let i = 0; i < nistPrefix.length; i += 1) if (contents[i] !== nistPrefix[i]) return undefined;
  return digestByLastOctet.get(contents[nistPrefix.length]);
};

/** Extensions (RFC 5280, section 4.1): only their form is checked, for none is accepted. */
const skipExtensions = (reader: DerReader): void => {
  const list = reader.enter(tag.contextConstructed(0));
  if (list.peek() === -1) throw new DerError('Extensions empty', list.offset);
  while (list.peek() !== -1) {
    const extension = list.enter(tag.sequence);
    extension.oid();
    if (extension.peek() === tag.boolean) extension.boolean();
    extension.next(tag.octetString);
    extension.finish();
  }
};

const isVersionOne = (version: Uint8Array): boolean => version.length === 1 && version[0] === 1;

const read = (bytes: Uint8Array): TimeStampReqResult => {
  const outer = new DerReader(bytes);
  const body = outer.enter(tag.sequence);
  outer.finish();
  // A later version may look different behind its number, so the number decides first.
  if (!isVersionOne(body.integer())) return refusals.badRequest;

  const imprintStart = body.offset;
  const imprint = body.enter(tag.sequence);
  const messageImprint = bytes.subarray(imprintStart, body.offset);
  const algorithm = imprint.enter(tag.sequence);
  let digest = digestOf(algorithm.oid());
  if (algorithm.peek() !== -1) {
    // RFC 5754: parameters are absent, and NULL is to be accepted; what else they might be changes the algorithm.
    if (algorithm.peek() !== tag.null) digest = undefined;
    skipDer(algorithm);
  }
  algorithm.finish();
  imprint.next(tag.octetString);
  const hashOctets = imprint.contentEnd - imprint.contentStart;
  imprint.finish();

  let reqPolicy: Uint8Array | undefined;
  if (body.peek() === tag.oid) {
    const start = body.offset;
    body.oid();
    reqPolicy = bytes.subarray(start, body.offset);
  }
  let nonce: Uint8Array | undefined;
  if (body.peek() === tag.integer) {
    const start = body.offset;
    body.integer();
    nonce = bytes.subarray(start, body.offset);
  }
  // DER leaves a DEFAULT value out, yet clients in the field write certReq FALSE: accept it.
  const certReq = body.peek() === tag.boolean ? body.boolean() : false;
  const hasExtensions = body.peek() === tag.contextConstructed(0);
  if (hasExtensions) skipExtensions(body);
  body.finish();

  if (digest !== undefined && hashOctets !== digestAlgorithms[digest].octets) return refusals.badDataFormat;
  return { kind: 'request', request: { messageImprint, digest, reqPolicy, nonce, certReq, hasExtensions } };
};

/** Reads a TimeStampReq. Never throws on any input; the result keeps views into `bytes`. */
export const parseTimeStampReq = (bytes: Uint8Array): TimeStampReqResult => {
  try {
    return read(bytes);
  } catch (error) {
    if (error instanceof DerError) return refusals.badDataFormat;
    throw error;
  }
};

/** What the record of a refusal tells of a request; undefined is what it did not hold, or what could not be read. */
export interface RefusedParts {
  readonly messageImprint: Uint8Array | undefined;
  readonly policy: Uint8Array | undefined;
}

/**
 * Reads again what parseTimeStampReq has refused, as far as it goes. Apart from it, so that a right request pays nothing for what only
 * the record of a wrong one needs. Never throws on any input.
 */
export const readRefusedParts = (bytes: Uint8Array): RefusedParts => {
  let messageImprint: Uint8Array | undefined;
  let policy: Uint8Array | undefined;
  try {
    const body = new DerReader(bytes).enter(tag.sequence);
    if (!isVersionOne(body.integer())) return { messageImprint, policy };
    const imprintStart = body.offset;
    const imprint = body.enter(tag.sequence);
    const imprintEnd = body.offset;
    imprint.enter(tag.sequence).oid();
    imprint.next(tag.octetString);
    imprint.finish();
    messageImprint = bytes.subarray(imprintStart, imprintEnd);
    if (body.peek() === tag.oid) {
      const policyStart = body.offset;
      body.oid();
      policy = bytes.subarray(policyStart, body.offset);
    }
  } catch (error) {
    // What is wrong from here on is why it was refused.
    if (!(error instanceof DerError)) throw error;
  }
  return { messageImprint, policy };
};

/** What this TSA accepts, beyond the form of a request. */
export interface TimeStampRules {
  /** Accepted policies as whole OBJECT IDENTIFIER values; the first is used when a request names none. */
  readonly policies: readonly [Uint8Array, ...Uint8Array[]];
  readonly digests: ReadonlySet<ImprintDigest>;
}

/** The policy to stamp under, or the refusal of a well-formed request: for its policy, then its digest, then its extensions. */
export const applyRules = (
  request: Pick<TimeStampReq, 'reqPolicy' | 'digest' | 'hasExtensions'>,
  rules: TimeStampRules,
): { readonly kind: 'accepted'; readonly policy: Uint8Array } | Refusal => {
  let policy = rules.policies[0];
  if (request.reqPolicy !== undefined) {
    const wanted = request.reqPolicy;
    const found = rules.policies.find((accepted) => Buffer.compare(accepted, wanted) === 0);
    if (found === undefined) return refusals.unacceptedPolicy;
    policy = found;
  }
  if (request.digest === undefined || !rules.digests.has(request.digest)) return refusals.badAlg;
  if (request.hasExtensions) return refusals.unacceptedExtension;
  return { kind: 'accepted', policy };
};
