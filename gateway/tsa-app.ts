/**
 * POST /tsa: the Time-Stamp Protocol over HTTP (RFC 3161, section 3.4). Every answer of the protocol, granted or refused,
 * is HTTP 200 with a TimeStampResp; only what is no TSP request at all, and overload, is an HTTP error.
 */
import { Hono } from 'hono';
import { parseTimeStampReq } from '../pki/tsp-request.ts';
import { refusalResponse } from '../pki/tsp-refusal.ts';
import { basicChallenge, type GatewayContext, type GatewayEnv, hasMediaType, headerOf, readBody, retryAfter, textError } from './http-request.ts';
import type { Stamping } from './stamping.ts';

const query = 'application/timestamp-query';
const replyType = { 'Content-Type': 'application/timestamp-reply' };

/** Overload is an HTTP error with a protocol answer as its body, for clients that read only one of the two. */
const busy = (context: GatewayContext): Response =>
  context.body(refusalResponse('systemFailure') as Uint8Array<ArrayBuffer>, 503, { ...replyType, ...retryAfter });

export const createTsaApp = (stamping: Stamping, bodyBytesMax: number): Hono<GatewayEnv> => {
  const { metrics } = stamping;
  const app = new Hono<GatewayEnv>();
  app.post('/tsa', async function timestampQuery(context) {
    if (!hasMediaType(context, query)) {
      metrics.request('http');
      return textError(context, 'MEDIA_TYPE_UNSUPPORTED', { Accept: query });
    }
    const client = stamping.identify(headerOf(context, 'authorization'));
    if (client === undefined) {
      metrics.request('unauthenticated');
      return textError(context, 'UNAUTHENTICATED', basicChallenge);
    }
    const body = await readBody(context, bodyBytesMax);
    if (body.kind !== 'body') {
      metrics.request(body.kind === 'tooLarge' ? 'http' : 'disconnected');
      // The rest of an over-long body is not read: the connection cannot be used again.
      return body.kind === 'tooLarge' ? textError(context, 'BODY_TOO_LARGE', { Connection: 'close' }) : textError(context, 'BODY_INCOMPLETE');
    }
    const parsed = parseTimeStampReq(body.bytes);
    if (parsed.kind === 'refused') {
      metrics.request(parsed.failInfo);
      return context.body(refusalResponse(parsed.failInfo) as Uint8Array<ArrayBuffer>, 200, replyType);
    }
    const answer = await stamping.stamp(parsed.request, client);
    switch (answer.kind) {
      case 'granted':
        return context.body(answer.response as Uint8Array<ArrayBuffer>, 200, replyType);
      case 'refused':
        return context.body(refusalResponse(answer.failInfo) as Uint8Array<ArrayBuffer>, 200, replyType);
      case 'failed':
        return busy(context);
    }
  });
  app.all('/tsa', (context) => textError(context, 'METHOD_NOT_ALLOWED', { Allow: 'POST' }));
  return app;
};
