/**
 * A block of answers, as a signer makes it for one lane entry. The same bytes go to the gateway, as its reply, and into
 * the journal, as the events: what was answered is what is journalled, because it is one thing, written once.
 *
 * Version 2, all integers big-endian:
 *
 *     block    u8 version, u8+node, u8 sections, then each section
 *     section  32 octets tsu, u16 count, then each answer
 *     answer   u32 id, u8 outcome, u8 flags (0x01 clock trusted, 0x02 certReq), u48 time (Unix milliseconds),
 *              u8+client, u8+policy, u8+messageImprint, u8+serial, u24+token
 *
 * A section holds the answers of one TSU: a batch has two when another TSU was activated meanwhile. `tsu` is the SHA-256 of the TSU certificate. `policy` and `messageImprint` are whole DER values. serial and token are
 * empty unless the outcome is granted; the token is without certificates: with certReq the client gets it with the chain
 * of the TSU, which is published once (pki/token-certificates.ts makes the issued token, bit for bit).
 */
import { SigilloError } from '../config/errors.ts';
import { ByteReader, putShort } from './byte-fields.ts';

export const answerBlockVersion = 2;
const tsuOctets = 32;
/** Octets of the header of a section. */
export const sectionHeaderOctets = tsuOctets + 2;
const trustedFlag = 0x01;
const certReqFlag = 0x02;

/** How a signer answered; the closed set of the `outcome` label of its metrics. */
export const stampOutcomes = ['granted', 'timeNotAvailable', 'systemFailure', 'expired'] as const;
export type StampOutcome = (typeof stampOutcomes)[number];

export interface StampAnswer {
  /** Number of the request in its gateway. */
  readonly id: number;
  readonly outcome: StampOutcome;
  readonly clock: 'unverified' | 'trusted';
  readonly certReq: boolean;
  /** genTime, or the time of the refusal. */
  readonly unixMillis: number;
  /** ASCII. */
  readonly client: string;
  readonly policy: Uint8Array;
  readonly messageImprint: Uint8Array;
  readonly serial: Uint8Array;
}

/** Octets of the header of a block. */
export const blockHeaderOctets = (node: string): number => 1 + 1 + node.length + 1;

/** Writes the header of a block. @param node ASCII name of the signer's host @returns offset of the first section */
export const writeBlockHeader = (out: Buffer, node: string, sections: number): number => {
  out[0] = answerBlockVersion;
  out[1] = node.length;
  const at = 2 + out.write(node, 2, 'latin1');
  out[at] = sections;
  return at + 1;
};

/** Writes the header of a section. @returns offset of its first answer */
export const writeSectionHeader = (out: Buffer, offset: number, tsu: Uint8Array, count: number): number => {
  out.set(tsu, offset);
  return out.writeUInt16BE(count, offset + tsuOctets);
};

/** Octets of an answer around its token. */
export const answerOctets = (answer: StampAnswer): number =>
  4 + 1 + 1 + 6 + 4 + answer.client.length + answer.policy.length + answer.messageImprint.length + answer.serial.length + 3;

/** Writes an answer up to its token. @returns offset where the token of `tokenOctets` goes */
export const writeAnswer = (out: Buffer, offset: number, answer: StampAnswer, tokenOctets: number): number => {
  let at = out.writeUInt32BE(answer.id, offset);
  out[at] = stampOutcomes.indexOf(answer.outcome);
  out[at + 1] = (answer.clock === 'trusted' ? trustedFlag : 0) | (answer.certReq ? certReqFlag : 0);
  at = out.writeUIntBE(answer.unixMillis, at + 2, 6);
  out[at] = answer.client.length;
  at += 1 + out.write(answer.client, at + 1, 'latin1');
  at = putShort(out, at, answer.policy);
  at = putShort(out, at, answer.messageImprint);
  at = putShort(out, at, answer.serial);
  return out.writeUIntBE(tokenOctets, at, 3);
};

/** An answer with its token; byte fields are views into the block. */
export interface DecodedStampAnswer extends StampAnswer {
  readonly token: Buffer;
}

export interface AnswerSection {
  readonly tsu: Buffer;
  readonly answers: readonly DecodedStampAnswer[];
}

export interface AnswerBlock {
  readonly node: string;
  readonly sections: readonly AnswerSection[];
}

const readSection = (reader: ByteReader): AnswerSection => {
  const tsu = reader.fixed(tsuOctets);
  const count = reader.unsigned(2);
  const answers: DecodedStampAnswer[] = [];
  for (let i = 0; i < count; i += 1) {
    const id = reader.unsigned(4);
    const outcome = stampOutcomes[reader.unsigned(1)];
    if (outcome === undefined) throw new SigilloError('LANE_ENTRY_MALFORMED', 'unknown outcome');
    const flags = reader.unsigned(1);
    answers.push({
      id,
      outcome,
      clock: (flags & trustedFlag) === 0 ? 'unverified' : 'trusted',
      certReq: (flags & certReqFlag) !== 0,
      unixMillis: reader.unsigned(6),
      client: reader.view(1).toString('latin1'),
      policy: reader.view(1),
      messageImprint: reader.view(1),
      serial: reader.view(1),
      token: reader.view(3),
    });
  }
  return { tsu, answers };
};

/** Reads a block. @throws LANE_ENTRY_MALFORMED */
export const decodeAnswerBlock = (bytes: Buffer): AnswerBlock => {
  const reader = new ByteReader(bytes);
  reader.version(answerBlockVersion);
  const node = reader.view(1).toString('latin1');
  const sections = Array.from({ length: reader.unsigned(1) }, () => readSection(reader));
  reader.finish();
  return { node, sections };
};
