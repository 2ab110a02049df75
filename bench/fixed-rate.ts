/**
 * Fixed rate. autocannon's own rate option lets each connection run at full speed until its share of the second is used, and
 * then pauses: a burst a second, and no request that waits for a late one. Here requests start by the clock, evenly.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { LoadConnection } from './load-connection.ts';
import { type FixedRateJob, type LoadResult, Meter, problemOf } from './load-job.ts';
import { countGranted, createVariation } from './requests.ts';

/** Timers fire up to so much late on an idle machine: what starts later than this is late because of the load. */
const timerGrainMs = 2;
/** Requests wait when all connections are busy; beyond this many the service is not keeping up at all. */
const waitingMax = 20_000;
const statusOctetsMax = 16;

const headOf = ({ origin, template }: FixedRateJob): string =>
  `POST ${template.path} HTTP/1.1\r\nHost: ${new URL(origin).host}\r\nContent-Type: ${template.contentType}\r\nContent-Length: ${template.body.length}\r\n\r\n`;

/** Sends requests over as many connections as the job allows, opened as they are needed; the others wait in order. */
class Senders {
  readonly #job: FixedRateJob;
  readonly #meter: Meter;
  readonly #vary: (target: Buffer, bodyStart: number) => void;
  readonly #request: Buffer;
  readonly #bodyStart: number;
  readonly #open = new Set<LoadConnection>();
  readonly #idle: LoadConnection[] = [];
  /** Intended starts of requests without a connection. */
  readonly #waiting: number[] = [];

  constructor(job: FixedRateJob, meter: Meter) {
    const head = Buffer.from(headOf(job), 'latin1');
    this.#job = job;
    this.#meter = meter;
    this.#vary = createVariation(job.template);
    this.#request = Buffer.concat([head, job.template.body]);
    this.#bodyStart = head.length;
  }

  send(intendedAt: number): void {
    const connection = this.#idle.pop() ?? this.#connect();
    if (connection !== undefined) this.#sendOn(connection, intendedAt);
    else if (this.#waiting.length < waitingMax) this.#waiting.push(intendedAt);
    else this.#meter.failed('too many requests wait for an answer');
  }

  close(): void {
    for (const connection of this.#open) connection.close();
  }

  #connect(): LoadConnection | undefined {
    const { connections, origin } = this.#job;
    if (this.#open.size >= connections) return undefined;
    const connection = new LoadConnection(new URL(origin), () => {
      this.#open.delete(connection);
      const at = this.#idle.indexOf(connection);
      if (at !== -1) this.#idle.splice(at, 1);
      const next = this.#waiting.shift();
      if (next !== undefined) this.send(next);
    });
    this.#open.add(connection);
    return connection;
  }

  #sendOn(connection: LoadConnection, intendedAt: number): void {
    const request = Buffer.from(this.#request);
    this.#vary(request, this.#bodyStart);
    connection.send(request, (answer) => {
      if (answer instanceof Error) {
        this.#meter.failed(answer.message);
        return;
      }
      const { status, body } = answer;
      const { template } = this.#job;
      const granted = countGranted(body.toString('latin1', 0, template.stamps > 1 ? body.length : statusOctetsMax), template);
      this.#meter.answered(performance.now() - intendedAt, problemOf(this.#job, { status, bytes: body.length }, granted));
      const next = this.#waiting.shift();
      if (next === undefined) this.#idle.push(connection);
      else this.#sendOn(connection, next);
    });
  }
}

/** Drives the job to its end. */
export const runFixedRate = async (job: FixedRateJob): Promise<LoadResult> => {
  const meter = new Meter(job);
  const senders = new Senders(job, meter);
  const startedAt = performance.now();
  let sent = 0;
  const sendWhatIsDue = (): void => {
    const now = performance.now();
    for (;;) {
      const dueAt = startedAt + (sent * 1_000) / job.requestsPerSecond;
      if (dueAt > now) return;
      sent += 1;
      // A late start is the load's doing (coordinated omission), a timer's grain is not.
      senders.send(now - dueAt > timerGrainMs ? dueAt : now);
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
    senders.close();
  }
};
