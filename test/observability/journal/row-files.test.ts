import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { ClickHouseClient } from '@clickhouse/client';
import { embeddedClient, insertRows, jsonRows } from '../../../observability/journal/clickhouse.ts';
import { RowBinaryWriter } from '../../../observability/journal/row-binary.ts';
import { RowFiles } from '../../../observability/journal/row-files.ts';
import { temporaryFolder } from '../../support/token-home.ts';

const folder = temporaryFolder();
after(folder.remove);

describe('files of rows', () => {
  const rowsFolder = folder.path;
  const contentOf = async (path: string): Promise<string> => readFileSync(path, 'utf8');

  test('have no name, hold exactly the rows, also fewer than before, and are used again', async () => {
    const files = new RowFiles(rowsFolder);
    const paths = new Set<string>();
    for (const text of ['some rows', 'rows', 'x'.repeat(3_000_000), '']) {
      const read = await files.use(Buffer.from(text), async (path) => {
        paths.add(path);
        return contentOf(path);
      });
      assert.equal(read, text);
    }
    assert.equal(paths.size, 1);
    assert.deepEqual(readdirSync(rowsFolder), []);
    await files.close();
    await assert.rejects(contentOf([...paths][0] as string));
  });

  test('one that is still read is not written again, also when it is closed meanwhile', async () => {
    const files = new RowFiles(rowsFolder);
    const reading = Promise.withResolvers<void>();
    const first = files.use(Buffer.from('first'), async (path) => {
      await reading.promise;
      return contentOf(path);
    });
    assert.equal(await files.use(Buffer.from('second'), contentOf), 'second');
    await files.close();
    reading.resolve();
    assert.equal(await first, 'first');
  });

  test('is free again when whoever reads it fails', async () => {
    const files = new RowFiles(rowsFolder);
    const fail = files.use(Buffer.from('rows'), async () => {
      throw new Error('refused');
    });
    await assert.rejects(fail, /refused/);
    assert.equal(await files.use(Buffer.from('others'), contentOf), 'others');
    await files.close();
  });

  test('a folder that is gone is an error', async () => {
    const files = new RowFiles(join(rowsFolder, 'gone'));
    await assert.rejects(files.use(Buffer.alloc(1), contentOf), { code: 'ENOENT' });
    await files.close();
  });
});

describe('rows that ClickHouse reads', () => {
  let client: ClickHouseClient;
  before(async () => {
    client = await embeddedClient(join(folder.path, 'clickhouse'));
    await client.command({
      query:
        'CREATE TABLE rows (n UInt64, m UInt64, small UInt32, text LowCardinality(String), octets String) ENGINE = MergeTree ORDER BY n',
    });
  });
  after(() => client.close());

  test('are those that were written, whatever is in them', async () => {
    const texts = [
      '',
      'a',
      'x'.repeat(42),
      'x'.repeat(43),
      '€'.repeat(42),
      '€'.repeat(43),
      'x'.repeat(127),
      'x'.repeat(128),
      '𝄞'.repeat(9_000),
    ];
    const lengths = [0, 1, 127, 128, 16_383, 16_384, 65_536, 3_000_000];
    const out = new RowBinaryWriter(Buffer.alloc(0));
    const expected: unknown[] = [];
    for (const [i, text] of texts.entries()) {
      const octets = Buffer.alloc(lengths[i % lengths.length] as number, `\n\t\\'${i}`);
      out.makeRoom(Buffer.byteLength(text) + octets.length);
      const n = Number.MAX_SAFE_INTEGER - i;
      out.uint64(n);
      out.uint64Of(Buffer.from([255, 254, 253, 252, 251, 250, 249, i]));
      out.uint32(0xffff_ffff - i);
      out.string(text);
      out.octets(octets);
      expected.push({
        n: String(n),
        m: String(0xfffe_fdfc_fbfa_f900n + BigInt(i)),
        small: 0xffff_ffff - i,
        text,
        hex: octets.toString('hex'),
      });
    }
    await insertRows(client, {
      what: 'store rows',
      table: 'rows',
      columns: { n: 'UInt64', m: 'UInt64', small: 'UInt32', text: 'String', octets: 'String' },
      rows: out.rows,
      settings: { insert_deduplication_token: "it's \\ a token", async_insert: 0 },
    });
    const query = 'SELECT toString(n) AS n, toString(m) AS m, small, text, lower(hex(octets)) AS hex FROM rows ORDER BY rows.n DESC';
    assert.deepEqual(await jsonRows(client, { what: 'read rows', query }), expected);
  });

  test('that are cut off are refused whole', async () => {
    const out = new RowBinaryWriter(Buffer.alloc(0));
    out.makeRoom(100);
    for (const n of [1, 2]) {
      out.uint64(n);
      out.uint64(n);
      out.uint32(n);
      out.string('a');
      out.octets(Buffer.from('abc'));
    }
    const columns = { n: 'UInt64', m: 'UInt64', small: 'UInt32', text: 'String', octets: 'String' };
    const insertion = { what: 'store rows', table: 'rows', columns, rows: out.rows.subarray(0, -1), settings: { async_insert: 0 } };
    await assert.rejects(insertRows(client, insertion), { code: 'JOURNAL_STORE_UNAVAILABLE' });
    assert.deepEqual(await jsonRows(client, { what: 'count', query: 'SELECT toUInt32(count()) AS n FROM rows WHERE rows.n < 10' }), [
      { n: 0 },
    ]);
  });
});
