/** Serves the operations app on its address, with bounds of its own so that a stuck scraper costs nothing. */
import { once } from 'node:events';
import type { Server } from 'node:http';
import { createAdaptorServer } from '@hono/node-server';
import { SigilloError } from '../config/errors.ts';
import type { Config } from '../config/schema.ts';
import { createOpsApp, type OpsSources } from '../observability/ops-app.ts';

/** Probes and scrapers are few; a connection beyond this is a mistake of someone. */
const connectionsMax = 256;
const requestTimeoutMs = 10_000;

export interface OpsServer {
  close(): Promise<void>;
}

/** Starts the operations address. @throws PORT_IN_USE */
export const serveOps = async (config: Config['ops'], sources: OpsSources): Promise<OpsServer> => {
  const server = createAdaptorServer({
    fetch: createOpsApp(sources).fetch,
    serverOptions: { requestTimeout: requestTimeoutMs, headersTimeout: requestTimeoutMs, keepAliveTimeout: requestTimeoutMs },
  }) as Server;
  server.maxConnections = connectionsMax;
  server.listen(config.port, config.host);
  try {
    await once(server, 'listening');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'EADDRINUSE') throw new SigilloError('PORT_IN_USE', `${config.host}:${config.port} (operations)`, { cause });
    throw new SigilloError('CONFIG_INVALID', `ops.host, ops.port: cannot listen on ${config.host}:${config.port} (${code})`, { cause });
  }
  return {
    async close() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
};
