import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';
import { parseConfig } from '../../config/load.ts';
import type { Config } from '../../config/schema.ts';
import { leapWindow, nextLeapWindow } from '../../signer/clock-leap.ts';
import { NtpWorld, serverNames } from '../support/ntp-world.ts';

const midnight = Date.UTC(2026, 11, 31, 24);

describe('the window around a leap second', () => {
  test('from before 23:59:59 until after 00:00:00 UTC, widened by what the clock may be off', () => {
    for (const now of [midnight - 1, midnight - 86_400_000, midnight - 40_000_000]) {
      assert.deepEqual(leapWindow(now, 0), { fromMs: midnight - 1_500, untilMs: midnight + 1_500 });
      assert.deepEqual(leapWindow(now, 250), { fromMs: midnight - 1_750, untilMs: midnight + 1_750 });
    }
    assert.equal(leapWindow(midnight, 0).fromMs, midnight + 86_400_000 - 1_500);
  });

  test('while it is announced it follows the clock; withdrawn, it is gone', () => {
    const window = nextLeapWindow(undefined, { announced: true, wallMs: midnight - 3_600_000, errorMs: 10 });
    assert.deepEqual(window, leapWindow(midnight - 1, 10));
    assert.deepEqual(nextLeapWindow(window, { announced: true, wallMs: midnight - 60_000, errorMs: 2 }), leapWindow(midnight - 1, 2));
    assert.equal(nextLeapWindow(window, { announced: false, wallMs: midnight - 60_000, errorMs: 2 }), undefined);
    assert.equal(nextLeapWindow(undefined, { announced: false, wallMs: midnight, errorMs: 2 }), undefined);
  });

  test('one that has begun is passed through, whatever is announced by then', () => {
    const window = leapWindow(midnight - 1, 10);
    for (const wallMs of [window.fromMs, midnight, window.untilMs - 1]) {
      for (const announced of [true, false]) assert.equal(nextLeapWindow(window, { announced, wallMs, errorMs: 0 }), window);
    }
    assert.equal(nextLeapWindow(window, { announced: false, wallMs: window.untilMs, errorMs: 0 }), undefined);
  });
});

describe('a leap second', () => {
  let world: NtpWorld;
  afterEach(() => world.watch.close());
  /** Ten minutes before the end of the year, with servers that announce it. */
  const announce = async (more: Partial<Config['time']> = {}): Promise<string[]> => {
    const servers = serverNames(3).map((host) => ({ host }));
    world = new NtpWorld(parseConfig({ time: { servers, ...more } }).time);
    await world.round(0);
    world.told.splice(0);
    const ms = midnight - 600_000 - world.utc;
    world.utc += ms;
    world.wall += ms;
    world.look();
    world.pass(world.time.settleMs);
    world.look();
    world.scriptAll({ leap: 1 });
    const told: string[] = [];
    for (let i = 0; i < 3; i += 1) told.push(...(await world.round(2_000)));
    assert.equal(world.reading, 'trusted');
    return told;
  };
  const goTo = (utc: number): void => world.pass(utc - world.utc);

  test('announced by the majority: told once, refused around it, resumed after good rounds', async () => {
    assert.deepEqual(await announce(), ['leapAnnounced insert at the end of 2026-12-31', 'stepped -> trusted']);
    assert.match(world.watch.health().detail, /no stamps from 2026-12-31T23:59:58\.\d+Z to 2027-01-01T00:00:01\.\d+Z$/);
    goTo(midnight - 1_700);
    assert.equal(world.reading, 'trusted');
    goTo(midnight - 1_500);
    assert.equal(world.reading, 'leap');
    assert.deepEqual(world.look(), ['trusted -> leap']);
    // The kernel sets the clock back at midnight; UTC had its second before.
    goTo(midnight);
    world.utc -= 1_000;
    world.wall -= 1_000;
    const told = [...world.look()];
    assert.equal(world.reading, 'stepped');
    world.scriptAll({});
    for (let i = 0; i < 12; i += 1) told.push(...(await world.round(1_000)));
    told.push(...world.look());
    for (let i = 0; i < 3; i += 1) told.push(...(await world.round(1_000)));
    assert.equal(told.at(0), 'step -1000.000 ms');
    assert.match(told.at(-1) ?? '', /-> trusted$/);
    assert.equal(told.filter((one) => one.endsWith('-> trusted')).length, 1);
    assert.equal(world.reading, 'trusted');
    assert.ok(world.utc < midnight + 30_000);
  });

  test('a host that does nothing at midnight is a second wrong, and stays stopped', async () => {
    await announce({ offsetMsMax: 500 });
    goTo(midnight);
    world.utc -= 1_000;
    world.look();
    world.scriptAll({});
    const told: string[] = [];
    for (let i = 0; i < 10; i += 1) told.push(...(await world.round(1_000)));
    assert.equal(world.reading, 'offset');
    assert.ok(
      told.some((one) => one.startsWith('offset offset -1000.000 ms')),
      told.join(),
    );
  });

  test('withdrawn before the day ends, or announced by the few: nothing', async () => {
    await announce();
    world.scriptAll({});
    for (let i = 0; i < 2; i += 1) await world.round();
    world.script('10.0.0.1', { leap: 2 });
    await world.round();
    goTo(midnight);
    assert.equal(world.reading, 'trusted');
  });

  test('ignored, for sources that smear it', async () => {
    assert.deepEqual(await announce({ leapSeconds: 'ignore' }), ['stepped -> trusted']);
    goTo(midnight);
    assert.equal(world.reading, 'trusted');
  });
});
