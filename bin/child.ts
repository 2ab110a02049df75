/**
 * The frame of every service process (gateway, signer): ready, asks, one clean stop, one way to fail.
 *
 * Under the supervisor it speaks over IPC and stops when the supervisor is gone, however that went. On a machine of its
 * own, without IPC, it serves the operations address itself.
 */
import { basename } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { SigilloError } from '../config/errors.ts';
import { loadConfig } from '../config/load.ts';
import type { Config } from '../config/schema.ts';
import { type MetricsJson, mergeMetrics } from '../observability/merge-metrics.ts';
import type { HealthItem } from '../observability/ops-app.ts';
import { type Ask, type ChildMessage, exitDoNotRestart, exitTokenFailed, isAsk } from './child-messages.ts';
import { type OpsServer, serveOps } from './ops-server.ts';

/** What a service process hands to its frame once it serves. */
export interface ChildService {
  /** Stops accepting, answers what was accepted, closes what is open. Called once, with the reason for the journal. */
  stop(reason: string): Promise<void>;
  /** `await registry.getMetricsAsJSON()` */
  metrics(): Promise<unknown>;
  health(): Promise<readonly HealthItem[]>;
  /** Resolves when only a new process can help; it is then stopped like any other, and ends with exit status 1. */
  readonly failed?: Promise<Error>;
  /** A thread is inside a native call that never ends, and would hold up the end of the process: after its stop it is killed. */
  readonly stuck?: boolean;
}

/** The child gives up a little before the supervisor kills it, to be able to say so itself. */
const stopMarginMs = 250;

const processName = basename(process.argv[1] ?? 'sigillo').replace(/\.[a-z]+$/, '');

/** A wrong PIN must never be tried again (a few wrong tries lock a token); the others stay wrong until somebody edits something. */
const isFinal = (error: unknown): boolean =>
  error instanceof SigilloError &&
  (error.code.startsWith('CONFIG_') ||
    error.code === 'HSM_PIN_REFUSED' ||
    error.code === 'HSM_MODULE_MISSING' ||
    error.code === 'PORT_IN_USE');

const exitStatusOf = (error: unknown): number => {
  if (isFinal(error)) return exitDoNotRestart;
  return error instanceof SigilloError && error.code.startsWith('HSM_') ? exitTokenFailed : 1;
};

/** Says what happened and what to do; before a logger exists, and also when its configuration is what is wrong. */
export const printFailure = (name: string, error: unknown): void => {
  const lines: string[] = [];
  if (error instanceof SigilloError && error.code !== 'INTERNAL') {
    lines.push(`${error.code}: ${error.message}`, `what to do: ${error.entry.action}`);
    if (error.cause instanceof Error) lines.push(`because of: ${error.cause.message}`);
  } else {
    // Not foreseen, so the place in the code is what helps.
    lines.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
  }
  process.stderr.write(lines.map((line) => `${name}: ${line}\n`).join(''));
};

/** @returns when the supervisor can read it, or is away */
const say = (message: ChildMessage): Promise<void> =>
  new Promise((resolve) => {
    // A supervisor that went away meanwhile is told by `disconnect`; here it is nothing to report.
    if (process.connected) process.send?.(message, undefined, undefined, () => resolve());
    else resolve();
  });

const answerOf: Readonly<Record<Ask['what'], (service: ChildService) => Promise<unknown>>> = {
  metrics: (service) => service.metrics(),
  health: (service) => service.health(),
  alive: async () => true,
};

const answer = async (service: ChildService, ask: Ask): Promise<void> => {
  try {
    void say({ type: 'answer', id: ask.id, value: await answerOf[ask.what](service) });
  } catch (error) {
    void say({ type: 'answer', id: ask.id, error: error instanceof Error ? error.message : String(error) });
  }
};

/** Resolves at the first reason to stop; later ones change nothing, so that a stop under way is never cut short. */
const stopReason = (): Promise<string> =>
  new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => resolve(signal));
    if (process.connected) process.on('disconnect', () => resolve('the supervisor is gone'));
  });

const serveAlone = (config: Config, service: ChildService): Promise<OpsServer> =>
  serveOps(config.ops, {
    health: () => service.health(),
    metrics: async () => mergeMetrics([{ process: processName, metrics: (await service.metrics()) as MetricsJson }]),
  });

/** The supervisor cannot tell from a SIGKILL what it was for, and a token that hangs must not be logged in to like a process that crashed. */
const endStuck = async (end: string | Error): Promise<void> => {
  if (end instanceof Error) printFailure(processName, end);
  await say({ type: 'ending', status: end instanceof Error ? exitStatusOf(end) : 0 });
  process.kill(process.pid, 'SIGKILL');
};

const serve = async (config: Config, start: (config: Config) => Promise<ChildService>, stopping: Promise<string>): Promise<void> => {
  const service = await Promise.race([start(config), stopping.then(() => undefined)]);
  // Told to stop while it started: it never served, so there is nothing to answer.
  if (service === undefined) return;
  const alone = process.connected ? undefined : await serveAlone(config, service);
  process.on('message', (message) => {
    if (isAsk(message)) void answer(service, message);
  });
  void say({ type: 'ready' });
  const failed = service.failed === undefined ? [] : [service.failed];
  const end = await Promise.race([stopping, ...failed]);
  await service.stop(end instanceof Error ? end.message : end);
  await alone?.close();
  if (service.stuck === true) await endStuck(end);
  if (end instanceof Error) throw end;
};

/**
 * Runs a service process from its start to its exit; it never returns to the caller.
 *
 * Exit status: 0 after a clean stop, 78 when the configuration is at fault, 75 when a token has failed, 1 otherwise; SIGKILL when a call
 * into a token hangs.
 *
 * @param start opens everything and serves; throws a SigilloError when it cannot
 */
export const runChild = async (start: (config: Config) => Promise<ChildService>): Promise<never> => {
  const stopping = stopReason();
  try {
    const config = loadConfig();
    const bounded = stopping.then(async (reason) => {
      await delay(config.shutdownMs - stopMarginMs);
      throw new SigilloError('INTERNAL', `The stop (${reason}) took longer than shutdownMs.`);
    });
    await Promise.race([serve(config, start, stopping), bounded]);
  } catch (error) {
    printFailure(processName, error);
    process.exit(exitStatusOf(error));
  }
  process.exit(0);
};
