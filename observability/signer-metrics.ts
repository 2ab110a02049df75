/** What a signer counts. Labels come from closed sets. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { type StampOutcome, stampOutcomes } from '../queue/answer-block.ts';
import { type LaneFailureStage, laneFailureStages } from '../queue/lane-responder.ts';
import { batchBuckets, latencyBuckets, stageHelp } from './latency-buckets.ts';

/** Stages of a stamp inside the signer. */
export type SignerStage = 'queue' | 'sign' | 'reply';

export interface SignerMetrics {
  readonly registry: Registry;
  /** One batch passed a stage in so many seconds. */
  stage(stage: SignerStage, seconds: number): void;
  batch(requests: number): void;
  outcome(outcome: StampOutcome, count: number): void;
  /** Signatures made in the slot, and the seconds they spent inside the PKCS#11 module. */
  signatures(count: number, seconds: number): void;
  claimed(entries: number): void;
  failed(stage: LaneFailureStage): void;
}

export interface SignerGauges {
  readonly slot: string;
  sessionsOpen(): number;
  entriesBusy(): number;
  sessionsBusy(): number;
  /** Whether the journal's key would sign. */
  journalKeyUp(): boolean;
  /** Whether Redis keeps what journal.durability promises; undefined: it does not tell. */
  redisDurable(): boolean | undefined;
}

const registerGauges = (gauges: SignerGauges, registers: Registry[]): void => {
  new Gauge({
    name: 'lane_entries_busy',
    help: 'Entries being worked on.',
    labelNames: ['lane'],
    registers,
    collect() {
      this.set({ lane: 'timestamp' }, gauges.entriesBusy());
    },
  });
  new Gauge({
    name: 'hsm_sessions',
    help: 'PKCS#11 sessions for signing, by use.',
    labelNames: ['slot', 'state'],
    registers,
    collect() {
      const busy = gauges.sessionsBusy();
      this.set({ slot: gauges.slot, state: 'busy' }, busy);
      this.set({ slot: gauges.slot, state: 'idle' }, Math.max(0, gauges.sessionsOpen() - busy));
    },
  });
  new Gauge({
    name: 'journal_key_up',
    help: '1 while this signer can sign checkpoints of the journal.',
    registers,
    collect() {
      this.set(gauges.journalKeyUp() ? 1 : 0);
    },
  });
  new Gauge({
    name: 'redis_durability_ok',
    help: '1 while Redis keeps what journal.durability promises, as far as its settings tell; absent when it does not tell them.',
    aggregator: 'min',
    registers,
    collect() {
      const durable = gauges.redisDurable();
      if (durable === undefined) this.remove();
      else this.set(durable ? 1 : 0);
    },
  });
};

export const createSignerMetrics = (gauges: SignerGauges): SignerMetrics => {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const stages = new Histogram({
    name: 'tsp_stage_seconds',
    help: stageHelp,
    labelNames: ['stage'],
    buckets: latencyBuckets,
    registers,
  });
  const batches = new Histogram({
    name: 'lane_batch_requests',
    help: 'Requests in one stream entry.',
    labelNames: ['lane'],
    buckets: batchBuckets,
    registers,
  });
  const outcomes = new Counter({ name: 'tsp_signer_answers_total', help: 'Answers made by signers.', labelNames: ['outcome'], registers });
  const signatures = new Counter({ name: 'hsm_signatures_total', help: 'Signatures made in a slot.', labelNames: ['slot'], registers });
  const seconds = new Counter({
    name: 'hsm_sign_seconds_total',
    help: 'Seconds inside C_SignInit and C_Sign, all sessions of a slot together.',
    labelNames: ['slot'],
    registers,
  });
  const claimed = new Counter({
    name: 'lane_entries_claimed_total',
    help: 'Entries taken over from dead signers.',
    labelNames: ['lane'],
    registers,
  });
  const failures = new Counter({
    name: 'lane_failures_total',
    help: 'Failures of the lane in this signer.',
    labelNames: ['stage'],
    registers,
  });
  registerGauges(gauges, registers);
  // Bound children: looking labels up eight times for every entry took 10 microseconds of a lone stamp.
  const byStage = {
    queue: stages.labels({ stage: 'queue' }),
    sign: stages.labels({ stage: 'sign' }),
    reply: stages.labels({ stage: 'reply' }),
  };
  const byOutcome = Object.fromEntries(stampOutcomes.map((outcome) => [outcome, outcomes.labels({ outcome })])) as Record<
    StampOutcome,
    { inc(count: number): void }
  >;
  // rate() and an alarm see the first failure only as growth of what was there before.
  for (const outcome of stampOutcomes) byOutcome[outcome].inc(0);
  for (const stage of laneFailureStages) failures.inc({ stage }, 0);
  claimed.inc({ lane: 'timestamp' }, 0);
  const batchesHere = batches.labels({ lane: 'timestamp' });
  const signaturesHere = signatures.labels({ slot: gauges.slot });
  const secondsHere = seconds.labels({ slot: gauges.slot });
  signaturesHere.inc(0);
  secondsHere.inc(0);
  return {
    registry,
    stage: (stage, value) => byStage[stage].observe(value),
    batch: (requests) => batchesHere.observe(requests),
    outcome: (outcome, count) => byOutcome[outcome].inc(count),
    signatures: (count, value) => {
      signaturesHere.inc(count);
      secondsHere.inc(value);
    },
    claimed: (entries) => claimed.inc({ lane: 'timestamp' }, entries),
    failed: (stage) => failures.inc({ stage }),
  };
};
