/** docs/errors.md is the catalogue, told in Markdown; `UPDATE_DOCS=1 npm test -- test/docs` writes it anew. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { type ErrorEntry, errorCatalogue } from '../../config/errors.ts';

const page = new URL('../../docs/errors.md', import.meta.url);

const render = (): string => {
  const rows = Object.entries(errorCatalogue).map(([code, entry]: [string, ErrorEntry]) => {
    const status = entry.httpStatus === 0 ? '' : String(entry.httpStatus);
    const name = entry.retired === true ? `~~${code}~~` : code;
    return `| \`${name}\` | ${status} | ${entry.retryable ? 'yes' : 'no'} | ${entry.meaning} | ${entry.action} |`;
  });
  return [
    '# Errors',
    '',
    'Every error has a stable code. This page is made from `config/errors.ts`, and a test keeps the two the same.',
    'What refuses a timestamp within the protocol (failInfo) is in [timestamp.md](timestamp.md).',
    '',
    '| code | HTTP | try again | what it means | what to do |',
    '|---|---|---|---|---|',
    ...rows,
    '',
  ].join('\n');
};

test('docs/errors.md tells the catalogue', () => {
  if (process.env['UPDATE_DOCS'] === '1') writeFileSync(page, render());
  assert.equal(readFileSync(page, 'utf8'), render());
});
