/**
 * One configured NTP server: asked once a round, kept with its last samples, left in peace when it asks for that.
 *
 * Kiss-o'-death (RFC 5905, 7.4): after RATE it is asked half as often, each time; after DENY or RSTR never again by this process.
 * Other codes count as no answer. A name is resolved again when its address has stopped answering.
 */
import { randomBytes } from 'node:crypto';
import { answersNonce, decodeNtpReply, encodeNtpRequest, ntpNonceOctets } from './ntp-packet.ts';
import { bestSample, type NtpSample, takeSample, withSample } from './ntp-sample.ts';
import type { NtpTransport } from './ntp-transport.ts';

/** What became of a question; the closed set of the metric's label. */
export const exchangeOutcomes = ['answered', 'silent', 'refused', 'kiss'] as const;
export type ExchangeOutcome = (typeof exchangeOutcomes)[number];

export interface NtpServerOptions {
  readonly host: string;
  readonly port: number;
  readonly timeoutMs: number;
  readonly pollMs: number;
  readonly driftPpm: number;
  readonly transport: NtpTransport;
  readonly clocks: { wallMs(): number; monotonicMs(): number };
  readonly signal: AbortSignal;
  readonly onKiss: (server: NtpServer, code: string) => void;
}

const ntpPort = 123;
/** MAXPOLL of ntpd: 2^10 s. */
const pollMsMax = 1_024_000;
/** Unanswered questions after which the name may lead elsewhere by now. */
const silencesMax = 3;
/** Rounds in a row in which a server was outvoted before it is called a liar: one may be a route that changed. */
const falseRoundsMax = 3;

export class NtpServer {
  /** Host, and port where it is not the usual one. */
  readonly name: string;
  readonly #options: NtpServerOptions;
  readonly #counts: Record<ExchangeOutcome, number> = { answered: 0, silent: 0, refused: 0, kiss: 0 };
  #address: string | undefined;
  #resolving: Promise<string | undefined> | undefined;
  #samples: readonly NtpSample[] = [];
  #last: ExchangeOutcome | undefined;
  #silences = 0;
  #pollMs: number;
  #slowed = false;
  #askAgainAtMs = Number.NEGATIVE_INFINITY;
  #falseRounds = 0;

  constructor(options: NtpServerOptions) {
    this.#options = options;
    this.#pollMs = options.pollMs;
    this.name = options.port === ntpPort ? options.host : `${options.host}:${options.port}`;
  }

  /** True when the last question was answered usably. */
  get reachable(): boolean {
    return this.#last === 'answered';
  }

  /** Address it was reached at last. Two names of one address are one witness. */
  get address(): string {
    return `${this.#address ?? '?'} ${this.#options.port}`;
  }

  get counts(): Readonly<Record<ExchangeOutcome, number>> {
    return this.#counts;
  }

  /** Its best sample, while it answers; with what its newest one says of leap seconds. */
  sample(nowMs: number): NtpSample | undefined {
    const best = this.reachable ? bestSample(this.#samples, nowMs, this.#options.driftPpm) : undefined;
    return best && { ...best, leap: this.#samples.at(-1)?.leap ?? best.leap };
  }

  /** Forgets its samples, also one under way: the clock that they were measured with has jumped. */
  forget(): void {
    this.#samples = [];
    this.#last = undefined;
  }

  /** Notes whether the majority agreed with it in a round. @returns true when it has just become a liar */
  judge(isTrue: boolean): boolean {
    this.#falseRounds = isTrue ? 0 : this.#falseRounds + 1;
    return this.#falseRounds === falseRoundsMax;
  }

  /** How it stands with it, in a word. */
  get condition(): 'good' | 'falseticker' | 'not asked yet' | Exclude<ExchangeOutcome, 'answered'> {
    if (this.#last === undefined) return 'not asked yet';
    if (this.#last !== 'answered') return this.#last;
    return this.#falseRounds >= falseRoundsMax ? 'falseticker' : 'good';
  }

  /** Asks once, unless it wants peace. */
  async ask(): Promise<void> {
    const { transport, clocks, signal } = this.#options;
    if (clocks.monotonicMs() < this.#askAgainAtMs) return;
    if (this.#slowed) this.#askAgainAtMs = clocks.monotonicMs() + this.#pollMs;
    const samples = this.#samples;
    const nonce = randomBytes(ntpNonceOctets);
    const address = await this.#resolve();
    const exchange =
      address === undefined
        ? undefined
        : await transport.exchange({ address, port: this.#options.port }, encodeNtpRequest(nonce), {
            timeoutMs: this.#options.timeoutMs,
            accept: (octets) => answersNonce(octets, nonce),
            signal,
          });
    if (signal.aborted) return;
    if (exchange === undefined) return this.#note('silent');
    const answer = decodeNtpReply(exchange.octets, nonce, clocks.wallMs());
    if (answer.kind === 'kiss') return this.#kissed(answer.code);
    const sample =
      answer.kind === 'reply' ? takeSample(answer, exchange.sentAtMs, exchange.receivedAtMs, this.#options.driftPpm) : undefined;
    if (sample === undefined) return this.#note('refused');
    // Forgotten meanwhile: then this one was measured across the jump.
    if (samples !== this.#samples) return;
    this.#samples = withSample(samples, sample, this.#options.driftPpm);
    this.#note('answered');
  }

  #note(outcome: ExchangeOutcome): void {
    this.#last = outcome;
    this.#counts[outcome] += 1;
    this.#silences = outcome === 'silent' ? this.#silences + 1 : 0;
    if (this.#silences >= silencesMax) {
      this.#address = undefined;
      this.#silences = 0;
    }
  }

  #kissed(code: string): void {
    const { clocks, onKiss } = this.#options;
    this.#note('kiss');
    if (code === 'RATE') {
      this.#pollMs = Math.min(this.#pollMs * 2, pollMsMax);
      this.#slowed = true;
      this.#askAgainAtMs = clocks.monotonicMs() + this.#pollMs;
    }
    if (code === 'DENY' || code === 'RSTR') this.#askAgainAtMs = Number.POSITIVE_INFINITY;
    onKiss(this, code);
  }

  /** The deadline of an exchange holds for the name too; a resolver that hangs is asked once at a time. */
  async #resolve(): Promise<string | undefined> {
    if (this.#address !== undefined) return this.#address;
    this.#resolving ??= this.#options.transport.resolve(this.#options.host).finally(() => {
      this.#resolving = undefined;
    });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(resolve, this.#options.timeoutMs, undefined);
    });
    this.#address = await Promise.race([this.#resolving, late]);
    clearTimeout(timer);
    return this.#address;
  }
}
