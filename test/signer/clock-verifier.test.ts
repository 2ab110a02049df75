import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';
import fc from 'fast-check';
import { parseConfig } from '../../config/load.ts';
import type { Config } from '../../config/schema.ts';
import { NtpWorld, serverNames } from '../support/ntp-world.ts';

const timeOf = (servers: number, more: Partial<Config['time']> = {}): Config['time'] =>
  parseConfig({ time: { servers: serverNames(servers).map((host) => ({ host })), ...more } }).time;

describe('a clock that time servers watch', () => {
  let world: NtpWorld;
  const worlds: NtpWorld[] = [];
  /** A world of its own; its watch ends with the test. */
  const make = (time: Config['time']): void => {
    world = new NtpWorld(time);
    worlds.push(world);
  };
  afterEach(() => {
    for (const one of worlds.splice(0)) one.watch.close();
  });
  const start = async (servers: number, more: Partial<Config['time']> = {}): Promise<void> => {
    make(timeOf(servers, more));
    assert.deepEqual(world.told.splice(0), ['unknown -> starting']);
    assert.equal(world.reading, 'starting');
    assert.deepEqual(await world.round(0), ['starting -> trusted']);
    assert.equal(world.reading, 'trusted');
  };

  test('stamping begins with the first quorum, whether it is required or not', async () => {
    for (const required of [false, true]) {
      await start(3, { required });
      const { ok, detail } = world.watch.health();
      assert.ok(ok);
      assert.equal(detail, '3 of 3 time servers agreed 0.0 s ago: offset +0.000 ms, error at most 2.001 ms');
      const reading = world.thread().read();
      assert.ok(reading.kind === 'time' && reading.unixMillis === world.wall && Math.abs(reading.errorMs - 2.001) < 0.001);
    }
  });

  test('no stamp before the first quorum, however long it takes; then at once', async () => {
    make(timeOf(3));
    world.scriptAll({ silent: true });
    world.told.splice(0);
    for (let i = 0; i < 100; i += 1) assert.deepEqual(await world.round(), []);
    assert.equal(world.reading, 'starting');
    assert.match(world.watch.health().detail, /stamping stopped \(starting\).*0 of 3 time servers agree, 2 must; 10\.0\.0\.1: silent/);
    world.scriptAll({});
    assert.deepEqual(await world.round(), ['starting -> trusted']);
  });

  test('the register says what was measured, and whether the clock that dates the event was trusted', async () => {
    await start(3);
    const [found, trusted] = world.events;
    assert.deepEqual(found?.detail, {
      from: 'unknown',
      to: 'starting',
      offsetMicros: undefined,
      errorMicros: undefined,
      agreed: undefined,
    });
    assert.deepEqual(trusted?.detail, {
      from: 'starting',
      to: 'trusted',
      offsetMicros: '0',
      errorMicros: 2_001,
      agreed: '10.0.0.1 10.0.0.2 10.0.0.3',
    });
    assert.deepEqual([found?.at?.clock, trusted?.at?.clock, trusted?.at?.unixMicros], ['unverified', 'trusted', world.wall * 1_000]);
    world.scriptAll({ offsetMs: -2_000 });
    await world.round();
    const anomaly = world.events.find(({ kind }) => kind === 'time.anomaly');
    assert.deepEqual(anomaly?.detail, {
      reason: 'offset',
      state: 'trusted',
      observed: 'offset -2000.000 ms, error at most 2002.001 ms',
      server: undefined,
    });
    const lost = world.events.at(-1);
    assert.ok(lost?.kind === 'time.state' && 'offsetMicros' in lost.detail);
    assert.equal(lost.detail.offsetMicros, '-2000000');
  });

  test('one liar: outvoted, told once when it persists, and heard again when it is right', async () => {
    await start(3);
    world.script('10.0.0.2', { offsetMs: 2_000 });
    assert.deepEqual(await world.round(), []);
    assert.deepEqual(await world.round(), []);
    assert.match(world.watch.health().detail, /^2 of 3 time servers agreed/);
    assert.deepEqual(await world.round(), ['falseticker 10.0.0.2 +2000.000 ms from the majority']);
    assert.match(world.watch.health().detail, /10\.0\.0\.2: falseticker$/);
    assert.equal(world.watch.picture().servers[1]?.up, false);
    for (let i = 0; i < 10; i += 1) assert.deepEqual(await world.round(), []);
    assert.equal(world.reading, 'trusted');
    world.script('10.0.0.2', {});
    await world.round();
    assert.match(world.watch.health().detail, /^3 of 3/);
  });

  test('all liars, together: too far from UTC, as far as anybody can tell', async () => {
    await start(3);
    world.scriptAll({ offsetMs: -2_000 });
    assert.deepEqual(await world.round(), ['offset offset -2000.000 ms, error at most 2002.001 ms', 'trusted -> offset']);
    assert.equal(world.reading, 'offset');
  });

  test('all liars, each its own way: no quorum, and what was proved holds until it is too old', async () => {
    await start(3, { holdoverMs: 60_000 });
    for (const [index, name] of serverNames(3).entries()) world.script(name, { offsetMs: (index + 1) * 3_000 });
    assert.deepEqual(await world.round(), []);
    assert.equal(world.reading, 'trusted');
    assert.match(world.watch.health().detail, /^without a quorum now; 3 of 3 time servers agreed 16\.0 s ago/);
    assert.deepEqual(await world.round(44_000), []);
    assert.equal(world.reading, 'trusted');
    world.pass(1);
    assert.equal(world.reading, 'noQuorum', 'the very stamp after it');
    assert.deepEqual(world.look(), ['quorumLost none for 60000 ms; offset +0.000 ms, error at most 5.001 ms', 'trusted -> noQuorum']);
  });

  test('silence: the same, and stamping resumes after good rounds in a row', async () => {
    await start(3, { holdoverMs: 60_000, goodRounds: 3 });
    world.scriptAll({ silent: true });
    for (let i = 0; i < 3; i += 1) assert.deepEqual(await world.round(), []);
    world.pass(13_000);
    assert.equal(world.look().at(-1), 'trusted -> noQuorum');
    world.scriptAll({});
    assert.deepEqual(await world.round(), []);
    assert.deepEqual(await world.round(), []);
    world.scriptAll({ silent: true });
    assert.deepEqual(await world.round(), [], 'that was not in a row');
    world.scriptAll({});
    for (let i = 0; i < 2; i += 1) assert.deepEqual(await world.round(), []);
    assert.match(world.watch.health().detail, /^stamping stopped \(noQuorum\).*2 good rounds since/);
    assert.equal(world.reading, 'noQuorum');
    assert.deepEqual(await world.round(), ['noQuorum -> trusted']);
  });

  test('a quorum smaller or larger than the majority', async () => {
    await start(4, { quorum: 4 });
    world.script('10.0.0.4', { silent: true });
    await world.round();
    assert.equal(world.watch.picture().rounds['noQuorum'], 1);
    await start(4, { quorum: 1 });
    for (const name of serverNames(3)) world.script(name, { silent: true });
    assert.deepEqual(await world.round(), []);
    assert.deepEqual(world.watch.picture().rounds, { good: 2, offset: 0, uncertain: 0, noQuorum: 0 });
  });

  for (const stepMs of [2_000, -2_000]) {
    test(`a step of ${stepMs} ms, set right again: stopped at once in every thread, resumed after settling and good rounds`, async () => {
      await start(3);
      world.wall += stepMs;
      assert.equal(world.reading, 'stepped', 'a thread sees it before the watch does');
      assert.deepEqual(world.look(), [`step ${stepMs}.000 ms`, 'trusted -> stepped']);
      // While the clock settles no round counts, and what a bad one finds is no news.
      for (let i = 0; i < 4; i += 1) assert.deepEqual(await world.round(2_000), []);
      assert.deepEqual(world.watch.picture().rounds, { good: 1, offset: 4, uncertain: 0, noQuorum: 0 });
      world.wall -= stepMs;
      assert.deepEqual(world.look(), [`step ${-stepMs}.000 ms`], 'that was a step too');
      for (let i = 0; i < 4; i += 1) assert.deepEqual(await world.round(2_000), []);
      world.pass(2_000);
      world.look();
      const told: string[][] = [];
      for (let i = 0; i < 3; i += 1) told.push(await world.round(2_000));
      assert.deepEqual(
        told.map((one) => one.join()),
        ['', '', 'stepped -> trusted'],
      );
    });
  }

  test('a step that stays: the clock has settled, and is wrong', async () => {
    await start(3);
    world.wall += 2_000;
    world.look();
    world.told.splice(0);
    world.pass(world.time.settleMs);
    assert.deepEqual(await world.round(), ['offset offset -2000.000 ms, error at most 2002.001 ms', 'stepped -> offset']);
    for (let i = 0; i < 50; i += 1) assert.deepEqual(await world.round(), []);
    assert.equal(world.reading, 'offset');
  });

  test('a step and its correction, which no watch has seen, cost the trust all the same', async () => {
    await start(3);
    const thread = world.thread();
    world.wall += 2_000;
    assert.equal(thread.read().kind, 'unavailable');
    world.wall -= 2_000;
    assert.equal(thread.read().kind, 'unavailable');
    world.pass(world.time.settleMs);
    assert.equal(world.reading, 'stepped', 'settled, but no servers have vouched for it since');
    world.look();
    for (let i = 0; i < 2; i += 1) await world.round(2_000);
    assert.equal(world.reading, 'stepped');
    await world.round(2_000);
    assert.equal(world.reading, 'trusted');
  });

  test('a round that a step has interrupted counts for nothing', async () => {
    await start(3);
    world.onAsk = () => {
      world.wall += 700;
      world.onAsk = () => undefined;
    };
    assert.deepEqual(await world.round(), ['step 700.000 ms', 'trusted -> stepped']);
    assert.deepEqual(world.watch.picture().rounds, { good: 1, offset: 0, uncertain: 0, noQuorum: 0 });
  });

  test('a machine that stood still while time went on', async () => {
    await start(3);
    // Its monotonic clock stood still too: what was proved with it is void.
    world.utc += 3_600_000;
    world.wall += 3_600_000;
    assert.equal(world.reading, 'stepped');
    world.look();
    world.pass(world.time.settleMs);
    world.look();
    for (let i = 0; i < 3; i += 1) await world.round(2_000);
    assert.equal(world.reading, 'trusted');
    assert.match(world.watch.health().detail, /offset \+0\.000 ms, error at most 2\.001 ms/);
  });

  test('a small step is no step, but counts in every stamp from then on', async () => {
    await start(3, { offsetMsMax: 200 });
    const errorOf = (): number => {
      const reading = world.thread().read();
      return reading.kind === 'time' ? reading.errorMs : Number.NaN;
    };
    world.wall += 150;
    assert.ok(Math.abs(errorOf() - 152) < 0.1);
    world.wall += 100;
    assert.equal(world.reading, 'offset', 'beyond the maximum, without waiting for a round');
    assert.deepEqual(world.look(), ['offset offset -250.000 ms, error at most 252.001 ms', 'trusted -> offset']);
  });

  test('the error grows with drift, and ends the trust when it is too large to be stated', async () => {
    await start(3, { driftPpm: 1_000, accuracyMicrosMax: 1_000_000, holdoverMs: 86_400_000 });
    world.scriptAll({ silent: true });
    world.pass(500_000);
    const reading = world.thread().read();
    assert.ok(reading.kind === 'time' && Math.abs(reading.errorMs - 502) < 0.1);
    world.pass(500_000);
    assert.equal(world.reading, 'uncertain');
    assert.equal(world.look().at(-1), 'trusted -> uncertain');
  });

  test('servers that know the time too badly prove too little', async () => {
    make(parseConfig({ timestamp: { accuracyMicros: 50_000 }, time: { ...timeOf(3), accuracyMicrosMax: 50_000 } }).time);
    world.scriptAll({ rootDelayMs: 40, rootDispersionMs: 60 });
    await world.round();
    assert.equal(world.reading, 'uncertain');
    world.scriptAll({ rootDelayMs: 10, rootDispersionMs: 10 });
    for (let i = 0; i < 3; i += 1) await world.round();
    assert.equal(world.reading, 'trusted');
  });

  test('an unsynchronised server is no witness', async () => {
    await start(3);
    world.script('10.0.0.1', { leap: 3 });
    world.script('10.0.0.2', { stratum: 16 });
    await world.round();
    assert.match(world.watch.health().detail, /^without a quorum now;.*10\.0\.0\.1: refused, 10\.0\.0\.2: refused$/);
  });

  test('two names of one server are one witness', async () => {
    make(parseConfig({ time: { servers: [{ host: 'a.test' }, { host: 'b.test' }] } }).time);
    const { transport } = world;
    (transport as { resolve: unknown }).resolve = async () => '10.0.0.1';
    await world.round();
    assert.equal(world.reading, 'starting');
    assert.equal(world.asked.get('10.0.0.1'), 2);
  });

  test('a name that leads nowhere is a silent server, and is looked up again', async () => {
    make(parseConfig({ time: { servers: [{ host: 'a.test' }] } }).time);
    let address: string | undefined;
    (world.transport as { resolve: unknown }).resolve = async () => address;
    await world.round();
    assert.match(world.watch.health().detail, /a\.test: silent$/);
    address = '10.0.0.9';
    assert.deepEqual((await world.round()).at(-1), 'starting -> trusted');
    world.script('10.0.0.9', { silent: true });
    address = '10.0.0.10';
    for (let i = 0; i < 3; i += 1) await world.round();
    await world.round();
    assert.equal(world.asked.get('10.0.0.10'), 1, 'after three silences the name may lead elsewhere');
  });

  describe("kiss-o'-death", () => {
    const kiss = (code: string) => ({ stratum: 0, leap: 3, referenceId: code });

    test('RATE: asked half as often, each time; the others go on', async () => {
      await start(3);
      world.script('10.0.0.1', kiss('RATE'));
      assert.deepEqual(await world.round(), ['kissOfDeath 10.0.0.1 RATE']);
      world.script('10.0.0.1', {});
      const asked = world.asked.get('10.0.0.1') ?? 0;
      for (let i = 0; i < 8; i += 1) await world.round();
      assert.equal(world.asked.get('10.0.0.1'), asked + 4);
      world.script('10.0.0.1', kiss('RATE'));
      assert.equal((await world.round()).length + (await world.round()).length, 1);
      const again = world.asked.get('10.0.0.1') ?? 0;
      for (let i = 0; i < 8; i += 1) await world.round();
      assert.ok((world.asked.get('10.0.0.1') ?? 0) - again <= 2);
      assert.equal(world.reading, 'trusted');
    });

    for (const code of ['DENY', 'RSTR']) {
      test(`${code}: never again`, async () => {
        await start(3);
        world.script('10.0.0.1', kiss(code));
        assert.deepEqual(await world.round(), [`kissOfDeath 10.0.0.1 ${code}`]);
        world.script('10.0.0.1', {});
        for (let i = 0; i < 100; i += 1) await world.round();
        assert.equal(world.asked.get('10.0.0.1'), 2);
        assert.match(world.watch.health().detail, /10\.0\.0\.1: kiss$/);
      });
    }

    test('another code is no answer', async () => {
      await start(3);
      world.script('10.0.0.1', kiss('INIT'));
      await world.round();
      world.script('10.0.0.1', {});
      await world.round();
      assert.match(world.watch.health().detail, /^3 of 3/);
    });
  });

  test('whatever servers and clock do, a stamp is given only when the clock is right within what is stated', async () => {
    const servers = serverNames(5);
    const act = fc.oneof(
      // At most two of five lie.
      fc.record({ liars: fc.uniqueArray(fc.constantFrom(...servers), { maxLength: 2 }), by: fc.integer({ min: -3_000, max: 3_000 }) }),
      fc.record({ silent: fc.uniqueArray(fc.constantFrom(...servers), { maxLength: 2 }) }),
      fc.record({ step: fc.integer({ min: -2_000, max: 2_000 }) }),
      fc.record({ pass: fc.integer({ min: 1, max: 100_000 }) }),
      fc.record({ rounds: fc.integer({ min: 1, max: 5 }) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(act, { maxLength: 30 }), async (acts) => {
        make(timeOf(5, { holdoverMs: 120_000, settleMs: 1_000 }));
        for (const one of acts) {
          if ('liars' in one) for (const name of servers) world.script(name, { offsetMs: one.liars.includes(name) ? one.by : 0 });
          else if ('silent' in one) for (const name of servers) world.script(name, { silent: one.silent.includes(name) });
          else if ('step' in one) world.wall += one.step;
          else if ('pass' in one) world.pass(one.pass);
          else for (let i = 0; i < one.rounds; i += 1) await world.round(2_000);
          const reading = world.thread().read();
          if (reading.kind !== 'time') continue;
          assert.equal(reading.state, 'trusted');
          assert.ok(
            Math.abs(reading.unixMillis - world.utc) <= reading.errorMs + 0.01,
            `${reading.unixMillis - world.utc} ${reading.errorMs}`,
          );
          assert.ok(reading.errorMs <= 1_000);
        }
        world.watch.close();
      }),
      { numRuns: 200 },
    );
  });
});
