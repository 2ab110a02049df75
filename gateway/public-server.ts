/** The public HTTP server: /tsa in front of the Hono apps, slow and many clients, and an end at which every request that was begun is answered. */
import { createServer, type IncomingMessage, type RequestListener } from 'node:http';
import type { Socket } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import type { Hono } from 'hono';
import { SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import { tsaPath } from './tsa-listener.ts';

export interface PublicServer {
  /** Begins to serve. @throws PORT_IN_USE */
  listen(): Promise<void>;
  /** Connections that are open. */
  connections(): Promise<number>;
  /** Stops accepting, lets every request that was begun finish, then closes all connections. */
  close(): Promise<void>;
}

export interface PublicServerParts {
  readonly config: Config['public'];
  readonly tsa: RequestListener;
  /** Everything else. */
  readonly app: Hono;
}

/** Path of a request target, which may also be a whole URL (RFC 9112, 3.2.2). */
const isTsa = (target = ''): boolean => {
  const path = target.startsWith('/') ? target : target.replace(/^https?:\/\/[^/?#]*/i, '');
  return path === tsaPath || path.startsWith(`${tsaPath}?`);
};

/** The request that came last on a connection: the one that is being answered, if any is. */
const lastRequest = Symbol('last request');
type TaggedSocket = Socket & { [lastRequest]?: IncomingMessage };

/** Makes the server; it serves when it listens. */
export const createPublicServer = ({ config, tsa, app }: PublicServerParts): PublicServer => {
  const others = getRequestListener(app.fetch);
  let stopping = false;
  let open = 0;
  const sockets = new Set<TaggedSocket>();
  let whenIdle: (() => void) | undefined;
  const timeouts = { requestTimeout: config.requestTimeoutMs, headersTimeout: config.requestTimeoutMs, keepAliveTimeout: 65_000 };
  // Node looks for slow clients every 30 s by default, which would make every shorter timeout one of 30 s.
  const http = createServer({ ...timeouts, connectionsCheckingInterval: Math.ceil(config.requestTimeoutMs / 4), noDelay: true });
  http.maxConnections = config.connectionsMax;
  http.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  http.on('request', (request, response) => {
    open += 1;
    // Not a set of requests: with 20,000 refusals a second that made the gateway's memory grow from 280 to 450 MB.
    (request.socket as TaggedSocket)[lastRequest] = request;
    response.on('close', () => {
      open -= 1;
      if (open === 0) whenIdle?.();
    });
    // A client that keeps its connection alive learns with its last answer that this gateway is going.
    if (stopping) response.setHeader('Connection', 'close');
    if (isTsa(request.url)) tsa(request, response);
    else others(request, response);
  });
  return {
    listen: () =>
      new Promise((resolve, reject) => {
        const { host, port } = config;
        http.once('error', (cause: NodeJS.ErrnoException) =>
          reject(cause.code === 'EADDRINUSE' ? new SigilloError('PORT_IN_USE', `${host}:${port}`, { cause }) : cause),
        );
        http.listen(port, host, () => resolve());
      }),
    connections: () => new Promise((resolve) => http.getConnections((error, count) => resolve(error === null ? count : 0))),
    async close() {
      stopping = true;
      const closed = new Promise<void>((resolve) => http.close(() => resolve()));
      if (open > 0) {
        // A server that is closed looks for slow clients no more (Node clears its interval): what is not here by then never will be.
        const unfinished = setTimeout(() => {
          for (const socket of sockets) if (socket[lastRequest]?.complete === false) socket.destroy();
        }, config.requestTimeoutMs);
        await new Promise<void>((resolve) => {
          whenIdle = resolve;
        });
        clearTimeout(unfinished);
      }
      // What is open now is idle, or has not sent a whole request head: nothing of it was accepted.
      http.closeAllConnections();
      await closed;
    },
  };
};
