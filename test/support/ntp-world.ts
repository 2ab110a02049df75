/**
 * A world with a true time, a machine whose clocks a test moves, and NTP servers that do what a test tells them: a transport for the
 * watch over the clock, without network and without waiting.
 */
import assert from 'node:assert/strict';
import type { Config } from '../../config/schema.ts';
import type { EventKind } from '../../observability/journal/events.ts';
import type { RecordedEvent } from '../../observability/journal/recorder.ts';
import { createGuardedClock, type GuardedClock } from '../../signer/clock.ts';
import { type ClockWatch, watchClock } from '../../signer/clock-watch.ts';
import type { NtpTransport } from '../../signer/ntp-transport.ts';
import { encodeNtpReply, originOf, type ReplyFields } from './ntp-replies.ts';

/** How a server behaves from now on. */
export interface ServerScript extends Partial<Omit<ReplyFields, 'origin' | 'receiveMs' | 'transmitMs'>> {
  /** How far its clock is from UTC. */
  readonly offsetMs?: number;
  /** Round trip. */
  readonly delayMs?: number;
  readonly silent?: boolean;
}

/** Addresses of the servers, as they resolve themselves. */
export const serverNames = (count: number): string[] => Array.from({ length: count }, (_, index) => `10.0.0.${index + 1}`);

export class NtpWorld {
  /** True UTC, the machine's system clock and its monotonic clock; milliseconds. */
  utc = Date.UTC(2026, 10, 22, 10, 0, 0);
  wall = this.utc;
  monotonic = 5_000;
  readonly scripts = new Map<string, ServerScript>();
  /** Questions by server. */
  readonly asked = new Map<string, number>();
  /** What happens while a question is under way. */
  onAsk: () => void = () => undefined;
  /** States and anomalies, as the register has them. */
  readonly told: string[] = [];
  readonly events: RecordedEvent<EventKind>[] = [];
  readonly lines: string[] = [];
  readonly watch: ClockWatch;
  readonly time: Config['time'];

  constructor(time: Config['time']) {
    this.time = time;
    this.watch = watchClock({
      time,
      sources: this.sources,
      transport: this.transport,
      rounds: false,
      log: { warn: (_item: object, line: string) => this.lines.push(line) } as never,
      recorder: { record: (event) => this.#note(event as RecordedEvent<EventKind>) },
    });
  }

  get sources() {
    return { wallMs: () => this.wall, monotonicMs: () => this.monotonic };
  }

  /** The clock as another thread sees it. */
  thread(): GuardedClock {
    return createGuardedClock(this.watch.memory, this.sources, this.time);
  }

  /** All clocks go on. */
  pass(ms: number): void {
    this.utc += ms;
    this.wall += ms;
    this.monotonic += ms;
  }

  script(name: string, script: ServerScript): void {
    this.scripts.set(name, script);
  }

  scriptAll(script: ServerScript): void {
    for (const { host } of this.time.servers) this.script(host, script);
  }

  /** Time passes, and a round is asked. @returns what was told since the last call */
  async round(afterMs = 16_000): Promise<string[]> {
    this.pass(afterMs);
    await this.watch.round();
    return this.told.splice(0);
  }

  look(): string[] {
    this.watch.look();
    return this.told.splice(0);
  }

  /** `trusted`, or why there is no time. */
  get reading(): string {
    const reading = this.thread().read();
    return reading.kind === 'time' ? reading.state : reading.reason;
  }

  readonly transport: NtpTransport = {
    resolve: async (host) => (/^[\d.]+$/.test(host) ? host : undefined),
    exchange: async ({ address }, request, { accept }) => {
      this.asked.set(address, (this.asked.get(address) ?? 0) + 1);
      this.onAsk();
      const { silent = false, offsetMs = 0, delayMs = 4, ...fields } = this.scripts.get(address) ?? {};
      if (silent) return undefined;
      const there = this.utc + offsetMs - delayMs / 2;
      const octets = encodeNtpReply({ ...fields, origin: originOf(request), receiveMs: there, transmitMs: there });
      assert.ok(accept(octets));
      return { octets, sentAtMs: this.monotonic - delayMs, receivedAtMs: this.monotonic };
    },
  };

  #note(event: RecordedEvent<EventKind>): void {
    this.events.push(event);
    const { from, to, reason, observed, server } = event.detail as Record<string, string | undefined>;
    this.told.push(event.kind === 'time.state' ? `${from} -> ${to}` : [reason, server, observed].filter(Boolean).join(' '));
  }
}
