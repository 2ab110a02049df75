import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { MerkleTree } from '../../../observability/journal/merkle.ts';
import type { StoredPlace } from '../../../observability/journal/reader.ts';
import { retentionEnd } from '../../../observability/journal/verify-expiry.ts';
import { type JournalVerdict, type VerifyPlacesOptions, verifyPlaces } from '../../../observability/journal/verify-run.ts';
import { TreeWindow } from '../../../observability/journal/verify-window.ts';
import { journalKey, TestJournal } from './signed-journal.ts';

const key = journalKey();
const gone = 'service-202701';

/** 600 entries: a checkpoint of 250 told at 260, an expiry at 300, a checkpoint of 500 told at once. */
const journal = new TestJournal(key);
let waiting: ReturnType<TestJournal['checkpoint']> | undefined;
while (journal.size < 600) {
  if (journal.size === 300) {
    journal.unixMicros = Date.UTC(2027, 7, 1) * 1_000;
    journal.append(journal.expiry(gone));
  }
  if (journal.size === 250) waiting = journal.checkpoint();
  if (journal.size === 260) journal.append(waiting as NonNullable<typeof waiting>);
  else if (journal.size === 500) journal.append(journal.checkpoint());
  else if (journal.size % 3 === 0) journal.stopped('x');
  else journal.stamp();
}

async function* given(places: readonly StoredPlace[]): AsyncGenerator<StoredPlace> {
  yield* places;
}
const verify = (places: readonly StoredPlace[], options: Partial<VerifyPlacesOptions> = {}): Promise<JournalVerdict> =>
  verifyPlaces(given(places), { keys: [key], ...options });
const told = async (places: readonly StoredPlace[], options: Partial<VerifyPlacesOptions> = {}): Promise<string> => {
  const verdict = await verify(places, options);
  return verdict.kind === 'valid' ? `valid ${verdict.to} ${verdict.unanchored}` : `${verdict.fault} ${verdict.at}-${verdict.until}`;
};

describe('verification of places from anywhere', () => {
  const places = journal.places();

  test('whole, and with expired ones', async () => {
    assert.equal(await told(places), 'valid 600 100');
    const verdict = await verify(journal.places([gone]));
    assert.ok(verdict.kind === 'valid' && verdict.expired === journal.entriesOf(gone).length && verdict.expiryUnproven.length === 0);
  });

  test('a part, from a tree that is known', async () => {
    const tree = new MerkleTree();
    for (const { hash } of journal.sealed.slice(0, 240)) tree.append(hash);
    const start = { tree, hash: journal.sealed[239]?.hash as Buffer };
    assert.equal(await told(places.slice(240), { start }), 'valid 600 100');
    assert.equal(await told(places.slice(240), { start: { tree, hash: undefined } }), 'valid 600 100');
    assert.equal(await told(places.slice(241), { start }), 'missing 240-241');
    assert.equal(await told(places.slice(240), { start: { ...start, hash: Buffer.alloc(32) } }), 'altered 239-240');
    // Another tree before: the first checkpoint tells, and names what was read of it.
    tree.append(Buffer.alloc(32));
    assert.equal(await told(places.slice(241), { start: { tree, hash: undefined } }), 'rewritten 241-250');
    const part = await verify(journal.places([gone]).slice(100), { start: { tree: treeOf(100), hash: undefined } });
    assert.deepEqual(part.kind === 'valid' && part.expiryUnproven, [gone]);
  });

  test('the end that was asked for', async () => {
    assert.equal(await told(places, { to: 600 }), 'valid 600 100');
    assert.equal(await told(places, { to: 601 }), 'missing 600-601');
    assert.equal(await told([], { to: 1 }), 'missing 0-1');
    assert.equal(await told([]), 'valid 0 0');
  });

  test('any one place left out, doubled, exchanged or changed is named', async () => {
    const place = fc.integer({ min: 0, max: 596 });
    await fc.assert(
      fc.asyncProperty(place, fc.boolean(), async (k, expired) => {
        const all = journal.places(expired ? [gone] : []);
        assert.equal(await told(all.toSpliced(k, 1)), `missing ${k}-${k + 1}`);
        assert.equal(await told(all.with(k, all[k + 1] as StoredPlace).with(k + 1, all[k] as StoredPlace)), `reordered ${k}-${k + 1}`);
        const doubled = await told(all.toSpliced(k, 0, all[k] as StoredPlace));
        assert.equal(doubled, `repeated ${k}-${k + 1}`);
      }),
      { numRuns: 60 },
    );
    await fc.assert(
      fc.asyncProperty(place, fc.nat(), fc.integer({ min: 1, max: 255 }), async (k, where, mask) => {
        const { octets } = journal.sealed[k] as { octets: Buffer };
        const changed = Buffer.from(octets);
        const at = where % (octets.length - 32);
        changed[at] = (changed[at] as number) ^ mask;
        const verdict = await verify(journal.places().with(k, { kind: 'entry', octets: changed }));
        assert.ok(verdict.kind === 'fault' && verdict.at === k && verdict.until === k + 1, JSON.stringify(verdict));
      }),
      { numRuns: 200 },
    );
  });

  test('a changed `previous` may also be a changed entry before: both are named', async () => {
    const changed = Buffer.from((journal.sealed[50] as { octets: Buffer }).octets);
    changed[changed.length - 1] = (changed.at(-1) as number) ^ 1;
    assert.equal(await told(places.with(50, { kind: 'entry', octets: changed })), 'altered 49-51');
  });

  test('an entry 0 that claims one before it', async () => {
    const changed = Buffer.from((journal.sealed[0] as { octets: Buffer }).octets);
    changed[changed.length - 1] = 1;
    assert.equal(await told(places.with(0, { kind: 'entry', octets: changed })), 'altered 0-1');
  });

  test('expired without, against and before the rules', async () => {
    const all = journal.places([gone]);
    const some = journal.sealed.findIndex(({ event }) => event.kind === 'timestamp.issued');
    const stub = (partition: string): StoredPlace => ({
      kind: 'expired',
      sequence: some,
      hash: journal.sealed[some]?.hash as Buffer,
      partition,
    });
    assert.equal(await told(all.with(some, stub(gone))), 'expiry-altered 0-298');
    const unproven = await verify(all.with(some, stub('timestamp-202701')));
    assert.deepEqual(unproven.kind === 'valid' && unproven.expiryUnproven, ['timestamp-202701']);
    const retentionMonths = { certificate: 240, timestamp: 240, mail: 30, service: 6 };
    assert.equal(await told(all, { retentionMonths }), 'valid 600 100');
    assert.match(await told(all, { retentionMonths: { ...retentionMonths, service: 7 } }), /^expiry-early 0-/);
    assert.match(await told(all, { now: new Date(Date.UTC(2027, 6, 31)) }), /^expiry-early 0-/);
  });

  test('the end of a retention', () => {
    const months = { certificate: 240, timestamp: 240, mail: 30, service: 6 };
    assert.equal(retentionEnd('service-202701', months), Date.UTC(2027, 7, 1));
    assert.equal(retentionEnd('service-202612', months), Date.UTC(2027, 6, 1));
    assert.equal(retentionEnd('mail-202612', months), Date.UTC(2029, 6, 1));
    for (const name of ['', 'service', 'other-202701', 'service-202713', 'service-202700', 'service-20270']) {
      assert.equal(retentionEnd(name, months), undefined);
    }
  });
});

const treeOf = (size: number): MerkleTree => {
  const tree = new MerkleTree();
  for (const { hash } of journal.sealed.slice(0, size)) tree.append(hash);
  return tree;
};

describe('the window of the tree', () => {
  const leafAt = (i: number): Buffer => {
    const leaf = Buffer.alloc(32);
    leaf.writeUInt32BE(i);
    return leaf;
  };
  const hexOf = (octets: Uint8Array | undefined): string => (octets === undefined ? 'none' : Buffer.from(octets).toString('hex'));

  test('gives the root of each of the last sizes, in any order, and of none too far back', () => {
    const pieceEntries = 32;
    const from = 5;
    const tree = new MerkleTree();
    for (let i = 0; i < from; i += 1) tree.append(leafAt(i));
    for (const asks of ['never', 'rarely', 'always'] as const) {
      const window = new TreeWindow(tree, pieceEntries);
      const reference = MerkleTree.resume(tree.size, tree.subtrees);
      const roots = [...Array.from({ length: from }, () => ''), hexOf(reference.root())];
      for (let i = from; i < 3_000; i += 1) {
        window.push(leafAt(i));
        reference.append(leafAt(i));
        roots.push(hexOf(reference.root()));
        if (asks === 'never' || (asks === 'rarely' && i % 577 !== 0)) continue;
        for (const size of [i + 1, i - 100, i - 3, i - 500].filter((one) => one >= from))
          assert.equal(hexOf(window.rootAt(size)), roots[size]);
      }
      assert.equal(window.size, 3_000);
      assert.equal(window.rootAt(3_001), undefined);
      assert.equal(window.rootAt(from), undefined, 'too far back');
      for (let size = 3_000; size > 3_000 - 16 * pieceEntries; size -= 1)
        assert.equal(hexOf(window.rootAt(size)), roots[size], String(size));
      for (let size = 3_000 - 16 * pieceEntries + 1; size <= 3_000; size += 7) assert.equal(hexOf(window.rootAt(size)), roots[size]);
    }
  });
});
