/**
 * Blocks of answers as a signer makes them for P-256, for measuring the journal without a signer: the parts that differ from stamp to
 * stamp are random and as long as in a real one (serial number, imprint, genTime, digest of the attributes, signature), so that they
 * take as much room on disk.
 */
import { randomBytes, randomFillSync } from 'node:crypto';
import {
  answerOctets,
  blockHeaderOctets,
  type StampAnswer,
  sectionHeaderOctets,
  writeAnswer,
  writeBlockHeader,
  writeSectionHeader,
} from '../queue/answer-block.ts';

/** A P-256 token without certificates is 650 octets or so, with SHA-256 and a nonce of eight octets. */
const tokenOctets = 650;
/** Octets that differ and stand nowhere else: nonce 8, digest of the attributes 32, signature 64. */
const holes = [
  [230, 8],
  [430, 32],
  [tokenOctets - 70, 64],
] as const;
const [serialAt, imprintAt, genTimeAt] = [120, 140, 200];
/** As signer/serial-numbers.ts makes them: random for each thread, then counted. */
const serialPrefix = randomBytes(14);
let serials = 0;
const nextSerial = (): Buffer => {
  serials += 1;
  const counter = Buffer.alloc(6);
  counter.writeUIntBE(serials, 0, 6);
  return Buffer.concat([serialPrefix, counter]);
};
const imprintHead = Buffer.from('3031300d060960864801650304020105000420', 'hex');
const policy = Buffer.from('060a2b0601040181fd590101', 'hex');
const tsu = randomBytes(32);
const shape = randomBytes(tokenOctets);
const node = 'bench';

/** A block of so many stamps, all of them granted. */
export const makeAnswerBlock = (stamps: number): Buffer => {
  const answers = Array.from({ length: stamps }, (_, id): StampAnswer => {
    const messageImprint = Buffer.concat([imprintHead, randomBytes(32)]);
    return {
      id,
      outcome: 'granted',
      clock: 'unverified',
      certReq: false,
      unixMillis: Date.now(),
      client: 'anonymous',
      policy,
      messageImprint,
      serial: nextSerial(),
    };
  });
  const length = answers.reduce((sum, answer) => sum + answerOctets(answer) + tokenOctets, blockHeaderOctets(node) + sectionHeaderOctets);
  const block = Buffer.allocUnsafe(length);
  let at = writeSectionHeader(block, writeBlockHeader(block, node, 1), tsu, stamps);
  for (const answer of answers) {
    at = writeAnswer(block, at, answer, tokenOctets);
    shape.copy(block, at);
    Buffer.from(answer.serial).copy(block, at + serialAt);
    Buffer.from(answer.messageImprint).copy(block, at + imprintAt);
    block.write(`${new Date(answer.unixMillis + answer.id).toISOString().replaceAll(/[-:T]/g, '')}`, at + genTimeAt, 'latin1');
    for (const [from, octets] of holes) randomFillSync(block, at + from, octets);
    at += tokenOctets;
  }
  return block;
};
