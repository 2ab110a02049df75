import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import {
  checkpointAtLeast,
  checkpointAtMost,
  latestCheckpoint,
  listCheckpoints,
} from '../../../observability/journal/checkpoint-events.ts';
import { embeddedClient } from '../../../observability/journal/clickhouse.ts';
import { MerkleTree, verifyConsistency, verifyInclusion } from '../../../observability/journal/merkle.ts';
import { consistencyProof, inclusionProof } from '../../../observability/journal/proofs.ts';
import { JournalReader } from '../../../observability/journal/reader.ts';
import { publishedChains } from '../../../observability/journal/told-events.ts';
import { resumeTree, storedTree, subtreeHashes, TreeRecorder } from '../../../observability/journal/tree-store.ts';
import { temporaryFolder } from '../../support/token-home.ts';
import { journalKey, TamperedStore, TestJournal } from './signed-journal.ts';

/** One entry more than a subtree of level 16, and a few. */
const entries = 66_000;
const gone = 'service-202701';
const hexOf = (octets: Uint8Array): string => Buffer.from(octets).toString('hex');

describe('the stored tree and its proofs', () => {
  const folder = temporaryFolder();
  const journal = new TestJournal(journalKey());
  /** Roots by size, as far as they are needed. */
  const roots = new Map<number, Uint8Array>();
  /** Hashes of complete subtrees by level. */
  const levels: Uint8Array[][] = [];
  let tampered: TamperedStore;
  let reader: JournalReader;

  before(async () => {
    tampered = await TamperedStore.open(await embeddedClient(folder.path));
    reader = new JournalReader(tampered.client);
    while (journal.size < entries) {
      // Some of the first 600 expire, alone and many in a row.
      if (journal.size === 600) journal.unixMicros = Date.UTC(2027, 8, 1) * 1_000;
      if (journal.size === 100 || journal.size === 60_000) journal.append(journal.checkpoint());
      else if (journal.size < 600 && journal.size % 7 < 3) journal.stamp();
      else if (journal.size > 300 && journal.size < 600) journal.stopped('x');
      else journal.append({ kind: 'service.logStarted', detail: {} });
      if (journal.size <= 601 || journal.size % 6_000 === 0) roots.set(journal.size, journal.tree.root());
    }
    levels[0] = journal.sealed.map(({ hash }) => hash);
    for (let level = 1; 2 ** level <= entries; level += 1) {
      levels[level] = [];
    }
    const tree = new MerkleTree();
    for (const { hash } of journal.sealed) tree.append(hash, (level, _index, subtree) => levels[level]?.push(subtree));
    for (let i = 0; i < entries; i += 11_000) await tampered.insert(journal.sealed.slice(i, i + 11_000));
    await tampered.expire(gone);
  });
  after(async () => {
    await tampered?.store.close();
    folder.remove();
  });

  const rows = async (): Promise<{ level: number; n: string }[]> =>
    (
      await tampered.client.query({
        query: 'SELECT level, toString(count()) AS n FROM journal_tree FINAL GROUP BY level ORDER BY level',
        format: 'JSONEachRow',
      })
    ).json();
  const wholeTable = [
    { level: 8, n: '257' },
    { level: 16, n: '1' },
  ];

  test('without a table everything is made of entries, as far as that goes', async () => {
    assert.equal(hexOf((await storedTree(tampered.client, 600)).root()), hexOf(roots.get(600) as Uint8Array));
    const { leaf, path } = await inclusionProof(reader, 500, 600);
    assert.ok(verifyInclusion(leaf, { index: 500, size: 600 }, path, roots.get(600) as Uint8Array));
    // A level below the first missing one would be 65,536 entries.
    assert.equal(hexOf((await storedTree(tampered.client, 65_536)).root()), hexOf(levels[16]?.[0] as Uint8Array));
    await assert.rejects(storedTree(tampered.client, 66_000), { code: 'JOURNAL_MALFORMED' });
  });

  test('is brought up to the journal, again and again, from where it ended', async () => {
    for (const size of [0, 1, 255, 256, 600, 60_000, 60_000, entries]) {
      const { tree, recorder } = await resumeTree(reader, size);
      assert.equal(tree.size, size);
      assert.equal(recorder.size, size);
      assert.equal(recorder.pending, 0);
      if (size > 0 && roots.has(size)) assert.equal(hexOf(tree.root()), hexOf(roots.get(size) as Uint8Array));
    }
    assert.deepEqual(await rows(), wholeTable);
    assert.equal(hexOf((await resumeTree(reader, entries)).tree.root()), hexOf(journal.tree.root()));
  });

  test('the tree of a writer and the recorder grow apart', async () => {
    const { tree, recorder } = await resumeTree(reader, 600);
    tree.append(Buffer.alloc(32));
    assert.deepEqual([tree.size, recorder.size], [601, 600]);
  });

  test('what could not be stored is stored with the next flush; twice is once', async () => {
    const recorder = new TreeRecorder(tampered.client);
    for (const { hash } of journal.sealed.slice(0, 512)) recorder.append(hash);
    assert.equal(recorder.pending, 2);
    await tampered.run('RENAME TABLE journal_tree TO journal_away');
    await assert.rejects(recorder.flush(), { code: 'JOURNAL_STORE_UNAVAILABLE' });
    assert.equal(recorder.pending, 2);
    await tampered.run('RENAME TABLE journal_away TO journal_tree');
    await recorder.flush();
    assert.equal(recorder.pending, 0);
    assert.deepEqual(await rows(), wholeTable);
  });

  test('every subtree, at every level', async () => {
    // What lies on stored levels above, and all below in the first 600 and the last entries.
    const wanted = levels.flatMap((hashes, level) =>
      hashes.flatMap((_, index) =>
        (index + 1) * 2 ** level <= 600 || index * 2 ** level >= 65_300 || level >= 8 ? [{ level, index }] : [],
      ),
    );
    assert.ok(wanted.length > 2_000);
    const subtree = await subtreeHashes(tampered.client, wanted);
    for (const { level, index } of wanted)
      assert.equal(hexOf(subtree(level, index)), hexOf(levels[level]?.[index] as Uint8Array), `${level}/${index}`);
    assert.throws(() => subtree(0, 5_000), { code: 'INTERNAL' });
  });

  test('inclusion: sizes around the borders, expired entries among them', async () => {
    let proofs = 0;
    for (const size of [1, 2, 255, 256, 257, 511, 512, 513, 600]) {
      const root = roots.get(size) as Uint8Array;
      for (let index = 0; index < size; index += index < 10 || index > size - 10 || (index > 250 && index < 260) ? 1 : 13) {
        const { leaf, path } = await inclusionProof(reader, index, size);
        assert.equal(hexOf(leaf), hexOf(journal.sealed[index]?.hash as Uint8Array));
        assert.ok(verifyInclusion(leaf, { index, size }, path, root), `${index} of ${size}`);
        proofs += 1;
      }
    }
    assert.ok(proofs > 200);
  });

  test('inclusion in large trees', async () => {
    for (const size of [6_000, 60_000, entries]) {
      for (const index of [0, 255, 256, 4_095, 4_096, size - 257, size - 2, size - 1]) {
        const { leaf, path } = await inclusionProof(reader, index, size);
        assert.ok(verifyInclusion(leaf, { index, size }, path, roots.get(size) as Uint8Array), `${index} of ${size}`);
      }
    }
  });

  test('consistency: around the borders, and in large trees', async () => {
    const sizes = [1, 2, 3, 255, 256, 257, 300, 511, 512, 513, 600, 6_000, 60_000, entries];
    for (const from of sizes) {
      for (const to of sizes.filter((size) => size >= from)) {
        const path = await consistencyProof(reader, from, to);
        const old = { size: from, root: roots.get(from) as Uint8Array };
        assert.ok(verifyConsistency(old, { size: to, root: roots.get(to) as Uint8Array }, path), `${from} to ${to}`);
      }
    }
  });

  test('what does not exist, or is missing', async () => {
    await assert.rejects(inclusionProof(reader, 5, 5), RangeError);
    await assert.rejects(consistencyProof(reader, 0, 5), RangeError);
    await assert.rejects(inclusionProof(reader, entries, entries + 1), { code: 'JOURNAL_MALFORMED' });
    await assert.rejects(resumeTree(reader, entries + 1), { code: 'JOURNAL_MALFORMED' });
  });

  test('checkpoints are found by their size', async () => {
    const { client } = tampered;
    const sizes = async (found: ReturnType<typeof latestCheckpoint>): Promise<(number | undefined)[]> => [
      (await found)?.size,
      (await found)?.sequence,
    ];
    assert.deepEqual(await sizes(latestCheckpoint(client)), [60_000, 60_000]);
    assert.deepEqual(await sizes(checkpointAtMost(client, 59_999)), [100, 100]);
    assert.deepEqual(await sizes(checkpointAtMost(client, 100)), [100, 100]);
    assert.deepEqual(await sizes(checkpointAtMost(client, 99)), [undefined, undefined]);
    assert.deepEqual(await sizes(checkpointAtLeast(client, 100)), [100, 100]);
    assert.deepEqual(await sizes(checkpointAtLeast(client, 101)), [60_000, 60_000]);
    assert.deepEqual(await sizes(checkpointAtLeast(client, 60_001)), [undefined, undefined]);
    assert.deepEqual(
      (await listCheckpoints(client, { limit: 10 })).map(({ size }) => size),
      [100, 60_000],
    );
    assert.deepEqual(
      (await listCheckpoints(client, { limit: 1, before: 60_000 })).map(({ size }) => size),
      [100],
    );
    assert.deepEqual(await publishedChains(client), { chains: [], unreadable: [] });
  });

  test('a table that was changed is made again when a checkpoint says so', async () => {
    const checkpoint = { origin: 'x', size: 60_000, root: roots.get(60_000) as Uint8Array };
    const spoil = (): Promise<void> =>
      tampered.run(`ALTER TABLE journal_tree UPDATE hash = unhex('${'00'.repeat(32)}') WHERE level = 8 AND number = 3`);
    await spoil();
    assert.notEqual(hexOf((await resumeTree(reader, 60_000)).tree.root()), hexOf(checkpoint.root), 'nothing told');
    assert.equal(hexOf((await resumeTree(reader, entries, checkpoint)).tree.root()), hexOf(journal.tree.root()));
    assert.equal(hexOf((await resumeTree(reader, 60_000)).tree.root()), hexOf(checkpoint.root), 'the table is as it was');
    await assert.rejects(resumeTree(reader, entries, { ...checkpoint, root: Buffer.alloc(32) }), { code: 'JOURNAL_MALFORMED' });
  });

  test('a table with a gap is made again from there', async () => {
    const begins: number[] = [];
    const watched = new (class extends JournalReader {
      override pages(from: number, to: number): ReturnType<JournalReader['pages']> {
        begins.push(from);
        return super.pages(from, to);
      }
    })(tampered.client);
    for (const [gap, begin] of [
      ['level = 8 AND number = 7', 7 * 256],
      ['level = 8 AND number IN (200, 256)', 200 * 256],
      ['level = 8 AND number = 0', 0],
      ['level = 16', 0],
    ] as const) {
      await tampered.delete(gap, 'journal_tree');
      begins.length = 0;
      assert.equal(hexOf((await resumeTree(watched, entries)).tree.root()), hexOf(journal.tree.root()));
      assert.equal(begins[0], begin, gap);
      assert.deepEqual(await rows(), wholeTable);
    }
  });
});
