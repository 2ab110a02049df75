/** A flood of wrong credentials: every one is counted in the journal, in so many events and no more. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type AuthenticationFailure,
  type AuthenticationRecording,
  createAuthenticationRecording,
  networkOf,
} from '../../gateway/authentication-recording.ts';
import type { RecordedEvent } from '../../observability/journal/recorder.ts';

type FailedEvent = RecordedEvent<'authentication.failed'>;

describe('what stands for an address in a flood', () => {
  for (const [address, network] of [
    ['192.0.2.7', '192.0.2.7'],
    ['::ffff:192.0.2.7', '::ffff:192.0.2.7'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:db8:1:2::6', '2001:db8:1:2::/64'],
    ['2001:db8::6', '2001:db8:0:0::/64'],
    ['2001:db8:1:2:3:4:5::', '2001:db8:1:2::/64'],
    ['::1', '0:0:0:0::/64'],
    ['fe80::1:2%eth0', 'fe80:0:0:0::/64'],
  ] as const) {
    test(`${address}: ${network}`, () => assert.equal(networkOf(address), network));
  }
});

describe('a flood of wrong credentials', () => {
  const flooded = (): { readonly writes: FailedEvent[][]; readonly recording: AuthenticationRecording } => {
    const writes: FailedEvent[][] = [];
    const recordAllNow = async (events: readonly unknown[]): Promise<void> => void writes.push([...events] as FailedEvent[]);
    const backlog = { areEventsFull: false };
    return {
      writes,
      recording: createAuthenticationRecording({ recorder: { recordAllNow }, backlog, waitingMax: 100_000, deadlineMs: 5_000 }),
    };
  };
  const failure = (name: string, more: Partial<AuthenticationFailure> = {}): AuthenticationFailure => ({
    name,
    reason: 'unknown',
    address: '192.0.2.7',
    ...more,
  });
  const countOf = (events: readonly FailedEvent[]): number => events.reduce((sum, { detail }) => sum + (detail.count ?? 1), 0);
  const told = ({ subject, detail }: FailedEvent) => [subject, detail.reason, detail.address, detail.count];

  test('a hundred of an address within a second are told by themselves; beyond, what is alike is one event, and others keep theirs', async () => {
    const { writes, recording } = flooded();
    const all = Array.from({ length: 20_000 }, (_, i) => recording.record(failure(i % 2 === 0 ? 'root' : 'admin')));
    all.push(...Array.from({ length: 30 }, () => recording.record(failure('bank', { reason: 'wrong', address: '198.51.100.1' }))));
    assert.deepEqual(new Set(await Promise.all(all)), new Set([undefined]));
    assert.equal(writes.length, 1, 'what comes at once travels together');
    const events = writes.flat();
    assert.equal(countOf(events), 20_030);
    assert.equal(events.length, 132);
    assert.deepEqual(events.slice(-2).map(told), [
      ['root', 'unknown', '192.0.2.7', 9_950],
      ['admin', 'unknown', '192.0.2.7', 9_950],
    ]);
    assert.deepEqual(
      events.filter(({ subject }) => subject === 'bank').map(told),
      Array.from({ length: 30 }, () => ['bank', 'wrong', '198.51.100.1', undefined]),
    );
  });

  test('who has all of a network has one share, and is told by it', async () => {
    const { writes, recording } = flooded();
    await Promise.all(
      Array.from({ length: 1_000 }, (_, i) => recording.record(failure('root', { address: `2001:db8:1:2::${i.toString(16)}` }))),
    );
    const events = writes.flat();
    assert.equal(events.length, 101);
    assert.deepEqual(told(events[100] as FailedEvent), ['root', 'unknown', '2001:db8:1:2::/64', 900]);
    assert.equal(events[7]?.detail.address, '2001:db8:1:2::7');
  });

  test('names and addresses without end make no events without end, and do not hide what is guessed of a client', async () => {
    const { writes, recording } = flooded();
    const started = performance.now();
    const strangers = Array.from({ length: 10_000 }, (_, i) =>
      recording.record(failure(`name-${i}`, { address: `10.0.${i >> 8}.${i & 0xff}` })),
    );
    const guesses = Array.from({ length: 10_000 }, (_, i) =>
      recording.record(failure(`bank-${i % 3}`, { reason: 'wrong', address: `10.1.${i >> 8}.${i & 0xff}` })),
    );
    await Promise.all([...strangers, ...guesses]);
    const events = writes.flat();
    assert.equal(countOf(events), 20_000);
    const seconds = Math.ceil((performance.now() - started) / 1_000);
    assert.ok(events.length <= seconds * 1_000 + 4, `${events.length} events`);
    const further = events.filter(({ detail }) => detail.address === undefined);
    assert.deepEqual(
      further.map(({ subject, detail }) => [subject, detail.reason]),
      [
        ['', 'unknown'],
        ['bank-0', 'wrong'],
        ['bank-1', 'wrong'],
        ['bank-2', 'wrong'],
      ],
    );
    assert.equal(countOf(further), 20_000 - (events.length - further.length));
  });

  test('is at most a hundred writes a second', async () => {
    const { writes, recording } = flooded();
    const started = performance.now();
    for (let i = 0; i < 20; i += 1) await recording.record(failure('root'));
    assert.equal(writes.length, 20);
    assert.ok(performance.now() - started > 19 * 10 - 20, `${performance.now() - started} ms`);
  });
});
