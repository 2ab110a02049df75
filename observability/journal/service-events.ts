/** What every process tells the journal of itself: that it starts and stops, with which configuration, and how much it logs. */
import { configDigest } from '../../config/digest.ts';
import type { Config } from '../../config/schema.ts';
import { journalKeys } from '../../queue/keys.ts';
import { type RedisClient, whenReady } from '../../queue/redis.ts';
import { type JournalRecorder, nodeName } from './recorder.ts';

/** A process that starts before Redis gives it so long. */
const redisPatienceMs = 30_000;
const reasonCharactersMax = 200;

export interface ServiceStart {
  /** Name of the process: `signer`. */
  readonly process: string;
  readonly config: Config;
  /** Release of Sigillo. */
  readonly version: string;
}

const recordLogLevel = async (recorder: JournalRecorder, redis: RedisClient, { process, config }: ServiceStart): Promise<void> => {
  await whenReady(redis, redisPatienceMs);
  const field = `${nodeName()}:${process}`;
  const to = config.log.level;
  const from = await redis.hget(journalKeys.logLevels, field);
  if (from === to) return;
  // First the event: told twice does no harm, not told would.
  if (from !== null) await recorder.recordNow({ kind: 'service.logLevel', subject: process, outcome: 'success', detail: { from, to } });
  await redis.hset(journalKeys.logLevels, field, to);
};

/**
 * Records that a process starts and logs, and that it logs at another level than when it started last. Never fails; what cannot be
 * recorded yet is recorded later.
 * @returns resolves when the level has been looked at, which waits for Redis; there is no need to await it
 */
export const recordStart = async (recorder: JournalRecorder, redis: RedisClient, start: ServiceStart): Promise<void> => {
  const { process: subject, config, version } = start;
  const detail = { version, configSha256: configDigest(config) };
  recorder.record({ kind: 'service.started', subject, outcome: 'success', detail });
  recorder.record({ kind: 'service.logStarted', subject, outcome: 'success', detail: {} });
  // Best effort: Redis still holds the level before, so the next start tells of the change.
  await recordLogLevel(recorder, redis, start).catch(() => undefined);
};

/** Records that a process stops, and its log with it; `recorder.close()` sends it. */
export const recordStop = (recorder: JournalRecorder, process: string, reason: string): void => {
  const told = reason.slice(0, reasonCharactersMax);
  recorder.record({ kind: 'service.stopped', subject: process, outcome: 'success', detail: { reason: told } });
  recorder.record({ kind: 'service.logStopped', subject: process, outcome: 'success', detail: { reason: told } });
};
