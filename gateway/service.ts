/**
 * The gateway: the public HTTP address. It holds no key and no state that matters; with Redis away it refuses at once,
 * and on SIGTERM it answers what it has accepted before it goes.
 */
import { randomBytes } from 'node:crypto';
import { createServer, type RequestListener, type Server } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { getRequestListener } from '@hono/node-server';
import { Hono } from 'hono';
import { SigilloError } from '../config/errors.ts';
import { homePaths } from '../config/home.ts';
import type { Config } from '../config/schema.ts';
import { createGatewayMetrics } from '../observability/gateway-metrics.ts';
import type { Logger } from '../observability/log.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import { LaneRequester } from '../queue/lane-requester.ts';
import { connectRedis, type RedisClient } from '../queue/redis.ts';
import { type ClientAccess, createClientAccess } from './client-access.ts';
import { jsonError, textError } from './http-request.ts';
import { createPublishedCertificates, readRoots } from './published-certificates.ts';
import { createRepositoryApp } from './repository-app.ts';
import { createStamping } from './stamping.ts';
import { createTimestampsApp } from './timestamps-app.ts';
import { createTsaListener, tsaPath } from './tsa-listener.ts';

export interface GatewayService {
  metrics(): Promise<unknown>;
  health(): Promise<readonly HealthItem[]>;
  stop(): Promise<void>;
}

/** The protocols of the gateway, one app each; /tsa stands in front of them. */
const createPublicApp = (apps: readonly Hono[], log: Logger): Hono => {
  const app = new Hono();
  for (const part of apps) app.route('/', part);
  app.notFound((context) => textError(context, 'NOT_FOUND'));
  app.onError((error, context) => {
    log.error({ err: error, path: context.req.path }, 'gateway: defect');
    return jsonError(context, 'INTERNAL');
  });
  return app;
};

const listen = (server: Server, { host, port }: Config['public']): Promise<void> =>
  new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) =>
      reject(cause.code === 'EADDRINUSE' ? new SigilloError('PORT_IN_USE', `${host}:${port}`, { cause }) : cause),
    );
    server.listen(port, host, () => resolve());
  });

const connectionsOf = (server: Server): Promise<number> =>
  new Promise((resolve) => server.getConnections((error, count) => resolve(error === null ? count : 0)));

const createHttpServer = (config: Config['public'], tsa: RequestListener, app: Hono, isStopping: () => boolean): Server => {
  const others = getRequestListener(app.fetch);
  const server = createServer(
    { requestTimeout: config.requestTimeoutMs, headersTimeout: config.requestTimeoutMs, keepAliveTimeout: 65_000, noDelay: true },
    (request, response) => {
      // A client that keeps its connection alive learns with its last answer that this gateway is going.
      if (isStopping()) response.setHeader('Connection', 'close');
      if (request.url === tsaPath || request.url?.startsWith(`${tsaPath}?`)) tsa(request, response);
      else others(request, response);
    },
  );
  server.maxConnections = config.connectionsMax;
  return server;
};

/** Stops accepting, lets every request on an open connection finish, then closes. */
const closeServer = async (server: Server, lane: LaneRequester): Promise<void> => {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  await lane.drained();
  let done = false;
  void closed.then(() => {
    done = true;
  });
  while (!done) {
    server.closeIdleConnections();
    await delay(10);
  }
};

const healthOf = async (
  config: Config,
  command: RedisClient,
  lane: LaneRequester,
  access: ClientAccess | undefined,
): Promise<HealthItem[]> => {
  const items: HealthItem[] = [{ name: 'redis', ok: command.status === 'ready', detail: command.status }];
  const living = await lane.livingSigners(config.signer.deadAfterMs).catch(() => undefined);
  items.push({
    name: 'signers',
    ok: living !== undefined && living > 0,
    detail: living === undefined ? 'not known: Redis does not answer' : `${living} reading the timestamp lane`,
  });
  if (access !== undefined) {
    const { state, clients } = access.health();
    items.push({ name: 'clients', ok: state !== 'loading', detail: `${clients} clients, ${state}` });
  }
  return items;
};

/** Starts a gateway. It serves before Redis is there, and refuses until it is. @throws PORT_IN_USE, CONFIG_UNREADABLE, CERTIFICATE_INVALID */
export const startGateway = async (config: Config, log: Logger): Promise<GatewayService> => {
  const roots = readRoots(config.trust.rootsFile ?? homePaths(config.home).rootCertificate);
  const connect = (name: string, role: 'command' | 'blocking'): RedisClient => {
    const client = connectRedis(config, name, role);
    let last = '';
    client.on('error', (error: Error) => {
      if (error.message !== last) log.warn({ connection: name, reason: error.message }, 'redis: connection error');
      last = error.message;
    });
    return client;
  };
  const command = connect('gateway', 'command');
  const blocking = connect('gateway-reader', 'blocking');
  const { timestamp } = config;

  let stopping = false;
  let server: Server | undefined;
  let lane: LaneRequester | undefined;
  const metrics = createGatewayMetrics({
    inFlight: () => lane?.inFlight ?? 0,
    entriesOutstanding: () => lane?.entriesOutstanding ?? 0,
    connections: () => (server === undefined ? Promise.resolve(0) : connectionsOf(server)),
  });
  lane = new LaneRequester({
    command,
    blocking,
    lane: 'timestamp',
    gatewayId: randomBytes(8).toString('hex'),
    inFlightMax: timestamp.inFlightMax,
    entriesOutstandingMax: timestamp.entriesOutstandingMax,
    batchMax: timestamp.batchMax,
    deadlineMs: timestamp.deadlineMs,
    onBatch: metrics.batch,
    onReadError: (error) => log.warn({ err: error }, 'lane: replies cannot be read, trying on'),
  });
  const access = timestamp.access === 'clients' ? createClientAccess({ redis: command, log }) : undefined;
  const certificates = createPublishedCertificates(command, roots);
  const stamping = createStamping({ config: timestamp, lane, metrics, certificates, access });
  const apps = [createTimestampsApp(stamping, timestamp.imprintsMax), createRepositoryApp(certificates)];
  server = createHttpServer(config.public, createTsaListener(stamping, timestamp.bodyBytesMax), createPublicApp(apps, log), () => stopping);
  await listen(server, config.public);
  log.info({ host: config.public.host, port: config.public.port, access: timestamp.access }, 'gateway: listening');
  const requester = lane;
  const http = server;

  return {
    metrics: () => metrics.registry.getMetricsAsJSON(),
    health: () => healthOf(config, command, requester, access),
    async stop() {
      stopping = true;
      await closeServer(http, requester);
      access?.close();
      await requester.close();
      command.disconnect();
      blocking.disconnect();
    },
  };
};
