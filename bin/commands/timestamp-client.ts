/**
 * Asks a service for many timestamps at once (POST /v1/timestamps) and checks each answer against its request.
 *
 * A busy service is asked again, for a bounded time; anything else that concerns the whole request is a
 * `TimestampServerError`. A refused imprint is a value.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Pool } from 'undici';
import { z } from 'zod';
import { digestAlgorithms } from '../../pki/algorithms.ts';
import { integer, sequence, unsignedInteger } from '../../pki/der.ts';
import { checkTimestampAnswer } from '../../pki/tsp-verify.ts';

/** The service, or the way to it, refuses altogether. */
export class TimestampServerError extends Error {}

export type Stamp =
  /** A TimeStampResp with the token. */
  { readonly kind: 'granted'; readonly response: Uint8Array } | { readonly kind: 'refused'; readonly reason: string };

export interface TimestampClient {
  /** Timestamps for these digests, in their order. @throws TimestampServerError */
  stamp(hashes: readonly Uint8Array[]): Promise<Stamp[]>;
  close(): Promise<void>;
}

export interface TimestampClientOptions {
  readonly server: URL;
  readonly authorization: string | undefined;
  readonly digest: keyof typeof digestAlgorithms;
  readonly policy: string | undefined;
  readonly certReq: boolean;
  /** @defaultValue waiting for real; tests wait shorter */
  readonly wait?: (milliseconds: number) => Promise<unknown>;
}

/** With waits of 1, 2, 4, 8 and 16 s a busy service is given up after half a minute, unless it asks for longer waits. */
const attemptsMax = 6;
const waitMsMax = 30_000;
/** A service answers within timestamp.deadlineMs, at most 60 s. */
const answerTimeoutMs = 90_000;
/** 1,000 tokens with three certificates each, in base64, are about 8 MB. */
const answerOctetsMax = 67_108_864;
/** PKIFailureInfo that may be gone a moment later. */
const passingFailures = new Set(['systemFailure', 'timeNotAvailable']);
const nonceOctets = 8;

const answerSchema = z.object({
  timestamps: z.array(
    z.object({
      status: z.string(),
      token: z.base64().optional(),
      failInfo: z.string().optional(),
    }),
  ),
});
type Answer = z.output<typeof answerSchema>['timestamps'][number];

/** One digest on its way. */
interface Pending {
  readonly index: number;
  readonly hash: Uint8Array;
  readonly nonce: Uint8Array;
}

const granted = sequence(sequence(integer(0)));

const makeResponse = (token: Uint8Array): Uint8Array => sequence(granted.subarray(2), token);

const readLimited = async (body: AsyncIterable<Uint8Array>): Promise<string> => {
  const pieces: Uint8Array[] = [];
  let octets = 0;
  for await (const piece of body) {
    octets += piece.length;
    if (octets > answerOctetsMax) throw new TimestampServerError(`the answer is longer than ${answerOctetsMax} octets`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString('utf8');
};

/** Milliseconds that Retry-After asks for (RFC 9110, 10.2.3): seconds, or a date. */
export const retryAfterMs = (header: string | undefined, now: number): number | undefined => {
  if (header === undefined) return undefined;
  if (/^\d{1,9}$/.test(header)) return Number(header) * 1_000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, at - now);
};

const parseAnswer = (text: string, expected: number): readonly Answer[] => {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new TimestampServerError('the answer is no JSON');
  }
  const answer = answerSchema.safeParse(json);
  if (!answer.success) throw new TimestampServerError('the answer is not of the form that docs/timestamp.md describes');
  if (answer.data.timestamps.length !== expected) {
    throw new TimestampServerError(`${answer.data.timestamps.length} answers to ${expected} imprints`);
  }
  return answer.data.timestamps;
};

const oneLine = (text: string): string =>
  text
    .replace(/[^\x20-\x7e]+/g, ' ')
    .slice(0, 200)
    .trim();

class ServiceClient implements TimestampClient {
  readonly #options: TimestampClientOptions;
  readonly #pool: Pool;
  readonly #wait: (milliseconds: number) => Promise<unknown>;
  /** A service that has answered once may be restarting; one that never did is the wrong address. */
  #answered = false;

  constructor(options: TimestampClientOptions) {
    this.#options = options;
    this.#wait = options.wait ?? delay;
    this.#pool = new Pool(options.server.origin, {
      connections: 4,
      pipelining: 1,
      connect: { timeout: 10_000 },
      headersTimeout: answerTimeoutMs,
      bodyTimeout: answerTimeoutMs,
    });
  }

  async stamp(hashes: readonly Uint8Array[]): Promise<Stamp[]> {
    const stamps: Stamp[] = [];
    let pending: Pending[] = hashes.map((hash, index) => ({ index, hash, nonce: randomBytes(nonceOctets) }));
    for (let attempt = 1; pending.length > 0; attempt += 1) {
      const last = attempt === attemptsMax;
      const outcome = await this.#ask(pending);
      if (outcome.kind === 'busy') {
        if (last) throw new TimestampServerError(`${outcome.why}, ${attemptsMax} times`);
        await this.#wait(Math.min(outcome.retryAfterMs ?? 1_000 * 2 ** (attempt - 1), waitMsMax));
        continue;
      }
      const again: Pending[] = [];
      for (const [i, item] of pending.entries()) {
        const answer = outcome.answers[i] as Answer;
        if (!last && answer.failInfo !== undefined && passingFailures.has(answer.failInfo)) again.push(item);
        else stamps[item.index] = this.#judge(item, answer);
      }
      pending = again;
      if (again.length > 0) await this.#wait(Math.min(1_000 * 2 ** (attempt - 1), waitMsMax));
    }
    return stamps;
  }

  close(): Promise<void> {
    return this.#pool.destroy();
  }

  async #ask(
    pending: readonly Pending[],
  ): Promise<{ kind: 'busy'; why: string; retryAfterMs: number | undefined } | { kind: 'answered'; answers: readonly Answer[] }> {
    const { server, authorization, digest, policy, certReq } = this.#options;
    const hashes = pending.map(({ hash, nonce }) => ({
      algorithm: digest,
      hash: Buffer.from(hash).toString('base64'),
      nonce: BigInt(`0x${Buffer.from(nonce).toString('hex')}`).toString(),
    }));
    try {
      const { statusCode, headers, body } = await this.#pool.request({
        method: 'POST',
        path: `${server.pathname.replace(/\/$/, '')}/v1/timestamps`,
        headers: {
          'content-type': 'application/json',
          accept: 'application/json',
          ...(authorization === undefined ? {} : { authorization }),
        },
        body: JSON.stringify({ hashes, certReq, ...(policy === undefined ? {} : { policy }) }),
      });
      const text = await readLimited(body);
      this.#answered = true;
      if (statusCode === 503) {
        const header = headers['retry-after'];
        return {
          kind: 'busy',
          why: 'the service is busy',
          retryAfterMs: retryAfterMs(typeof header === 'string' ? header : undefined, Date.now()),
        };
      }
      if (statusCode !== 200) throw new TimestampServerError(`HTTP ${statusCode}: ${oneLine(text)}`);
      return { kind: 'answered', answers: parseAnswer(text, pending.length) };
    } catch (error) {
      if (error instanceof TimestampServerError) throw error;
      const why = `${server.origin}: ${error instanceof Error ? error.message || error.name : String(error)}`;
      if (!this.#answered) throw new TimestampServerError(why, { cause: error });
      return { kind: 'busy', why, retryAfterMs: undefined };
    }
  }

  #judge({ hash, nonce }: Pending, answer: Answer): Stamp {
    if (answer.token === undefined) return { kind: 'refused', reason: oneLine(`${answer.status} ${answer.failInfo ?? ''}`) };
    const token = Buffer.from(answer.token, 'base64');
    const reading = checkTimestampAnswer(token, {
      messageImprint: { algorithm: digestAlgorithms[this.#options.digest].oid, hashedMessage: hash },
      nonce: unsignedInteger(nonce).subarray(2),
    });
    if (reading.kind === 'invalid') return { kind: 'refused', reason: `wrong answer: ${reading.reason}: ${reading.detail}` };
    return { kind: 'granted', response: makeResponse(reading.tokenDer) };
  }
}

/** A client of one service; keeps connections open until `close`. */
export const createTimestampClient = (options: TimestampClientOptions): TimestampClient => new ServiceClient(options);
