/** What a signer counts of its clock. The servers in the labels are those of the configuration. */
import { Counter, Gauge, type Registry } from 'prom-client';

/** States of the clock (docs/time.md). */
export const clockStates = ['trusted', 'unverified', 'starting', 'stepped', 'offset', 'noQuorum', 'uncertain', 'leap'] as const;

export interface ClockPicture {
  readonly state: (typeof clockStates)[number];
  /** UTC less the system clock, as the last quorum found it. */
  readonly offsetSeconds: number | undefined;
  /** How far the time in a stamp can be from UTC now; only while it is trusted. */
  readonly errorSeconds: number | undefined;
  readonly quorumAgeSeconds: number | undefined;
  readonly rounds: Readonly<Record<string, number>>;
  readonly servers: readonly {
    readonly server: string;
    readonly up: boolean;
    readonly exchanges: Readonly<Record<string, number>>;
  }[];
}

interface Told {
  readonly name: string;
  readonly help: string;
}

/** Adds the metrics of the clock. @param look called at each scrape */
export const registerClockMetrics = (registry: Registry, look: () => ClockPicture): void => {
  const registers = [registry];
  // Of several signers on one address the worst one counts; a sum of offsets would say nothing.
  const gaugeOf = ({ name, help }: Told, aggregator: 'max' | 'average', value: (picture: ClockPicture) => number | undefined): void => {
    new Gauge({
      name,
      help,
      aggregator,
      registers,
      collect() {
        this.remove();
        const now = value(look());
        if (now !== undefined) this.set(now);
      },
    });
  };
  gaugeOf({ name: 'time_offset_seconds', help: 'UTC less the system clock, at the last quorum.' }, 'average', (one) => one.offsetSeconds);
  gaugeOf({ name: 'time_error_seconds', help: 'How far the time in stamps can be from UTC.' }, 'max', (one) => one.errorSeconds);
  gaugeOf({ name: 'time_quorum_age_seconds', help: 'Time since the last quorum of the servers.' }, 'max', (one) => one.quorumAgeSeconds);
  new Gauge({
    name: 'time_state',
    help: '1 for the state that the clock is in; only trusted and unverified are stamped with.',
    labelNames: ['state'],
    registers,
    collect() {
      const { state } = look();
      for (const one of clockStates) this.set({ state: one }, one === state ? 1 : 0);
    },
  });
  new Counter({
    name: 'time_rounds_total',
    help: 'Rounds of questions to the servers, by what they said of the clock.',
    labelNames: ['outcome'],
    registers,
    collect() {
      this.reset();
      for (const [outcome, count] of Object.entries(look().rounds)) this.inc({ outcome }, count);
    },
  });
  new Gauge({
    name: 'ntp_server_up',
    help: '1 while the server answers, and the majority does not contradict it.',
    labelNames: ['server'],
    aggregator: 'min',
    registers,
    collect() {
      for (const { server, up } of look().servers) this.set({ server }, up ? 1 : 0);
    },
  });
  new Counter({
    name: 'ntp_exchanges_total',
    help: 'Questions to a server, by what came of them.',
    labelNames: ['server', 'outcome'],
    registers,
    collect() {
      this.reset();
      for (const { server, exchanges } of look().servers) {
        for (const [outcome, count] of Object.entries(exchanges)) this.inc({ server, outcome }, count);
      }
    },
  });
};
