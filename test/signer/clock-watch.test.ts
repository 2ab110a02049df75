import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';
import { parseConfig } from '../../config/load.ts';
import type { EventKind } from '../../observability/journal/events.ts';
import { nodeName, type RecordedEvent } from '../../observability/journal/recorder.ts';
import { createGuardedClock } from '../../signer/clock.ts';
import { type ClockWatch, watchClock } from '../../signer/clock-watch.ts';

const { time } = parseConfig({});

class Watched {
  wall = 1_800_000_000_000;
  monotonic = 5_000;
  readonly told: string[] = [];
  readonly lines: string[] = [];
  readonly watch: ClockWatch;

  constructor(more: Partial<typeof time> = {}) {
    this.watch = watchClock({
      time: { ...time, ...more },
      sources: this.sources,
      log: { warn: (_item: object, line: string) => this.lines.push(line) } as never,
      recorder: { record: (event) => void this.#note(event) },
    });
  }

  get sources() {
    return { wallMs: () => this.wall, monotonicMs: () => this.monotonic };
  }

  pass(ms: number): void {
    this.wall += ms;
    this.monotonic += ms;
  }

  look(): string[] {
    this.watch.look();
    return this.told.splice(0);
  }

  #note<K extends EventKind>({ kind, subject, detail }: RecordedEvent<K>): void {
    assert.equal(subject, nodeName());
    const { from, to, reason, observed } = detail as Record<string, string | undefined>;
    this.told.push(kind === 'time.state' ? `${from} -> ${to}` : `${kind} ${reason} ${observed}`);
  }
}

describe('the watch over the clock', () => {
  let watched: Watched;
  afterEach(() => watched.watch.close());

  test('tells the state that it finds, and nothing while nothing changes', () => {
    watched = new Watched();
    assert.deepEqual(watched.told.splice(0), ['unknown -> unverified']);
    watched.pass(1_000);
    assert.deepEqual(watched.look(), []);
    assert.equal(watched.watch.health().ok, true);
  });

  test('a step is an anomaly and a change of state, until the clock has settled', () => {
    watched = new Watched();
    watched.look();
    watched.wall -= 2_000;
    watched.pass(1_000);
    assert.deepEqual(watched.look(), ['time.anomaly step -2000.000 ms', 'unverified -> stepped']);
    assert.equal(watched.watch.health().ok, false);
    watched.wall += 700;
    assert.deepEqual(watched.look(), ['time.anomaly step 700.000 ms']);
    watched.pass(9_999);
    assert.deepEqual(watched.look(), []);
    watched.pass(1);
    assert.deepEqual(watched.look(), ['stepped -> unverified']);
    assert.deepEqual(watched.lines, [
      'clock: there are no time servers (time.servers): nobody verifies the time in stamps',
      'clock: anomaly',
      'clock: state changed',
      'clock: anomaly',
      'clock: state changed',
    ]);
  });

  test('a step that another thread saw, and that has settled since, is told too', () => {
    watched = new Watched({ settleMs: 100 });
    watched.look();
    const thread = createGuardedClock(watched.watch.memory, watched.sources, { ...time, settleMs: 100 });
    watched.wall += 60_000;
    assert.equal(thread.read().kind, 'unavailable');
    watched.pass(200);
    assert.equal(thread.read().kind, 'time');
    assert.deepEqual(watched.look(), ['time.anomaly step 60000.000 ms', 'unverified -> stepped', 'stepped -> unverified']);
  });
});
