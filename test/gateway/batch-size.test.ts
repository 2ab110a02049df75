import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseConfig } from '../../config/load.ts';
import { tsuAlgorithms } from '../../config/schema.ts';
import { batchSizes } from '../../gateway/batch-size.ts';

test('the algorithm decides, and a slower one gets smaller entries', () => {
  const both = tsuAlgorithms.map((algorithm) => batchSizes(parseConfig({ timestamp: { algorithm } }).timestamp));
  for (const { batchMin, batchMax } of both) {
    assert.ok(Number.isInteger(batchMax) && batchMax >= 1 && batchMax <= 256);
    assert.ok(Number.isInteger(batchMin) && batchMin >= 1 && batchMin <= batchMax / 4);
  }
  const sizes = both.map(({ batchMax }) => batchMax);
  const [p256, p384, rsa2048, rsa3072, rsa4096, ...pss] = sizes;
  assert.deepEqual([p256, p384], [64, 8]);
  assert.ok(Number(rsa2048) > Number(rsa3072) && Number(rsa3072) > Number(rsa4096));
  assert.deepEqual(pss, [rsa2048, rsa3072, rsa4096]);
});

test('a configured batchMax wins over the algorithm', () => {
  assert.equal(batchSizes(parseConfig({ timestamp: { algorithm: 'rsa-4096', batchMax: 256 } }).timestamp).batchMax, 256);
  assert.deepEqual(batchSizes(parseConfig({ timestamp: { batchMax: 4 } }).timestamp), { batchMax: 4, batchMin: 4 });
});
