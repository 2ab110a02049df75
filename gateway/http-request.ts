/** What the Hono apps of the gateway need from a request: its media type, a bounded body, and refusals as text or JSON. */
import type { HttpBindings } from '@hono/node-server';
import type { Context, MiddlewareHandler } from 'hono';
import type { z } from 'zod';
import { type ErrorCode, errorCatalogue } from '../config/errors.ts';
import { errorLine, isMediaType } from './http-refusals.ts';

/** Address of the other end of the connection, which may be a proxy's: what a header says of it, anybody can write. */
export const remoteAddress = (context: Context): string | undefined =>
  // A test asks the app without a connection.
  (context.env as Partial<HttpBindings> | undefined)?.incoming?.socket.remoteAddress;

/** True when nobody is left to answer. */
export const isDisconnected = (context: Context): boolean =>
  (context.env as Partial<HttpBindings> | undefined)?.outgoing?.destroyed ?? false;

/** Middleware: what does not say itself how long it holds is kept by no cache; a 404 would be, and be wrong a second later. */
export const noStoreByDefault: MiddlewareHandler = async function noStore(context, next) {
  await next();
  if (!context.res.headers.has('Cache-Control')) context.header('Cache-Control', 'no-store');
};

/** What is wrong with a request, for its sender: the first field that is, and why. */
export const describeIssue = (error: z.ZodError): string => {
  const [issue] = error.issues;
  return issue === undefined ? '' : `${issue.path.join('.') || '(top level)'}: ${issue.message}`;
};

export const hasMediaType = (context: Context, mediaType: string): boolean => isMediaType(context.req.header('content-type'), mediaType);

export type Body = { readonly kind: 'body'; readonly bytes: Uint8Array } | { readonly kind: 'tooLarge' } | { readonly kind: 'incomplete' };

const tooLarge: Body = { kind: 'tooLarge' };
const incomplete: Body = { kind: 'incomplete' };

const readStream = async (stream: ReadableStream<Uint8Array>, octetsMax: number): Promise<Body> => {
  const chunks: Uint8Array[] = [];
  let octets = 0;
  for await (const chunk of stream) {
    octets += chunk.length;
    if (octets > octetsMax) return tooLarge;
    chunks.push(chunk);
  }
  return { kind: 'body', bytes: Buffer.concat(chunks) };
};

/** Reads the body, never more than `octetsMax` of it. */
export const readBody = async (context: Context, octetsMax: number): Promise<Body> => {
  const announced = context.req.header('content-length');
  try {
    if (announced === undefined) {
      const stream = context.req.raw.body;
      return stream === null ? { kind: 'body', bytes: new Uint8Array() } : await readStream(stream, octetsMax);
    }
    // node:http holds the sender to the announced length, so it bounds what is read.
    if (Number(announced) > octetsMax) return tooLarge;
    return { kind: 'body', bytes: new Uint8Array(await context.req.arrayBuffer()) };
  } catch {
    // The connection broke, or the time for the request ran out: node:http has the details, the client is gone.
    return incomplete;
  }
};

/** A refusal as one line of text. */
export const textError = (context: Context, code: ErrorCode, headers: Record<string, string> = {}): Response => {
  const headersSent = { 'Content-Type': 'text/plain; charset=utf-8', ...headers };
  return context.body(errorLine(code), errorCatalogue[code].httpStatus as 400, headersSent);
};

/** A refusal of a JSON protocol. */
export const jsonError = (context: Context, code: ErrorCode, detail?: string, headers: Record<string, string> = {}): Response => {
  const { httpStatus, meaning } = errorCatalogue[code];
  return context.json({ error: code, message: detail === undefined ? meaning : `${meaning} ${detail}` }, httpStatus as 400, headers);
};
