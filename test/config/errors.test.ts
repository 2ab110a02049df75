import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type ErrorCode, type ErrorEntry, errorCatalogue, invariant, SigilloError } from '../../config/errors.ts';

const root = join(import.meta.dirname, '../..');
const rooms = ['authority', 'bin', 'config', 'gateway', 'observability', 'pki', 'queue', 'signer'];
const sources = globSync(`{${rooms.join()}}/**/*.{ts,mjs}`, { cwd: root }).map((file) => ({
  file,
  text: readFileSync(join(root, file), 'utf8'),
}));
const productCode = sources.filter(({ file }) => file !== join('config', 'errors.ts'));
const entries = Object.entries(errorCatalogue) as [ErrorCode, ErrorEntry][];
const codes = new Set<string>(entries.map(([code]) => code));

/** The string as a whole, in any quotes: a code in a comment does not count. */
const isQuoted = (code: string): RegExp => new RegExp(`['"\`]${code}['"\`]`);

describe('the catalogue of errors', () => {
  for (const [code, { retired }] of entries) {
    const where = code === 'INTERNAL' ? sources : productCode;
    if (retired) {
      test(`${code} is retired, and no longer raised`, () => {
        assert.deepEqual(
          where.filter(({ text }) => isQuoted(code).test(text)).map(({ file }) => file),
          [],
        );
      });
    } else {
      test(`${code} is raised`, () => {
        assert.ok(
          where.some(({ text }) => isQuoted(code).test(text)),
          'no product code names it: raise it, or mark it as retired',
        );
      });
    }
  }

  test('codes that are raised are in it', () => {
    const raised = /new SigilloError\(\s*'([A-Z_]+)'|(?:textError|jsonError|sendError)\(\s*\w+,\s*'([A-Z_]+)'|code: '([A-Z]+_[A-Z_]+)'/g;
    let found = 0;
    for (const { file, text } of productCode) {
      for (const match of text.matchAll(raised)) {
        const code = match[1] ?? match[2] ?? match[3] ?? '';
        found += 1;
        assert.ok(codes.has(code), `${file} raises ${code}`);
      }
    }
    assert.ok(found > 40, `${found} places found: the search is broken`);
  });

  test('codes that comments promise are in it', () => {
    for (const { file, text } of productCode) {
      for (const [, list] of text.matchAll(/@throws ([A-Z_*]+(?:, (?:or )?[A-Z_*]+)*)/g)) {
        for (const code of (list as string).split(/, (?:or )?/)) {
          if (code.endsWith('*'))
            assert.ok(
              [...codes].some((known) => known.startsWith(code.slice(0, -1))),
              `${file}: ${code}`,
            );
          else if (/^[A-Z]+(_[A-Z]+)+$/.test(code)) assert.ok(codes.has(code), `${file}: ${code}`);
        }
      }
    }
  });

  test('each entry has one-line sentences and a status that fits', () => {
    for (const [code, { meaning, action, httpStatus, retryable }] of entries) {
      assert.match(code, /^[A-Z]+(_[A-Z]+)*$/);
      assert.match(meaning, /^[A-Z][^\n\r]*\.$/, code);
      assert.match(action, /^[A-Z`][^\n\r]*\.$/, code);
      assert.ok(httpStatus === 0 || (httpStatus >= 400 && httpStatus < 600), code);
      if (httpStatus >= 400 && httpStatus < 500) assert.equal(retryable, false, `${code}: the same request fails again`);
    }
  });

  test('an error tells its code, its meaning and its detail, and keeps its cause', () => {
    const cause = new Error('below');
    const error = new SigilloError('REDIS_UNAVAILABLE', 'after 5 s', { cause });
    assert.deepEqual([error.code, error.name, error.cause], ['REDIS_UNAVAILABLE', 'SigilloError', cause]);
    assert.equal(error.message, `${errorCatalogue.REDIS_UNAVAILABLE.meaning} after 5 s`);
    assert.equal(new SigilloError('NOT_FOUND').message, errorCatalogue.NOT_FOUND.meaning);
    assert.equal(error.entry.httpStatus, 503);
    assert.ok(error instanceof Error);
  });

  test('invariant: silent when it holds, INTERNAL when not', () => {
    invariant(1, 'holds');
    for (const broken of [false, 0, '', null, undefined])
      assert.throws(() => invariant(broken, 'broken'), { code: 'INTERNAL', message: /broken/ });
  });
});
