import assert from 'node:assert/strict';
import { availableParallelism } from 'node:os';
import { test } from 'node:test';
import { parseOptions } from '../../bench/options.ts';

test('without options: three algorithms, as many threads as cores, nothing checked', () => {
  const options = parseOptions([]);
  assert.deepEqual(options?.algorithms, ['ec-p256', 'rsa-2048', 'rsa-3072']);
  assert.equal(options?.threads, availableParallelism());
  assert.equal(options?.check, false);
  assert.equal(options?.mode, 'measure');
  assert.equal(options?.durability, 'everysec');
  assert.deepEqual(options?.flags, ['--durability', 'everysec'], 'the report says it in any case');
});

test('--quick is shorter than a minute by its own arithmetic', () => {
  const options = parseOptions(['--quick']);
  assert.ok(options !== undefined);
  const { rounds, windowMs, warmupMs, firstWarmupMs, rawMs } = options.plan;
  const algorithmMs = 1.5 * firstWarmupMs + 3 * warmupMs + rounds * (9 * (windowMs + warmupMs) + 2 * rawMs);
  assert.equal(options.algorithms.length, 2);
  assert.ok(algorithmMs * options.algorithms.length < 45_000, `${algorithmMs} ms for each algorithm`);
});

test('options choose', () => {
  const options = parseOptions(['--algorithms', 'rsa-pss-4096,ec-p384', '--threads', '7', '--rounds', '3', '--check']);
  assert.deepEqual(options?.algorithms, ['rsa-pss-4096', 'ec-p384']);
  assert.equal(options?.threads, 7);
  assert.equal(options?.plan.rounds, 3);
  assert.equal(options?.check, true);
  assert.equal(parseOptions(['--durability', 'fsync'])?.durability, 'fsync');
  assert.equal(parseOptions(['--million'])?.soakStamps, 1_000_000);
  assert.equal(parseOptions(['--profile'])?.mode, 'profile');
  assert.equal(parseOptions(['--help']), undefined);
});

test('what is not understood is refused in words', () => {
  assert.throws(() => parseOptions(['--algorithms', 'dsa']), /dsa is none of/);
  assert.throws(() => parseOptions(['--threads', '0']), /--threads/);
  assert.throws(() => parseOptions(['--million', '--profile']), /different runs/);
  assert.throws(() => parseOptions(['--durability', 'never']), /never is neither/);
  assert.throws(() => parseOptions(['--fast']), TypeError);
});
