/**
 * A pool of signatures on a token that takes long for each and makes many at once, in a process of its own: how much of what the token
 * allows does it get? The token is SoftHSM behind the module that tests use.
 */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { homePaths } from '../config/home.ts';
import { oid } from '../pki/der.ts';
import { monotonicMs } from '../queue/redis-clock.ts';
import { encodeStampRequests } from '../queue/stamp-messages.ts';
import { embeddedModule, openModule } from '../signer/pkcs11-module.ts';
import { createPaceMemory } from '../signer/session-pace.ts';
import { StampingPool } from '../signer/stamping-pool.ts';
import { FaultyModule } from '../test/support/faulty-module/faulty-module.ts';
import { testPolicy } from '../test/support/software-tsu.ts';
import { configOf } from '../test/support/token-home.ts';
import { createTokenTsu } from '../test/support/token-tsu.ts';
import { messageImprint } from '../test/support/tsp-requests.ts';

export interface SlowModuleJob {
  readonly latencyMicros: number;
  /** Signatures that the token makes at once. */
  readonly parallel: number;
  readonly threads: number;
  readonly sessionsMax: number;
  readonly warmupMs: number;
  readonly durationMs: number;
}

export interface SlowModuleResult {
  readonly signaturesPerSecond: number;
  /** Signatures at once that the pool had chosen at the end. */
  readonly atOnce: number;
  readonly residentBytes: number;
  /** Cores that it kept busy. */
  readonly cores: number;
}

export type SlowModuleAnswer = { readonly result: SlowModuleResult } | { readonly failure: string };

const label = 'sigillo-timestamp';
/** As a gateway sends them: four entries of 64 requests. */
const entries = 4;
const requests = 64;

const batch = (): Buffer => {
  const imprint = messageImprint('2.16.840.1.101.3.4.2.1', createHash('sha256').update('sigillo bench').digest());
  const one = { certReq: false, policy: oid(testPolicy), messageImprint: imprint, client: 'anonymous', nonce: undefined };
  return encodeStampRequests(
    Array.from({ length: requests }, (_, id) => ({ id, ...one })),
    () => 60_000,
  );
};

const run = async (job: SlowModuleJob, folder: string): Promise<SlowModuleResult> => {
  const home = join(folder, 'home');
  const made = await createTokenTsu(home);
  made.module.close();
  const embedded = embeddedModule(configOf(home));
  const faulty = new FaultyModule(embedded, folder);
  const module = openModule(faulty);
  module.login({ ...embedded, label, purposes: ['timestamp'], pinFile: join(homePaths(home).pinFolder, `${label}.pin`) });
  const token = faulty.token(label);
  token.delaySigning(job.latencyMicros);
  token.limitSigning(job.parallel);
  const slot = module.findSlot(label).handle;
  const data = { ...made.data, modulePath: faulty.modulePath, slot, paceMemory: createPaceMemory(20) };
  const { threads, sessionsMax } = job;
  const pool = await StampingPool.start({ data, threads, sessionsMax, inline: false, callMsMax: 60_000, keepAliveMs: 60_000 });
  let going = true;
  const payload = batch();
  const loop = async (): Promise<void> => {
    while (going) await pool.stamp(payload, monotonicMs());
  };
  const loops = Array.from({ length: entries }, loop);
  await delay(job.warmupMs);
  const [from, startedAt, cpu] = [token.counters.signatures, monotonicMs(), process.cpuUsage()];
  await delay(job.durationMs);
  const seconds = (monotonicMs() - startedAt) / 1_000;
  const { user, system } = process.cpuUsage(cpu);
  const result = {
    signaturesPerSecond: (token.counters.signatures - from) / seconds,
    atOnce: pool.atOnce,
    residentBytes: process.memoryUsage.rss(),
    cores: (user + system) / 1e6 / seconds,
  };
  going = false;
  await Promise.all(loops);
  await pool.close();
  module.close();
  faulty.close();
  return result;
};

const answer = (message: SlowModuleAnswer): void => void process.send?.(message);

process.on('message', (job: SlowModuleJob) => {
  const folder = mkdtempSync(join(tmpdir(), 'sigillo-bench-'));
  run(job, folder)
    .then(
      (result) => answer({ result }),
      (error: unknown) => answer({ failure: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    )
    .finally(() => rmSync(folder, { recursive: true, force: true }));
});
process.on('disconnect', () => process.exit(0));
process.on('SIGINT', () => undefined);
