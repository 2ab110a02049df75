import assert from 'node:assert/strict';
import { test } from 'node:test';
import { emptyChain, sealEvent } from '../../../observability/journal/chain.ts';
import { decodeEvent } from '../../../observability/journal/event-encoding.ts';
import { stampEvents } from '../../../observability/journal/stamp-events.ts';
import { type DecodedStampAnswer, decodeAnswerBlock, stampOutcomes } from '../../../queue/answer-block.ts';
import { makeAnswerBlock } from '../../support/answer-blocks.ts';

test('a block of answers is one event for each, with all that the archive needs, and can be sealed', () => {
  const tsu = Buffer.alloc(32, 0x11);
  const answers = stampOutcomes.map((outcome, id): DecodedStampAnswer => {
    const granted = outcome === 'granted';
    return {
      id,
      outcome,
      clock: granted ? 'trusted' : 'unverified',
      certReq: true,
      unixMillis: 1_795_000_000_123 + id,
      client: 'bank.one',
      policy: Buffer.from('0603550401', 'hex'),
      messageImprint: Buffer.from('3000', 'hex'),
      serial: granted ? Buffer.from('00c0ffee', 'hex') : Buffer.alloc(0),
      token: granted ? Buffer.from('token') : Buffer.alloc(0),
    };
  });
  const drafts = stampEvents(decodeAnswerBlock(makeAnswerBlock('node-1', tsu, answers)));
  const events = drafts.map((draft) => decodeEvent(sealEvent(emptyChain, draft).octets));
  const [issued, ...refused] = events;
  assert.deepEqual(
    [issued?.kind, issued?.subject, issued?.actor, issued?.role, issued?.clock, issued?.node, issued?.unixMicros],
    ['timestamp.issued', '00c0ffee', 'bank.one', 'client', 'trusted', 'node-1', 1_795_000_000_123_000],
  );
  assert.ok(issued?.kind === 'timestamp.issued');
  assert.equal(Buffer.from(issued.detail.token).toString(), 'token');
  assert.ok(issued.detail.certReq && Buffer.from(issued.detail.tsu).equals(tsu));
  assert.deepEqual(
    refused.map((event) => [event.kind, event.subject, event.outcome, event.kind === 'timestamp.refused' && event.detail.reason]),
    stampOutcomes.slice(1).map((outcome) => ['timestamp.refused', '', 'refused', outcome]),
  );
});
