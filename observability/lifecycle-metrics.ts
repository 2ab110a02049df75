/** What the process for the life of keys counts, and the days that each TSU has left. Labels come from closed sets, and from the tokens. */
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { TsuRecord } from '../queue/tsu-register.ts';

const outcomes = ['done', 'waiting', 'failed'] as const;
export const lifecycleSteps = ['generate', 'certify', 'schedule', 'activate', 'retire', 'destroy', 'remind'] as const;

export interface LifecycleMetrics {
  readonly registry: Registry;
  step(kind: (typeof lifecycleSteps)[number], outcome: (typeof outcomes)[number]): void;
  /** What the register says now. */
  tsus(records: readonly TsuRecord[], now: Date): void;
}

/** Seconds until nobody may sign any more in this token: what an alarm looks at. */
const secondsLeft = (records: readonly TsuRecord[], now: Date): number => {
  const ends = records
    .filter(
      ({ state, compromised, activateAt }) => (state === 'active' || state === 'certified') && compromised === undefined && activateAt,
    )
    .map(({ usableUntil }) => Date.parse(usableUntil ?? ''));
  return Math.max(0, ...ends.map((end) => (end - now.getTime()) / 1_000));
};

export const createLifecycleMetrics = (): LifecycleMetrics => {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const steps = new Counter({ name: 'tsu_steps_total', help: 'Steps in the life of keys.', labelNames: ['step', 'outcome'], registers });
  for (const step of lifecycleSteps) for (const outcome of outcomes) steps.inc({ step, outcome }, 0);
  const states = new Gauge({ name: 'tsu_keys', help: 'TSUs in the register.', labelNames: ['token', 'state'], registers });
  const left = new Gauge({
    name: 'tsu_usage_left_seconds',
    help: 'Until the use of the last TSU of the token ends; 0: nobody stamps.',
    labelNames: ['token'],
    registers,
  });
  return {
    registry,
    step: (step, outcome) => steps.inc({ step, outcome }),
    tsus(records, now) {
      states.reset();
      left.reset();
      for (const { token, state } of records) states.inc({ token, state });
      for (const [token, own] of Map.groupBy(records, (record) => record.token)) left.set({ token }, secondsLeft(own, now));
    },
  };
};
