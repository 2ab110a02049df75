/**
 * The public HTTP server: /tsa in front of the Hono apps, slow and many clients, and an end at which every request that was begun is
 * answered, and every answer sent as far as its reader takes it.
 */
import { once } from 'node:events';
import { createServer, type RequestListener, type Server, type ServerResponse } from 'node:http';
import { Server as NetServer, type Socket } from 'node:net';
import { getRequestListener, RequestError } from '@hono/node-server';
import type { Hono } from 'hono';
import { type ErrorCode, errorCatalogue, SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import { awaitContinue } from './expect-continue.ts';
import { errorLine } from './http-refusals.ts';
import { tsaPath } from './tsa-listener.ts';

export interface PublicServer {
  /** Begins to serve. @throws PORT_IN_USE, CONFIG_INVALID */
  listen(): Promise<void>;
  /** Connections that are open. */
  connections(): Promise<number>;
  /** Stops accepting, lets every request that was begun finish and every answer be read, then closes all connections. */
  close(): Promise<void>;
}

export interface PublicServerParts {
  readonly config: Config['public'];
  /** What a stamp may take; a connection on which nothing happens for longer is given up. */
  readonly deadlineMs: number;
  /** What the end of the process may take. */
  readonly shutdownMs: number;
  readonly tsa: RequestListener;
  /** Everything else. */
  readonly app: Hono;
  /** Called for each connection that found no room. */
  onDrop(): void;
  /** Called for what the apps threw and did not catch. */
  onDefect(error: unknown): void;
  /** @defaultValue a while longer than a stamp, a search in the archive (30 s) and the life of an idle connection */
  readonly inactivityMs?: number;
}

/** A little more than the 60 s for which load balancers keep idle connections, so that it is they who close them. */
const keepAliveMs = 65_000;

/** What stays wrong until somebody edits the configuration or the host; a resolver that is away (EAI_AGAIN) comes back. */
const addressErrors: ReadonlySet<string | undefined> = new Set(['EADDRNOTAVAIL', 'ENOTFOUND', 'EACCES', 'EAFNOSUPPORT', 'EINVAL']);

const listeningError = ({ host, port }: Config['public'], cause: NodeJS.ErrnoException): Error => {
  if (cause.code === 'EADDRINUSE') return new SigilloError('PORT_IN_USE', `${host}:${port}`, { cause });
  if (!addressErrors.has(cause.code)) return cause;
  return new SigilloError('CONFIG_INVALID', `public.host, public.port: cannot listen on ${host}:${port} (${cause.code})`, { cause });
};

/** Path of a request target, which may also be a whole URL (RFC 9112, 3.2.2). */
const isTsa = (target = ''): boolean => {
  const path = target.startsWith('/') ? target : target.replace(/^https?:\/\/[^/?#]*/i, '');
  return path === tsaPath || path.startsWith(`${tsaPath}?`);
};

const textResponse = (code: ErrorCode): Response =>
  new Response(errorLine(code), { status: errorCatalogue[code].httpStatus, headers: { 'Content-Type': 'text/plain; charset=utf-8' } });

const appListener = ({ app, onDefect }: Pick<PublicServerParts, 'app' | 'onDefect'>): RequestListener =>
  getRequestListener(app.fetch, {
    // HTTP/1.0 need not name a host, and nothing here depends on it; without one in HTTP/1.1, node:http has refused.
    hostname: 'localhost',
    errorHandler(error) {
      if (error instanceof RequestError) return textResponse('REQUEST_MALFORMED');
      onDefect(error);
      return textResponse('INTERNAL');
    },
  });

/** The answer that came last on a connection: the one that is being made or sent, if any is. */
const lastResponse = Symbol('last response');
type TaggedSocket = Socket & { [lastResponse]?: ServerResponse };

/** Not here whole, or made and not taken by its reader. */
const isStuck = ({ req, writableEnded, writableFinished }: ServerResponse): boolean =>
  !req.complete || (writableEnded && !writableFinished);

const createHttpServer = ({ config, deadlineMs, inactivityMs = Math.max(keepAliveMs, deadlineMs) + 5_000 }: PublicServerParts): Server => {
  const timeouts = { requestTimeout: config.requestTimeoutMs, headersTimeout: config.requestTimeoutMs, keepAliveTimeout: keepAliveMs };
  // Node looks for slow clients every 30 s by default, which would make every shorter timeout one of 30 s.
  const http = createServer({ ...timeouts, connectionsCheckingInterval: Math.ceil(config.requestTimeoutMs / 4), noDelay: true });
  http.maxConnections = config.connectionsMax;
  // Whoever reads no answer has sent requests in time: without this bound he would keep connection and answers for ever.
  http.timeout = inactivityMs;
  // A client may close its half behind its request (RFC 9112, 9.6) and gets the answer; its connection ends with that. The types lack it.
  (http as Server & { httpAllowHalfOpen: boolean }).httpAllowHalfOpen = true;
  return http;
};

/** Makes the server; it serves when it listens. */
export const createPublicServer = (parts: PublicServerParts): PublicServer => {
  const { config, tsa, deadlineMs, shutdownMs } = parts;
  const others = appListener(parts);
  const http = createHttpServer(parts);
  let stopping = false;
  let open = 0;
  const sockets = new Set<TaggedSocket>();
  let whenIdle: (() => void) | undefined;
  http.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  http.on('drop', parts.onDrop);
  const serve: RequestListener = (request, response) => {
    open += 1;
    // Not a set of requests: with 20,000 refusals a second that made the gateway's memory grow from 280 to 450 MB.
    (request.socket as TaggedSocket)[lastResponse] = response;
    response.on('close', () => {
      open -= 1;
      if (open === 0) whenIdle?.();
    });
    // A client that keeps its connection alive learns with its last answer that this gateway is going.
    if (stopping) response.setHeader('Connection', 'close');
    if (isTsa(request.url)) tsa(request, response);
    else others(request, response);
  };
  http.on('request', serve);
  http.on('checkContinue', (request, response) => {
    awaitContinue(response);
    serve(request, response);
  });

  /** Tells clients with a request at work that it is their last, and closes the connections that have had one and have none. */
  const announceEnd = (): void => {
    for (const socket of sockets) {
      const response = socket[lastResponse];
      if (response?.writableFinished === true) socket.destroy();
      else if (response?.headersSent === false) response.setHeader('Connection', 'close');
    }
  };

  /** Resolves when every request is answered, and every answer sent. */
  const finishOpen = async (): Promise<void> => {
    const closeStuck = (): void => {
      for (const socket of sockets) if (socket[lastResponse] !== undefined && isStuck(socket[lastResponse])) socket.destroy();
    };
    // What is not here deadlineMs before the end could not be answered in it.
    const patienceMs = Math.min(config.requestTimeoutMs, shutdownMs - deadlineMs);
    let again: NodeJS.Timeout | undefined;
    const unfinished = setTimeout(() => {
      closeStuck();
      // Again for answers that are made from now on, to requests that were at work.
      again = setInterval(closeStuck, Math.ceil(patienceMs / 4));
    }, patienceMs);
    await new Promise<void>((resolve) => {
      whenIdle = resolve;
    });
    clearTimeout(unfinished);
    clearInterval(again);
  };

  return {
    async listen() {
      http.listen(config.port, config.host);
      try {
        await once(http, 'listening');
      } catch (cause) {
        throw listeningError(config, cause as NodeJS.ErrnoException);
      }
    },
    connections: () => new Promise((resolve) => http.getConnections((error, count) => resolve(error === null ? count : 0))),
    async close() {
      stopping = true;
      // Not http.close(): that destroys each connection whose answer is made, also while octets of it still wait to be sent.
      const closed = new Promise<void>((resolve) => NetServer.prototype.close.call(http, () => resolve()));
      announceEnd();
      if (open > 0) await finishOpen();
      // What is open now is idle, or has not sent a whole request head: nothing of it was accepted.
      http.closeAllConnections();
      // Ends what looks for slow clients.
      http.close();
      await closed;
    },
  };
};
