/**
 * The newest checkpoint of the journal, as its writer puts it into Redis. What was read last stays in force while Redis is away:
 * it is signed, so it is no less true for being older.
 */
import { z } from 'zod';
import { SigilloError } from '../config/errors.ts';
import { journalKeys } from '../queue/keys.ts';
import type { RedisClient } from '../queue/redis.ts';

const checkpointSchema = z.object({
  /** Signed note (observability/journal/checkpoint.ts). */
  note: z.string(),
  /** Base64 of a TimeStampToken over the SHA-256 of the note; null when none could be had. */
  token: z.base64().nullable(),
  /** Entries that it covers. */
  size: z.int().min(0),
});
export type PublishedCheckpoint = z.output<typeof checkpointSchema>;

export interface CheckpointSource {
  /** @throws JOURNAL_UNCHECKPOINTED when there is none yet; REDIS_UNAVAILABLE when none was ever read */
  newest(): Promise<PublishedCheckpoint>;
}

/** Checkpoints come every few seconds; monitors of many clients must not become a load on Redis. */
const freshMs = 500;

export const createCheckpointSource = (redis: RedisClient): CheckpointSource => {
  let known: PublishedCheckpoint | undefined;
  let readAt = Number.NEGATIVE_INFINITY;
  let reading: Promise<void> | undefined;

  const read = async (): Promise<void> => {
    const text = await redis.get(journalKeys.checkpoint).catch((cause: unknown) => {
      throw new SigilloError('REDIS_UNAVAILABLE', undefined, { cause });
    });
    // A Redis that came back empty takes nothing away that was published.
    if (text !== null) known = checkpointSchema.parse(JSON.parse(text));
    readAt = performance.now();
  };

  return {
    async newest() {
      if (performance.now() - readAt >= freshMs) {
        reading ??= read().finally(() => {
          reading = undefined;
        });
        await reading.catch((error: unknown) => {
          if (known === undefined) throw error;
        });
      }
      if (known === undefined) throw new SigilloError('JOURNAL_UNCHECKPOINTED');
      return known;
    },
  };
};
