/** What the process for the life of keys counts, and the days that each TSU has left. Labels come from closed sets, and from the tokens. */
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { TsuRecord } from '../queue/tsu-register.ts';

const outcomes = ['done', 'waiting', 'failed'] as const;
export const lifecycleSteps = ['generate', 'certify', 'schedule', 'activate', 'retire', 'destroy', 'remind'] as const;

export interface LifecycleMetrics {
  readonly registry: Registry;
  step(kind: (typeof lifecycleSteps)[number], outcome: (typeof outcomes)[number]): void;
  /** What the register says now. */
  tsus(records: readonly TsuRecord[], at: Date): void;
  /** The CRL of the embedded CA that is published now. */
  crl(times: { readonly thisUpdate: Date; readonly nextUpdate: Date }): void;
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

export const createLifecycleMetrics = (now: () => Date = () => new Date()): LifecycleMetrics => {
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
  let published: { readonly thisUpdate: Date; readonly nextUpdate: Date } | undefined;
  const crlGauge = (name: string, help: string, seconds: (crl: NonNullable<typeof published>) => number): void => {
    new Gauge({
      name,
      help,
      registers,
      // Computed at each scrape, so that it goes on while the list cannot be renewed.
      collect() {
        if (published === undefined) this.remove();
        else this.set(seconds(published));
      },
    });
  };
  crlGauge(
    'crl_age_seconds',
    'Since the CRL of the embedded timestamp CA was issued.',
    (one) => (now().getTime() - one.thisUpdate.getTime()) / 1_000,
  );
  crlGauge('crl_left_seconds', 'Until that CRL ends.', (one) => (one.nextUpdate.getTime() - now().getTime()) / 1_000);
  return {
    registry,
    crl(times) {
      published = times;
    },
    step: (step, outcome) => steps.inc({ step, outcome }),
    tsus(records, at) {
      states.reset();
      left.reset();
      for (const { token, state } of records) states.inc({ token, state });
      for (const [token, own] of Map.groupBy(records, (record) => record.token)) left.set({ token }, secondsLeft(own, at));
    },
  };
};
