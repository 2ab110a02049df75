/** Writes the answers to one batch as the block that is both reply and journal (queue/answer-block.ts), and counts them. */
import {
  answerOctets,
  blockHeaderOctets,
  type StampAnswer,
  type StampOutcome,
  sectionHeaderOctets,
  writeAnswer,
  writeBlockHeader,
  writeSectionHeader,
} from '../queue/answer-block.ts';
import type { ReceivedStampRequest } from '../queue/stamp-messages.ts';
import type { ClockReading } from './clock.ts';
import { GrowingBuffer } from './growing-buffer.ts';
import type { StampedBatch } from './stamp-task.ts';

/** A block of 64 stamps is about 60 KB; larger ones grow the buffer once. */
const blockOctets = 128 * 1024;
const noSerial = new Uint8Array();
/** Who refuses for another reason than a TSU's has none. */
const noTsu = new Uint8Array(32);

interface Section {
  readonly tsu: Uint8Array;
  /** Offset of its header. */
  readonly at: number;
  answers: number;
}

/** A stamp as it was made, but for its token. */
export interface Grant {
  /** SHA-256 of the TSU certificate. Answers of one TSU that follow each other share a section, if it is the same object. */
  readonly tsu: Uint8Array;
  readonly clock: StampAnswer['clock'];
  /** genTime. */
  readonly unixMillis: number;
  readonly serial: Uint8Array;
  readonly tokenOctets: number;
}

const noOutcomes = (): Record<StampOutcome, number> => ({ granted: 0, timeNotAvailable: 0, systemFailure: 0, expired: 0 });

/** One for each thread, used for one batch after the other. */
export class AnswerWriter {
  readonly #node: string;
  readonly #block = new GrowingBuffer(blockOctets);
  #sections: Section[] = [];
  #outcomes = noOutcomes();
  #stamps = new Map<string, number>();
  #failure: StampedBatch['failure'];

  /** @param node ASCII name of the signer's host */
  constructor(node: string) {
    this.#node = node;
  }

  /** Begins the next batch. */
  clear(): void {
    this.#sections = [];
    this.#outcomes = noOutcomes();
    this.#stamps = new Map();
    this.#failure = undefined;
    this.#block.clear(blockHeaderOctets(this.#node));
  }

  /** Adds a stamp. @param writeToken writes its `tokenOctets` into the buffer, at the offset */
  grant(request: ReceivedStampRequest, grant: Grant, writeToken: (out: Buffer, at: number) => void): void {
    this.#enterSection(grant.tsu);
    const answer = this.#answerTo(request, 'granted', grant);
    // First reserve, which may replace the buffer, then look at it.
    const at = this.#block.reserve(answerOctets(answer) + grant.tokenOctets);
    writeToken(this.#block.bytes, writeAnswer(this.#block.bytes, at, answer, grant.tokenOctets));
    this.#stamps.set(request.client, (this.#stamps.get(request.client) ?? 0) + 1);
  }

  /** Adds a refusal. @param reading what the clock said when it was refused: its event is dated by it, and says so */
  refuse(request: ReceivedStampRequest, outcome: Exclude<StampOutcome, 'granted'>, reading: ClockReading): void {
    if (this.#sections.length === 0) this.#enterSection(noTsu);
    const { unixMillis, state: clock } = reading.kind === 'time' ? reading : ({ unixMillis: Date.now(), state: 'unverified' } as const);
    const answer = this.#answerTo(request, outcome, { clock, unixMillis, serial: noSerial });
    const at = this.#block.reserve(answerOctets(answer));
    writeAnswer(this.#block.bytes, at, answer, 0);
  }

  /** Adds systemFailure, with its reason for the log. */
  fail(request: ReceivedStampRequest, failure: { readonly code: string; readonly message: string }, reading: ClockReading): void {
    const { code, message } = failure;
    this.#failure ??= { code, message };
    this.refuse(request, 'systemFailure', reading);
  }

  /** Ends the batch. @returns its block in an ArrayBuffer of its own, and what was counted */
  finish(): Pick<StampedBatch, 'block' | 'stamps' | 'outcomes' | 'failure'> {
    writeBlockHeader(this.#block.bytes, this.#node, this.#sections.length);
    for (const { at, tsu, answers } of this.#sections) writeSectionHeader(this.#block.bytes, at, tsu, answers);
    return { block: this.#block.copy(), stamps: this.#stamps, outcomes: this.#outcomes, failure: this.#failure };
  }

  #enterSection(tsu: Uint8Array): void {
    if (this.#sections.at(-1)?.tsu === tsu) return;
    this.#sections.push({ tsu, at: this.#block.reserve(sectionHeaderOctets), answers: 0 });
  }

  #answerTo(
    { id, certReq, client, policy, messageImprint }: ReceivedStampRequest,
    outcome: StampOutcome,
    { clock, unixMillis, serial }: Pick<Grant, 'clock' | 'unixMillis' | 'serial'>,
  ): StampAnswer {
    this.#outcomes[outcome] += 1;
    (this.#sections.at(-1) as Section).answers += 1;
    return { id, outcome, clock, certReq, unixMillis, client, policy, messageImprint, serial };
  }
}
