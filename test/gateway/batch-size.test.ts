import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseConfig } from '../../config/load.ts';
import { tsuAlgorithms } from '../../config/schema.ts';
import { batchSize } from '../../gateway/batch-size.ts';

test('the algorithm decides, and a slower one gets smaller entries', () => {
  const sizes = tsuAlgorithms.map((algorithm) => batchSize(parseConfig({ timestamp: { algorithm } }).timestamp));
  for (const size of sizes) assert.ok(Number.isInteger(size) && size >= 1 && size <= 256);
  const [p256, p384, rsa2048, rsa3072, rsa4096, ...pss] = sizes;
  assert.deepEqual([p256, p384], [64, 8]);
  assert.ok(Number(rsa2048) > Number(rsa3072) && Number(rsa3072) > Number(rsa4096));
  assert.deepEqual(pss, [rsa2048, rsa3072, rsa4096]);
});

test('a configured batchMax wins over the algorithm', () => {
  assert.equal(batchSize(parseConfig({ timestamp: { algorithm: 'rsa-4096', batchMax: 256 } }).timestamp), 256);
});
