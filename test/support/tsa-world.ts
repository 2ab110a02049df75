/** POST /tsa on a server of its own, in front of a lane that a test scripts; and clients that send whole requests, or octet by octet. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, request as httpRequest, type IncomingHttpHeaders, type Server, type ServerOptions } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { after, afterEach, before } from 'node:test';
import { createTsaListener, tsaPath } from '../../gateway/tsa-listener.ts';
import { refusalResponse } from '../../pki/tsp-refusal.ts';
import type { FailInfo } from '../../pki/tsp-request.ts';
import { type OpenConnection, openConnection } from './open-connection.ts';
import { makeHierarchy, makeSoftwareTsu, type SoftwareTsu } from './software-tsu.ts';
import { createStampingBench, type StampingBench, type StampingBenchOptions } from './stamping-bench.ts';
import { TestPki } from './timestamp-fixtures.ts';

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
export const query = { 'Content-Type': 'application/timestamp-query' };
export const bodyBytesMax = 8_192;

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

interface SendOptions {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly path?: string;
  /** Sent piece by piece, without Content-Length. */
  readonly chunks?: readonly Uint8Array[];
}

/** A connection on which a test writes octets itself. */
export interface TsaWorld {
  readonly tsu: SoftwareTsu;
  /** Of the server that runs. */
  readonly bench: StampingBench;
  /** Starts the server of a test. */
  serve(options?: StampingBenchOptions, http?: ServerOptions): Promise<void>;
  send(body: Uint8Array, options?: SendOptions): Promise<Answer>;
  open(): Promise<OpenConnection>;
  /** Connections that the server has. */
  connections(): Promise<number>;
}

/** For the tests of a file. */
export const tsaWorld = (): TsaWorld => {
  let pki: TestPki;
  let tsu: SoftwareTsu;
  before(() => {
    pki = new TestPki();
    tsu = makeSoftwareTsu(pki, makeHierarchy(pki), 'ec-p256');
  });
  after(() => pki.close());

  let bench: StampingBench;
  let server: Server;
  let port: number;
  const sockets = new Set<Socket>();

  const serve = async (options: StampingBenchOptions = {}, http: ServerOptions = {}): Promise<void> => {
    bench = createStampingBench(tsu, options);
    server = createServer(http, createTsaListener(bench.stamping, bodyBytesMax));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    port = (server.address() as AddressInfo).port;
  };
  afterEach(async () => {
    for (const socket of sockets) socket.destroy();
    sockets.clear();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });

  const send = (body: Uint8Array, { method = 'POST', headers = query, path = tsaPath, chunks }: SendOptions = {}): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const length = chunks === undefined && method === 'POST' ? { 'Content-Length': String(body.length) } : {};
      const sent = httpRequest({ port, method, path, agent: false, headers: { ...length, ...headers } }, (response) => {
        const parts: Buffer[] = [];
        response.on('data', (part: Buffer) => parts.push(part));
        response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(parts) }));
        response.on('error', reject);
      });
      sent.on('error', reject);
      for (const chunk of chunks ?? []) sent.write(chunk);
      sent.end(chunks === undefined && method === 'POST' ? body : undefined);
    });

  const open = (): Promise<OpenConnection> => openConnection(port, sockets);

  return {
    get tsu() {
      return tsu;
    },
    get bench() {
      return bench;
    },
    serve,
    send,
    open,
    connections: () => new Promise((resolve) => server.getConnections((_, count) => resolve(count))),
  };
};

/** The head of a request, as it stands on the line. */
export const head = (headers: Readonly<Record<string, string | number>>, line = `POST ${tsaPath} HTTP/1.1`): string =>
  `${[line, 'Host: x', ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`)].join('\r\n')}\r\n\r\n`;
/** A refusal of HTTP, told in one line. */
export const assertLine = ({ status, headers, body }: Answer, expectedStatus: number, code: string): void => {
  assert.equal(status, expectedStatus);
  assert.match(headers['content-type'] ?? '', /^text\/plain/);
  assert.match(body.toString(), new RegExp(`^${code}: [^\\n\\r]+\\n$`), 'one line');
};
/** A refusal of the protocol. */
export const assertRefused = ({ status, headers, body }: Answer, failInfo: FailInfo): void => {
  assert.equal(status, 200);
  assert.equal(headers['content-type'], 'application/timestamp-reply');
  assert.equal(headers['content-length'], String(body.length));
  assert.equal(hex(body), hex(refusalResponse(failInfo)));
};
