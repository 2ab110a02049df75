/** Which stream may carry which event: everything else goes into quarantine, so that nobody can slip in what only the journal itself makes. */
import assert from 'node:assert/strict';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { after, before, beforeEach, describe, test } from 'node:test';
import type { Redis } from 'ioredis';
import { type EventStream, eventStreams, kindsOn } from '../../../observability/journal/carried-kinds.ts';
import { ceremonyTeller } from '../../../observability/journal/ceremony-events.ts';
import { clientChangeTeller } from '../../../observability/journal/client-events.ts';
import { decodeDrafts, encodeDrafts } from '../../../observability/journal/draft-block.ts';
import type { EventKind } from '../../../observability/journal/events.ts';
import { JournalSources, journalSources } from '../../../observability/journal/sources.ts';
import { rotationOrderEvent, tsuChangeTeller } from '../../../observability/journal/tsu-events.ts';
import type { CeremonyChange } from '../../../queue/ceremonies.ts';
import { clientRegisterKeys } from '../../../queue/client-register.ts';
import { journalKeys, laneKeys } from '../../../queue/keys.ts';
import type { TsuChange, TsuRecord } from '../../../queue/tsu-register.ts';
import { tsuRegisterKeys } from '../../../queue/tsu-register.ts';
import { makeAnswerBlock } from '../../support/answer-blocks.ts';
import { redisServerMissing, startTestRedis, type TestRedis } from '../../support/redis-server.ts';
import { allKinds, draftOf } from './fixtures.ts';
import { answerOf } from './writer-world.ts';

const keyOf: Readonly<Record<EventStream, string>> = {
  answers: laneKeys('timestamp').journal,
  events: journalKeys.events,
  clients: clientRegisterKeys.journal,
  tsus: tsuRegisterKeys.journal,
};
const streamsOf = (kind: EventKind): EventStream[] => eventStreams.filter((stream) => kindsOn(stream).has(kind));

/** Told by the journal's own process alone. */
const ownKinds = ['journal.checkpoint', 'journal.quarantined', 'journal.expired', 'journal.retold'];

describe('what a stream carries', () => {
  test('every kind of the catalogue is assigned', () => {
    const nowhere = allKinds.filter((kind) => streamsOf(kind).length === 0);
    assert.deepEqual(nowhere.toSorted(), ownKinds.toSorted());
    // Nobody but the journal speaks of itself, except that it was read.
    assert.deepEqual(
      allKinds.filter((kind) => kind.startsWith('journal.') && streamsOf(kind).length > 0),
      ['journal.read'],
    );
    assert.deepEqual([...kindsOn('answers')], ['timestamp.issued', 'timestamp.refused']);
  });

  test('every stream of Redis has its source', () => {
    assert.deepEqual(journalSources.map(({ key }) => key).toSorted(), Object.values(keyOf).toSorted());
    for (const stream of eventStreams)
      assert.deepEqual(journalSources.find(({ key }) => key === keyOf[stream])?.kinds, kindsOn(stream), stream);
  });

  const assertCarried = (stream: EventStream, block: Buffer): void => {
    for (const { kind } of decodeDrafts(block)) assert.ok(kindsOn(stream).has(kind), `${kind} is told on ${stream}`);
  };

  test('what the registers and ceremonies tell is carried', () => {
    const tellClient = clientChangeTeller('ms-rossi');
    for (const kind of ['enabled', 'disabled', 'removed'] as const) assertCarried('clients', tellClient({ kind, name: 'a' }));
    assertCarried('clients', tellClient({ kind: 'added', role: 'auditor', name: 'a' }));
    assertCarried('clients', tellClient({ kind: 'role', from: 'client', to: 'auditor', name: 'a' }));

    const by = { role: 'system', actor: 'lifecycle' } as const;
    const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const spki = publicKey.export({ format: 'der', type: 'spki' }).toString('base64');
    const record = {
      keyLabel: 'tsu-1',
      token: 't',
      algorithm: 'ec-p256',
      spki,
      state: 'active',
      request: '',
      activateAt: '',
      usableUntil: '',
    } as unknown as TsuRecord;
    const plain = ['generated', 'activated', 'retired', 'destroyed', 'registered', 'requested', 'scheduled'] as const;
    const changes = plain.map((kind) => ({ kind, record }) as unknown as TsuChange);
    const more = [
      { kind: 'compromised', record, reason: 'x' },
      { kind: 'reminded', record, daysLeft: 3 },
    ] as unknown as TsuChange[];
    const told = tsuChangeTeller(by)([...changes, ...more]);
    assert.equal(decodeDrafts(told).length, plain.length + more.length);
    assertCarried('tsus', told);
    assertCarried('tsus', rotationOrderEvent('t', 'ec-p256', { role: 'operator', actor: 'ms-rossi' }));
    // Of a certificate, which the teller reads, only the kinds.
    assert.ok(kindsOn('tsus').has('certificate.issued') && kindsOn('tsus').has('certificate.installed'));

    const ceremony = { id: 'c', action: 'generate', token: 't', keyLabel: 'tsu-1', approvals: [] };
    const approval = { operator: 'ms-rossi', signature: 'AA==' };
    for (const change of [{ kind: 'requested' }, { kind: 'approved', approval }, { kind: 'executed' }]) {
      assertCarried('tsus', ceremonyTeller(by)({ ...change, ceremony } as unknown as CeremonyChange));
    }
  });
});

describe('the sources of the journal', { skip: redisServerMissing() }, () => {
  let server: TestRedis;
  let redis: Redis;
  before(async () => {
    server = await startTestRedis();
    redis = server.connect();
  });
  after(() => server?.close());
  beforeEach(async () => {
    await redis.flushall();
  });

  /** What becomes of these entries: the kinds, and why some went into quarantine. */
  const readAll = async (stream: EventStream, blocks: readonly Buffer[]): Promise<{ kinds: string[]; alarms: string[] }> => {
    for (const block of blocks) await redis.xadd(keyOf[stream], '*', 'b', block);
    const alarms: string[] = [];
    const sources = await JournalSources.open({
      redis,
      positions: {},
      known: [],
      onQuarantined: ({ source }, error) => alarms.push(`${source}: ${error.message}`),
    });
    const kinds: string[] = [];
    for (let entries = await sources.next(); entries.length > 0; entries = await sources.next()) {
      for (const { events } of entries) kinds.push(...events.map(({ draft }) => draft.kind));
    }
    return { kinds, alarms };
  };

  for (const stream of ['events', 'clients', 'tsus'] as const) {
    test(`${stream}: its kinds come through, all others go into quarantine with an alarm`, async () => {
      const carried = kindsOn(stream);
      const { kinds, alarms } = await readAll(
        stream,
        allKinds.map((kind) => encodeDrafts([draftOf(kind, { optional: true })])),
      );
      assert.deepEqual(
        kinds,
        allKinds.map((kind) => (carried.has(kind) ? kind : 'journal.quarantined')),
      );
      const strangers = allKinds.filter((kind) => !carried.has(kind));
      assert.equal(alarms.length, strangers.length);
      for (const [i, kind] of strangers.entries()) {
        assert.ok(alarms[i]?.startsWith(`${keyOf[stream]}: `) && alarms[i]?.includes(`${kind} does not come from this stream`), alarms[i]);
      }
    });
  }

  test('answers: stamps and refusals come through, blocks of events do not', async () => {
    const answers = makeAnswerBlock('node-1', Buffer.alloc(32, 7), [
      answerOf(randomBytes(16)),
      answerOf(Buffer.alloc(0), 'timeNotAvailable'),
    ]);
    const forged = encodeDrafts([draftOf('timestamp.issued', { optional: true })]);
    const { kinds, alarms } = await readAll('answers', [answers, forged]);
    assert.deepEqual(kinds, ['timestamp.issued', 'timestamp.refused', 'journal.quarantined']);
    assert.equal(alarms.length, 1);
  });

  test('one stranger takes its whole entry along: who wrote it is not who should write there', async () => {
    const drafts = (['service.started', 'journal.expired', 'service.stopped'] as const).map((kind) => draftOf(kind, { optional: true }));
    const { kinds, alarms } = await readAll('events', [encodeDrafts(drafts), encodeDrafts(drafts.slice(0, 1))]);
    assert.deepEqual(kinds, ['journal.quarantined', 'service.started']);
    assert.equal(alarms.length, 1);
  });
});
