/** Faults under load: what is done to a service, and what its clients must see of it. */
import assert from 'node:assert/strict';
import { after, afterEach } from 'node:test';
import { Redis } from 'ioredis';
import { homePaths } from '../../config/home.ts';
import { readTimeStampResp, readTimeStampToken } from '../../pki/tsp-read.ts';
import { laneKeys, signerGroup } from '../../queue/keys.ts';
import { opensslMissing } from './openssl-ts.ts';
import { redisServerMissing } from './redis-server.ts';
import { isRunning, type Service, ServiceFolder, type StartOptions, until } from './service.ts';
import { serviceChecks } from './service-checks.ts';
import { describeLoad, type LoadJob, type LoadRecord, type LoadResult, nowMs, type RunningLoad, startLoad } from './stamp-load.ts';
import { withoutSofthsm } from './token-home.ts';

const keys = laneKeys('timestamp');
export const connections = 64;
/** The service keeps deadlines to 20 ms; a machine that runs more than this test does not. */
const deadlineSlackMs = 1_500;
/** Why the tests must be skipped, or false. */
export const failureSkip = withoutSofthsm || redisServerMissing() || (await opensslMissing());
export const defaultDeadlineMs = 5_000;

export interface FailureWorld {
  readonly folder: ServiceFolder;
  withService(options: StartOptions, use: (service: Service) => Promise<void>): Promise<void>;
}

/** One home for all tests of a file: its keys are made once. */
export const failureWorld = (): FailureWorld => {
  const folder = new ServiceFolder();
  after(folder.remove);
  // A test that fails must not take the next one with it.
  afterEach(folder.killAll);
  const { withService } = serviceChecks(folder);
  return {
    folder,
    async withService(options, use) {
      await withService(options, use);
    },
  };
};

export const withRedis = async <T>(service: Service, use: (redis: Redis) => Promise<T>): Promise<T> => {
  const redis = new Redis({ path: homePaths(service.home).redisSocket });
  try {
    return await use(redis);
  } finally {
    redis.disconnect();
  }
};

/** Nothing hangs, nothing is lost, and nothing takes longer than its deadline. */
export const assertAnswered = (result: LoadResult, deadlineMs: number, allowed: readonly string[]): void => {
  const message = describeLoad(result);
  for (const outcome of Object.keys(result.counts)) assert.ok(allowed.includes(outcome), `${outcome}: ${message}`);
  const late = result.records.filter(({ startedAt, endedAt }) => endedAt - startedAt > deadlineMs + deadlineSlackMs);
  assert.equal(late.length, 0, `${late.length} answers after their deadline: ${message}`);
};

/** How a fault may show to clients. */
export const answeredOnly = ['granted', 'busy', 'refused:systemFailure'];

export const isGranted = ({ outcome }: LoadRecord): boolean => outcome === 'granted';

/** Time from the fault to the first stamp that was asked for after it; from then on there are only stamps. */
export const backAfterMs = (result: LoadResult, faultAt: number): number => {
  const later = result.records.filter(({ startedAt }) => startedAt > faultAt);
  const backAt = later.filter(isGranted).reduce((first, { endedAt }) => Math.min(first, endedAt), Number.POSITIVE_INFINITY);
  const refusedLater = later.filter((record) => !isGranted(record) && record.startedAt > backAt + 500);
  assert.equal(refusedLater.length, 0, `refused after the service was back: ${describeLoad(result)}`);
  return backAt - faultAt;
};

/** No serial number was answered twice, whatever died. */
export const assertUniqueSerials = (result: LoadResult): void => {
  const serials = result.kept.map(({ response }) => {
    const { timeStampToken } = readTimeStampResp(response);
    assert.ok(timeStampToken !== undefined);
    return Buffer.from(readTimeStampToken(timeStampToken).tstInfo.serialNumber).toString('hex');
  });
  assert.equal(serials.length, result.counts['granted']);
  assert.equal(new Set(serials).size, serials.length);
};

/** Load before, over and after a fault. */
export const loadOver = async (
  service: Service,
  fault: (load: RunningLoad) => Promise<number>,
  job: Partial<LoadJob> = {},
): Promise<{ result: LoadResult; faultAt: number }> => {
  const load = await startLoad({ port: service.port, connections, keep: true, ...job });
  try {
    await load.untilGranted(300);
    const faultAt = await fault(load);
    // Enough for a good many stamps of every connection after the recovery.
    await load.untilGranted(load.granted() + 20 * connections, 30_000);
    return { result: await load.stop(), faultAt };
  } finally {
    load.abort();
  }
};

export const kill =
  (service: Service, name: 'signer' | 'gateway' | 'redis', signal: NodeJS.Signals = 'SIGKILL') =>
  async (): Promise<number> => {
    const pid = service.requirePid(name);
    const killedAt = nowMs();
    process.kill(pid, signal);
    await until(`the end of the ${name}`, () => !isRunning(pid));
    // One that ends in order serves until it has: the fault begins there.
    const at = signal === 'SIGKILL' ? killedAt : nowMs();
    await until(`another ${name}`, () => {
      const now = service.pidOf(name);
      return now !== undefined && now !== pid;
    });
    return at;
  };

/** What the lane looks like when all is done. */
export const assertLaneEmpty = (service: Service): Promise<void> =>
  withRedis(service, async (redis) => {
    await until('the requests stream is empty', async () => (await redis.xlen(keys.requests)) === 0, 10_000);
    await until('nothing is pending', async () => ((await redis.xpending(keys.requests, signerGroup)) as [number])[0] === 0, 10_000);
    assert.match(await service.metrics(), /^tsp_in_flight 0$/m);
  });
