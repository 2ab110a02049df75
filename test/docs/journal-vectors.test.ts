/** The test vectors of docs/journal.md are what this code writes and takes, and follow from the specifications without it. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { decode, encode, rfc8949EncodeOptions } from 'cborg';
import { type ChainHead, emptyChain, followChain, headBehind, sealEvent } from '../../observability/journal/chain.ts';
import { verifyCheckpoint } from '../../observability/journal/checkpoint.ts';
import { decodeEvent } from '../../observability/journal/event-encoding.ts';
import type { EventDraft, JournalEvent } from '../../observability/journal/events.ts';
import { MerkleTree, verifyConsistency, verifyInclusion } from '../../observability/journal/merkle.ts';
import { readTimestamp } from '../../pki/tsp-verify.ts';

interface Vectors {
  readonly entries: readonly { readonly octets: string; readonly hash: string }[];
  readonly roots: Readonly<Record<string, string>>;
  readonly key: string;
  readonly checkpoints: Readonly<Record<string, string>>;
  readonly inclusion: { sequence: number; size: number; leafHash: string; path: string[]; checkpoint: string };
  readonly consistency: { from: number; to: number; path: string[]; checkpoint: string };
}
const page = readFileSync(new URL('../../docs/journal.md', import.meta.url), 'utf8');
const vectors = JSON.parse(/^```json\n([^`]*)^```/m.exec(page)?.[1] ?? '') as Vectors;
const origin = 'tsa.example.com/journal';

const fromHex = (text: string): Buffer => Buffer.from(text, 'hex');
const fromBase64 = (texts: readonly string[]): Buffer[] => texts.map((text) => Buffer.from(text, 'base64'));
const sha256 = (...parts: Uint8Array[]): Buffer => parts.reduce((hash, part) => hash.update(part), createHash('sha256')).digest();
const entries = vectors.entries.map(({ octets }) => fromHex(octets));
const hashes = vectors.entries.map(({ hash }) => fromHex(hash));

/** MTH of RFC 6962, section 2.1, word for word. */
const treeHash = (leaves: readonly Uint8Array[]): Uint8Array => {
  if (leaves.length === 1) return leaves[0] as Uint8Array;
  const k = 2 ** (Math.ceil(Math.log2(leaves.length)) - 1);
  return sha256(Buffer.of(1), treeHash(leaves.slice(0, k)), treeHash(leaves.slice(k)));
};

describe('the test vectors of docs/journal.md', () => {
  test('entries: the fields of this code make these octets, and the other way round', () => {
    const common = { clock: 'unverified', node: 'node-1', role: 'system', actor: 'signer', subject: 'signer', outcome: 'success' } as const;
    const stampDetail = (decodeEvent(entries[2] as Buffer) as JournalEvent & { kind: 'timestamp.issued' }).detail;
    const client = { clock: 'trusted', node: 'node-1', role: 'client', actor: 'bank-1' } as const;
    const { policy, messageImprint } = stampDetail;
    const begin = 1_795_305_600_000_000;
    const drafts: EventDraft[] = [
      {
        ...common,
        kind: 'service.started',
        unixMicros: begin,
        detail: { version: '0.1.0', configSha256: sha256(Buffer.from('config')) },
      },
      { ...common, kind: 'service.stopped', unixMicros: begin + 60_000_000, detail: { reason: 'SIGTERM' } },
      {
        ...client,
        kind: 'timestamp.issued',
        unixMicros: begin + 61_000_000,
        subject: '4a0f3c5e7d9b1a2c4e6f8091a3b5c7d9e1f20314',
        outcome: 'success',
        detail: { ...stampDetail, certReq: true },
      },
      {
        ...client,
        kind: 'timestamp.refused',
        unixMicros: begin + 62_000_000,
        subject: '',
        outcome: 'refused',
        detail: { reason: 'timeNotAvailable', policy, messageImprint, count: undefined },
      },
      {
        ...common,
        clock: 'trusted',
        actor: 'journal',
        kind: 'journal.checkpoint',
        unixMicros: begin + 63_000_000,
        subject: '2',
        detail: { note: vectors.checkpoints['2'] as string, token: undefined },
      },
    ];
    let head: ChainHead = emptyChain;
    for (const [i, draft] of drafts.entries()) {
      const sealed = sealEvent(head, draft);
      assert.equal(sealed.octets.toString('hex'), vectors.entries[i]?.octets, `entry ${i}`);
      const step = followChain(head, entries[i] as Buffer);
      assert.equal(step.kind, 'follows');
      head = headBehind(sealed);
    }
    assert.equal(entries.length, drafts.length);
  });

  test('entries: a CBOR library reads them, and writes them so', () => {
    for (const [i, octets] of entries.entries()) {
      const value = decode(octets) as unknown[];
      assert.equal(Buffer.from(encode(value, rfc8949EncodeOptions)).toString('hex'), octets.toString('hex'));
      assert.deepEqual([value.length, value[1]], [13, i]);
      assert.deepEqual(Buffer.from(value[12] as Uint8Array), i === 0 ? Buffer.alloc(32) : hashes[i - 1]);
    }
  });

  test('the token is of the stamp', () => {
    const { subject, detail, unixMicros } = decodeEvent(entries[2] as Buffer) as JournalEvent & { kind: 'timestamp.issued' };
    const reading = readTimestamp(detail.token);
    assert.ok(reading.kind === 'read');
    const token = Buffer.from(detail.token);
    for (const part of [fromHex(subject), Buffer.from(detail.messageImprint), Buffer.from(detail.policy), sha256(Buffer.from('document'))])
      assert.ok(token.includes(part));
    const genTime = new Date(unixMicros / 1_000).toISOString().replace(/[-:T]|\.000/g, '');
    assert.ok(token.includes(genTime), genTime);
  });

  test('hashes and roots', () => {
    for (const [i, octets] of entries.entries()) assert.deepEqual(sha256(Buffer.of(0), octets), hashes[i]);
    for (const [size, root] of Object.entries(vectors.roots)) {
      const leaves = hashes.slice(0, Number(size));
      assert.equal(Buffer.from(treeHash(leaves)).toString('hex'), root);
      const tree = new MerkleTree();
      for (const leaf of leaves) tree.append(leaf);
      assert.equal(Buffer.from(tree.root()).toString('hex'), root);
    }
    assert.ok(page.includes(`\n2\n${fromHex(vectors.roots['2'] as string).toString('base64')}\n`), 'the checkpoint that the page shows');
  });

  test('checkpoints are signed by the key', () => {
    const key = { name: origin, spki: Buffer.from(vectors.key, 'base64') };
    assert.deepEqual(Object.keys(vectors.checkpoints), ['2', '5']);
    for (const [size, note] of Object.entries(vectors.checkpoints)) {
      const root = fromHex(vectors.roots[size] as string);
      assert.deepEqual(verifyCheckpoint(note, key), { kind: 'valid', checkpoint: { origin, size: Number(size), root } });
    }
  });

  test('proofs lead to the roots', () => {
    const rootOf = (size: number): Buffer => fromHex(vectors.roots[String(size)] as string);
    const { inclusion, consistency } = vectors;
    const { sequence: index, size } = inclusion;
    const [leaf] = fromBase64([inclusion.leafHash]);
    assert.deepEqual(leaf, hashes[index]);
    assert.ok(verifyInclusion(leaf as Buffer, { index, size }, fromBase64(inclusion.path), rootOf(size)));
    const { from, to } = consistency;
    assert.ok(verifyConsistency({ size: from, root: rootOf(from) }, { size: to, root: rootOf(to) }, fromBase64(consistency.path)));
    for (const proof of [inclusion, consistency]) assert.equal(proof.checkpoint, vectors.checkpoints['5']);
  });
});
