/**
 * The gateway: the public HTTP address. It holds no key and no state that matters; with Redis away it refuses at once,
 * and on SIGTERM it answers what it has accepted before it goes.
 */
import { randomBytes, type X509Certificate } from 'node:crypto';
import { Hono } from 'hono';
import { homePaths } from '../config/home.ts';
import { release } from '../config/release.ts';
import type { Config } from '../config/schema.ts';
import { logConnection } from '../observability/connection-log.ts';
import { createGatewayMetrics, type GatewayMetrics } from '../observability/gateway-metrics.ts';
import { type JournalRecorder, nodeName } from '../observability/journal/recorder.ts';
import { recordStart, recordStop } from '../observability/journal/service-events.ts';
import { createServiceRecorder } from '../observability/journal/service-recorder.ts';
import { oldestWaitingSeconds, registerWaitingAge } from '../observability/journal/waiting-age.ts';
import type { Logger } from '../observability/log.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import { registerSlotMetrics } from '../observability/slot-metrics.ts';
import { HostClock } from '../queue/host-clock.ts';
import { LaneRequester } from '../queue/lane-requester.ts';
import { connectRedis, type RedisClient, redisHealth } from '../queue/redis.ts';
import { readSlots } from '../queue/slot-status.ts';
import { createAccessGuard } from './access-guard.ts';
import { createArchiveApp } from './archive-app.ts';
import { createAuthenticationRecording } from './authentication-recording.ts';
import { type ClientAccess, createClientAccess } from './client-access.ts';
import { createEntrySearching } from './entry-search.ts';
import { entrySizes } from './entry-sizes.ts';
import { jsonError, textError } from './http-request.ts';
import { createJournalApp } from './journal-app.ts';
import { type JournalBacklog, watchJournalBacklog } from './journal-backlog.ts';
import { createJournalEntriesApp } from './journal-entries-app.ts';
import { configuredStore, createJournalSource } from './journal-source.ts';
import { createPublicServer, type PublicServer } from './public-server.ts';
import { createPublishedCertificates, readRoots } from './published-certificates.ts';
import { createCheckpointSource } from './published-checkpoint.ts';
import { createRefusalRecording } from './refusal-recording.ts';
import { createRepositoryApp } from './repository-app.ts';
import { followSlotCapacities } from './slot-capacities.ts';
import { createStampReading } from './stamp-reading.ts';
import { createStamping } from './stamping.ts';
import { createTimestampsApp } from './timestamps-app.ts';
import { createTsaListener } from './tsa-listener.ts';

export interface GatewayService {
  metrics(): Promise<unknown>;
  health(): Promise<readonly HealthItem[]>;
  /** @param reason for the journal */
  stop(reason: string): Promise<void>;
}

const processName = 'gateway';

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

const healthOf = async (
  config: Config,
  command: RedisClient,
  lane: LaneRequester,
  { access, backlog }: { readonly access: ClientAccess; readonly backlog: JournalBacklog },
): Promise<HealthItem[]> => {
  const redis = await redisHealth(command);
  const living = redis.ok ? await lane.livingSigners(config.signer.deadAfterMs).catch(() => undefined) : undefined;
  const items: HealthItem[] = [redis];
  items.push({
    name: 'signers',
    ok: living !== undefined && living > 0,
    detail: living === undefined ? 'not known: Redis does not answer' : `${living} reading the timestamp lane`,
  });
  items.push(backlog.health());
  // Where anybody may stamp, the register is only for those who read the archive.
  if (config.timestamp.access === 'clients') {
    const { state, clients } = access.health();
    items.push({ name: 'clients', ok: state !== 'loading', detail: `${clients} clients, ${state}` });
  }
  return items;
};

interface PartsNeeded {
  readonly config: Config;
  readonly command: RedisClient;
  readonly recorder: JournalRecorder;
  readonly backlog: JournalBacklog;
  readonly metrics: GatewayMetrics;
  readonly lane: LaneRequester;
  readonly log: Logger;
  readonly roots: readonly X509Certificate[];
}

/** Everything between the server and Redis. */
const createParts = ({ config, command, recorder, backlog, metrics, lane, log, roots }: PartsNeeded) => {
  const { timestamp } = config;
  // Read also where anybody may stamp: there are auditors.
  const access = createClientAccess({ redis: command, log });
  const { inFlightMax, deadlineMs } = timestamp;
  // One for each: who floods it with wrong credentials takes no room from clients whose requests are refused.
  const recording = { recorder, backlog, waitingMax: inFlightMax, deadlineMs };
  const guard = createAccessGuard({ access, failures: createAuthenticationRecording(recording), metrics });
  const certificates = createPublishedCertificates(command, roots);
  const stampingGuard = timestamp.access === 'clients' ? guard : undefined;
  const refusals = createRefusalRecording(recording);
  const stamping = createStamping({ config: timestamp, lane, metrics, certificates, backlog, refusals, guard: stampingGuard });
  const source = createJournalSource(configuredStore(config));
  const searching = createEntrySearching(configuredStore(config));
  const reading = createStampReading({ access: timestamp.access, guard, source, backlog, recorder });
  const checkpoints = createCheckpointSource(command);
  const apps = [
    createTimestampsApp(stamping, timestamp.imprintsMax),
    createArchiveApp(reading),
    createRepositoryApp(certificates),
    // Before the journal's own app, which answers everything else below /journal/.
    createJournalEntriesApp({ guard, searching, backlog, recorder }),
    createJournalApp({ checkpoints, source, reading, keyFile: homePaths(config.home).journalKey }),
  ];
  return { access, source, searching, stamping, apps };
};

/** Starts a gateway. It serves before Redis is there, and refuses until it is. @throws PORT_IN_USE, CONFIG_INVALID, CONFIG_UNREADABLE, CERTIFICATE_INVALID */
export const startGateway = async (config: Config, log: Logger): Promise<GatewayService> => {
  const roots = readRoots(config.trust.rootsFile ?? homePaths(config.home).rootCertificate);
  const connect = (name: string, role: 'command' | 'blocking'): RedisClient => {
    const client = connectRedis(config, name, role);
    logConnection(client, name, log);
    return client;
  };
  const command = connect('gateway', 'command');
  const blocking = connect('gateway-reader', 'blocking');
  const { timestamp } = config;

  const recorder = createServiceRecorder(command, processName, log, new HostClock({ redis: command, node: nodeName() }).state);
  const backlog = watchJournalBacklog({ redis: command, waitingMax: config.journal.waitingMax, log });
  let server: PublicServer | undefined;
  let lane: LaneRequester | undefined;
  const metrics = createGatewayMetrics({
    inFlight: () => lane?.inFlight ?? 0,
    entriesOutstanding: () => lane?.entriesOutstanding ?? 0,
    connections: () => (server === undefined ? Promise.resolve(0) : server.connections()),
    journalWaiting: () => backlog.waiting,
    journalEventsLost: () => recorder.lost,
    journalWaitingMax: config.journal.waitingMax,
  });
  registerSlotMetrics(metrics.registry, () => readSlots(command));
  registerWaitingAge(metrics.registry, () => oldestWaitingSeconds(command));
  lane = new LaneRequester({
    command,
    blocking,
    lane: 'timestamp',
    gatewayId: randomBytes(8).toString('hex'),
    inFlightMax: timestamp.inFlightMax,
    ...entrySizes(timestamp),
    deadlineMs: timestamp.deadlineMs,
    onBatch: metrics.batch,
    onReadError: (error) => log.warn({ err: error }, 'lane: replies cannot be read, trying on'),
  });
  const { access, source, searching, stamping, apps } = createParts({ config, command, recorder, backlog, metrics, lane, log, roots });
  server = createPublicServer({
    config: config.public,
    deadlineMs: timestamp.deadlineMs,
    shutdownMs: config.shutdownMs,
    tsa: createTsaListener(stamping, timestamp.bodyBytesMax),
    app: createPublicApp(apps, log),
    onDrop: metrics.connectionDropped,
    onDefect: (error) => log.error({ err: error }, 'gateway: defect'),
  });
  await server.listen();
  log.info({ host: config.public.host, port: config.public.port, access: timestamp.access }, 'gateway: listening');
  void recordStart(recorder, command, { process: processName, config, version: release });
  const requester = lane;
  const open = server;
  const capacities = followSlotCapacities({ redis: command, use: (slots) => requester.resize(entrySizes(timestamp, slots)) });

  return {
    metrics: () => metrics.registry.getMetricsAsJSON(),
    health: () => healthOf(config, command, requester, { access, backlog }),
    async stop(reason) {
      await open.close();
      access.close();
      backlog.close();
      capacities.close();
      await Promise.all([requester.close(), source.close(), searching.close()]);
      recordStop(recorder, processName, reason);
      await recorder.close();
      command.disconnect();
      blocking.disconnect();
    },
  };
};
