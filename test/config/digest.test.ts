import assert from 'node:assert/strict';
import { test } from 'node:test';
import { canonicalConfig, configDigest } from '../../config/digest.ts';
import { parseConfig } from '../../config/load.ts';

test('one configuration has one digest, however it was written', () => {
  const one = parseConfig({ public: { port: 1, host: '::1' }, log: { level: 'warn' } });
  const other = parseConfig({ log: { level: 'warn' }, public: { host: '::1', port: 1 } });
  assert.equal(canonicalConfig(one), canonicalConfig(other));
  assert.deepEqual(configDigest(one), configDigest(other));
  assert.notDeepEqual(configDigest(one), configDigest(parseConfig({})));
  assert.deepEqual(parseConfig(JSON.parse(canonicalConfig(one))), one);
  assert.match(canonicalConfig(one), /^\{"home":"[^"]+","hsm":\{"mode":"embedded"\},"journal":\{"block":\{"ageMs":/);
});
