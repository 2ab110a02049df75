import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseRounds, disturbanceMax, disturbanceOfRound, type Measurement } from '../../bench/measure.ts';
import { judge, rowOf, summarize } from '../../bench/summary.ts';
import { loadResult, measurement } from './fixture.ts';

test('ratios are taken within each round: a slow minute of the machine does not move them', () => {
  const summary = summarize(measurement());
  const { ratio, stampsPerSecond } = rowOf(summary, 'closed-64');
  assert.ok(ratio !== undefined);
  for (const value of ratio.rounds) assert.ok(Math.abs(value - 0.5) < 1e-9);
  assert.deepEqual(stampsPerSecond.rounds, [10_000, 5_000, 12_000]);
  assert.equal(rowOf(summary, 'hono-64').ratio, undefined);
});

test('CPU outside C_Sign is the total without a signature of the same round', () => {
  const summary = summarize(measurement());
  assert.equal(rowOf(summary, 'closed-64').cpuTotalMicros.median, 130);
  assert.equal(rowOf(summary, 'closed-64').cpuOutsideMicros?.median, 70);
});

const verdictsOf = (of: Measurement): Record<string, boolean> =>
  Object.fromEntries(judge(summarize(of)).map(({ what, passed }) => [what, passed]));

test('P-256 is judged by every target, each on its own', () => {
  assert.deepEqual(verdictsOf(measurement()), {
    'raw C_Sign, best closed loop': true,
    'raw C_Sign, 100 imprints a request': false,
    'CPU outside C_Sign a stamp': true,
    'lone p50, of bare Hono': true,
    'p99 at half of the maximum': true,
    'answers that were not granted': true,
  });
});

test('RSA is judged by ratio, p99 and errors', () => {
  assert.deepEqual(verdictsOf(measurement('rsa-2048', 2_400)), {
    'raw C_Sign, best closed loop': false,
    'p99 at half of the maximum': true,
    'answers that were not granted': true,
  });
  assert.equal('raw C_Sign, best closed loop' in verdictsOf(measurement('rsa-4096', 400)), false);
});

test('one answer that is not granted misses a target', () => {
  const good = measurement();
  const [first, ...others] = good.rounds;
  assert.ok(first !== undefined);
  const bad = { ...good, rounds: [{ ...first, 'closed-16': loadResult({ errors: 1, firstError: 'HTTP status 503' }) }, ...others] };
  assert.equal(verdictsOf(bad)['answers that were not granted'], false);
  assert.equal(rowOf(summarize(bad), 'closed-16').firstError, 'HTTP status 503');
});

test('rounds are chosen by disturbance alone, and stay in order', () => {
  const [first, second, third] = measurement().rounds;
  assert.ok(first !== undefined && second !== undefined && third !== undefined);
  const disturbed = { ...first, 'closed-64': loadResult({ disturbance: 0.9 }) };
  assert.ok(disturbanceOfRound(disturbed) > disturbanceMax);
  assert.ok(disturbanceOfRound(second) < disturbanceMax);
  assert.deepEqual(chooseRounds([second, disturbed, third], 2), { rounds: [second, third], setAside: [disturbed] });
});

test('figures that are missing pass nothing', () => {
  const verdicts = judge(summarize({ ...measurement(), rounds: [] }));
  assert.ok(verdicts.filter(({ what }) => what !== 'answers that were not granted').every(({ passed }) => !passed));
});
