/**
 * Says of every thread how long it has been inside the PKCS#11 module. JavaScript cannot end a native call: when one takes too long,
 * the process is replaced, and to know that is all that can be done from here.
 */
import { invariant } from '../config/errors.ts';

/** Threads that one signer can have, with room for those that are replaced. */
const threadsMax = 1_024;
const headOctets = Float64Array.BYTES_PER_ELEMENT;

/** Memory for the threads of one signer. */
export const createCallMemory = (): SharedArrayBuffer => new SharedArrayBuffer(headOctets + threadsMax * Float64Array.BYTES_PER_ELEMENT);

const marksOf = (memory: SharedArrayBuffer): Float64Array => new Float64Array(memory, headOctets, threadsMax);

/** One thread's mark. Times are on the machine's monotonic clock, in milliseconds, which all threads share. */
export interface CallMark {
  begin(nowMs: number): void;
  end(): void;
}

/** Takes a mark for the calling thread. */
export const takeCallMark = (memory: SharedArrayBuffer): CallMark => {
  const index = Atomics.add(new Int32Array(memory, 0, 1), 0, 1);
  invariant(index < threadsMax, `${index} threads in one signer`);
  const marks = marksOf(memory);
  return {
    begin(nowMs) {
      marks[index] = nowMs;
    },
    end() {
      marks[index] = 0;
    },
  };
};

/** Milliseconds that the longest of the calls under way has taken; 0 when there is none. */
export const longestCallMs = (memory: SharedArrayBuffer, nowMs: number): number => {
  let longest = 0;
  for (const since of marksOf(memory)) if (since > 0) longest = Math.max(longest, nowMs - since);
  return longest;
};
