/** What the Hono apps of the gateway need from a request: its media type, a bounded body of JSON, and refusals as text or JSON. */
import { ServerResponse } from 'node:http';
import type { HttpBindings } from '@hono/node-server';
import type { Context, MiddlewareHandler } from 'hono';
import type { z } from 'zod';
import { type ErrorCode, errorCatalogue } from '../config/errors.ts';
import { letContinue } from './expect-continue.ts';
import { errorLine, isMediaType } from './http-refusals.ts';
import type { OctetBudget } from './octet-budget.ts';

/** A test asks the app without a connection. */
const bindingsOf = (context: Context): Partial<HttpBindings> => context.env ?? {};

/** Address of the other end of the connection, which may be a proxy's: what a header says of it, anybody can write. */
export const remoteAddress = (context: Context): string | undefined => bindingsOf(context).incoming?.socket.remoteAddress;

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

export type JsonBody =
  | { readonly kind: 'json'; readonly value: unknown }
  | { readonly kind: 'refused'; readonly code: 'BODY_TOO_LARGE' | 'BODY_INCOMPLETE' | 'REQUEST_INVALID' | 'OVERLOADED' };

const tooLarge: JsonBody = { kind: 'refused', code: 'BODY_TOO_LARGE' };
const incomplete: JsonBody = { kind: 'refused', code: 'BODY_INCOMPLETE' };
const noJson: JsonBody = { kind: 'refused', code: 'REQUEST_INVALID' };
const noRoom: JsonBody = { kind: 'refused', code: 'OVERLOADED' };

const parseJson = (body: Uint8Array): JsonBody => {
  try {
    return { kind: 'json', value: JSON.parse(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString('utf8')) };
  } catch {
    return noJson;
  }
};

/** @returns undefined when there is more than `octetsMax` of it */
const readStream = async (stream: ReadableStream<Uint8Array>, octetsMax: number): Promise<Uint8Array | undefined> => {
  const chunks: Uint8Array[] = [];
  let octets = 0;
  for await (const chunk of stream) {
    octets += chunk.length;
    if (octets > octetsMax) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
};

const readBody = async (context: Context, announced: string | undefined, octetsMax: number): Promise<Uint8Array | undefined> => {
  const { outgoing } = bindingsOf(context);
  if (outgoing instanceof ServerResponse) letContinue(outgoing);
  // node:http holds the sender to the announced length, so it bounds what is read.
  if (announced !== undefined) return new Uint8Array(await context.req.arrayBuffer());
  const stream = context.req.raw.body;
  return stream === null ? new Uint8Array() : readStream(stream, octetsMax);
};

/**
 * Reads the body, never more than `octetsMax` of it, and only while `bodies` has room for it.
 * @param bodies is held from before the first octet until the text is no longer needed
 */
export const readJson = async (context: Context, octetsMax: number, bodies: OctetBudget): Promise<JsonBody> => {
  const announced = context.req.header('content-length');
  if (Number(announced) > octetsMax) return tooLarge;
  // Nobody knows how long a body in chunks will be.
  const octets = announced === undefined ? octetsMax : Number(announced);
  if (!bodies.take(octets)) return noRoom;
  try {
    const body = await readBody(context, announced, octetsMax);
    return body === undefined ? tooLarge : parseJson(body);
  } catch {
    // The connection broke, or the time for the request ran out: node:http has the details, the client is gone.
    return incomplete;
  } finally {
    bodies.give(octets);
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
