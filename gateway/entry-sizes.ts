/**
 * How many requests share a stream entry, and how many entries a gateway has on their way. One thread of a signer takes an entry from its
 * first request to its last, so an entry should not take long: the last client waits for all of it while other threads may be idle. Nor
 * may it be too small: each entry costs its own way through gateway, Redis and signer, whatever is in it.
 *
 * Four entries of those that a thread signs one by one keep the cores busy. Tokens that make many signatures at once need more requests
 * than that holds: 24 with RSA-3072, where one far HSM may have 32 at work. So it follows what the signers say that their tokens hold
 * (queue/slot-status.ts); with tokens that are as fast as the cores it stays as it is.
 *
 * Nobody knows which signer takes an entry. So the slowest of them says how much may be in one: 48 requests in one entry, with 0.4 s for a
 * signature, would be 19 s for the last of them, beside a slot that makes 20 a second.
 */
import type { Config, TsuAlgorithm } from '../config/schema.ts';
import type { EntrySizes } from '../queue/lane-requester.ts';

/** 3 to 8 ms of C_Sign, measured with SoftHSM 2.6.1: 0.04 ms a signature for P-256, 0.6 for P-384, 0.5, 1.1 and 2.0 for RSA-2048, 3072 and 4096. */
const requestsByAlgorithm: Readonly<Record<TsuAlgorithm, number>> = {
  'ec-p256': 64,
  'ec-p384': 8,
  'rsa-2048': 12,
  'rsa-3072': 6,
  'rsa-4096': 4,
  'rsa-pss-2048': 12,
  'rsa-pss-3072': 6,
  'rsa-pss-4096': 4,
};

/**
 * Requests that are worth another entry while an earlier one is without a reply. An entry costs all processes together about
 * 0.5 ms of CPU, whatever is in it: with P-256, where that is a dozen signatures, entries of a few requests cost a tenth more
 * CPU at half load. A slow signature gains more from a second worker than from company.
 */
const togetherByAlgorithm: Readonly<Record<TsuAlgorithm, number>> = {
  'ec-p256': 16,
  'ec-p384': 1,
  'rsa-2048': 2,
  'rsa-3072': 1,
  'rsa-4096': 1,
  'rsa-pss-2048': 2,
  'rsa-pss-3072': 1,
  'rsa-pss-4096': 1,
};

/**
 * Requests in flight for each signature that the tokens hold at once: one is in the token, one in the signer's memory behind it
 * (`signer.batchesPerWorker`), and one on its way: in a reply, at its client, in the stream. With 32 at once in 10 ms, 3,200 a second, the
 * last 32 cover a way of 10 ms.
 */
const requestsForEach = 3;
/** Entries for each thread that has several signatures in the token at once: one that it begins while the other ends. */
const entriesForEachThread = 2;

/** What is in an entry should be signed within this time, whoever takes it. */
const entryMsMax = 100;
/** But so many are worth an entry in any case: one slot of several whose token has become slow must not cost all of them 0.5 ms of CPU a stamp. */
const fewest = 4;

/** What a signer says that its token holds. */
export interface SlotCapacity {
  /** Signatures at once. */
  readonly atOnce: number;
  /** Threads that share them; undefined: not told, by another release. */
  readonly threads: number | undefined;
  /** Milliseconds of a signature; undefined: not known yet, or not told. */
  readonly signMs?: number | undefined;
}

/** Requests of one entry that a thread of this slot signs in `entryMsMax`, or the fewest. */
const signedInTime = ({ atOnce, threads = atOnce, signMs }: SlotCapacity): number =>
  signMs === undefined ? Number.POSITIVE_INFINITY : Math.max(fewest, Math.floor((Math.max(1, atOnce / threads) * entryMsMax) / signMs));

/**
 * How requests become entries, for tokens that hold so much.
 *
 * In flight are 3 requests for each signature at once, no fewer than with fast tokens, and no more than `inFlightMax`: with RSA-3072 and
 * one HSM of 32 at once 96, in 16 entries of 6. Behind `entriesOutstandingMax` only full entries go, so that they never cost more than
 * before. Where threads hold several signatures each, entries are small enough for two of them in each thread: with P-256 and two HSMs of
 * 32 at once, two threads each, the 256 in flight are 8 entries of 32; with 64 some threads would have two, and others none.
 *
 * @param slots those that stamp now; none: nothing is known
 */
export const entrySizes = (timestamp: Config['timestamp'], slots: readonly SlotCapacity[] = []): EntrySizes => {
  const { algorithm, entriesOutstandingMax, inFlightMax } = timestamp;
  const most = timestamp.batchMax ?? requestsByAlgorithm[algorithm];
  const atFirst = entriesOutstandingMax * most;
  const wanted = requestsForEach * slots.reduce((sum, { atOnce }) => sum + atOnce, 0);
  const inFlight = Math.max(atFirst, Math.min(wanted, inFlightMax));
  const threads = slots.reduce((sum, slot) => sum + (slot.threads !== undefined && slot.atOnce > slot.threads ? slot.threads : 0), 0);
  const shared = threads === 0 ? most : Math.ceil(inFlight / (entriesForEachThread * threads));
  const batchMax = Math.min(most, shared, ...slots.map(signedInTime));
  return {
    batchMax,
    batchMin: Math.min(togetherByAlgorithm[algorithm], batchMax),
    entriesOutstandingMax,
    fullEntriesBesides: Math.ceil(inFlight / batchMax) - entriesOutstandingMax,
  };
};
