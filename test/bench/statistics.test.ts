import assert from 'node:assert/strict';
import { test } from 'node:test';
import { median, percentile, relativeSpread, SampleRecorder, slope, spread, summarizeLatencies } from '../../bench/statistics.ts';

test('median: the middle value, the mean of two, NaN of none', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.equal(median([7]), 7);
  assert.equal(median([]), Number.NaN);
});

test('median does not reorder its input', () => {
  const values = [3, 1, 2];
  median(values);
  assert.deepEqual(values, [3, 1, 2]);
});

test('spread keeps the rounds, and relativeSpread is half the range', () => {
  const values = spread([90, 110, 100]);
  assert.deepEqual(values, { median: 100, min: 90, max: 110, rounds: [90, 110, 100] });
  assert.equal(relativeSpread(values), 0.1);
});

test('percentile is by nearest rank: always an observed value', () => {
  const values = Array.from({ length: 1_000 }, (_, i) => i + 1);
  assert.equal(percentile(values, 0.5), 500);
  assert.equal(percentile(values, 0.99), 990);
  assert.equal(percentile(values, 0.999), 999);
  assert.equal(percentile(values, 1), 1_000);
  assert.equal(percentile(values, 0), 1);
  assert.equal(percentile([5], 0.999), 5);
  assert.equal(percentile([], 0.5), Number.NaN);
});

test('summarizeLatencies sorts by value, not by text', () => {
  assert.deepEqual(summarizeLatencies(Float64Array.of(10, 9, 100, 1)), { samples: 4, p50: 9, p99: 100, p999: 100, max: 100 });
});

test('slope of a line is its slope', () => {
  assert.equal(slope([0, 1, 2, 3], [5, 7, 9, 11]), 2);
  assert.equal(slope([0, 1, 2], [4, 4, 4]), 0);
});

test('SampleRecorder grows beyond its first array and loses nothing', () => {
  const recorder = new SampleRecorder();
  const count = 200_000;
  for (let i = 0; i < count; i += 1) recorder.record(i);
  const samples = recorder.samples();
  assert.equal(samples.length, count);
  assert.equal(samples[count - 1], count - 1);
  assert.equal(samples[65_536], 65_536);
});
