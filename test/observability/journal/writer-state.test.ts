import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { ChainHead } from '../../../observability/journal/chain.ts';
import { type KnownEnds, startingPoint, type WriterState } from '../../../observability/journal/writer-state.ts';

const hashOf = (size: number, branch = 0): Buffer => Buffer.alloc(32, size === 0 ? 0 : size + branch);
const headAt = (size: number, branch = 0): ChainHead => ({ size, hash: hashOf(size, branch) });
const positions = { stream: '7-0' };
const spoolTo = (first: number, size: number, branch = 0) => ({ ...headAt(size, branch), first, positions: { stream: '8-0' } });
const stateAt = (size: number, more: Partial<WriterState> = {}): WriterState => ({
  version: 1,
  size,
  hash: hashOf(size).toString('hex'),
  node: '',
  positions,
  inserting: 0,
  subtrees: [],
  ...more,
});

const ends = (some: Partial<KnownEnds>): KnownEnds => ({
  node: 'here',
  store: undefined,
  spool: undefined,
  state: undefined,
  stateMayBeOld: false,
  ...some,
});

describe('where a writer goes on', () => {
  const begins = (name: string, some: Partial<KnownEnds>, size: number, at: Record<string, string> = {}): void => {
    test(name, () => {
      const point = startingPoint(ends(some));
      assert.equal(point.head.size, size);
      assert.deepEqual(Buffer.from(point.head.hash), hashOf(size));
      assert.deepEqual(point.positions, at);
    });
  };
  const refuses = (name: string, some: Partial<KnownEnds>, code: string): void => {
    test(name, () => assert.throws(() => startingPoint(ends(some)), { code }));
  };

  begins('a new journal', { store: headAt(0) }, 0);
  begins('all is in the store', { store: headAt(5), state: stateAt(5) }, 5, positions);
  begins(
    'a crash between store and record: what came from where, the rows say',
    { store: headAt(9), state: stateAt(5, { inserting: 9 }) },
    9,
    positions,
  );
  begins('a crash in the middle of a block', { store: headAt(7), state: stateAt(5, { inserting: 9 }) }, 7, positions);
  begins('Redis is empty', { store: headAt(5) }, 5);
  begins('the spool is ahead of the store', { store: headAt(5), spool: spoolTo(3, 9), state: stateAt(9, { node: 'here' }) }, 9, positions);
  begins('a crash between spool and record', { store: headAt(5), spool: spoolTo(3, 9), state: stateAt(5) }, 9, { stream: '8-0' });
  begins('Redis is empty, and the spool ahead', { store: headAt(5), spool: spoolTo(5, 9) }, 9, { stream: '8-0' });
  begins('a spool that was shipped long ago', { store: headAt(9), spool: spoolTo(2, 5), state: stateAt(9) }, 9, positions);
  begins('the store is away, and nothing was under way', { state: stateAt(5) }, 5, positions);
  begins('the store is away, and the last block went into the spool', { spool: spoolTo(5, 9), state: stateAt(5, { inserting: 9 }) }, 9, {
    stream: '8-0',
  });

  begins(
    'the store is away, and Redis may have forgotten a moment, but the spool is ahead',
    { spool: spoolTo(5, 9), state: stateAt(5), stateMayBeOld: true },
    9,
    { stream: '8-0' },
  );

  refuses(
    'the store is away, and Redis may have forgotten a moment',
    { state: stateAt(5), stateMayBeOld: true },
    'JOURNAL_STORE_UNAVAILABLE',
  );
  refuses('the store is away, and Redis is empty: the spool may be of long ago', { spool: spoolTo(5, 9) }, 'JOURNAL_STORE_UNAVAILABLE');
  refuses('the store is away, and nobody else knows', {}, 'JOURNAL_STORE_UNAVAILABLE');
  refuses('the store is away, and may have what was under way', { state: stateAt(5, { inserting: 9 }) }, 'JOURNAL_STORE_UNAVAILABLE');
  refuses(
    'the store is away, and has entries of which Redis does not know where they came from',
    { state: stateAt(9, { covered: 5 }) },
    'JOURNAL_STORE_UNAVAILABLE',
  );
  refuses(
    'the store is away, and has entries between those of Redis and those of the spool',
    { spool: spoolTo(7, 9), state: stateAt(5, { inserting: 7 }) },
    'JOURNAL_STORE_UNAVAILABLE',
  );
  refuses('entries are in the spool of another host', { store: headAt(5), state: stateAt(9, { node: 'there' }) }, 'JOURNAL_ELSEWHERE');
  refuses('the same, and the store is away', { state: stateAt(9, { node: 'there' }) }, 'JOURNAL_ELSEWHERE');
  refuses('the store has lost entries', { store: headAt(5), state: stateAt(9) }, 'JOURNAL_SHORTENED');
  refuses('the spool has lost entries', { store: headAt(5), state: stateAt(9, { node: 'here' }) }, 'JOURNAL_SHORTENED');
  refuses('between store and spool there is a gap', { store: headAt(5), spool: spoolTo(6, 9) }, 'JOURNAL_SHORTENED');
  refuses('store and record differ', { store: headAt(5, 1), state: stateAt(5) }, 'JOURNAL_FORKED');
  refuses('store and spool differ', { store: headAt(9, 1), spool: spoolTo(5, 9), state: stateAt(5) }, 'JOURNAL_FORKED');
});
