/** Serial number and genTime of a token that we issued ourselves: for answers in JSON, not for judging foreign tokens. */
import { DerReader, tag } from './der.ts';

export interface TokenSummary {
  /** Lower-case hex of the serial number's octets. */
  readonly serial: string;
  /** ISO 8601 in UTC, with the digits of genTime. */
  readonly genTime: string;
}

const isoTime = (genTime: string): string =>
  `${genTime.slice(0, 4)}-${genTime.slice(4, 6)}-${genTime.slice(6, 8)}T${genTime.slice(8, 10)}:${genTime.slice(10, 12)}:${genTime.slice(12)}`;

/** @throws DerError when `token` is no TimeStampToken */
export const readTokenSummary = (token: Uint8Array): TokenSummary => {
  const contentInfo = new DerReader(token).enter(tag.sequence);
  contentInfo.next(tag.oid);
  const signedData = contentInfo.enter(tag.contextConstructed(0)).enter(tag.sequence);
  signedData.next(tag.integer);
  signedData.next(tag.set);
  const encapsulated = signedData.enter(tag.sequence);
  encapsulated.next(tag.oid);
  const tstInfo = encapsulated.enter(tag.contextConstructed(0)).enter(tag.octetString).enter(tag.sequence);
  tstInfo.next(tag.integer);
  tstInfo.next(tag.oid);
  tstInfo.next(tag.sequence);
  const serial = Buffer.from(tstInfo.integer()).toString('hex');
  tstInfo.next(tag.generalizedTime);
  const genTime = Buffer.from(token.subarray(tstInfo.contentStart, tstInfo.contentEnd)).toString('latin1');
  return { serial, genTime: isoTime(genTime) };
};
