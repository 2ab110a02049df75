/** The gateway's stamping with a lane that a test scripts, and tokens that a real template writes. */
import { createHash } from 'node:crypto';
import { parseConfig } from '../../config/load.ts';
import type { Config } from '../../config/schema.ts';
import { type AccessGuard, createAccessGuard } from '../../gateway/access-guard.ts';
import { createAuthenticationRecording } from '../../gateway/authentication-recording.ts';
import type { JournalBacklog } from '../../gateway/journal-backlog.ts';
import type { PublishedCertificates } from '../../gateway/published-certificates.ts';
import { createRefusalRecording } from '../../gateway/refusal-recording.ts';
import { createStamping, type Stamping } from '../../gateway/stamping.ts';
import { createGatewayMetrics } from '../../observability/gateway-metrics.ts';
import type { JournalRecorder, RecordedEvent } from '../../observability/journal/recorder.ts';
import { serialOctets } from '../../pki/token-template.ts';
import type { LaneAnswer } from '../../queue/lane-requester.ts';
import type { StampRequest } from '../../queue/stamp-messages.ts';
import { scriptedAccess } from './scripted-guard.ts';
import { makeTemplate, type SoftwareTsu, tokenOf } from './software-tsu.ts';

export type LaneRequest = Omit<StampRequest, 'id'>;
/** What the lane does with a request; `full` does not take it. */
export type LaneScript = (request: LaneRequest) => LaneAnswer | Promise<LaneAnswer> | 'full';

export interface StampingBench {
  readonly stamping: Stamping;
  /** What asks for credentials in it, also where anybody may stamp. */
  readonly guard: AccessGuard;
  readonly backlog: Pick<JournalBacklog, 'isFull' | 'areEventsFull'>;
  /** Requests that reached the lane, in order. */
  readonly asked: LaneRequest[];
  /** What the lane answers from now on; grants everything at first. */
  script: LaneScript;
  /** Requests the lane has room for. */
  room: number;
  /** Set it to have the journal behind its bound. */
  backlogged: boolean;
  /** The same for events that belong to no lane. */
  eventsBacklogged: boolean;
  /** Failures of authentication that Redis has, in order. */
  readonly failures: RecordedEvent<'authentication.failed'>[];
  /** Refusals that Redis has, in order. */
  readonly refusals: RecordedEvent<'timestamp.refused'>[];
  /** What stands between either of them and Redis having it; nothing at first. */
  recording: () => Promise<void>;
  /** How often it was looked whether there is room for events. */
  readonly eventsLooks: number;
  /** tsp_requests_total by outcome, without those that are zero. */
  outcomes(): Promise<Record<string, number>>;
}

export interface StampingBenchOptions {
  readonly timestamp?: Record<string, unknown>;
  /** Authorization header to client name; undefined serves anonymous clients. */
  readonly clients?: Readonly<Record<string, string>>;
  /** Those of them that are auditors. */
  readonly auditors?: readonly string[];
  /** No certificates are known for any TSU. */
  readonly unpublished?: boolean;
  /** Where the chains come from, instead of a list of that one TSU. */
  readonly certificates?: Pick<PublishedCertificates, 'chainOf'>;
}

/** Grants with tokens of this TSU; the signature is a placeholder. */
export const granting = (tsu: SoftwareTsu, unixMillis = 1_800_000_000_120): LaneScript => {
  const template = makeTemplate(tsu);
  let count = 0;
  return ({ messageImprint, nonce }) => {
    count += 1;
    const serial = Buffer.alloc(serialOctets, 0x41);
    serial.writeUInt32BE(count, serialOctets - 4);
    template.prepare({ messageImprint, nonce }, serial, unixMillis);
    const id = createHash('sha256').update(tsu.identity.certificate.raw).digest();
    return { kind: 'granted', token: tokenOf(template, new Uint8Array(71)), tsu: id };
  };
};

export const createStampingBench = (tsu: SoftwareTsu, options: StampingBenchOptions = {}): StampingBench => {
  const config: Config['timestamp'] = parseConfig({ timestamp: options.timestamp ?? {} }).timestamp;
  const metrics = createGatewayMetrics({
    inFlight: () => 0,
    entriesOutstanding: () => 0,
    connections: async () => 0,
    journalWaiting: () => ({ lane: 0, events: 0 }),
    journalEventsLost: () => 0,
    journalWaitingMax: 20_000,
  });
  const id = createHash('sha256').update(tsu.identity.certificate.raw).digest('hex');
  const { clients } = options;
  let eventsLooks = 0;
  const backlog = {
    get isFull() {
      return bench.backlogged;
    },
    get areEventsFull() {
      eventsLooks += 1;
      return bench.eventsBacklogged;
    },
  };
  const access = scriptedAccess(clients ?? {}, options.auditors);
  const recorder: Pick<JournalRecorder, 'recordAllNow'> = {
    async recordAllNow(events) {
      await bench.recording();
      for (const event of events) {
        if (event.kind === 'timestamp.refused') bench.refusals.push(event as unknown as RecordedEvent<'timestamp.refused'>);
        else bench.failures.push(event as unknown as RecordedEvent<'authentication.failed'>);
      }
    },
  };
  const recording = { recorder, backlog, waitingMax: config.inFlightMax, deadlineMs: config.deadlineMs };
  const guard = createAccessGuard({ metrics, failures: createAuthenticationRecording(recording), access });
  const bench: StampingBench = {
    guard,
    backlog,
    stamping: createStamping({
      config,
      metrics,
      lane: {
        hasRoomFor: (count) => count <= bench.room,
        submit(request, done) {
          bench.asked.push(request);
          const answer = bench.script(request);
          if (answer === 'full') return false;
          void Promise.resolve(answer).then(done);
          return true;
        },
      },
      certificates: options.certificates ?? {
        chainOf: (wanted) => (wanted === id && options.unpublished !== true ? tsu.chain : undefined),
      },
      backlog,
      refusals: createRefusalRecording(recording),
      guard: clients === undefined ? undefined : guard,
    }),
    asked: [],
    script: granting(tsu),
    room: 10_000,
    backlogged: false,
    eventsBacklogged: false,
    failures: [],
    refusals: [],
    recording: async () => undefined,
    get eventsLooks() {
      return eventsLooks;
    },
    async outcomes() {
      const [metric] = (await metrics.registry.getMetricsAsJSON()).filter(({ name }) => name === 'tsp_requests_total');
      const values = (metric?.values ?? []).filter(({ value }) => value > 0);
      return Object.fromEntries(values.map(({ labels, value }) => [String(labels['outcome']), value]));
    },
  };
  return bench;
};
