import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { lineOctetsMax, openBundle, writeBundle } from '../../../observability/journal/bundle.ts';
import { type VerifyBundleOptions, verifyBundle } from '../../../observability/journal/verify-bundle.ts';
import { isMalformedAs } from '../../support/malformed.ts';
import { editedOctets, journalKey } from './signed-journal.ts';
import { tamperedJournal } from './tampered-journal.ts';

const gone = 'service-202701';

async function* inChunks(bytes: Buffer, octets = 65_536): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += octets) yield bytes.subarray(at, at + octets);
}

describe('a bundle', () => {
  /** 1,000 entries with checkpoints of 300 and 700, the second timestamped; January expired at 500. */
  const world = tamperedJournal((journal, tsu) => {
    journal.append({ kind: 'tsu.published', detail: { chain: tsu.chain } });
    while (journal.size < 1_000) {
      if (journal.size === 500) {
        journal.unixMicros = Date.UTC(2027, 7, 2) * 1_000;
        journal.append(journal.expiry(gone));
      }
      if (journal.size === 300 || journal.size === 700) journal.append(journal.checkpoint(journal.size === 700 ? tsu.stamp : undefined));
      else if (journal.size % 10 === 3) journal.stopped('x');
      else journal.stamp();
    }
  }, gone);
  const { key, journal } = world;

  const write = async (from: number, to: number): Promise<Buffer> => {
    const chunks: Buffer[] = [];
    for await (const chunk of writeBundle(world.reader, { from, to, key })) chunks.push(chunk);
    return Buffer.concat(chunks);
  };
  const verify = (bytes: Buffer, options: Partial<VerifyBundleOptions> = {}) =>
    verifyBundle(inChunks(bytes), { keys: [key], roots: world.tsu.roots, ...options });
  const told = async (bytes: Buffer, options: Partial<VerifyBundleOptions> = {}): Promise<string> => {
    const verdict = await verify(bytes, options);
    return verdict.kind === 'valid'
      ? `valid ${verdict.from}-${verdict.to} of ${verdict.checkpoint.size}`
      : `${verdict.fault} ${verdict.at}-${verdict.until}`;
  };
  const linesOf = (bytes: Buffer): string[] => bytes.toString().trimEnd().split('\n');
  /** With a trailer that fits, as somebody makes it who has no key. */
  const bundleOf = (lines: readonly string[]): Buffer => {
    const text = `${lines.join('\n')}\n`;
    const sha256 = createHash('sha256').update(text).digest('hex');
    return Buffer.from(`${text}${JSON.stringify({ entries: lines.length - 1, sha256 })}\n`);
  };
  const changed = async (change: (lines: string[]) => string[]): Promise<Buffer> =>
    bundleOf(change(linesOf(await write(520, 620)).slice(0, -1)));
  const changedHeader = (change: (header: Record<string, unknown>) => object): Promise<Buffer> =>
    changed(([head, ...lines]) => [JSON.stringify(change(JSON.parse(head as string) as Record<string, unknown>)), ...lines]);

  test('is lines of text', async () => {
    const lines = linesOf(await write(0, 10));
    assert.equal(lines.length, 12);
    const header = JSON.parse(lines[0] as string) as Record<string, unknown>;
    assert.deepEqual(
      { ...header, checkpoint: undefined, consistency: undefined },
      {
        format: 'sigillo-journal-bundle',
        version: 1,
        origin: key.name,
        from: 0,
        to: 10,
        left: [],
        checkpoint: undefined,
        token: null,
        certificates: [],
        key: Buffer.from(key.spki).toString('base64'),
        consistency: undefined,
      },
    );
    assert.equal(lines[1], journal.sealed[0]?.octets.toString('base64'));
    assert.deepEqual(JSON.parse(lines[4] as string), {
      expired: { sequence: 3, hash: journal.sealed[3]?.hash.toString('base64'), partition: gone },
    });
    const before = `${lines.slice(0, -1).join('\n')}\n`;
    assert.deepEqual(JSON.parse(lines[11] as string), { entries: 10, sha256: createHash('sha256').update(before).digest('hex') });
  });

  for (const [from, to, size] of [
    [0, 1, 300],
    [0, 300, 300],
    [1, 2, 300],
    [255, 257, 300],
    [256, 300, 300],
    [299, 301, 700],
    [17, 700, 700],
    [699, 700, 700],
  ] as const) {
    test(`of ${from} to ${to} is verified by the checkpoint of ${size}`, async () => {
      assert.equal(await told(await write(from, to)), `valid ${from}-${to} of ${size}`);
    });
  }

  test('says what was found', async () => {
    const verdict = await verify(await write(0, 700));
    assert.ok(verdict.kind === 'valid');
    const { entries, expired, checkpoints, unanchored, expiryUnproven, checkpointTime } = verdict;
    const stubs = journal.entriesOf(gone).length;
    assert.deepEqual(
      { entries, expired, checkpoints, unanchored, expiryUnproven },
      { entries: 700 - stubs, expired: stubs, checkpoints: 1, unanchored: 0, expiryUnproven: [] },
    );
    assert.equal(checkpointTime?.toISOString().slice(0, 10), '2027-08-02');
    const part = await verify(await write(0, 400));
    assert.deepEqual(part.kind === 'valid' && part.expiryUnproven, [gone]);
    const untrusted = await verify(await write(0, 400), { roots: undefined } as never);
    assert.ok(untrusted.kind === 'valid' && untrusted.checkpointTime === undefined);
  });

  test('is read in chunks of any length', async () => {
    const bytes = await write(290, 310);
    for (const octets of [1, 7, 100_000]) {
      const verdict = await verifyBundle(inChunks(bytes, octets), { keys: [key] });
      assert.equal(verdict.kind, 'valid');
    }
  });

  test('is not made of what no checkpoint covers, of nothing, or of what is not there', async () => {
    await assert.rejects(write(0, 701), { code: 'JOURNAL_UNCHECKPOINTED' });
    for (const [from, to] of [
      [5, 5],
      [6, 5],
      [-1, 5],
      [0.5, 5],
    ] as const)
      await assert.rejects(write(from, to), RangeError);
    await world.tampered.delete('sequence = 600');
    await assert.rejects(write(590, 610), { code: 'JOURNAL_MALFORMED' });
    await world.tampered.restore();
    const other = journalKey();
    await assert.rejects(
      async () => {
        for await (const _ of writeBundle(world.reader, { from: 0, to: 5, key: other })) assert.fail('something was written');
      },
      { code: 'JOURNAL_MALFORMED' },
    );
  });

  test('with another key, or another root', async () => {
    const bytes = await write(520, 620);
    assert.equal(await told(bytes, { keys: [journalKey()] }), 'checkpoint-signature 520-620');
    assert.equal(await told(bytes, { keys: [journalKey(), key] }), 'valid 520-620 of 700');
    assert.equal(await told(bytes, { roots: [] }), 'checkpoint-timestamp 520-620');
  });

  describe('tampering is named', () => {
    const entry = (k: number): string => editedOctets(journal.sealed[k]?.event as never).toString('base64');
    test('of entries', async () => {
      assert.equal(await told(await changed((lines) => lines)), 'valid 520-620 of 700');
      assert.equal(await told(await changed((lines) => lines.with(1 + 30, entry(550)))), 'altered 550-551');
      assert.equal(await told(await changed((lines) => lines.toSpliced(1 + 30, 1))), 'missing 550-551');
      assert.equal(await told(await changed((lines) => lines.toSpliced(1 + 30, 0, lines[31] as string))), 'repeated 550-551');
      assert.equal(
        await told(await changed((lines) => lines.with(31, lines[32] as string).with(32, lines[31] as string))),
        'reordered 550-551',
      );
      assert.equal(await told(await changed((lines) => lines.slice(0, -1))), 'missing 619-620');
      assert.equal(await told(await changed((lines) => lines.with(1 + 30, 'AAAA'))), 'malformed 550-551');
      assert.equal(await told(await changed((lines) => lines.with(1 + 30, '....'))), 'bundle 520-620');
      assert.equal(
        await told(await changed((lines) => [...lines, journal.sealed[620]?.octets.toString('base64') as string])),
        'bundle 620-621',
      );
      // Nothing behind the newest but the root.
      assert.equal(await told(await changed((lines) => lines.with(1 + 99, entry(619)))), 'rewritten 520-620');
    });
    test('of entries made anew', async () => {
      const forged = journal.rewriteFrom(550, (event) => ({ ...event, node: 'forged' }) as never);
      const bytes = await changed((lines) => [
        ...lines.slice(0, 31),
        ...forged.slice(0, 70).map(({ octets }) => octets.toString('base64')),
      ]);
      assert.equal(await told(bytes), 'rewritten 520-620');
    });
    test('of the header', async () => {
      for (const [change, expected] of [
        [{ origin: 'other.example.com' }, 'bundle 520-620'],
        [{ from: 519 }, 'bundle 519-620'],
        [{ from: 524 }, 'bundle 524-620'],
        [{ from: 521 }, 'bundle 521-620'],
        [{ to: 619 }, 'bundle 619-620'],
        [{ to: 621 }, 'missing 620-621'],
        [{ to: 701 }, 'bundle 520-701'],
        [{ to: 520 }, 'bundle 0-0'],
        [{ version: 2 }, 'bundle 0-0'],
        [{ format: 'other' }, 'bundle 0-0'],
        [{ left: [] }, 'bundle 520-620'],
        [{ left: ['AAAA'] }, 'bundle 0-0'],
        [{ consistency: [] }, 'rewritten 520-620'],
        [{ checkpoint: 'no note' }, 'checkpoint-signature 520-620'],
        [{ more: 1 }, 'bundle 0-0'],
        [{ certificates: [] }, 'checkpoint-timestamp 520-620'],
        [{ token: null }, 'valid 520-620 of 700'],
        [{ from: -1 }, 'bundle 0-0'],
        [{ to: 1e300 }, 'bundle 0-0'],
      ] as const) {
        const bytes = await changedHeader((header) => ({ ...header, ...change }));
        assert.equal(await told(bytes), expected, JSON.stringify(change));
      }
      const zeros = await changedHeader((header) => ({
        ...header,
        left: (header['left'] as string[]).map(() => Buffer.alloc(32).toString('base64')),
      }));
      assert.equal(await told(zeros), 'rewritten 520-620');
    });
  });

  test('damage is found: every truncation, every change', async () => {
    const bytes = await write(595, 600);
    assert.equal(await told(bytes), 'valid 595-600 of 700');
    for (let length = 0; length < bytes.length; length += length < bytes.length - 300 ? 17 : 1) {
      const verdict = await verify(bytes.subarray(0, length));
      assert.equal(verdict.kind, 'fault', String(length));
    }
    await fc.assert(
      fc.asyncProperty(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), async (at, mask) => {
        const damaged = Buffer.from(bytes);
        damaged[at] = (damaged[at] as number) ^ mask;
        const verdict = await verify(damaged);
        assert.equal(verdict.kind, 'fault', String(at));
      }),
      { numRuns: 500 },
    );
    for (const tail of ['\n', 'x\n', bytes.toString()])
      assert.equal((await verify(Buffer.concat([bytes, Buffer.from(tail)]))).kind, 'fault');
  });

  test('hostile octets are refused, and nothing else happens', async () => {
    const isRefusal = isMalformedAs('JOURNAL_MALFORMED');
    const read = async (bytes: Buffer, octets?: number): Promise<void> => {
      const { places } = await openBundle(inChunks(bytes, octets));
      for await (const _ of places);
    };
    const header = linesOf(await write(520, 521))[0] as string;
    for (const text of [
      '',
      '\n',
      '{}\n',
      '[]\n',
      'null\n',
      `${header}\n`,
      `${header}\n{"entries":0}\n`,
      `${header}\n{"expired":{}}\n`,
      `${header}\n\n`,
      `${header}\n{\n`,
    ]) {
      await assert.rejects(read(Buffer.from(text)), isRefusal, text);
    }
    const long = Buffer.alloc(lineOctetsMax + 2, 0x41);
    await assert.rejects(read(long), isRefusal);
    await assert.rejects(read(Buffer.concat([Buffer.from(`${header}\n`), long])), isRefusal);
    await assert.rejects(read(Buffer.from(`${header}\n${'A'.repeat(100_000)}\n`)), isRefusal, 'an entry that is too long');
    const nested = `${'['.repeat(500_000)}\n`;
    await assert.rejects(read(Buffer.from(nested)), isRefusal);
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), fc.integer({ min: 1, max: 64 }), async (noise, octets) => {
        await assert.rejects(read(Buffer.from(noise), octets), isRefusal);
        await assert.rejects(read(Buffer.concat([Buffer.from(`${header}\n`), noise]), 512), isRefusal);
      }),
      { numRuns: 300 },
    );
  });
});
