/**
 * Fixed rate on undici. autocannon's own rate option lets each connection run at full speed until its share of the second is used,
 * and then pauses: a burst a second, and no request that waits for a late one. Here requests start by the clock, evenly.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { Pool } from 'undici';
import { type FixedRateJob, type LoadResult, Meter, problemOf } from './load-job.ts';
import { countGranted, createVariation } from './requests.ts';

/** Timers fire up to so much late on an idle machine: what starts later than this is late because of the load. */
const timerGrainMs = 2;
/** Requests wait in the pool when all connections are busy; beyond this many the service is not keeping up at all. */
const waitingMax = 20_000;
const statusOctetsMax = 16;

/** Sends one request; its latency counts from `intendedAt`. */
const dispatch = (pool: Pool, job: FixedRateJob, request: { body: Buffer; intendedAt: number }, meter: Meter, done: () => void): void => {
  let status = 0;
  let bytes = 0;
  let head = '';
  const chunks: Buffer[] = [];
  pool.dispatch(
    { path: job.template.path, method: 'POST', headers: { 'content-type': job.template.contentType }, body: request.body },
    {
      onRequestStart: () => undefined,
      onResponseStart: (_controller, statusCode) => {
        status = statusCode;
      },
      onResponseData: (_controller, chunk) => {
        if (bytes === 0) head = chunk.toString('latin1', 0, statusOctetsMax);
        bytes += chunk.length;
        if (job.template.stamps > 1) chunks.push(chunk);
      },
      onResponseEnd: () => {
        const text = job.template.stamps > 1 ? Buffer.concat(chunks).toString('latin1') : head;
        const granted = countGranted(text, job.template);
        meter.answered(performance.now() - request.intendedAt, problemOf(job, { status, bytes }, granted));
        done();
      },
      onResponseError: (_controller, error) => {
        meter.failed(error.message);
        done();
      },
    },
  );
};

/** Drives the job to its end. */
export const runFixedRate = async (job: FixedRateJob): Promise<LoadResult> => {
  const pool = new Pool(job.origin, { connections: job.connections, pipelining: 1, headersTimeout: 10_000, bodyTimeout: 10_000 });
  const meter = new Meter(job);
  const vary = createVariation(job.template);
  const startedAt = performance.now();
  let sent = 0;
  let waiting = 0;
  const sendWhatIsDue = (): void => {
    const now = performance.now();
    while (startedAt + (sent * 1_000) / job.requestsPerSecond <= now) {
      const dueAt = startedAt + (sent * 1_000) / job.requestsPerSecond;
      sent += 1;
      if (waiting >= waitingMax) {
        meter.failed('too many requests wait for an answer');
        continue;
      }
      waiting += 1;
      const body = Buffer.from(job.template.body);
      vary(body, 0);
      // A late start is the load's doing (coordinated omission), a timer's grain is not.
      const intendedAt = now - dueAt > timerGrainMs ? dueAt : now;
      dispatch(pool, job, { body, intendedAt }, meter, () => {
        waiting -= 1;
      });
    }
  };
  const timer = setInterval(sendWhatIsDue, 1);
  try {
    await delay(job.warmupMs);
    meter.begin();
    await delay(job.durationMs);
    return meter.end();
  } finally {
    clearInterval(timer);
    await pool.close();
  }
};
