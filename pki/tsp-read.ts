/** Reads what a timestamping authority answers: TimeStampResp, TimeStampToken and TSTInfo (RFC 3161, 2.4.2). Refusals are `DerError`. */
import {
  readAlgorithmIdentifier,
  readAny,
  readContents,
  readOid,
  readSignedData,
  readSmallInteger,
  type SignedData,
  smallInteger,
} from './cms-read.ts';
import { type Der, DerError, DerReader, tag } from './der.ts';

/** PKIFailureInfo as far as RFC 3161 uses it, by bit. */
const failInfoBits: Readonly<Record<number, string>> = {
  0: 'badAlg',
  2: 'badRequest',
  5: 'badDataFormat',
  14: 'timeNotAvailable',
  15: 'unacceptedPolicy',
  16: 'unacceptedExtension',
  17: 'addInfoNotAvailable',
  25: 'systemFailure',
};
const statusNames = ['granted', 'grantedWithMods', 'rejection', 'waiting', 'revocationWarning', 'revocationNotification'] as const;

export interface TimeStampResp {
  readonly status: (typeof statusNames)[number];
  readonly statusString: readonly string[];
  readonly failInfo: readonly string[];
  readonly timeStampToken: Der | undefined;
}

export interface TstInfo {
  readonly version: number;
  readonly policy: string;
  readonly messageImprint: { readonly algorithm: string; readonly hashedMessage: Uint8Array };
  /** Contents of the INTEGER. */
  readonly serialNumber: Uint8Array;
  /** genTime cut to milliseconds. */
  readonly genTime: Date;
  /** genTime in ISO 8601, with every digit that the token has. */
  readonly genTimeText: string;
  readonly accuracyMicros: number | undefined;
  readonly ordering: boolean;
  /** Contents of the INTEGER. */
  readonly nonce: Uint8Array | undefined;
  /** The GeneralName. */
  readonly tsa: Der | undefined;
  readonly criticalExtensions: readonly string[];
}

export interface TimeStampToken {
  readonly signedData: SignedData;
  /** The octets that the message-digest attribute is over. */
  readonly content: Uint8Array;
  readonly tstInfo: TstInfo;
}

const readFailInfo = (reader: DerReader): string[] => {
  const contents = readContents(reader, tag.bitString);
  const unused = contents[0] ?? 8;
  if (unused > 7) throw new DerError('BIT STRING not DER', reader.offset);
  const names: string[] = [];
  for (let bit = 0; bit < Math.min((contents.length - 1) * 8 - unused, 256); bit += 1) {
    if (((contents[1 + (bit >> 3)] as number) & (0x80 >> (bit & 7))) !== 0) names.push(failInfoBits[bit] ?? `bit ${bit}`);
  }
  return names;
};

/** TimeStampResp (RFC 3161, 2.4.2). @throws DerError */
export const readTimeStampResp = (bytes: Uint8Array): TimeStampResp => {
  const outer = new DerReader(bytes);
  const response = outer.enter(tag.sequence);
  outer.finish();
  const info = response.enter(tag.sequence);
  const status = statusNames[readSmallInteger(info)];
  if (status === undefined) throw new DerError('PKIStatus unknown', info.offset);
  const statusString: string[] = [];
  if (info.peek() === tag.sequence) {
    const texts = info.enter(tag.sequence);
    while (texts.peek() !== -1) statusString.push(Buffer.from(readContents(texts, tag.utf8String)).toString('utf8'));
  }
  const failInfo = info.peek() === tag.bitString ? readFailInfo(info) : [];
  info.finish();
  const timeStampToken = response.peek() === -1 ? undefined : readAny(response);
  response.finish();
  return { status, statusString, failInfo, timeStampToken };
};

const generalizedTimeForm = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.(\d{0,17}[1-9]))?Z$/;

/** GeneralizedTime in the form of X.690, 11.7: UTC, seconds, a fraction without trailing zeros. @throws DerError */
export const readGeneralizedTime = (contents: Uint8Array, offset: number): { readonly date: Date; readonly text: string } => {
  const match = generalizedTimeForm.exec(
    Buffer.from(contents.buffer, contents.byteOffset, Math.min(contents.length, 64)).toString('latin1'),
  );
  if (match === null || contents.length > 64) throw new DerError('GeneralizedTime not DER', offset);
  const [, year, month, day, hour, minute, second, fraction] = match;
  const seconds = `${year}-${month}-${day}T${hour}:${minute}:${second}`;
  const date = new Date(`${seconds}.${(fraction ?? '').padEnd(3, '0').slice(0, 3)}Z`);
  // Date rolls 30 February over to March instead of refusing it.
  if (Number.isNaN(date.getTime()) || date.toISOString().slice(0, 19) !== seconds)
    throw new DerError('GeneralizedTime names no instant', offset);
  return { date, text: `${seconds}${fraction === undefined ? '' : `.${fraction}`}Z` };
};

const readAccuracy = (reader: DerReader): number => {
  const accuracy = reader.enter(tag.sequence);
  let micros = accuracy.peek() === tag.integer ? readSmallInteger(accuracy) * 1_000_000 : 0;
  for (const [n, factor] of [
    [0, 1_000],
    [1, 1],
  ] as const) {
    if (accuracy.peek() !== tag.context(n)) continue;
    const part = smallInteger(readContents(accuracy, tag.context(n)), accuracy.offset);
    if (part < 1 || part > 999) throw new DerError('Accuracy out of range', accuracy.offset);
    micros += part * factor;
  }
  accuracy.finish();
  return micros;
};

const readCriticalExtensions = (reader: DerReader): string[] => {
  const list = reader.enter(tag.contextConstructed(1));
  const critical: string[] = [];
  while (list.peek() !== -1) {
    const extension = list.enter(tag.sequence);
    const oid = readOid(extension);
    if (extension.peek() === tag.boolean && extension.boolean()) critical.push(oid);
    extension.next(tag.octetString);
    extension.finish();
  }
  return critical;
};

/** TSTInfo (RFC 3161, 2.4.2). @throws DerError */
export const readTstInfo = (bytes: Uint8Array): TstInfo => {
  const outer = new DerReader(bytes);
  const info = outer.enter(tag.sequence);
  outer.finish();
  const version = readSmallInteger(info);
  const policy = readOid(info);
  const imprint = info.enter(tag.sequence);
  const algorithm = readAlgorithmIdentifier(imprint).oid;
  const hashedMessage = readContents(imprint, tag.octetString);
  imprint.finish();
  const serialNumber = info.integer();
  const genTime = readGeneralizedTime(readContents(info, tag.generalizedTime), info.offset);
  const accuracyMicros = info.peek() === tag.sequence ? readAccuracy(info) : undefined;
  // DER leaves a DEFAULT out; an explicit FALSE of a foreign authority means the same and harms nobody.
  const ordering = info.peek() === tag.boolean && info.boolean();
  const nonce = info.peek() === tag.integer ? info.integer() : undefined;
  const tsa = info.peek() === tag.contextConstructed(0) ? readContents(info, tag.contextConstructed(0)) : undefined;
  const criticalExtensions = info.peek() === tag.contextConstructed(1) ? readCriticalExtensions(info) : [];
  info.finish();
  return {
    version,
    policy,
    messageImprint: { algorithm, hashedMessage },
    serialNumber,
    genTime: genTime.date,
    genTimeText: genTime.text,
    accuracyMicros,
    ordering,
    nonce,
    tsa,
    criticalExtensions,
  };
};

/** TimeStampToken (RFC 3161, 2.4.2): SignedData around a TSTInfo. Checks no signature. @throws DerError */
export const readTimeStampToken = (bytes: Uint8Array): TimeStampToken => {
  const signedData = readSignedData(bytes);
  if (signedData.contentType !== '1.2.840.113549.1.9.16.1.4') throw new DerError('id-ct-TSTInfo expected', 0);
  if (signedData.content === undefined) throw new DerError('TSTInfo missing', 0);
  return { signedData, content: signedData.content, tstInfo: readTstInfo(signedData.content) };
};
