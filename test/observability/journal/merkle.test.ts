import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  MerkleTree,
  proveConsistency,
  proveInclusion,
  type SubtreeHash,
  verifyConsistency,
  verifyInclusion,
} from '../../../observability/journal/merkle.ts';

const sha256 = (...parts: Uint8Array[]): Buffer => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
};
const leafOf = (data: Uint8Array): Buffer => sha256(Buffer.of(0), data);

/** The definition of RFC 6962, section 2.1, word for word. */
const mth = (leaves: readonly Buffer[]): Buffer => {
  if (leaves.length === 0) return sha256();
  if (leaves.length === 1) return leaves[0] as Buffer;
  let k = 1;
  while (k * 2 < leaves.length) k *= 2;
  return sha256(Buffer.of(1), mth(leaves.slice(0, k)), mth(leaves.slice(k)));
};
const subtreeOf =
  (leaves: readonly Buffer[]): SubtreeHash =>
  (level, index) => {
    const size = 2 ** level;
    assert.ok((index + 1) * size <= leaves.length, 'only subtrees that are complete are asked for');
    return mth(leaves.slice(index * size, (index + 1) * size));
  };
const treeOf = (leaves: readonly Buffer[]): MerkleTree => {
  const tree = new MerkleTree();
  for (const leaf of leaves) tree.append(leaf);
  return tree;
};
const numbered = (count: number): Buffer[] => Array.from({ length: count }, (_, i) => leafOf(Buffer.from(`leaf ${i}`)));
const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('the tree', () => {
  test('the leaves and roots that implementations of RFC 6962 share', () => {
    const leaves = ['', '00', '10', '2021', '3031', '40414243', '5051525354555657', '606162636465666768696a6b6c6d6e6f'].map((hex) =>
      leafOf(Buffer.from(hex, 'hex')),
    );
    const roots = [
      'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
      '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
      'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125',
      'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77',
      'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
      '4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4',
      '76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef',
      'ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c',
      '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328',
    ];
    for (const [size, root] of roots.entries()) assert.equal(hexOf(treeOf(leaves.slice(0, size)).root()), root);
  });

  test('every size up to 130 is what the definition says, and can be resumed', () => {
    const leaves = numbered(130);
    const tree = new MerkleTree();
    for (const [i, leaf] of leaves.entries()) {
      tree.append(leaf);
      assert.equal(tree.size, i + 1);
      const resumed = MerkleTree.resume(tree.size, tree.subtrees);
      assert.equal(hexOf(resumed.root()), hexOf(mth(leaves.slice(0, i + 1))));
      assert.equal(hexOf(tree.root()), hexOf(resumed.root()));
    }
  });

  test('sizes beyond 32 bits', () => {
    const size = 2 ** 40 + 3;
    const tree = MerkleTree.resume(size, numbered(3));
    tree.append(leafOf(Buffer.from('next')));
    assert.equal(tree.size, size + 1);
    assert.equal(tree.subtrees.length, 2, '2^40 and 4');
  });

  test('subtrees of another size do not resume', () => {
    for (const hashes of [[], numbered(1), numbered(3), [Buffer.alloc(31), Buffer.alloc(32)]]) {
      assert.throws(() => MerkleTree.resume(5, hashes), RangeError);
    }
  });
});

describe('proofs', () => {
  test('inclusion: every leaf of every size up to 33, and nothing but it', () => {
    for (let size = 1; size <= 33; size += 1) {
      const leaves = numbered(size);
      const root = mth(leaves);
      for (let index = 0; index < size; index += 1) {
        const leaf = leaves[index] as Buffer;
        const proof = proveInclusion(index, size, subtreeOf(leaves));
        assert.ok(verifyInclusion(leaf, { index, size }, proof, root));
        assert.ok(!verifyInclusion(leafOf(Buffer.from('other')), { index, size }, proof, root));
        assert.ok(!verifyInclusion(leaf, { index, size }, [...proof, leaf], root), 'one hash too many');
        if (proof.length > 0) assert.ok(!verifyInclusion(leaf, { index, size }, proof.slice(1), root), 'one hash too few');
        if (size > 1) assert.ok(!verifyInclusion(leaf, { index: (index + 1) % size, size }, proof, root), 'another place');
      }
    }
  });

  test('consistency: every pair of sizes up to 33, and no other tree', () => {
    const leaves = numbered(33);
    for (let to = 1; to <= 33; to += 1) {
      for (let from = 1; from <= to; from += 1) {
        const proof = proveConsistency(from, to, subtreeOf(leaves.slice(0, to)));
        const [old, now] = [mth(leaves.slice(0, from)), mth(leaves.slice(0, to))];
        assert.ok(verifyConsistency({ size: from, root: old }, { size: to, root: now }, proof), `${from} to ${to}`);
        assert.ok(!verifyConsistency({ size: from, root: sha256(old) }, { size: to, root: now }, proof));
        assert.ok(!verifyConsistency({ size: from, root: old }, { size: to, root: sha256(now) }, proof));
        assert.ok(!verifyConsistency({ size: from, root: old }, { size: to, root: now }, [...proof, old]));
        if (proof.length > 0) assert.ok(!verifyConsistency({ size: from, root: old }, { size: to, root: now }, proof.slice(1)));
      }
    }
  });

  test('any tree with one leaf changed is not consistent with what it was', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 0, max: 60 }), fc.nat(), (from, more, where) => {
        const leaves = numbered(from + more);
        const forged = leaves.with(where % from, leafOf(Buffer.from('forged')));
        const proof = proveConsistency(from, from + more, subtreeOf(forged));
        const then = { size: from, root: mth(leaves.slice(0, from)) };
        assert.ok(!verifyConsistency(then, { size: from + more, root: mth(forged) }, proof));
      }),
    );
  });

  test('places that do not exist', () => {
    const leaves = numbered(4);
    assert.throws(() => proveInclusion(4, 4, subtreeOf(leaves)), RangeError);
    assert.throws(() => proveInclusion(-1, 4, subtreeOf(leaves)), RangeError);
    assert.throws(() => proveConsistency(0, 4, subtreeOf(leaves)), RangeError);
    assert.throws(() => proveConsistency(5, 4, subtreeOf(leaves)), RangeError);
    assert.ok(!verifyInclusion(leaves[0] as Buffer, { index: 4, size: 4 }, [], mth(leaves)));
    assert.ok(!verifyInclusion(leaves[0] as Buffer, { index: 0, size: 2 }, [Buffer.alloc(31)], mth(leaves)));
    assert.ok(!verifyConsistency({ size: 0, root: sha256() }, { size: 4, root: mth(leaves) }, []));
  });
});
