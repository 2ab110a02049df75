/** The public server in front of handlers that a test gives, and clients that send octet by octet and read when they are told to. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { RequestListener } from 'node:http';
import { connect, type Socket } from 'node:net';
import { afterEach } from 'node:test';
import { Hono } from 'hono';
import { parseConfig } from '../../config/load.ts';
import { createPublicServer, type PublicServer, type PublicServerParts } from '../../gateway/public-server.ts';
import { freePort } from './service.ts';

export interface RawClient {
  readonly socket: Socket;
  received(): string;
  closed(): boolean;
}

export interface PublicServerWorld {
  /** Of the test that runs. */
  readonly port: number;
  /** Connections that found no room. */
  readonly dropped: number;
  /** Makes a server; it is closed with the test. */
  make(parts?: Partial<Omit<PublicServerParts, 'config'>>, config?: Record<string, unknown>): Promise<PublicServer>;
  /** Makes it and lets it listen. */
  serve(parts?: Partial<Omit<PublicServerParts, 'config'>>, config?: Record<string, unknown>): Promise<PublicServer>;
  /** A client that reads everything; with `reads: false` nothing until its socket is resumed. */
  open(options?: { readonly reads: boolean }): Promise<RawClient>;
}

const refuseAll: RequestListener = (_, response) => {
  response.writeHead(500).end();
};

/** For the tests of a file. */
export const publicServerWorld = (): PublicServerWorld => {
  const servers = new Set<PublicServer>();
  let port: number;
  let dropped: number;
  const sockets = new Set<Socket>();

  afterEach(async () => {
    for (const socket of sockets) socket.destroy();
    sockets.clear();
    for (const server of servers) await server.close();
    servers.clear();
  });

  const make: PublicServerWorld['make'] = async (parts = {}, config = {}) => {
    port = await freePort();
    dropped = 0;
    const whole = parseConfig({ public: { port, ...config } });
    const onDrop = (): void => {
      dropped += 1;
    };
    const server = createPublicServer({
      tsa: refuseAll,
      app: new Hono(),
      deadlineMs: 5_000,
      shutdownMs: 15_000,
      onDrop,
      onDefect: assert.ifError,
      ...parts,
      config: whole.public,
    });
    servers.add(server);
    return server;
  };

  return {
    get port() {
      return port;
    },
    get dropped() {
      return dropped;
    },
    make,
    async serve(parts, config) {
      const made = await make(parts, config);
      await made.listen();
      return made;
    },
    async open({ reads } = { reads: true }) {
      // The server's end of a half-closed connection is what the tests look at, so this end is kept open.
      const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
      sockets.add(socket);
      const parts: Buffer[] = [];
      let closed = false;
      if (!reads) socket.pause();
      socket.on('data', (data: Buffer) => parts.push(data));
      socket.on('error', () => undefined); // a reset counts as closed
      for (const event of ['end', 'close'])
        socket.on(event, () => {
          closed = true;
        });
      await once(socket, 'connect');
      return { socket, received: () => Buffer.concat(parts).toString('latin1'), closed: () => closed };
    },
  };
};
