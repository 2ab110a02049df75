/**
 * The process for the life of timestamping keys: looks at the calendar of each of its tokens at every tick, and does what is due.
 *
 * A process of its own, with a module of its own: making a key must not hold up a stamp, and a module that hangs here hangs only here.
 * Any number of them may run, for the same tokens or for others; BullMQ gives each tick to one, and a lease keeps them apart.
 * Stamping needs none of them: from when to when a TSU may sign stands in the register.
 */
import { hash } from 'node:crypto';
import type { Session } from 'graphene-pk11';
import type { SigilloError } from '../config/errors.ts';
import { release } from '../config/release.ts';
import type { Config } from '../config/schema.ts';
import { recordOperators } from '../observability/journal/operator-events.ts';
import { type JournalRecorder, nodeName, type TellClock } from '../observability/journal/recorder.ts';
import { recordStart, recordStop } from '../observability/journal/service-events.ts';
import { createServiceRecorder } from '../observability/journal/service-recorder.ts';
import { tsuChangeTeller } from '../observability/journal/tsu-events.ts';
import { createLifecycleMetrics } from '../observability/lifecycle-metrics.ts';
import type { Logger } from '../observability/log.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import { registerRecorderMetrics } from '../observability/recorder-metrics.ts';
import { HostClock } from '../queue/host-clock.ts';
import { Lease } from '../queue/lease.ts';
import { type RedisClient, redisHealth } from '../queue/redis.ts';
import { startTicks, type Ticks } from '../queue/ticks.ts';
import { readTsus, tokenName, tsuRegisterKeys } from '../queue/tsu-register.ts';
import type { Approvals } from './approvals.ts';
import { type OpenAuthority, openAuthoritySlot } from './authority-slot.ts';
import { awaitPin, openSlots, timestampSlots, watchCalendars } from './calendar-slots.ts';
import { operatorFingerprints, readOperators } from './dual-control.ts';
import { restoreEmbeddedTokens } from './embedded-token.ts';
import { type OpenHsm, openHsm } from './hsm-modules.ts';
import type { OtherSlot } from './key-destruction.ts';
import { type Hsm, type HsmSlot, resolveHsm } from './pkcs11-module.ts';
import { publishChains } from './published-chains.ts';
import { connect } from './redis-connection.ts';
import { TokenFailures } from './token-failures.ts';
import { TsuFolder } from './tsu-folder.ts';
import { TsuLifecycle } from './tsu-lifecycle.ts';

export interface LifecycleService {
  /** Resolves when the tokens have failed for too long: the module must be loaded anew, which takes a new process. */
  readonly failed: Promise<Error>;
  metrics(): Promise<unknown>;
  health(): Promise<readonly HealthItem[]>;
  /** @param reason for the journal */
  stop(reason: string): Promise<void>;
}

/** What bin brings from other rooms. */
export interface LifecycleParts {
  /** The embedded timestamp CA; undefined: certificates come from an outside one. */
  readonly openAuthority: OpenAuthority | undefined;
  /** Dual control. */
  readonly approvals: (redis: RedisClient, clock: TellClock) => Approvals;
  /** @defaultValue the system's clock */
  readonly now?: () => Date;
}

const processName = 'lifecycle';
/** Longer than a step that blocks the process. Who takes over after a death waits so long, which nobody notices. */
const leaseMs = 120_000;
/** A slot that could not be opened is tried again by a new process then: a module does not find a lost token again. */
const againMs = 300_000;

/** Of the queue of its ticks: one for each host, which says of itself how old the list is. */
const listName = (): string => `timestamp-ca-${hash('sha256', nodeName(), 'hex').slice(0, 16)}`;

/** Runs one thing at a time: a module is not asked to make two keys at once, and two tokens do not choose one name. */
const oneAtATime = (): (<T>(action: () => Promise<T>) => Promise<T>) => {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(action: () => Promise<T>): Promise<T> => {
    const next = last.then(action, action);
    last = next.catch(() => undefined);
    return next;
  };
};

/** Does one thing after the other, and tells when a token fails for too long: `(name of the token, what to do)`. */
const guardedBy = (
  failures: TokenFailures,
  onFailed: (error: Error) => void,
): ((name: string, work: () => Promise<void>) => Promise<void>) => {
  const exclusively = oneAtATime();
  return async (name, work) => {
    try {
      await exclusively(work);
      failures.worked(name);
    } catch (error) {
      if (failures.failed(name, error)) onFailed(error as Error);
      throw error;
    }
  };
};

/** That this process starts, and who its operators are now. @throws CONFIG_UNREADABLE, CONFIG_INVALID */
const tellStart = (recorder: JournalRecorder, redis: RedisClient, config: Config, log: Logger): void => {
  void recordStart(recorder, redis, { process: processName, config, version: release });
  recordOperators(recorder, redis, operatorFingerprints(readOperators(config))).catch((error: unknown) =>
    log.warn({ err: error }, 'journal: changes of dualControl.operators are not recorded; the next start tells them'),
  );
};

/** Best effort: a token that has failed closes no session, and that is not the error to tell of. */
const closeSession = (session: Session, log: Logger): void => {
  try {
    session.close();
  } catch (error) {
    log.debug({ err: error }, 'hsm: a session was not closed');
  }
};

const closeModule = (module: OpenHsm, log: Logger): void => {
  try {
    module.close();
  } catch (error) {
    // The token is away, and the process ends anyway.
    log.warn({ err: error }, 'hsm: the module was not finalised');
  }
};

/** Opens the other slots for the time of an action; one that is not logged in says so, and nothing is done. */
const otherSlots =
  (module: Pick<OpenHsm, 'login' | 'openSession'>, hsm: Hsm, than: string, log: Logger) =>
  (action: (opened: readonly OtherSlot[]) => string[]): string[] => {
    const opened: OtherSlot[] = [];
    try {
      for (const slot of timestampSlots(hsm).filter(({ label }) => label !== than)) {
        module.login(slot);
        opened.push({ label: slot.label, session: module.openSession(slot.label, { readWrite: true }) });
      }
      return action(opened);
    } finally {
      for (const { session } of opened) closeSession(session, log);
    }
  };

/** The module, before anything in it is asked. */
const openTokens = (config: Config, log: Logger): { readonly hsm: Hsm; readonly module: OpenHsm } => {
  const hsm = resolveHsm(config);
  restoreEmbeddedTokens(config, log);
  return { hsm, module: openHsm(hsm) };
};

interface ListParts {
  readonly config: Config;
  readonly jobs: RedisClient;
  readonly log: Pick<Logger, 'error'>;
  readonly work: () => Promise<void>;
}

/**
 * Has the CA's list kept by ticks of its own, and once before the tokens that stamp are opened: the one that fails may be the one whose
 * TSU is to be revoked, because it was taken away.
 */
const watchList = async (authority: unknown, { config, jobs, log, work }: ListParts): Promise<Ticks | undefined> => {
  if (authority === undefined) return undefined;
  const onError = (error: unknown): void => log.error({ err: error }, "tsu: the CA's list is not kept");
  await work().catch(onError);
  return startTicks({ name: listName(), everyMs: config.tsu.tickMs, connection: jobs, work, onError });
};

/** Starts the process. @throws HSM_*, REDIS_UNAVAILABLE, CERTIFICATE_INVALID */
export const startLifecycle = async (config: Config, log: Logger, parts: LifecycleParts): Promise<LifecycleService> => {
  const now = parts.now ?? (() => new Date());
  const { hsm, module } = openTokens(config, log);
  const command = await connect(config, processName, 'command', log);
  const authoritySlot = await openAuthoritySlot(parts.openAuthority, { redis: command, module, hsm, log });
  const authority = authoritySlot?.authority;
  const jobs = await connect(config, `${processName}-jobs`, 'jobs', log);
  const { state: clock } = new HostClock({ redis: command, node: nodeName() });
  const recorder = createServiceRecorder(command, processName, log, clock);
  const metrics = createLifecycleMetrics(now);
  registerRecorderMetrics(metrics.registry, () => recorder.lost);
  const approvals = parts.approvals(command, clock);
  const failed = Promise.withResolvers<Error>();
  const failures = new TokenFailures();
  const guarded = guardedBy(failures, failed.resolve);

  const workOn = async ({ label }: HsmSlot, serial: string): Promise<void> => {
    const session = module.openSession(label, { readWrite: true });
    const stepFailures: SigilloError[] = [];
    const lease = new Lease(command, { key: tsuRegisterKeys.lease(tokenName(label, serial)), lengthMs: leaseMs });
    const lifecycle = new TsuLifecycle({
      config,
      redis: command,
      log,
      token: { label, serial, session },
      withOtherSlots: otherSlots(module, hsm, label, log),
      folder: new TsuFolder(config),
      certify: authority?.certify,
      approvals,
      lease,
      publish: () => publishChains({ redis: command, recorder, config }),
      now,
      timeIsCertain: () => config.time.servers.length === 0 || clock() === 'trusted',
      onStep: metrics.step,
      tell: tsuChangeTeller({ role: 'system', actor: processName, clock }),
      onTokenFailure: (error) => void stepFailures.push(error),
    });
    try {
      await lifecycle.work();
    } finally {
      closeSession(session, log);
    }
    metrics.tsus((await readTsus(command)).tsus, now());
    if (stepFailures[0] !== undefined) throw stepFailures[0];
  };
  const keepList = async (): Promise<void> => {
    authoritySlot?.look();
    const crl = await authority?.keep(command, recorder);
    if (crl !== undefined) metrics.crl(crl);
  };

  const list = await watchList(authority, { config, jobs, log, work: () => guarded('timestamp-ca', keepList) });
  const { slots, refused, failure } = openSlots(hsm, module, log);
  const again = failure === undefined ? undefined : setTimeout(() => failed.resolve(failure), againMs);
  tellStart(recorder, command, config, log);
  const work = (slot: HsmSlot, serial: string): Promise<void> => guarded(slot.label, () => workOn(slot, serial));
  const calendars = await watchCalendars(slots, { config, jobs, module, log, work });
  const looks = refused.map((slot) => awaitPin(slot, module, { open: (late) => calendars.add(late), failed: failed.resolve }));
  calendars.failed.then(failed.resolve);

  return {
    failed: failed.promise,
    metrics: () => metrics.registry.getMetricsAsJSON(),
    async health() {
      const detail = `of ${calendars.tokens.join(', ')}`;
      return [await redisHealth(command), { name: 'calendar of keys', ok: failures.ok, detail }];
    },
    async stop(reason) {
      clearTimeout(again);
      for (const end of looks) end();
      await calendars.close();
      await list?.close();
      await authoritySlot?.end();
      recordStop(recorder, processName, reason);
      await recorder.close();
      command.disconnect();
      jobs.disconnect();
      closeModule(module, log);
    },
  };
};
