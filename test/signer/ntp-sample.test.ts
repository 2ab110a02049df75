import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { NtpReply } from '../../signer/ntp-packet.ts';
import { agedDistanceMs, bestSample, distanceMsMax, type NtpSample, takeSample, withSample } from '../../signer/ntp-sample.ts';

const driftPpm = 50;
/** UTC at the monotonic time 0. */
const utc = Date.UTC(2026, 10, 22);
const reply = (more: Partial<NtpReply> = {}): NtpReply => ({
  kind: 'reply',
  leap: 'none',
  stratum: 2,
  rootDelayMs: 4,
  rootDispersionMs: 3,
  precisionMs: 0.001,
  receiveMs: utc + 1_010,
  transmitMs: utc + 1_012,
  ...more,
});
const sample = (takenAtMs: number, more: Partial<NtpSample> = {}): NtpSample => ({
  utcMs: utc,
  distanceMs: 5,
  delayMs: 4,
  takenAtMs,
  leap: 'none',
  stratum: 2,
  ...more,
});
const taken = (...call: Parameters<typeof takeSample>): NtpSample => takeSample(...call) ?? assert.fail('there is no sample');

describe('samples of a server', () => {
  test('offset, delay and root distance, as the RFC computes them', () => {
    const { utcMs, delayMs, distanceMs } = taken(reply(), 1_000, 1_022, driftPpm);
    assert.equal(utcMs, utc);
    assert.equal(delayMs, 20);
    // Half of both round trips, the dispersion, the grain of the server's clock, and what drifted meanwhile.
    assert.ok(Math.abs(distanceMs - (4 / 2 + 20 / 2 + 3 + 0.001 + 0.0011)) < 1e-9);
  });

  test('the truth is within the distance, however the delay is shared between there and back', () => {
    const ms = fc.double({ min: 0, max: 300, noNaN: true });
    fc.assert(
      fc.property(ms, ms, ms, fc.double({ min: -1, max: 1, noNaN: true }), (there, work, back, share) => {
        const rootDelayMs = 8;
        const rootDispersionMs = 2;
        // The server is off by no more than it says.
        const lie = share * (rootDelayMs / 2 + rootDispersionMs);
        const receiveMs = utc + 5_000 + there + lie;
        const one = taken(
          reply({ rootDelayMs, rootDispersionMs, receiveMs, transmitMs: receiveMs + work }),
          5_000,
          5_000 + there + work + back,
          driftPpm,
        );
        assert.ok(Math.abs(one.utcMs - utc) <= one.distanceMs + 0.001);
      }),
    );
  });

  test('what contradicts itself or proves nothing is no sample', () => {
    assert.equal(takeSample(reply({ transmitMs: utc + 1_100 }), 1_000, 1_022, driftPpm), undefined, 'worked longer than we waited');
    assert.equal(takeSample(reply({ rootDispersionMs: distanceMsMax }), 1_000, 1_022, driftPpm), undefined);
    assert.equal(takeSample(reply({ rootDelayMs: 2 * distanceMsMax }), 1_000, 1_022, driftPpm), undefined);
    assert.equal(takeSample(reply({ precisionMs: 2 ** 127 }), 1_000, 1_022, driftPpm), undefined);
    assert.equal(takeSample(reply(), 1_000, 1_000 + 2 * distanceMsMax + 20, driftPpm), undefined, 'a round trip of two seconds');
    assert.equal(taken(reply({ transmitMs: utc + 1_012 }), 1_000, 1_001.9, driftPpm).delayMs, 0, 'the grain of timestamps is clamped');
  });

  test('the shortest round trip proves most, until drift has eaten up its advantage', () => {
    const good = sample(0, { distanceMs: 1 });
    const newer = sample(16_000, { distanceMs: 2 });
    assert.equal(bestSample([good, newer], 16_000, driftPpm), good);
    // 50 ppm of 16 s are 0.8 ms, 500 ppm are 8 ms.
    assert.equal(bestSample([good, newer], 16_000, 500), newer);
    assert.equal(bestSample([], 0, driftPpm), undefined);
    assert.equal(agedDistanceMs(good, 20_000, driftPpm), 2);
    assert.equal(agedDistanceMs(good, -5, driftPpm), 1, 'it was never better than when it was taken');
  });

  test('eight are kept; a server that has jumped keeps only the newest', () => {
    let samples: readonly NtpSample[] = [];
    for (let i = 0; i < 20; i += 1) samples = withSample(samples, sample(i * 1_000), driftPpm);
    assert.deepEqual(
      samples.map(({ takenAtMs }) => takenAtMs),
      [12, 13, 14, 15, 16, 17, 18, 19].map((second) => second * 1_000),
    );
    const jumped = sample(20_000, { utcMs: utc + 2_000 });
    assert.deepEqual(withSample(samples, jumped, driftPpm), [jumped]);
    assert.equal(withSample(samples, sample(20_000, { utcMs: utc + 9 }), driftPpm).length, 8, 'within the errors of both');
  });
});
