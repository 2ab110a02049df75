/** TimeStampReq values (RFC 3161, 2.4.1) part by part, so that each part can be another one, or none. */
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { type Der, derNull, encode, integer, octetString, oid, sequence, tag } from '../../pki/der.ts';

export interface RequestParts {
  readonly version?: Der;
  readonly algorithm?: string;
  /** undefined writes NULL, the empty array nothing. */
  readonly parameters?: readonly Der[];
  readonly hashedMessage?: Uint8Array;
  /** In place of the whole MessageImprint. */
  readonly imprint?: Der;
  readonly policy?: string;
  /** Contents of the INTEGER. */
  readonly nonce?: Uint8Array;
  /** undefined leaves the field out. */
  readonly certReq?: boolean;
  /** Extensions: one value each. */
  readonly extensions?: readonly Der[];
  /** Behind everything else, inside the outer SEQUENCE. */
  readonly tail?: readonly Der[];
}

export const messageImprint = (algorithm: string, hashedMessage: Uint8Array, parameters: readonly Der[] = [derNull]): Der =>
  sequence(sequence(oid(algorithm), ...parameters), octetString(hashedMessage));

export const booleanDer = (value: boolean): Der => encode(tag.boolean, Uint8Array.of(value ? 0xff : 0));

export const extensionDer = (name: string, value: Uint8Array, critical?: boolean): Der =>
  sequence(oid(name), ...(critical === undefined ? [] : [booleanDer(critical)]), octetString(value));

/** A right request for SHA-256 unless the parts say otherwise. */
export const makeRequest = (parts: RequestParts = {}): Der =>
  sequence(
    parts.version ?? integer(1),
    parts.imprint ??
      messageImprint(
        parts.algorithm ?? digestAlgorithms.sha256.oid,
        parts.hashedMessage ?? new Uint8Array(32).fill(0xab),
        parts.parameters,
      ),
    ...(parts.policy === undefined ? [] : [oid(parts.policy)]),
    ...(parts.nonce === undefined ? [] : [encode(tag.integer, parts.nonce)]),
    ...(parts.certReq === undefined ? [] : [booleanDer(parts.certReq)]),
    ...(parts.extensions === undefined ? [] : [encode(tag.contextConstructed(0), ...parts.extensions)]),
    ...(parts.tail ?? []),
  );
