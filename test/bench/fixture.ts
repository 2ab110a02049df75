/** A measurement with round figures, to test everything that reads one. */
import type { LoadResult } from '../../bench/load-job.ts';
import type { Machine } from '../../bench/machine.ts';
import type { Measurement, Round } from '../../bench/measure.ts';
import type { TsuAlgorithm } from '../../config/schema.ts';

export const loadResult = (over: Partial<LoadResult> = {}): LoadResult => ({
  requests: 1_000,
  stamps: 1_000,
  seconds: 1,
  stampsPerSecond: 1_000,
  errors: 0,
  latencyMs: { samples: 1_000, p50: 1, p99: 2, p999: 3, max: 4 },
  cpuMicros: { gateway: 40, signer: 80, redis: 10, journal: 0, other: 0 },
  generatorCpuMicros: 20,
  disturbance: 0.01,
  windowMicros: [0, 1_000_000],
  ...over,
});

const latency = (p50: number, p99: number): LoadResult['latencyMs'] => ({ samples: 1_000, p50, p99, p999: p99 * 2, max: p99 * 3 });

/** One round on a machine that is `speed` times as fast as the reference. */
const roundAt = (speed: number, raw: number): Round => ({
  raw: [
    { signatures: 1, perSecond: raw * speed * 0.99, cpuMicros: 60, disturbance: 0.01 },
    { signatures: 1, perSecond: raw * speed * 1.01, cpuMicros: 60, disturbance: 0.01 },
  ],
  'hono-1': loadResult({
    latencyMs: latency(0.1, 0.2),
    stampsPerSecond: 9_000 * speed,
    cpuMicros: { gateway: 0, signer: 0, redis: 0, journal: 0, other: 30 },
  }),
  'hono-64': loadResult({
    latencyMs: latency(2, 5),
    stampsPerSecond: 30_000 * speed,
    cpuMicros: { gateway: 0, signer: 0, redis: 0, journal: 0, other: 30 },
  }),
  'closed-1': loadResult({ latencyMs: latency(0.45, 0.9), stampsPerSecond: raw * 0.1 * speed }),
  'closed-16': loadResult({ latencyMs: latency(2, 4), stampsPerSecond: raw * 0.4 * speed }),
  'closed-64': loadResult({ latencyMs: latency(7, 13), stampsPerSecond: raw * 0.5 * speed }),
  'closed-64-chain': loadResult({ latencyMs: latency(7.5, 14), stampsPerSecond: raw * 0.48 * speed }),
  bulk: loadResult({
    latencyMs: latency(60, 90),
    stampsPerSecond: raw * 0.6 * speed,
    cpuMicros: { gateway: 8, signer: 70, redis: 2, journal: 0, other: 0 },
  }),
  'closed-256': loadResult({ latencyMs: latency(28, 50), stampsPerSecond: raw * 0.5 * speed }),
  'half-rate': loadResult({ latencyMs: latency(0.8, 6), stampsPerSecond: raw * 0.25 * speed }),
});

/** Ratios are the same in each round, whatever the machine's speed in it. */
export const measurement = (algorithm: TsuAlgorithm = 'ec-p256', raw = 20_000): Measurement => ({
  algorithm,
  keyLabel: `tsu-${algorithm}-1`,
  threads: 2,
  startMs: 1_234,
  verified: 18,
  rounds: [roundAt(1, raw), roundAt(0.5, raw), roundAt(1.2, raw)],
  setAside: [],
});

export const machine: Machine = {
  cpu: 'Reference <CPU>',
  cores: 2,
  memoryGb: 8,
  kernel: 'Linux 6.1',
  versions: { node: '24.0.0', redis: '7.0.15', softhsm: '2.6.1', openssl: '3.0.0', sigillo: 'abcdef' },
};
