/** From a block of answers, as a signer put it into Redis, to the events it stands for. */
import type { AnswerBlock, DecodedStampAnswer } from '../../queue/answer-block.ts';
import type { EventDraft } from './events.ts';

const draftOf = (node: string, tsu: Uint8Array, answer: DecodedStampAnswer): EventDraft => {
  const { clock, unixMillis, client, policy, messageImprint, serial, certReq, token, outcome } = answer;
  const common = { unixMicros: unixMillis * 1_000, clock, node, role: 'client', actor: client } as const;
  return outcome === 'granted'
    ? {
        ...common,
        kind: 'timestamp.issued',
        subject: Buffer.from(serial).toString('hex'),
        outcome: 'success',
        detail: { tsu, policy, messageImprint, certReq, token },
      }
    : {
        ...common,
        kind: 'timestamp.refused',
        subject: '',
        outcome: 'refused',
        detail: { reason: outcome, policy, messageImprint, count: undefined },
      };
};

/** One event for each answer, in their order; octets are views into the block. */
export const stampEvents = ({ node, sections }: AnswerBlock): EventDraft[] =>
  sections.flatMap(({ tsu, answers }) => answers.map((answer) => draftOf(node, tsu, answer)));
