import assert from 'node:assert/strict';
import { test } from 'node:test';
import { emptyChain, sealEvent } from '../../../observability/journal/chain.ts';
import { decodeEvent, encodeEvent } from '../../../observability/journal/event-encoding.ts';
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

test('a refusal of before a gateway recorded its own, which had neither a count nor parts that may be absent, is read and written the same', () => {
  const octets = Buffer.from(
    '8d01071b0006608b016112406774727573746564666e6f64652d3166636c69656e746662616e6b2d317174696d657374616d702e726566757365646067726566757365' +
      '646773657276696365a366706f6c69637945060388370366726561736f6e7074696d654e6f74417661696c61626c656e6d657373616765496d7072696e744530030401' +
      '0158200000000000000000000000000000000000000000000000000000000000000000',
    'hex',
  );
  const event = decodeEvent(octets);
  assert.ok(event.kind === 'timestamp.refused');
  const { reason, policy, messageImprint, count } = event.detail;
  const hex = (field: Uint8Array | undefined): string => Buffer.from(field ?? []).toString('hex');
  assert.deepEqual([reason, hex(policy), hex(messageImprint), count], ['timeNotAvailable', '0603883703', '3003040101', undefined]);
  assert.equal(encodeEvent(event).toString('hex'), octets.toString('hex'));
});
