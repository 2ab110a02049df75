/**
 * The gateway's end of a lane: collects requests into batches, sends them, and hands each answer to who asked.
 *
 * Batches form by themselves: on an idle lane whatever has arrived goes out at once. While entries are without a reply,
 * another one goes out when `batchMin` requests wait, up to `entriesOutstandingMax` entries, and beyond those, where the signers
 * hold more at once, when there are enough for a full one; the rest grows until a reply comes. Every request is answered exactly once:
 * with the signer's answer, with `expired` at its deadline, or with `unavailable` when Redis did not take it.
 */
import { setTimeout as delay, setImmediate as turn } from 'node:timers/promises';
import { type AnswerBlock, type AnswerSection, decodeAnswerBlock, type StampOutcome } from './answer-block.ts';
import { type LaneKeys, type LaneName, laneKeys } from './keys.ts';
import { blockMs, type RedisClient } from './redis.ts';
import { encodeStampRequests, type StampRequest } from './stamp-messages.ts';

export type LaneAnswer =
  | { readonly kind: 'granted'; readonly token: Buffer; readonly tsu: Buffer }
  | { readonly kind: 'refused'; readonly failInfo: Exclude<StampOutcome, 'granted' | 'expired'> }
  | { readonly kind: 'expired' }
  | { readonly kind: 'unavailable' };

/** How requests become entries. */
export interface EntrySizes {
  /** Requests in one entry at most. */
  readonly batchMax: number;
  /** Fewer requests than this wait while an earlier entry is without a reply, whose arrival sends them at the latest. */
  readonly batchMin: number;
  /** Entries without a reply, whatever is in them. */
  readonly entriesOutstandingMax: number;
  /** So many more, each of which is full when it goes: small ones would cost their way each, and bring the signers little to do. */
  readonly fullEntriesBesides: number;
}

export interface LaneRequesterOptions extends EntrySizes {
  readonly command: RedisClient;
  readonly blocking: RedisClient;
  readonly lane: LaneName;
  /** Unique for every start of every gateway. */
  readonly gatewayId: string;
  /** Requests in flight; one more is not taken. Bounds memory: about 1 KB each with its answer. */
  readonly inFlightMax: number;
  readonly deadlineMs: number;
  readonly onBatch: (requests: number) => void;
  /** Told at the first of several failures of the reply reader in a row; it goes on by itself. */
  readonly onReadError: (error: unknown) => void;
}

/** A request and who waits for its answer; `waiting` ends when it is settled: lists hold slots for longer, and must not hold all that. */
interface Slot {
  readonly deadline: number;
  waiting: { readonly request: StampRequest; readonly done: (answer: LaneAnswer) => void } | undefined;
}

interface OutstandingEntry {
  readonly slots: readonly Slot[];
  readonly deadline: number;
  /** Id in Redis, once XADD has told it. */
  id: string | undefined;
}

const expired: LaneAnswer = { kind: 'expired' };
const unavailable: LaneAnswer = { kind: 'unavailable' };
/** Deadlines are kept to within this. */
const sweepMs = 20;
const reconnectPollMs = 10;
const repliesPerRead = 64;
/** Read replies are removed from the stream when so many have gathered, or when the lane falls idle. */
const trimAfter = 32;

/** A stream entry as ioredis returns it: id, then fields and values in turn. */
type ReplyEntry = [Buffer, Buffer[]];

export class LaneRequester {
  readonly #options: LaneRequesterOptions;
  readonly #keys: LaneKeys;
  readonly #repliesKey: string;
  #sizes: EntrySizes;
  /** Accepted, not sent yet. Slots that expire here stay, settled, until they are dequeued. */
  #waiting: Slot[] = [];
  /** Everything accepted in order of arrival, which is the order of the deadlines. */
  #arrivals: Slot[] = [];
  readonly #byId = new Map<number, Slot>();
  readonly #entries = new Map<number, OutstandingEntry>();
  #inFlight = 0;
  #nextId = 0;
  #nextEntry = 0;
  #flushScheduled = false;
  #closed = false;
  #whenDrained: (() => void)[] = [];
  readonly #sweeper: NodeJS.Timeout;
  readonly #reading: Promise<void>;
  #lastId = '0';
  #readSinceTrim = 0;

  /** Starts the requester; it reads replies until `close`. */
  constructor(options: LaneRequesterOptions) {
    this.#options = options;
    this.#sizes = options;
    this.#keys = laneKeys(options.lane);
    this.#repliesKey = this.#keys.replies(options.gatewayId);
    this.#sweeper = setInterval(() => this.#sweep(), sweepMs);
    this.#reading = this.#readReplies();
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  get entriesOutstanding(): number {
    return this.#entries.size;
  }

  /** From now on entries are formed like this; those that are on their way stay as they are. */
  resize(sizes: EntrySizes): void {
    this.#sizes = sizes;
    if (this.#isWorthAnEntry()) this.#scheduleFlush();
  }

  /** True when `count` more requests would be taken now. */
  hasRoomFor(count: number): boolean {
    return !this.#closed && this.#inFlight + count <= this.#options.inFlightMax;
  }

  /** Takes a request, or returns false when the bound is reached (then `done` is never called). */
  submit(request: Omit<StampRequest, 'id'>, done: (answer: LaneAnswer) => void): boolean {
    if (!this.hasRoomFor(1)) return false;
    const id = this.#nextId;
    this.#nextId = (id + 1) >>> 0;
    const { policy, messageImprint, nonce, certReq, client } = request;
    const slot: Slot = {
      deadline: performance.now() + this.#options.deadlineMs,
      waiting: { request: { id, policy, messageImprint, nonce, certReq, client }, done },
    };
    this.#byId.set(id, slot);
    this.#arrivals.push(slot);
    this.#waiting.push(slot);
    this.#inFlight += 1;
    if (this.#isWorthAnEntry()) this.#scheduleFlush();
    return true;
  }

  /** Signers that have given a sign of life within `deadAfterMs`. @throws when Redis does not answer */
  async livingSigners(deadAfterMs: number): Promise<number> {
    const { command } = this.#options;
    const [seconds, micros] = await command.time();
    return command.zcount(this.#keys.signers, Number(seconds) * 1_000 + Number(micros) / 1_000 - deadAfterMs, '+inf');
  }

  /** Resolves when nothing is in flight any more; take no new requests meanwhile. */
  drained(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#whenDrained.push(resolve);
    });
  }

  /** Answers what is left with `unavailable` and stops reading. The connections are the caller's. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#sweeper);
    for (const slot of this.#arrivals) this.#settle(slot, unavailable);
    this.#waiting = [];
    await this.#options.command.del(this.#repliesKey).catch(() => undefined); // best effort: it expires by itself
    this.#options.blocking.disconnect();
    await this.#reading;
  }

  #settle(slot: Slot, answer: LaneAnswer): void {
    const { waiting } = slot;
    if (waiting === undefined) return;
    slot.waiting = undefined;
    this.#byId.delete(waiting.request.id);
    this.#inFlight -= 1;
    waiting.done(answer);
    if (this.#inFlight > 0) return;
    for (const resolve of this.#whenDrained.splice(0)) resolve();
  }

  /** After the I/O of this turn, so that all requests that arrived together share an entry. */
  #scheduleFlush(): void {
    if (this.#flushScheduled) return;
    this.#flushScheduled = true;
    setImmediate(() => this.#flush());
  }

  #flush(): void {
    this.#flushScheduled = false;
    const { batchMax } = this.#sizes;
    // What expires before the next look at the deadlines would only be signed for nobody.
    const soon = performance.now() + sweepMs;
    while (this.#isWorthAnEntry()) {
      const slots = this.#waiting.slice(0, batchMax).filter(({ waiting, deadline }) => waiting !== undefined && deadline > soon);
      this.#waiting = this.#waiting.slice(batchMax);
      if (slots.length > 0) this.#send(slots);
    }
  }

  #isWorthAnEntry(): boolean {
    const { batchMax, batchMin, entriesOutstandingMax, fullEntriesBesides } = this.#sizes;
    const outstanding = this.#entries.size;
    const waiting = this.#waiting.length;
    if (outstanding === 0) return waiting > 0;
    if (outstanding < entriesOutstandingMax) return waiting >= batchMin;
    return waiting >= batchMax && outstanding < entriesOutstandingMax + fullEntriesBesides;
  }

  #send(slots: readonly Slot[]): void {
    const { command, gatewayId } = this.#options;
    const number = this.#nextEntry;
    this.#nextEntry = (number + 1) >>> 0;
    const now = performance.now();
    const entry: OutstandingEntry = { slots, deadline: (slots.at(-1) as Slot).deadline, id: undefined };
    this.#entries.set(number, entry);
    this.#options.onBatch(slots.length);
    const requests = slots.flatMap(({ waiting }) => waiting?.request ?? []);
    const payload = encodeStampRequests(requests, (index) => (slots[index] as Slot).deadline - now);
    command.xadd(this.#keys.requests, '*', 'g', gatewayId, 'n', number, 'b', payload).then(
      (id) => {
        entry.id = id as string;
        if (!this.#entries.has(number)) this.#withdraw(entry);
      },
      () => {
        // Not sent, or sent into a connection that broke: in both cases the client hears it now instead of at the deadline.
        for (const slot of slots) this.#settle(slot, unavailable);
        this.#endEntry(number);
      },
    );
  }

  #endEntry(number: number): void {
    if (this.#entries.delete(number) && this.#isWorthAnEntry()) this.#scheduleFlush();
  }

  #sweep(): void {
    const now = performance.now();
    const alive = this.#arrivals.findIndex(({ waiting, deadline }) => waiting !== undefined && deadline > now);
    const passed = alive === -1 ? this.#arrivals.length : alive;
    for (const slot of this.#arrivals.slice(0, passed)) this.#settle(slot, expired);
    if (passed > 0) this.#arrivals = this.#arrivals.slice(passed);
    for (const [number, entry] of this.#entries) {
      if (entry.deadline > now) break;
      this.#withdraw(entry);
      this.#endEntry(number);
    }
  }

  /** Nobody wants it any more: without this, entries would gather in the stream while no signer lives. */
  #withdraw({ id }: OutstandingEntry): void {
    if (id !== undefined) this.#options.command.xdel(this.#keys.requests, id).catch(() => undefined); // best effort: signers drop it by its deadline
  }

  async #readReplies(): Promise<void> {
    const { blocking } = this.#options;
    let failures = 0;
    while (!this.#closed) {
      if (blocking.status !== 'ready') {
        await delay(reconnectPollMs);
        continue;
      }
      try {
        const streams = await blocking.xreadBuffer(
          ...(['COUNT', repliesPerRead, 'BLOCK', blockMs, 'STREAMS', this.#repliesKey, this.#lastId] as const),
        );
        failures = 0;
        this.#deliverAll((streams?.[0] as [Buffer, ReplyEntry[]] | undefined)?.[1] ?? []);
        // The answers go out to their clients first: they are written by promises that come after this one.
        await turn();
      } catch (error) {
        if (this.#closed) return;
        failures += 1;
        if (failures === 1) this.#options.onReadError(error);
        await delay(Math.min(20 * failures, 250));
      }
    }
  }

  #deliverAll(entries: readonly ReplyEntry[]): void {
    for (const [id, fields] of entries) {
      this.#lastId = id.toString('latin1');
      this.#readSinceTrim += 1;
      this.#deliver(Number((fields[1] as Buffer).toString('latin1')), decodeAnswerBlock(fields[3] as Buffer));
    }
    if (this.#readSinceTrim >= trimAfter || (entries.length === 0 && this.#readSinceTrim > 0)) this.#trim();
  }

  #deliver(number: number, { sections }: AnswerBlock): void {
    for (const section of sections) this.#deliverSection(section);
    this.#endEntry(number);
  }

  #deliverSection({ tsu, answers }: AnswerSection): void {
    for (const { id, outcome, token } of answers) {
      const slot = this.#byId.get(id);
      if (slot === undefined) continue;
      if (outcome === 'granted') this.#settle(slot, { kind: 'granted', token, tsu });
      else this.#settle(slot, outcome === 'expired' ? expired : { kind: 'refused', failInfo: outcome });
    }
  }

  #trim(): void {
    this.#readSinceTrim = 0;
    const [millis, sequence] = this.#lastId.split('-') as [string, string];
    const firstKept = `${millis}-${Number(sequence) + 1}`;
    this.#options.command.xtrim(this.#repliesKey, 'MINID', firstKept).catch(() => undefined); // best effort: the next trim covers it
  }
}
