/**
 * How the journal's writer gets a checkpoint signed: a request through Redis to any signer, and its reply. A few an hour to a few a
 * second at most, so both ends poll with one cheap command instead of holding a blocking connection.
 *
 * In Redis: a list of at most `waitingMax` requests, each `<deadline> <id>\n<text>` with the deadline in Unix milliseconds of
 * Redis's clock; and for each request that was taken a string that expires, JSON: `{"signature","spki"}` in base64, or
 * `{"error","message"}`. Whoever can write to Redis can ask, and can answer: what may be signed is for the signer to say (`sign`),
 * and a reply counts only by its signature, under a key that the asker knows from elsewhere.
 *
 * A request whose signer dies, or that no signer takes, ends at its deadline; the asker asks again. While Redis is away nothing is
 * asked or answered.
 */
import { randomBytes, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import { type ErrorCode, errorCatalogue, SigilloError } from '../config/errors.ts';
import { journalKeys } from './keys.ts';
import type { RedisClient } from './redis.ts';
import { monotonicMs } from './redis-clock.ts';

export interface CheckpointSignature {
  /** ECDSA with SHA-256 over the text, DER. */
  readonly signature: Buffer;
  /** SubjectPublicKeyInfo of the key that made it, DER. The caller compares it with the one that it trusts. */
  readonly spki: Buffer;
}

/** One writer asks for one checkpoint at a time; more than a few wait only when no signer is there. */
const waitingMax = 16;
/** A reply that nobody fetches any more goes away by itself. */
const replyOutlivesDeadlineMs = 5_000;
/** A checkpoint of the longest origin is 300 octets. */
const textOctetsMax = 1_024;
const replyPollMs = 20;
/** 20 LPOPs a second: under 0.1 % of a core in signer and Redis, and 25 ms more for a checkpoint in the mean. */
const requestPollMs = 50;

const askScript = readFileSync(new URL('./commands/askSignature-1.lua', import.meta.url), 'utf8');

const base64 = z
  .base64()
  .min(1)
  .max(1_024)
  .transform((text) => Buffer.from(text, 'base64'));
const replySchema = z.union([
  z.strictObject({ signature: base64, spki: base64 }),
  z.strictObject({
    error: z.string().refine((code): code is ErrorCode => Object.hasOwn(errorCatalogue, code)),
    message: z.string().max(2_048),
  }),
]);

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // no reply of a signer, which the schema says
  }
};

const verifies = (text: string, { signature, spki }: CheckpointSignature): boolean => {
  try {
    return verify('sha256', Buffer.from(text), { key: spki, format: 'der', type: 'spki' }, signature);
  } catch {
    return false; // not even a key
  }
};

/** @throws what the signer answered, or HSM_SELFTEST_FAILED when it is no signature of the text */
const readReply = (json: string, text: string): CheckpointSignature => {
  const reply = replySchema.safeParse(parseJson(json));
  if (!reply.success) throw new SigilloError('LANE_ENTRY_MALFORMED', 'reply to a checkpoint');
  if ('error' in reply.data) throw new SigilloError(reply.data.error, `(a signer, of a checkpoint: ${reply.data.message})`);
  if (!verifies(text, reply.data)) throw new SigilloError('HSM_SELFTEST_FAILED', 'signature of a checkpoint');
  return reply.data;
};

/** Polls for the reply; a Redis that is away for a moment costs only the moment. */
const awaitReply = async (command: RedisClient, id: string, untilMs: number, signal: AbortSignal | undefined): Promise<string> => {
  let failure: unknown;
  while (monotonicMs() < untilMs) {
    await delay(replyPollMs, undefined, signal === undefined ? {} : { signal });
    try {
      const reply = await command.getdel(journalKeys.signature(id));
      if (reply !== null) return reply;
    } catch (error) {
      failure = error;
    }
  }
  throw new SigilloError('DEADLINE_EXCEEDED', 'No signer has signed the checkpoint.', failure === undefined ? {} : { cause: failure });
};

/**
 * Has the text of a checkpoint signed by any signer.
 *
 * @param command a connection for commands; it is never blocked
 * @throws DEADLINE_EXCEEDED when no signer answered in time, OVERLOADED when too many requests wait, REDIS_UNAVAILABLE, the reason
 *   of the abort, or what the signer answered: JOURNAL_MALFORMED and JOURNAL_CHECKPOINT_REFUSED for what it will never sign, HSM_*
 */
export const requestCheckpointSignature = async (
  command: RedisClient,
  text: string,
  { deadlineMs, signal }: { readonly deadlineMs: number; readonly signal?: AbortSignal },
): Promise<CheckpointSignature> => {
  signal?.throwIfAborted();
  const id = randomBytes(16).toString('hex');
  const untilMs = monotonicMs() + deadlineMs;
  const entry = (await command
    .eval(askScript, 1, journalKeys.signing, id, Math.ceil(deadlineMs), waitingMax, text)
    .catch((cause: Error) => {
      throw new SigilloError('REDIS_UNAVAILABLE', cause.message, { cause });
    })) as string;
  if (entry === '') throw new SigilloError('OVERLOADED', `${waitingMax} checkpoints wait for a signer`);
  try {
    return readReply(await awaitReply(command, id, untilMs, signal), text);
  } catch (error) {
    // Best effort: it expires, or the next signer drops it by its deadline.
    await command.lrem(journalKeys.signing, 1, entry).catch(() => undefined);
    signal?.throwIfAborted();
    throw error;
  }
};

export interface CheckpointResponder {
  /** Stops taking requests; what was taken is answered first. */
  close(): Promise<void>;
}

export interface CheckpointResponderOptions {
  readonly command: RedisClient;
  /** Checks that the text may be signed, and signs it. What it throws is the answer. */
  readonly sign: (text: string) => Promise<{ readonly signature: Uint8Array; readonly spki: Uint8Array }>;
  /** A request that was not signed, with the reason that it was answered with. */
  readonly onRefused: (error: SigilloError) => void;
}

const entryForm = /^(\d{1,16}) ([0-9a-f]{32})\n/;

const answerTo = async (text: string, { sign, onRefused }: CheckpointResponderOptions): Promise<string> => {
  try {
    const { signature, spki } = await sign(text);
    return JSON.stringify({ signature: Buffer.from(signature).toString('base64'), spki: Buffer.from(spki).toString('base64') });
  } catch (cause) {
    const error = cause instanceof SigilloError ? cause : new SigilloError('INTERNAL', String(cause), { cause });
    onRefused(error);
    return JSON.stringify({ error: error.code, message: error.message.slice(0, 1_024) });
  }
};

/** Takes one request, if one waits, and answers it. */
const serveOne = async (options: CheckpointResponderOptions): Promise<void> => {
  const { command } = options;
  const entry = await command.lpop(journalKeys.signing);
  if (entry === null) return;
  const [head, deadline, id] = entryForm.exec(entry) ?? [];
  if (head === undefined || id === undefined || Buffer.byteLength(entry) > head.length + textOctetsMax) {
    options.onRefused(new SigilloError('LANE_ENTRY_MALFORMED', 'request for the signature of a checkpoint'));
    return;
  }
  const [seconds, micros] = (await command.time()) as unknown as [string | number, string | number];
  const leftMs = Number(deadline) - (Number(seconds) * 1_000 + Number(micros) / 1_000);
  if (leftMs <= 0) return;
  const reply = await answerTo(entry.slice(head.length), options);
  await command.set(journalKeys.signature(id), reply, 'PX', Math.ceil(Math.min(leftMs, 60_000)) + replyOutlivesDeadlineMs);
};

/** Answers requests until it is closed. */
export const answerCheckpointRequests = (options: CheckpointResponderOptions): CheckpointResponder => {
  const closing = new AbortController();
  const serve = async (): Promise<void> => {
    while (!closing.signal.aborted) {
      await serveOne(options).catch(() => undefined); // Redis is away, which its connection says; the asker's deadline decides
      await delay(requestPollMs, undefined, { signal: closing.signal }).catch(() => undefined); // closed meanwhile
    }
  };
  const served = serve();
  return {
    async close() {
      closing.abort();
      await served;
    },
  };
};
