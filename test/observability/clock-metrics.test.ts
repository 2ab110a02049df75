import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Registry } from 'prom-client';
import { type ClockPicture, clockStates, registerClockMetrics } from '../../observability/clock-metrics.ts';
import { type MetricsJson, mergeMetrics } from '../../observability/merge-metrics.ts';

const unverified: ClockPicture = {
  state: 'unverified',
  offsetSeconds: undefined,
  errorSeconds: undefined,
  quorumAgeSeconds: undefined,
  rounds: {},
  servers: [],
};
const trusted: ClockPicture = {
  state: 'trusted',
  offsetSeconds: -0.002,
  errorSeconds: 0.004,
  quorumAgeSeconds: 3,
  rounds: { good: 7, noQuorum: 1 },
  servers: [
    { server: 'a.test', up: true, exchanges: { answered: 8, silent: 0 } },
    { server: 'b.test:1123', up: false, exchanges: { answered: 1, silent: 7 } },
  ],
};

describe('metrics of the clock', () => {
  const samples = (text: string): string[] => text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));

  test('what nobody has measured has no value', async () => {
    const registry = new Registry();
    registerClockMetrics(registry, () => unverified);
    assert.deepEqual(
      samples(await registry.metrics()),
      clockStates.map((state) => `time_state{state="${state}"} ${state === 'unverified' ? 1 : 0}`),
    );
  });

  test('what was measured, at each scrape anew', async () => {
    const registry = new Registry();
    let picture = unverified;
    registerClockMetrics(registry, () => picture);
    await registry.metrics();
    picture = trusted;
    for (let scrape = 0; scrape < 2; scrape += 1) {
      const lines = samples(await registry.metrics());
      for (const line of [
        'time_offset_seconds -0.002',
        'time_error_seconds 0.004',
        'time_quorum_age_seconds 3',
        'time_state{state="trusted"} 1',
        'time_state{state="unverified"} 0',
        'time_rounds_total{outcome="good"} 7',
        'ntp_server_up{server="a.test"} 1',
        'ntp_server_up{server="b.test:1123"} 0',
        'ntp_exchanges_total{server="b.test:1123",outcome="silent"} 7',
      ]) {
        assert.ok(lines.includes(line), `${line} in\n${lines.join('\n')}`);
      }
    }
    picture = { ...trusted, state: 'starting', errorSeconds: undefined };
    assert.ok(!(await registry.metrics()).includes('time_error_seconds 0.004'));
  });

  test('of two signers the worst error counts, and a server is up when both reach it', async () => {
    const told = async (picture: ClockPicture) => {
      const registry = new Registry();
      registerClockMetrics(registry, () => picture);
      return { process: 'signer', metrics: (await registry.getMetricsAsJSON()) as unknown as MetricsJson };
    };
    const other = { ...trusted, errorSeconds: 0.5, offsetSeconds: 0.004, servers: [{ server: 'a.test', up: false, exchanges: {} }] };
    const lines = samples(await mergeMetrics([await told(trusted), await told(other), await told(unverified)]));
    for (const line of ['time_error_seconds 0.5', 'time_offset_seconds 0.001', 'ntp_server_up{server="a.test"} 0']) {
      assert.ok(lines.includes(line), `${line} in\n${lines.join('\n')}`);
    }
  });
});
