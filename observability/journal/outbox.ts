/**
 * Events of what is done while Redis may be away, such as the making of keys: kept in a file until they can be recorded.
 *
 * The file holds one event a line, base64 of a block of one (draft-block.ts), and is on disk before `appendToOutbox` returns: so
 * what an event tells of can be done after it is safe. Delivery removes the file when Redis has every event. An interruption
 * between the two records them a second time, which changes nothing of what they tell.
 */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { syncFolder } from '../../config/atomic-file.ts';
import { journalKeys } from '../../queue/keys.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { decodeDrafts, encodeDrafts } from './draft-block.ts';
import type { EventDraft } from './events.ts';

const newline = 0x0a;

/** Keeps an event. One process at a time writes the file. @throws JOURNAL_MALFORMED, or what the disk says */
export const appendToOutbox = (file: string, draft: EventDraft): void => {
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  // A line that an interruption cut off stays alone: what it would have told of was not done.
  const torn = existsSync(file) && statSync(file).size > 0 && readFileSync(file).at(-1) !== newline;
  const descriptor = openSync(file, 'a', 0o600);
  try {
    writeFileSync(descriptor, `${torn ? '\n' : ''}${encodeDrafts([draft]).toString('base64')}\n`);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  syncFolder(dirname(file));
};

const blockOf = (line: string): Buffer | undefined => {
  const block = Buffer.from(line, 'base64');
  try {
    decodeDrafts(block);
    return block;
  } catch {
    return undefined; // cut off by an interruption: counted by the caller
  }
};

export interface Delivery {
  readonly delivered: number;
  /** Lines that hold no event: cut off by an interruption, before what they would have told of was done. */
  readonly tornLines: number;
}

/** Records every event that the file holds, in order, then removes it. @throws when Redis does not take them: then all stay */
export const deliverOutbox = async (file: string, redis: RedisClient): Promise<Delivery> => {
  if (!existsSync(file)) return { delivered: 0, tornLines: 0 };
  const text = readFileSync(file, 'utf8');
  const lines = text.split('\n').filter((line) => line !== '');
  const blocks = lines.map(blockOf).filter((block) => block !== undefined);
  for (const block of blocks) await redis.xadd(journalKeys.events, '*', 'b', block);
  // An event that came meanwhile stays, with the others a second time.
  if (statSync(file).size === Buffer.byteLength(text)) {
    rmSync(file);
    syncFolder(dirname(file));
  }
  return { delivered: blocks.length, tornLines: lines.length - blocks.length };
};
