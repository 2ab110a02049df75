/**
 * GET /journal/...: what the journal shows to everybody. Its newest checkpoint, the key that signs it, and proofs that an entry is
 * in it and that it only grows. They are hashes and signatures, which tell nothing of what the entries say; a proof by serial
 * number, which comes with the entry, is for whoever may read the stamp (stamp-reading.ts).
 */
import { readFile } from 'node:fs/promises';
import { type Context, Hono } from 'hono';
import { accepts } from 'hono/accepts';
import { z } from 'zod';
import { SigilloError } from '../config/errors.ts';
import { grantedResponse } from '../pki/tsp-granted.ts';
import { describeIssue, jsonError, noStoreByDefault } from './http-request.ts';
import type { JournalSource, OpenJournal } from './journal-source.ts';
import type { CheckpointSource, PublishedCheckpoint } from './published-checkpoint.ts';
import { journalError, readJournal, type StampReading, serialSchema } from './stamp-reading.ts';

const plain = 'text/plain';
const json = 'application/json';
const shortCache = { 'Cache-Control': 'public, max-age=1' };

const count = z
  .string()
  .regex(/^(0|[1-9]\d{0,14})$/, 'must be a number without sign or leading zeros')
  .transform(Number);
const positive = count.refine((value) => value > 0, 'must be at least 1');

const inclusionSchema = z
  .strictObject({ serial: serialSchema.optional(), sequence: count.optional(), size: positive.optional() })
  .refine(({ serial, sequence }) => (serial === undefined) !== (sequence === undefined), 'give either serial or sequence')
  .refine(({ sequence, size }) => sequence === undefined || size === undefined || sequence < size, {
    path: ['sequence'],
    message: 'must be below size',
  });
const consistencySchema = z
  .strictObject({ from: positive, to: positive.optional() })
  .refine(({ from, to }) => to === undefined || from <= to, {
    path: ['from'],
    message: 'must not be above to',
  });

export interface JournalAppParts {
  readonly checkpoints: CheckpointSource;
  readonly source: JournalSource;
  readonly reading: StampReading;
  /** PEM file of the journal's public key. */
  readonly keyFile: string;
}

const base64 = (octets: Uint8Array): string => Buffer.from(octets.buffer, octets.byteOffset, octets.byteLength).toString('base64');

const uncovered = (context: Context, { size }: PublishedCheckpoint): Response =>
  jsonError(context, 'NOT_FOUND', `The newest checkpoint covers ${size} entries.`);

/** An inclusion proof with all that is needed to check it but the key; `entry` only for who may read it. */
const inclusionOf = async (
  context: Context,
  journal: OpenJournal,
  place: { readonly sequence: number; readonly size: number | undefined; readonly entry?: Buffer },
  newest: PublishedCheckpoint,
): Promise<Response> => {
  const { sequence, entry, size = newest.size } = place;
  if (size > newest.size || sequence >= size) return uncovered(context, newest);
  const { leaf, path } = await journal.inclusion(sequence, size);
  return context.json({
    sequence,
    size,
    leafHash: base64(leaf),
    path: path.map(base64),
    // The one with which the path leads somewhere; who asks for another size has that one.
    ...(size === newest.size ? { checkpoint: newest.note } : {}),
    ...(entry === undefined ? {} : { entry: base64(entry) }),
  });
};

export const createJournalApp = ({ checkpoints, source, reading, keyFile }: JournalAppParts): Hono => {
  const app = new Hono();
  app.use('/journal/*', noStoreByDefault);

  /** Answers with the newest checkpoint, or says why there is none. */
  const withNewest = async (context: Context, answer: (newest: PublishedCheckpoint) => Response | Promise<Response>): Promise<Response> => {
    let newest: PublishedCheckpoint;
    try {
      newest = await checkpoints.newest();
    } catch (error) {
      if (error instanceof SigilloError) return journalError(context, error.code);
      throw error;
    }
    return answer(newest);
  };

  app.get('/journal/checkpoint', (context) =>
    withNewest(context, (newest) =>
      accepts(context, { header: 'Accept', supports: [plain, json], default: plain }) === json
        ? context.json(newest, 200, { ...shortCache, Vary: 'Accept' })
        : context.text(newest.note, 200, { ...shortCache, Vary: 'Accept' }),
    ),
  );
  app.get('/journal/checkpoint.tsr', (context) =>
    withNewest(context, ({ token }) =>
      token === null
        ? jsonError(context, 'NOT_FOUND', 'The newest checkpoint could not be timestamped.')
        : context.body(new Uint8Array(grantedResponse(Buffer.from(token, 'base64'))), 200, {
            ...shortCache,
            'Content-Type': 'application/timestamp-reply',
          }),
    ),
  );
  app.get('/journal/key', async (context) => {
    const pem = await readFile(keyFile, 'utf8').catch(() => undefined); // absent on a gateway of its own, or before the first start
    if (pem === undefined) return jsonError(context, 'NOT_FOUND', 'This gateway does not have the key of the journal.');
    return context.body(pem, 200, { 'Content-Type': 'application/x-pem-file', ...shortCache });
  });

  app.get('/journal/proof/inclusion', async function inclusionProof(context) {
    const asked = inclusionSchema.safeParse(context.req.query());
    if (!asked.success) return jsonError(context, 'REQUEST_INVALID', describeIssue(asked.error));
    const { serial, sequence, size } = asked.data;
    return withNewest(context, (newest) => {
      if (serial !== undefined) {
        return reading.answer(context, serial, (stamp, journal) =>
          inclusionOf(context, journal, { sequence: stamp.sequence, size, entry: stamp.octets }, newest),
        );
      }
      // What is not covered costs the store nothing.
      if ((size ?? newest.size) > newest.size || (sequence as number) >= newest.size) return uncovered(context, newest);
      return readJournal(context, source, 'anybody', (journal) =>
        inclusionOf(context, journal, { sequence: sequence as number, size }, newest),
      );
    });
  });

  app.get('/journal/proof/consistency', async function consistencyProof(context) {
    const asked = consistencySchema.safeParse(context.req.query());
    if (!asked.success) return jsonError(context, 'REQUEST_INVALID', describeIssue(asked.error));
    return withNewest(context, (newest) => {
      const { from, to = newest.size } = asked.data;
      if (to > newest.size || from > to) return uncovered(context, newest);
      return readJournal(context, source, 'anybody', async (journal) => {
        const path = await journal.consistency(from, to);
        const checkpoint = to === newest.size ? { checkpoint: newest.note } : {};
        return context.json({ from, to, path: path.map(base64), ...checkpoint });
      });
    });
  });

  app.all('/journal/*', (context) =>
    context.req.method === 'GET' || context.req.method === 'HEAD'
      ? jsonError(context, 'NOT_FOUND')
      : jsonError(context, 'METHOD_NOT_ALLOWED', undefined, { Allow: 'GET, HEAD' }),
  );
  return app;
};
