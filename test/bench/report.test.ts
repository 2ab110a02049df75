import assert from 'node:assert/strict';
import { test } from 'node:test';
import { drawRun } from '../../bench/picture.ts';
import { formatMachine, formatSummary, formatTable, formatVerdicts } from '../../bench/report.ts';
import { drawSoak } from '../../bench/soak-picture.ts';
import { judge, summarize } from '../../bench/summary.ts';
import { linearScale, logScale } from '../../observability/svg.ts';
import { machine, measurement } from './fixture.ts';

test('formatTable: first column to the left, figures to the right, no trailing blanks', () => {
  assert.equal(
    formatTable(
      ['', 'n'],
      [
        ['long name', '1'],
        ['b', '1,000'],
      ],
    ),
    ['               n', '────────────────', 'long name      1', 'b          1,000'].join('\n'),
  );
});

test('the table of an algorithm has a line for each row, with ratio and CPU', () => {
  const lines = formatSummary(summarize(measurement())).split('\n');
  const line = (start: string): string[] => lines.find((one) => one.startsWith(start))?.split(/\s{2,}/) ?? [];
  assert.deepEqual(line('raw C_Sign, 2 threads'), ['raw C_Sign, 2 threads', '20,000', '±35%', '1.000', '60.0']);
  assert.deepEqual(line('/tsa, 64 connections').slice(1, 8), ['10,000', '±35%', '0.500', '±0%', '7.00', '13.0', '26.0']);
  assert.deepEqual(line('/tsa, 64 connections').slice(-8), ['40.0', '80.0', '10.0', '0.0', '0.0', '130.0', '70.0', '20.0']);
  assert.ok(lines.some((one) => one.includes('p50 is 4.5 times that of bare Hono')));
});

test('verdicts show measured, wanted and the outcome', () => {
  const text = formatVerdicts(judge(summarize(measurement())));
  assert.match(text, /ec-p256: raw C_Sign, best closed loop +0\.500 +at least +0\.400 +pass/);
  assert.match(text, /100 imprints a request +0\.600 +at least +0\.650 +MISSED/);
  assert.match(text, /CPU outside C_Sign a stamp +70 µs +at most +90 µs +pass/);
});

test('the machine is stated with versions and flags', () => {
  const text = formatMachine(machine, ['--quick']);
  assert.match(text, /2 cores, 8 GB/);
  assert.match(text, /redis 7\.0\.15/);
  assert.match(text, /flags: --quick/);
});

/** Every tag closed, nothing unescaped, no coordinate that is no number: enough of a check for what we write by hand. */
const assertWellFormed = (svg: string): void => {
  const open: string[] = [];
  for (const [, close, name, selfClosed] of svg.matchAll(/<(\/)?([a-z]+)[^<>]*?(\/)?>/g)) {
    if (close !== undefined) assert.equal(open.pop(), name);
    else if (selfClosed === undefined) open.push(name ?? '');
  }
  assert.deepEqual(open, []);
  assert.doesNotMatch(svg, /NaN|Infinity|undefined/);
  assert.doesNotMatch(svg, /&(?!amp;|lt;|gt;|quot;)/);
};

test('the picture of a run is well formed and names what was missed', () => {
  const summaries = [
    summarize(measurement('ec-p256', 20_000)),
    summarize(measurement('rsa-2048', 2_400)),
    summarize(measurement('rsa-3072', 900)),
  ];
  const svg = drawRun(summaries, machine, '2026-01-01');
  assertWellFormed(svg);
  assert.match(svg, /Reference &lt;CPU&gt;/);
  assert.match(svg, /0\.600\s+\(target 0\.65, missed\)/);
  assert.match(svg, /rsa-3072 p99/);
});

test('the picture of a soak is well formed, also with a single sample', () => {
  const sample = (second: number) => ({
    second,
    residentBytes: { gateway: 120e6, signer: 110e6, redis: 40e6, journal: 0, other: 60e6 },
    streams: { 'lane:{timestamp}:requests': 3, 'lane:{timestamp}:replies:0123456789abcdef': 2 },
  });
  for (const samples of [[sample(1)], [sample(1), sample(2), sample(3)]]) {
    const svg = drawSoak(samples, { algorithm: 'ec-p256', stamps: 1_000_000, residentBytesMax: 200e6 });
    assertWellFormed(svg);
    assert.match(svg, /gateway 120 MB/);
    assert.match(svg, />replies 2</);
  }
});

test('scales have round ticks that hold the data', () => {
  assert.deepEqual(linearScale(1, 0, 100).ticks, [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(linearScale(2_050, 0, 1).ticks, [0, 500, 1_000, 1_500, 2_000, 2_500]);
  const scale = logScale([0.3, 45], 100, 0);
  assert.deepEqual(scale.ticks, [0.2, 0.5, 1, 2, 5, 10, 20, 50]);
  assert.equal(scale.at(0.2), 100);
  assert.equal(Math.round(scale.at(50)), 0);
  assert.ok(logScale([], 0, 1).ticks.length > 1);
});
