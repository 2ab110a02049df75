/** Reads a batch as it came through the lane, on the thread that stamps it. */
import { SigilloError } from '../config/errors.ts';
import { decodeStampRequests, type ReceivedStampRequest } from '../queue/stamp-messages.ts';
import type { MalformedBatch } from './stamp-task.ts';

/** @returns the requests, views into the payload; or that it cannot be read */
export const readBatch = (payload: Uint8Array): ReceivedStampRequest[] | MalformedBatch => {
  try {
    return decodeStampRequests(Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength));
  } catch (error) {
    if (error instanceof SigilloError && error.code === 'LANE_ENTRY_MALFORMED') return { kind: 'malformed', message: error.message };
    throw error;
  }
};
