/** What a gateway counts. Labels come from closed sets; what is not in them is counted as `other`. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { batchBuckets, latencyBuckets, stageHelp } from './latency-buckets.ts';
import { registerRecorderMetrics } from './recorder-metrics.ts';

const outcomes = [
  'granted',
  'badAlg',
  'badRequest',
  'badDataFormat',
  'timeNotAvailable',
  'unacceptedPolicy',
  'unacceptedExtension',
  'systemFailure',
  'overloaded',
  'unavailable',
  'expired',
  'backlog',
  'unauthenticated',
  'forbidden',
  'http',
  'disconnected',
] as const;
/** How a stamp request ended: a failInfo, or why it never became one. */
export type RequestOutcome = (typeof outcomes)[number] | 'other';

const authenticationFailureReasons = ['missing', 'malformed', 'unknown', 'wrong', 'disabled', 'role'] as const;
/** Why a credential is refused, `role` when it is right and its role may not. */
export type AuthenticationFailureReason = (typeof authenticationFailureReasons)[number];

export interface GatewayMetrics {
  readonly registry: Registry;
  /** @param count imprints that have this outcome; 1 unless told */
  request(outcome: RequestOutcome, count?: number): void;
  /** Seconds from a request that has been read to its answer. */
  latency(seconds: number): void;
  batch(requests: number): void;
  authenticationFailure(reason: AuthenticationFailureReason): void;
  connectionDropped(): void;
}

export interface GatewayGauges {
  inFlight(): number;
  entriesOutstanding(): number;
  connections(): Promise<number>;
  /** Entries of each stream that the journal has not taken yet, as they were last seen. */
  journalWaiting(): Readonly<Record<'lane' | 'events', number>>;
  /** Events that found no way into the journal. */
  journalEventsLost(): number;
  /** Entries of a stream beyond which new work is refused. */
  readonly journalWaitingMax: number;
}

const addJournalMetrics = (registers: Registry[], gauges: GatewayGauges): void => {
  new Gauge({
    name: 'journal_waiting_entries',
    help: 'Entries of a stream in Redis that the journal has not taken yet.',
    labelNames: ['stream'],
    registers,
    collect() {
      for (const [stream, entries] of Object.entries(gauges.journalWaiting())) this.set({ stream }, entries);
    },
  });
  new Gauge({
    name: 'journal_waiting_limit_entries',
    help: 'Entries of a stream beyond which new work is refused (journal.waitingMax).',
    registers,
    collect() {
      this.set(gauges.journalWaitingMax);
    },
  });
};

export const createGatewayMetrics = (gauges: GatewayGauges): GatewayMetrics => {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const requests = new Counter({ name: 'tsp_requests_total', help: 'Stamp requests by outcome.', labelNames: ['outcome'], registers });
  // Bound children: looking a label up for every stamp would cost more than counting it.
  const byOutcome = new Map<RequestOutcome, { inc(count: number): void }>(
    ([...outcomes, 'other'] as const).map((outcome) => [outcome, requests.labels({ outcome })]),
  );
  // rate() and an alarm see the first refusal only as growth of what was there before.
  for (const series of byOutcome.values()) series.inc(0);
  const latency = new Histogram({
    name: 'tsp_stage_seconds',
    help: stageHelp,
    labelNames: ['stage'],
    buckets: latencyBuckets,
    registers,
  }).labels({ stage: 'gateway' });
  const batches = new Histogram({
    name: 'lane_batch_sent_requests',
    help: 'Requests in one stream entry, as sent.',
    buckets: batchBuckets,
    registers,
  });
  const failures = new Counter({
    name: 'client_authentication_failures_total',
    help: 'Refused credentials by reason.',
    labelNames: ['reason'],
    registers,
  });
  for (const reason of authenticationFailureReasons) failures.inc({ reason }, 0);
  new Gauge({
    name: 'tsp_in_flight',
    help: 'Stamp requests accepted and not answered yet.',
    registers,
    collect() {
      this.set(gauges.inFlight());
    },
  });
  new Gauge({
    name: 'lane_entries_outstanding',
    help: 'Stream entries of this gateway without a reply.',
    registers,
    collect() {
      this.set(gauges.entriesOutstanding());
    },
  });
  new Gauge({
    name: 'http_connections',
    help: 'Open connections on the public address.',
    registers,
    async collect() {
      this.set(await gauges.connections());
    },
  });
  const dropped = new Counter({
    name: 'http_connections_dropped_total',
    help: 'Connections that were closed at accept, because public.connectionsMax were open.',
    registers,
  });
  addJournalMetrics(registers, gauges);
  registerRecorderMetrics(registry, gauges.journalEventsLost);
  return {
    registry,
    request: (outcome, count = 1) => (byOutcome.get(outcome) ?? byOutcome.get('other'))?.inc(count),
    latency: (seconds) => latency.observe(seconds),
    batch: (count) => batches.observe(count),
    authenticationFailure: (reason) => failures.inc({ reason }),
    connectionDropped: () => dropped.inc(),
  };
};
