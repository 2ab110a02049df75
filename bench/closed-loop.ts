/**
 * Closed loop on autocannon. Its own histogram counts whole milliseconds; the durations of its `response` events are
 * process.hrtime differences, and agree with undici, node:http and a bare socket at one connection within the noise.
 */
import { setTimeout as delay } from 'node:timers/promises';
import autocannon, { type Result } from 'autocannon';
import { type ClosedLoopJob, type LoadResult, Meter, problemOf } from './load-job.ts';
import { countGranted, createVariation } from './requests.ts';

/** autocannon looks only so often whether it was stopped. */
const stopIntervalMs = 20;
/** Longer than any window: the window is ours, and so is its end. */
const durationSeconds = 86_400;
const requestTimeoutSeconds = 10;

/** Drives the job to its end. */
export const runClosedLoop = async (job: ClosedLoopJob): Promise<LoadResult> => {
  const { template } = job;
  const meter = new Meter(job);
  const vary = createVariation(template);
  let last = { status: 0, bytes: 0, durationMs: 0 };
  const { promise: finished, resolve, reject } = Promise.withResolvers<Result>();
  const instance = autocannon(
    {
      url: job.origin + template.path,
      method: 'POST',
      headers: { 'content-type': template.contentType },
      body: Buffer.from(template.body),
      connections: job.connections,
      duration: durationSeconds,
      sampleInt: stopIntervalMs,
      timeout: requestTimeoutSeconds,
      setupClient: function varyEachRequest(client) {
        // Without pipelining the buffer is free again when the next request is due; rebuilding it costs as much as sending it.
        client.on('request', () => {
          const buffer = client.getRequestBuffer();
          vary(buffer, buffer.length - template.body.length);
        });
      },
      // Called in the same turn as the `response` event of the same answer, right after it.
      verifyBody: function judgeAnswer(body) {
        meter.answered(last.durationMs, problemOf(job, last, countGranted(body, template)));
        return true;
      },
    },
    (error, result) => (error === null ? resolve(result) : reject(error)),
  );
  instance.on('response', (_client: unknown, status: number, bytes: number, durationMs: number) => {
    last = { status, bytes, durationMs };
  });
  instance.on('reqError', (error: Error) => meter.failed(error.message));
  try {
    await delay(job.warmupMs);
    meter.begin();
    await Promise.race([delay(job.durationMs, undefined, { ref: false }), meter.untilFull()]);
    return meter.end();
  } finally {
    instance.stop();
    await finished;
  }
};
