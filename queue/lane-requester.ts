/**
 * The gateway's end of a lane: collects requests into batches, sends them, and hands each reply to who asked.
 *
 * Batches form by themselves: whatever has arrived when fewer than `entriesOutstandingMax` entries are without a reply
 * goes out at once; otherwise it waits for the next reply and grows. Every request is answered exactly once: with a
 * reply, with `expired` at its deadline, or with `unavailable` when Redis did not take it.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type LaneKeys, type LaneName, laneKeys } from './keys.ts';
import { blockMs, type RedisClient } from './redis.ts';
import { decodeStampReplies, encodeStampRequests, type StampOutcome, type StampReply, type StampRequest } from './stamp-messages.ts';

export type LaneAnswer =
  | { readonly kind: 'replied'; readonly outcome: Exclude<StampOutcome, 'expired'>; readonly response: Buffer }
  | { readonly kind: 'expired' }
  | { readonly kind: 'unavailable' };

export interface LaneRequesterOptions {
  readonly command: RedisClient;
  readonly blocking: RedisClient;
  readonly lane: LaneName;
  /** Unique for every start of every gateway. */
  readonly gatewayId: string;
  /** Requests in flight; one more is not taken. Bounds memory: about 1 KB each with its answer. */
  readonly inFlightMax: number;
  readonly entriesOutstandingMax: number;
  readonly batchMax: number;
  readonly deadlineMs: number;
  readonly onBatch: (requests: number) => void;
  /** Told once per kind of failure of the reply reader; it goes on by itself. */
  readonly onReadError: (error: unknown) => void;
}

interface Slot {
  readonly request: StampRequest;
  readonly done: (answer: LaneAnswer) => void;
  readonly deadline: number;
  settled: boolean;
}

interface OutstandingEntry {
  slots: Slot[];
  readonly deadline: number;
  /** Id in Redis, once XADD has told it. */
  id: string | undefined;
}

export interface LaneRequester {
  /** Takes a request, or returns false when the bound is reached (then `done` is never called). */
  submit(request: Omit<StampRequest, 'id'>, done: (answer: LaneAnswer) => void): boolean;
  /** True when `count` more requests would be taken now. */
  hasRoomFor(count: number): boolean;
  readonly inFlight: number;
  readonly entriesOutstanding: number;
  /** Signers that have given a sign of life within `deadAfterMs`. @throws when Redis does not answer */
  livingSigners(deadAfterMs: number): Promise<number>;
  /** Resolves when nothing is in flight any more; take no new requests meanwhile. */
  drained(): Promise<void>;
  close(): Promise<void>;
}

const expired: LaneAnswer = { kind: 'expired' };
const unavailable: LaneAnswer = { kind: 'unavailable' };
/** Deadlines are kept to within this. */
const sweepMs = 20;
const reconnectPollMs = 10;
const repliesPerRead = 64;
/** Read replies are removed from the stream when so many have gathered, or when the lane falls idle. */
const trimAfter = 32;

/** Starts the requester; it reads replies until `close`. */
export const createLaneRequester = (options: LaneRequesterOptions): LaneRequester => {
  const { command, blocking, gatewayId, inFlightMax, entriesOutstandingMax, batchMax, deadlineMs } = options;
  const keys: LaneKeys = laneKeys(options.lane);
  const repliesKey = keys.replies(gatewayId);
  /** Accepted, not sent yet. Slots that expired here stay, settled, until they are dequeued. */
  let waiting: Slot[] = [];
  /** All slots in order of arrival, which is the order of their deadlines. */
  let arrivals: Slot[] = [];
  let arrivalsHead = 0;
  const bySlotId = new Map<number, Slot>();
  const entries = new Map<number, OutstandingEntry>();
  let inFlight = 0;
  let nextId = 0;
  let nextEntry = 0;
  let flushScheduled = false;
  let closed = false;
  let whenDrained: (() => void) | undefined;

  const settle = (slot: Slot, answer: LaneAnswer): void => {
    if (slot.settled) return;
    slot.settled = true;
    bySlotId.delete(slot.request.id);
    inFlight -= 1;
    slot.done(answer);
    if (inFlight === 0) whenDrained?.();
  };

  const scheduleFlush = (): void => {
    if (flushScheduled) return;
    flushScheduled = true;
    // After the I/O of this turn: all requests that arrived together share an entry.
    setImmediate(flush);
  };

  const endEntry = (number: number): void => {
    if (entries.delete(number) && waiting.length > 0) scheduleFlush();
  };

  const send = (slots: Slot[]): void => {
    const number = nextEntry;
    nextEntry = (nextEntry + 1) >>> 0;
    const now = performance.now();
    const entry: OutstandingEntry = { slots, deadline: (slots.at(-1) as Slot).deadline, id: undefined };
    entries.set(number, entry);
    options.onBatch(slots.length);
    const payload = encodeStampRequests(
      slots.map((slot) => slot.request),
      (index) => (slots[index] as Slot).deadline - now,
    );
    command.xadd(keys.requests, '*', 'g', gatewayId, 'n', number, 'b', payload).then(
      (id) => {
        entry.id = id as string;
      },
      () => {
        // Not sent, or sent into a connection that broke: in both cases the client hears it now instead of at the deadline.
        for (const slot of entry.slots) settle(slot, unavailable);
        endEntry(number);
      },
    );
  };

  function flush(): void {
    flushScheduled = false;
    while (entries.size < entriesOutstandingMax && waiting.length > 0) {
      const slots = waiting.slice(0, batchMax).filter((slot) => !slot.settled);
      waiting = waiting.slice(batchMax);
      if (slots.length > 0) send(slots);
    }
  }

  const sweep = (): void => {
    const now = performance.now();
    while (arrivalsHead < arrivals.length) {
      const slot = arrivals[arrivalsHead] as Slot;
      if (!slot.settled) {
        if (slot.deadline > now) break;
        settle(slot, expired);
      }
      arrivalsHead += 1;
    }
    if (arrivalsHead > 0) {
      arrivals = arrivals.slice(arrivalsHead);
      arrivalsHead = 0;
    }
    for (const [number, entry] of entries) {
      if (entry.deadline > now) break;
      // Nobody will want it any more: without this, entries would gather in the stream while no signer lives.
      if (entry.id !== undefined) command.xdel(keys.requests, entry.id).catch(() => undefined); // best effort: a signer drops it by its deadline
      endEntry(number);
    }
  };
  const sweeper = setInterval(sweep, sweepMs);

  const deliver = (number: number, replies: StampReply[]): void => {
    for (const reply of replies) {
      const slot = bySlotId.get(reply.id);
      if (slot === undefined) continue;
      settle(slot, reply.outcome === 'expired' ? expired : { kind: 'replied', outcome: reply.outcome, response: reply.response });
    }
    // A signer that could not read the batch answers nothing of it; those requests must not wait for their deadline.
    for (const slot of entries.get(number)?.slots ?? []) settle(slot, unavailable);
    endEntry(number);
  };

  const readReplies = async (): Promise<void> => {
    let lastId = '0';
    let sinceTrim = 0;
    let failures = 0;
    const trim = (): void => {
      sinceTrim = 0;
      const [millis, sequence] = lastId.split('-') as [string, string];
      command.xtrim(repliesKey, 'MINID', `${millis}-${Number(sequence) + 1}`).catch(() => undefined); // best effort: the next trim covers it
    };
    while (!closed) {
      if (blocking.status !== 'ready') {
        await delay(reconnectPollMs);
        continue;
      }
      try {
        const streams = (await blocking.xreadBuffer('COUNT', repliesPerRead, 'BLOCK', blockMs, 'STREAMS', repliesKey, lastId)) as
          | [Buffer, [Buffer, Buffer[]][]][]
          | null;
        failures = 0;
        for (const [id, fields] of streams?.[0]?.[1] ?? []) {
          lastId = id.toString('latin1');
          sinceTrim += 1;
          deliver(Number((fields[1] as Buffer).toString('latin1')), decodeStampReplies(fields[3] as Buffer));
        }
        if (sinceTrim >= trimAfter || (streams === null && sinceTrim > 0)) trim();
      } catch (error) {
        if (closed) return;
        failures += 1;
        if (failures === 1) options.onReadError(error);
        await delay(Math.min(20 * failures, 250));
      }
    }
  };
  const reading = readReplies();

  return {
    submit(request, done) {
      if (inFlight >= inFlightMax || closed) return false;
      const id = nextId;
      nextId = (nextId + 1) >>> 0;
      const slot: Slot = { request: { ...request, id }, done, deadline: performance.now() + deadlineMs, settled: false };
      bySlotId.set(id, slot);
      arrivals.push(slot);
      waiting.push(slot);
      inFlight += 1;
      if (entries.size < entriesOutstandingMax) scheduleFlush();
      return true;
    },
    hasRoomFor: (count) => !closed && inFlight + count <= inFlightMax,
    get inFlight() {
      return inFlight;
    },
    get entriesOutstanding() {
      return entries.size;
    },
    async livingSigners(deadAfterMs) {
      const [seconds] = await command.time();
      return command.zcount(keys.signers, Number(seconds) * 1_000 - deadAfterMs, '+inf');
    },
    drained() {
      return inFlight === 0
        ? Promise.resolve()
        : new Promise((resolve) => {
            whenDrained = resolve;
          });
    },
    async close() {
      closed = true;
      clearInterval(sweeper);
      for (const slot of arrivals.slice(arrivalsHead)) settle(slot, unavailable);
      waiting = [];
      await command.del(repliesKey).catch(() => undefined); // best effort: it expires by itself
      blocking.disconnect();
      await reading;
    },
  };
};
