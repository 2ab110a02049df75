/**
 * POST /v1/timestamps: many imprints in one JSON request, answered in order, each with its own complete RFC 3161 token or
 * its failInfo. The same rules, lane and journal as POST /tsa.
 */
import { type Context, Hono } from 'hono';
import { z } from 'zod';
import type { ErrorCode } from '../config/errors.ts';
import { oidSchema } from '../config/schema.ts';
import { digestAlgorithms } from '../pki/algorithms.ts';
import { type Der, derNull, encode, octetString, oid, sequence, tag } from '../pki/der.ts';
import { readTokenSummary } from '../pki/token-summary.ts';
import type { FailInfo, RefusedParts, TimeStampReq } from '../pki/tsp-request.ts';
import { refusalHeaders } from './access-guard.ts';
import { failureCodes, retryAfter } from './http-refusals.ts';
import { describeIssue, hasMediaType, isDisconnected, type JsonBody, jsonError, readJson, remoteAddress } from './http-request.ts';
import { createOctetBudget } from './octet-budget.ts';
import { outcomeOf, type Stamping, type StampResult } from './stamping.ts';

/** SHA3-512 in Base64, a nonce of 64 octets in hex, names and punctuation: under 400; doubled for white space. */
const octetsPerImprint = 800;
const octetsAround = 4_096;

const imprintSchema = z.strictObject({
  // As long as the body lets them be: what is wrong with one imprint is told for that imprint alone.
  algorithm: z.string(),
  hash: z.string(),
  /** Decimal, or hexadecimal behind 0x: JSON numbers lose what lies beyond 53 bits. */
  nonce: z
    .string()
    .regex(/^(-?\d{1,155}|0x[0-9a-fA-F]{1,128})$/)
    .optional(),
});

const requestSchema = (imprintsMax: number) =>
  z.strictObject({
    hashes: z.array(imprintSchema).min(1).max(imprintsMax),
    policy: oidSchema.optional(),
    certReq: z.boolean().default(false),
  });
type Imprint = z.output<typeof imprintSchema>;

/** INTEGER of any size in minimal two's complement (X.690, 8.3). */
const integerOf = (value: bigint): Der => {
  let octets = 1;
  while (value < -(1n << BigInt(8 * octets - 1)) || value >= 1n << BigInt(8 * octets - 1)) octets += 1;
  const hex = BigInt.asUintN(8 * octets, value)
    .toString(16)
    .padStart(2 * octets, '0');
  return encode(tag.integer, Buffer.from(hex, 'hex'));
};

/** messageImprint up to the hash. NULL parameters, as most clients write them and every verifier takes them. */
const imprintPrefixes = Object.fromEntries(
  Object.entries(digestAlgorithms).map(([name, algorithm]) => {
    const whole = sequence(sequence(oid(algorithm.oid), derNull), octetString(new Uint8Array(algorithm.octets)));
    return [name, whole.slice(0, whole.length - algorithm.octets)];
  }),
);

type Item =
  | { readonly kind: 'request'; readonly request: TimeStampReq }
  | { readonly kind: 'refused'; readonly failInfo: FailInfo; readonly parts: RefusedParts };

/** One hash has one text: no white space, no other alphabet, no stray bits behind the last octet (RFC 4648, 3.5). */
const fromBase64 = (text: string): Buffer => {
  const bytes = Buffer.from(text, 'base64');
  return bytes.toString('base64') === text ? bytes : Buffer.alloc(0);
};

/** An imprint of the wrong length, for the record of its refusal; undefined when its text was none, too. */
const wrongImprint = (digest: keyof typeof digestAlgorithms, hashedMessage: Uint8Array): Uint8Array | undefined =>
  hashedMessage.length === 0 ? undefined : sequence(sequence(oid(digestAlgorithms[digest].oid), derNull), octetString(hashedMessage));

/** What all imprints of a request have in common. */
interface Terms {
  readonly reqPolicy: Uint8Array | undefined;
  readonly certReq: boolean;
  /** What an imprint with a digest that is not known here is told. */
  readonly unknownDigest: FailInfo;
}

const itemOf = ({ algorithm, hash, nonce }: Imprint, { reqPolicy, certReq, unknownDigest }: Terms): Item => {
  if (!Object.hasOwn(digestAlgorithms, algorithm)) {
    // A name has no object identifier, so there is no imprint to tell.
    return { kind: 'refused', failInfo: unknownDigest, parts: { messageImprint: undefined, policy: reqPolicy } };
  }
  const digest = algorithm as keyof typeof digestAlgorithms;
  const hashedMessage = fromBase64(hash);
  if (hashedMessage.length !== digestAlgorithms[digest].octets) {
    return {
      kind: 'refused',
      failInfo: 'badDataFormat',
      parts: { messageImprint: wrongImprint(digest, hashedMessage), policy: reqPolicy },
    };
  }
  const messageImprint = Buffer.concat([imprintPrefixes[digest] as Uint8Array, hashedMessage]);
  const request: TimeStampReq = {
    messageImprint,
    digest,
    reqPolicy,
    nonce: nonce === undefined ? undefined : integerOf(BigInt(nonce)),
    certReq,
    hasExtensions: false,
  };
  return { kind: 'request', request };
};

/** Statuses of what is no request of this protocol: counted as /tsa counts it. */
const protocolStatuses: ReadonlySet<number> = new Set([400, 405, 413, 415]);

/** How a granted token is told in JSON, now and whenever it is read again. */
export const grantedItem = (token: Uint8Array): Record<string, string> => ({
  status: 'granted',
  token: Buffer.from(token.buffer, token.byteOffset, token.byteLength).toString('base64'),
  ...readTokenSummary(token),
});

const resultOf = (answer: StampResult): Record<string, string> => {
  switch (answer.kind) {
    case 'granted':
      return grantedItem(answer.token);
    case 'refused':
      return { status: 'rejection', failInfo: answer.failInfo };
    case 'failed':
      return { status: 'rejection', failInfo: 'systemFailure' };
  }
};

/**
 * Octets of bodies that are being read at once: 80 of the longest with a thousand imprints, 800 of those with SHA-256 alone and
 * no white space. Without it the 4,096 connections of one gateway could hold 3.3 GB.
 */
const bodiesOctetsMax = 64 * 1_024 * 1_024;

/** @param bodies bounds the bodies that are being read at once */
export const createTimestampsApp = (stamping: Stamping, imprintsMax: number, bodies = createOctetBudget(bodiesOctetsMax)): Hono => {
  const schema = requestSchema(imprintsMax);
  const bodyBytesMax = octetsAround + imprintsMax * octetsPerImprint;
  const { metrics } = stamping;
  const app = new Hono();

  const refuseForLoad = (context: Context, outcome: keyof typeof failureCodes, imprints: number): Response => {
    metrics.request(outcome, imprints);
    return jsonError(context, failureCodes[outcome], undefined, retryAfter);
  };

  const refuseBody = (context: Context, code: (JsonBody & { kind: 'refused' })['code']): Response => {
    switch (code) {
      case 'BODY_INCOMPLETE':
        return jsonError(context, code);
      case 'BODY_TOO_LARGE':
        return jsonError(context, code, `At most ${bodyBytesMax} octets.`, { Connection: 'close' });
      case 'REQUEST_INVALID':
        return jsonError(context, code, 'The body is not JSON.');
      case 'OVERLOADED':
        metrics.request('overloaded');
        // What is on its way is not read, so the connection cannot be used again.
        return jsonError(context, code, undefined, { ...retryAfter, Connection: 'close' });
    }
  };

  app.use('/v1/timestamps', async function countNoRequests(context, next) {
    await next();
    if (context.error !== undefined) metrics.request('other');
    else if (protocolStatuses.has(context.res.status)) metrics.request(isDisconnected(context) ? 'disconnected' : 'http');
  });
  app.post('/v1/timestamps', async function timestamps(context) {
    if (!hasMediaType(context, 'application/json')) {
      return jsonError(context, 'MEDIA_TYPE_UNSUPPORTED', 'Send application/json.', { Accept: 'application/json' });
    }
    const found = await stamping.identify(context.req.header('authorization'), remoteAddress(context));
    if (found.kind === 'refused') {
      metrics.request(found.outcome);
      return jsonError(context, found.code, undefined, refusalHeaders(found));
    }
    // Before a body is read that would be refused however short it is.
    const full = stamping.refusal(1);
    if (full !== undefined) return refuseForLoad(context, full, 1);
    const body = await readJson(context, bodyBytesMax, bodies);
    if (body.kind === 'refused') return refuseBody(context, body.code);
    const parsed = schema.safeParse(body.value);
    if (!parsed.success) return jsonError(context, 'REQUEST_INVALID', describeIssue(parsed.error));
    const { hashes, certReq, policy } = parsed.data;
    const refusal = stamping.refusal(hashes.length);
    if (refusal !== undefined) return refuseForLoad(context, refusal, hashes.length);
    const reqPolicy = policy === undefined ? undefined : oid(policy);
    const terms: Terms = { reqPolicy, certReq, unknownDigest: stamping.unknownDigestRefusal(reqPolicy) };
    const started = performance.now();
    const answers = await Promise.all(
      hashes.map((imprint) => {
        const item = itemOf(imprint, terms);
        return item.kind === 'request' ? stamping.stamp(item.request, found.name) : stamping.refuse(item.failInfo, item.parts, found.name);
      }),
    );
    const seconds = (performance.now() - started) / 1_000;
    for (const answer of answers) {
      metrics.request(outcomeOf(answer));
      metrics.latency(seconds);
    }
    const failures = answers.flatMap((answer) => (answer.kind === 'failed' ? [failureCodes[answer.reason]] : []));
    if (failures.length === answers.length) return jsonError(context, failures[0] as ErrorCode, undefined, retryAfter);
    return context.json({ timestamps: answers.map(resultOf) });
  });
  app.all('/v1/timestamps', (context) => jsonError(context, 'METHOD_NOT_ALLOWED', undefined, { Allow: 'POST' }));
  return app;
};
