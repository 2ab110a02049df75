/** Blocks of answers as a signer writes them, for tests without a signer. */
import {
  answerOctets,
  blockHeaderOctets,
  type DecodedStampAnswer,
  sectionHeaderOctets,
  writeAnswer,
  writeBlockHeader,
  writeSectionHeader,
} from '../../queue/answer-block.ts';

export const makeAnswerBlock = (node: string, tsu: Uint8Array, answers: readonly DecodedStampAnswer[]): Buffer => {
  const length = answers.reduce(
    (sum, answer) => sum + answerOctets(answer) + answer.token.length,
    blockHeaderOctets(node) + sectionHeaderOctets,
  );
  const block = Buffer.alloc(length);
  let at = writeSectionHeader(block, writeBlockHeader(block, node, 1), tsu, answers.length);
  for (const answer of answers) {
    at = writeAnswer(block, at, answer, answer.token.length);
    at += answer.token.copy(block, at);
  }
  if (at !== length) throw new Error(`block of ${at} octets, ${length} announced`);
  return block;
};
