import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseTsuFileName, tsuFileName, tsuKeyLabel } from '../../pki/tsu-files.ts';
import { tsuUsageLimit } from '../../pki/tsu-usage.ts';

const dayMs = 86_400_000;
const limitOf = (start: string): string => tsuUsageLimit(new Date(start)).toISOString();

const cases: [string, string, string][] = [
  ['three months are 92 days: 90 days', '2025-07-01T12:00:00.000Z', '2025-09-29T12:00:00.000Z'],
  ['three months are 89 days', '2025-02-01T00:00:00.000Z', '2025-05-01T00:00:00.000Z'],
  ['31 January, no leap year', '2025-01-31T10:11:12.345Z', '2025-04-30T10:11:12.345Z'],
  ['31 January, leap year: 90 days are the same day', '2024-01-31T00:00:00.000Z', '2024-04-30T00:00:00.000Z'],
  ['30 November, no leap year follows', '2025-11-30T23:59:59.999Z', '2026-02-28T23:59:59.999Z'],
  ['30 November, leap year follows: 90 days come before 29 February', '2023-11-30T00:00:00.000Z', '2024-02-28T00:00:00.000Z'],
  ['29 November, no leap year follows', '2025-11-29T00:00:00.000Z', '2026-02-27T00:00:00.000Z'],
  ['1 December, no leap year follows', '2025-12-01T00:00:00.000Z', '2026-03-01T00:00:00.000Z'],
  ['28 February', '2025-02-28T00:00:00.000Z', '2025-05-28T00:00:00.000Z'],
  ['29 February', '2024-02-29T00:00:00.000Z', '2024-05-29T00:00:00.000Z'],
  ['across the turn of the year', '2025-12-31T23:00:00.000Z', '2026-03-31T23:00:00.000Z'],
  ['century without a leap day', '2100-01-31T00:00:00.000Z', '2100-04-30T00:00:00.000Z'],
];
for (const [name, start, limit] of cases) {
  test(`usage limit: ${name}`, () => assert.equal(limitOf(start), limit));
}

test('usage limit: never beyond 90 days nor three months, and never less than 89 days, on every day of eight years', () => {
  for (let at = Date.UTC(2024, 0, 1, 13, 14, 15); at < Date.UTC(2032, 0, 1); at += dayMs) {
    const start = new Date(at);
    const limit = tsuUsageLimit(start);
    const days = (limit.getTime() - at) / dayMs;
    assert.ok(days === 90 || days === 89, `${start.toISOString()}: ${days} days`);
    const months = (limit.getUTCFullYear() - start.getUTCFullYear()) * 12 + limit.getUTCMonth() - start.getUTCMonth();
    assert.ok(months < 3 || (months === 3 && limit.getUTCDate() <= start.getUTCDate()), `${start.toISOString()}: ${limit.toISOString()}`);
  }
});

test('TSU file names say algorithm, number and key label, and nothing else is one', () => {
  for (const algorithm of ['ec-p256', 'rsa-3072', 'rsa-pss-4096']) {
    assert.deepEqual(parseTsuFileName(tsuFileName(algorithm, 12)), { algorithm, n: 12, keyLabel: tsuKeyLabel(algorithm, 12) });
  }
  for (const name of [
    'root-ca.pem',
    'tsu-ec-p256-0.pem',
    'tsu-ec-p256-01.pem',
    'tsu-ec-p256-1.pem.new',
    'tsu-ec-p256-1',
    'xtsu-ec-p256-1.pem',
    'tsu-1.pem',
  ]) {
    assert.equal(parseTsuFileName(name), undefined, name);
  }
});
