/**
 * Holds the system clock against time servers, round by round, and publishes what that proves to all threads of the signer.
 *
 * Nothing here corrects a clock: chrony or ntpd does that, and this watches whether they did. A server that does not answer costs its
 * deadline and no more; when none answers, what was proved ages (`driftPpm`) and ends (`holdoverMs`).
 */
import type { Config } from '../config/schema.ts';
import type { GuardedClock } from './clock.ts';
import { type LeapWindow, nextLeapWindow } from './clock-leap.ts';
import { type ClockMemory, type ClockVerdict, nothingProved } from './clock-memory.ts';
import { afterRound, judgeRound, lostTrust, type RoundOutcome, roundOutcomes, startingTrust, type Trust } from './clock-trust.ts';
import { agedDistanceMs, type NtpSample } from './ntp-sample.ts';
import { largestMinority, selectTruechimers } from './ntp-selection.ts';
import { NtpServer } from './ntp-server.ts';
import type { NtpTransport } from './ntp-transport.ts';

/** What is worth an entry in the register of time validation, beside the states and the steps. */
export type ClockAnomaly = 'offset' | 'uncertain' | 'quorumLost' | 'falseticker' | 'leapAnnounced' | 'kissOfDeath';

export interface ClockVerifierOptions {
  readonly time: Config['time'];
  readonly memory: ClockMemory;
  readonly clock: GuardedClock;
  readonly clocks: { wallMs(): number; monotonicMs(): number };
  /** Wall clock less the monotonic one, as finely as it can be had; milliseconds. */
  readonly differenceMs: () => number;
  readonly transport: NtpTransport;
  readonly onAnomaly: (reason: ClockAnomaly, observed: string, server?: string) => void;
  /** After each round, when its outcome is published. */
  readonly onRound: () => void;
}

/** How it stands, for people and metrics. */
export interface ClockStanding {
  readonly verdict: ClockVerdict;
  readonly goodRounds: number;
  /** Of the last round with a quorum, milliseconds: UTC less the system clock, how far that clock can be from UTC now, who agreed. */
  readonly proof:
    | { readonly offsetMs: number; readonly errorMs: number; readonly ageMs: number; readonly agreed: readonly string[] }
    | undefined;
  /** Agreeing servers that are needed. */
  readonly quorum: number;
  readonly leapWindow: LeapWindow | undefined;
  readonly lastRound: RoundOutcome | undefined;
  readonly rounds: Readonly<Record<RoundOutcome, number>>;
  readonly servers: readonly NtpServer[];
}

interface Candidate {
  readonly name: string;
  readonly utcMs: number;
  readonly distanceMs: number;
  readonly server: NtpServer;
  readonly sample: NtpSample;
}

/** What a client may send in trouble, as with ntpd's iburst: eight questions, two seconds apart. */
const quickRoundsMax = 8;
const quickMs = 2_000;

/** Servers that must agree: as configured, or more than half. */
export const quorumOf = ({ quorum, servers }: Pick<Config['time'], 'quorum' | 'servers'>): number =>
  quorum ?? Math.floor(servers.length / 2) + 1;

export class ClockVerifier {
  readonly #options: ClockVerifierOptions;
  readonly #servers: readonly NtpServer[];
  readonly #stopped = new AbortController();
  readonly #rounds = Object.fromEntries(roundOutcomes.map((outcome) => [outcome, 0])) as Record<RoundOutcome, number>;
  #trust: Trust = startingTrust;
  #proof = nothingProved;
  #offsetMs = 0;
  #agreed: readonly string[] | undefined;
  #leapWindow: LeapWindow | undefined;
  #lastRound: RoundOutcome | undefined;
  #quickRounds = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: ClockVerifierOptions) {
    const { time, transport, clocks, onAnomaly } = options;
    this.#options = options;
    const onKiss = (server: NtpServer, code: string): void => onAnomaly('kissOfDeath', code, server.name);
    this.#servers = time.servers.map(
      ({ host, port }) => new NtpServer({ ...time, host, port, transport, clocks, onKiss, signal: this.#stopped.signal }),
    );
  }

  /** Begins with a round at once, and goes on by itself. */
  start(): void {
    this.#schedule(0);
  }

  close(): void {
    this.#stopped.abort();
    clearTimeout(this.#timer);
  }

  get standing(): ClockStanding {
    const agreed = this.#agreed;
    const ageMs = this.#options.clocks.monotonicMs() - this.#proof.provedAtMs;
    return {
      verdict: this.#trust.verdict,
      goodRounds: this.#trust.goodRounds,
      proof: agreed && { offsetMs: this.#offsetMs, errorMs: this.#errorMs, ageMs, agreed },
      quorum: quorumOf(this.#options.time),
      leapWindow: this.#leapWindow,
      lastRound: this.#lastRound,
      rounds: this.#rounds,
      servers: this.#servers,
    };
  }

  /** Milliseconds to the next round, as things stand. */
  get #pauseMs(): number {
    const { pollMs } = this.#options.time;
    if (this.#quickRounds > 0 && this.#quickRounds <= quickRoundsMax) return Math.min(quickMs, pollMs);
    // A little apart each time: not in step with all the other clients of a server.
    return pollMs * (0.95 + Math.random() * 0.1);
  }

  /** Looks at the clock between rounds: a step, the age of the proof and a leap second cost the trust without any server. */
  look(): void {
    const { clock, clocks, memory } = this.#options;
    const reading = clock.read();
    const wallMs = clocks.wallMs();
    const window = this.#leapWindow;
    const { steps } = memory;
    const hasStepped = steps !== this.#proof.steps;
    // One that comes after this line is not accounted for, and voids what is published below.
    this.#proof = { ...this.#proof, steps };
    const leapIsOver = window !== undefined && wallMs >= window.untilMs;
    if (leapIsOver) this.#leapWindow = undefined;
    // A virtual machine that stood still looks like a step too; and a leap second moves UTC against the monotonic clock.
    if (hasStepped || leapIsOver) for (const server of this.#servers) server.forget();
    if (leapIsOver || this.#isInWindow(wallMs)) this.#lose('leap');
    else if (hasStepped || this.#isSettling()) this.#lose('stepped');
    else if (reading.kind === 'unavailable' && this.#trust.verdict === 'trusted') {
      const { reason } = reading;
      if (reason === 'offset' || reason === 'uncertain' || reason === 'noQuorum') {
        this.#offsetMs = this.#proof.utcMs + clocks.monotonicMs() - wallMs;
        this.#lose(reason);
      }
    }
    this.#publish();
  }

  /** Asks every server once and publishes what that proves. */
  async round(): Promise<void> {
    const { memory, clocks, time } = this.#options;
    const stepsBefore = memory.steps;
    await Promise.all(this.#servers.map((server) => server.ask()));
    if (this.#stopped.signal.aborted) return;
    this.look();
    // What was asked before the step says nothing about the clock behind it.
    if (memory.steps !== stepsBefore) return this.#options.onRound();
    const nowMs = clocks.monotonicMs();
    const selection = this.#select(nowMs);
    const offsetMs = selection === undefined ? 0 : selection.utcMs - this.#options.differenceMs();
    const outcome = judgeRound(selection && { offsetMs, distanceMs: selection.distanceMs }, this.#trustOptions);
    this.#lastRound = outcome;
    this.#rounds[outcome] += 1;
    if (selection !== undefined) {
      const { utcMs, distanceMs, truechimers } = selection;
      this.#offsetMs = offsetMs;
      this.#agreed = truechimers.map(({ name }) => name);
      this.#proof = { ...this.#proof, utcMs, distanceMs, provedAtMs: nowMs };
      if (time.leapSeconds === 'refuse') this.#noteLeap(truechimers, Math.abs(offsetMs) + distanceMs);
    }
    const before = this.#trust;
    // A clock that is still settling, or in a leap second, is not judged yet: nothing good counts, and nothing bad is news.
    if (!this.#isSettling() && !this.#isInWindow(clocks.wallMs())) this.#trust = afterRound(before, outcome, this.#trustOptions);
    if (before.verdict !== this.#trust.verdict) this.#tellLoss();
    this.#publish();
    this.#options.onRound();
  }

  get #errorMs(): number {
    const { distanceMs, provedAtMs } = this.#proof;
    const { clocks, time } = this.#options;
    return Math.abs(this.#offsetMs) + agedDistanceMs({ distanceMs, takenAtMs: provedAtMs }, clocks.monotonicMs(), time.driftPpm);
  }

  get #trustOptions() {
    const { offsetMsMax, accuracyMicrosMax, goodRounds } = this.#options.time;
    return { offsetMsMax, errorMsMax: accuracyMicrosMax / 1_000, goodRounds };
  }

  /** The agreement of a quorum; it also says who lies. */
  #select(nowMs: number) {
    const seen = new Set<string>();
    const candidates = this.#servers.flatMap((server): Candidate[] => {
      const sample = server.sample(nowMs);
      // Two names of one server are one witness.
      if (sample === undefined || seen.has(server.address)) return [];
      seen.add(server.address);
      const distanceMs = agedDistanceMs(sample, nowMs, this.#options.time.driftPpm);
      return [{ name: server.name, utcMs: sample.utcMs, distanceMs, server, sample }];
    });
    const selection = selectTruechimers(candidates, largestMinority(this.#servers.length));
    if (selection === undefined || selection.truechimers.length < quorumOf(this.#options.time)) return undefined;
    for (const { server } of selection.truechimers) server.judge(true);
    for (const { server, utcMs } of selection.falsetickers) {
      const awayMs = utcMs - selection.utcMs;
      if (server.judge(false)) this.#options.onAnomaly('falseticker', `${signed(awayMs)} ms from the majority`, server.name);
    }
    return selection;
  }

  #noteLeap(truechimers: readonly Candidate[], errorMs: number): void {
    const announcing = truechimers.filter(({ sample }) => sample.leap !== 'none');
    const announced = announcing.length * 2 > truechimers.length;
    const before = this.#leapWindow;
    this.#leapWindow = nextLeapWindow(before, { announced, wallMs: this.#options.clocks.wallMs(), errorMs });
    if (before !== undefined || this.#leapWindow === undefined) return;
    const { fromMs, untilMs } = this.#leapWindow;
    const day = new Date((fromMs + untilMs) / 2 - 1).toISOString().slice(0, 10);
    this.#options.onAnomaly('leapAnnounced', `${announcing[0]?.sample.leap} at the end of ${day}`);
  }

  #isInWindow(wallMs: number): boolean {
    const window = this.#leapWindow;
    return window !== undefined && wallMs >= window.fromMs && wallMs < window.untilMs;
  }

  #isSettling(): boolean {
    return this.#options.clocks.monotonicMs() < this.#options.memory.untrustedUntilMs;
  }

  #lose(verdict: Parameters<typeof lostTrust>[0]): void {
    const changed = this.#trust.verdict !== verdict;
    this.#trust = lostTrust(verdict);
    if (!changed) return;
    this.#tellLoss();
    // The next round may be far away.
    if (this.#timer !== undefined) this.#schedule(Math.min(quickMs, this.#options.time.pollMs));
  }

  /** Steps are told by whoever watches the clock, leap seconds when they are announced. */
  #tellLoss(): void {
    const { verdict } = this.#trust;
    this.#quickRounds = 0;
    const { onAnomaly, time } = this.#options;
    const measured = `offset ${signed(this.#offsetMs)} ms, error at most ${this.#errorMs.toFixed(3)} ms`;
    if (verdict === 'offset' || verdict === 'uncertain') onAnomaly(verdict, measured);
    if (verdict === 'noQuorum') onAnomaly('quorumLost', `none for ${time.holdoverMs} ms; ${measured}`);
  }

  #publish(): void {
    const { fromMs, untilMs } = this.#leapWindow ?? { fromMs: 0, untilMs: 0 };
    this.#proof = { ...this.#proof, verdict: this.#trust.verdict, leapFromMs: fromMs, leapUntilMs: untilMs };
    this.#options.memory.publish(this.#proof);
  }

  #schedule(delayMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      void this.round().then(() => {
        if (this.#stopped.signal.aborted) return;
        const isQuiet = this.#trust.verdict === 'trusted' && this.#lastRound === 'good';
        this.#quickRounds = isQuiet ? 0 : this.#quickRounds + 1;
        this.#schedule(this.#pauseMs);
      });
    }, delayMs);
  }
}

/** With its sign, to the microsecond. */
export const signed = (ms: number): string => `${ms < 0 ? '' : '+'}${ms.toFixed(3)}`;
