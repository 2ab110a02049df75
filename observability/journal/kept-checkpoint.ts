/** The newest checkpoint as this host and Redis remember it, and the public key of the journal: what the store is held against. */
import { createPublicKey } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { z } from 'zod';
import { SigilloError } from '../../config/errors.ts';
import type { HomePaths } from '../../config/home.ts';
import { journalKeys } from '../../queue/keys.ts';
import type { RedisClient } from '../../queue/redis.ts';
import { type Checkpoint, verifyCheckpoint } from './checkpoint.ts';

const schema = z.strictObject({ size: z.int().min(0), note: z.string(), token: z.string().nullable() });

/** SubjectPublicKeyInfo of the journal's key, DER; undefined where its file is not. @throws CERTIFICATE_INVALID */
export const readJournalKey = (file: string): Buffer | undefined => {
  if (!existsSync(file)) return undefined;
  try {
    return createPublicKey(readFileSync(file)).export({ format: 'der', type: 'spki' });
  } catch (cause) {
    throw new SigilloError('CERTIFICATE_INVALID', `${file}: no public key in it`, { cause });
  }
};

const readNote = (json: string | null | undefined): string | undefined => {
  if (json === null || json === undefined) return undefined;
  try {
    return schema.parse(JSON.parse(json)).note;
  } catch {
    return undefined; // damaged: then it proves nothing, and the other copy counts
  }
};

/**
 * The newest of both copies that the journal's key has signed.
 * @returns undefined when there is none, or no key here to judge it
 */
export const readKeptCheckpoint = async (
  redis: RedisClient,
  paths: Pick<HomePaths, 'journalKey' | 'journalCheckpoint'>,
  origin: string,
): Promise<Checkpoint | undefined> => {
  const spki = readJournalKey(paths.journalKey);
  if (spki === undefined) return undefined;
  const file = existsSync(paths.journalCheckpoint) ? readFileSync(paths.journalCheckpoint, 'utf8') : undefined;
  const notes = [readNote(file), readNote(await redis.get(journalKeys.checkpoint))].filter((note) => note !== undefined);
  const good = notes.flatMap((note) => {
    const verdict = verifyCheckpoint(note, { name: origin, spki });
    return verdict.kind === 'valid' ? [verdict.checkpoint] : [];
  });
  return good.toSorted((a, b) => b.size - a.size)[0];
};
