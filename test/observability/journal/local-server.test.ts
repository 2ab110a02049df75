import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { ClickHouseClient } from '@clickhouse/client';
import { embeddedClient, jsonRows, octetRows, socketClient } from '../../../observability/journal/clickhouse.ts';
import { type LocalServer, serveLocally } from '../../../observability/journal/local-server.ts';
import { temporaryFolder } from '../../support/token-home.ts';

describe('the embedded store, read by another process', () => {
  const folder = temporaryFolder();
  const socket = join(folder.path, 'journal.sock');
  let writer: ClickHouseClient;
  let session: ClickHouseClient;
  let server: LocalServer;
  let reader: ClickHouseClient;
  before(async () => {
    writer = await embeddedClient(join(folder.path, 'data'));
    await writer.command({ query: 'CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a' });
    session = await embeddedClient(join(folder.path, 'data'));
    server = await serveLocally(socket, session);
    reader = socketClient(socket);
  });
  after(async () => {
    await reader.close();
    await server.close();
    await session.close();
    await writer.close();
    folder.remove();
  });

  const post = (body: string | Buffer, path = '/'): Promise<{ status: number; text: string }> =>
    new Promise((resolve, reject) => {
      const asked = request({ socketPath: socket, method: 'POST', path }, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (chunk: string) => {
          text += chunk;
        });
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      });
      asked.on('error', reject);
      asked.end(body);
    });

  test('what is written is read, while it is written', async () => {
    await writer.insert({ table: 't', values: [{ a: 1, b: 'one' }], format: 'JSONEachRow' });
    assert.deepEqual(await jsonRows(reader, { what: 'read', query: 'SELECT toUInt32(a) AS a, b FROM t' }), [{ a: 1, b: 'one' }]);
    await writer.insert({ table: 't', values: [{ a: 2, b: 'two' }], format: 'JSONEachRow' });
    const rows = await octetRows(reader, { what: 'read', query: 'SELECT b FROM t ORDER BY a' }, 1);
    assert.deepEqual(
      rows.map(([text]) => text?.toString()),
      ['one', 'two'],
    );
  });

  test('parameters arrive as they were given, whatever is in them', async () => {
    for (const text of ["it's", 'back\\slash', 'tab\there', 'line\nbreak', '\\n', "\\'", 'größe', '{x:String}', "'); DROP TABLE t; --"]) {
      const rows = await jsonRows<{ same: string }>(reader, {
        what: 'read',
        query: 'SELECT hex({text:String}) AS same',
        parameters: { text },
      });
      assert.equal(Buffer.from(rows[0]?.same ?? '', 'hex').toString(), text);
    }
  });

  test('nothing can be changed through it', async () => {
    const statements = [
      "INSERT INTO t VALUES (9, 'x')",
      'DROP TABLE t',
      'ALTER TABLE t DELETE WHERE 1',
      'TRUNCATE TABLE t',
      'CREATE TABLE u (a UInt8) ENGINE = MergeTree ORDER BY a',
      'SET readonly = 0',
      "INSERT INTO FUNCTION file('out.csv', 'CSV', 'a UInt8') SELECT 1",
      "SELECT 1 INTO OUTFILE 'out.csv'",
      'SELECT 1; DROP TABLE t',
      'WITH 1 AS x SELECT x',
    ];
    for (const query of statements) {
      const { status, text } = await post(query);
      assert.equal(status, 403, query);
      assert.match(text, /READONLY/, query);
    }
    assert.equal((await jsonRows(writer, { what: 'count', query: 'SELECT a FROM t' })).length, 2);
    await writer.insert({ table: 't', values: [{ a: 3, b: 'three' }], format: 'JSONEachRow' });
  });

  test('limits: the length of a query, the method, what it does not understand', async () => {
    assert.equal((await post(`SELECT '${'x'.repeat(64 * 1024)}'`)).status, 413);
    assert.equal((await post(`SELECT length('${'x'.repeat(60 * 1024)}')`)).status, 200);
    const nonsense = await post(Buffer.from([0xff, 0x00, 0xfe]));
    assert.equal(nonsense.status, 403);
    const wrong = await post('SELECT nothing FROM nowhere');
    assert.equal(wrong.status, 500);
    assert.match(wrong.text, /nowhere/);
    const get = await new Promise<number>((resolve) => {
      request({ socketPath: socket, method: 'GET', path: '/' }, (response) => resolve(response.resume().statusCode ?? 0)).end();
    });
    assert.equal(get, 405);
  });

  test('only its user can reach it', () => {
    assert.equal(statSync(socket).mode & 0o777, 0o600);
  });
});
