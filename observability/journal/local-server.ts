/**
 * Lets other processes of this machine read the embedded ClickHouse, which one process alone can open: the part of ClickHouse's HTTP
 * interface that its client uses to ask, on a unix socket in the home folder. Nothing can be written through it.
 */
import { chmodSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { pipeline } from 'node:stream/promises';
import type { ClickHouseClient } from '@clickhouse/client';

/** Queries are a few hundred octets. */
const queryOctetsMax = 64 * 1024;
/** The engine has two cores and the writer needs them too. */
const queriesMax = 8;
const parameterPrefix = 'param_';

/** What a session of readers may do: change settings for itself, and nothing else; no query takes all of the memory or the time. */
const readerSettings = ['SET max_memory_usage = 1000000000', 'SET max_execution_time = 60', 'SET max_threads = 2', 'SET readonly = 2'];

/** One question. `readonly` alone would let a query write files (INSERT INTO FUNCTION file, INTO OUTFILE). */
const isQuestion = (query: string): boolean => /^\s*SELECT\b/i.test(query) && !/;|\bINTO\s+OUTFILE\b/i.test(query);

const readBody = async (request: IncomingMessage): Promise<string | undefined> => {
  const chunks: Buffer[] = [];
  let octets = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    octets += chunk.length;
    if (octets > queryOctetsMax) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
};

/** The client escapes text for the server it believes to speak to; the embedded client will do it again. */
const unescaped = (value: string): string =>
  value.replace(/\\(.)/gs, (_, character: string) => ({ t: '\t', n: '\n', r: '\r' })[character] ?? character);

const parametersOf = (search: URLSearchParams): Record<string, string> =>
  Object.fromEntries(
    [...search]
      .filter(([name]) => name.startsWith(parameterPrefix))
      .map(([name, value]) => [name.slice(parameterPrefix.length), unescaped(value)]),
  );

const refuse = (response: ServerResponse, status: number, message: string): void => {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' }).end(message);
};

export interface LocalServer {
  close(): Promise<void>;
}

/**
 * @param socket path; one that a killed process left is replaced
 * @param client a client of its own, whose session becomes one that can only read; it stays the caller's
 * @throws when the socket cannot be made
 */
export const serveLocally = async (socket: string, client: ClickHouseClient): Promise<LocalServer> => {
  for (const query of readerSettings) await client.command({ query });
  let asked = 0;

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const query = await readBody(request);
    if (query === undefined) return refuse(response, 413, `at most ${queryOctetsMax} octets`);
    if (!isQuestion(query)) return refuse(response, 403, 'READONLY: one SELECT is all that can be asked here\n');
    const search = new URL(request.url ?? '/', 'http://localhost').searchParams;
    const parameters = parametersOf(search);
    try {
      const result = await client.exec({ query, ...(Object.keys(parameters).length === 0 ? {} : { query_params: parameters }) });
      response.writeHead(200, { 'Content-Type': 'application/octet-stream' });
      await pipeline(result.stream, response);
    } catch (error) {
      const { message } = ((error as Error).cause ?? error) as Error;
      if (response.headersSent) response.destroy();
      else refuse(response, 500, message);
    }
  };

  const server: Server = createServer((request, response) => {
    if (request.method !== 'POST') return refuse(response, request.url === '/ping' ? 200 : 405, 'Ok.\n');
    if (asked >= queriesMax) return refuse(response, 503, `${queriesMax} queries are under way\n`);
    asked += 1;
    answer(request, response)
      .catch(() => response.destroy()) // the asker went away
      .finally(() => {
        asked -= 1;
      });
    return undefined;
  });
  rmSync(socket, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socket, () => resolve());
  });
  chmodSync(socket, 0o600);
  return {
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
};
