import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseConfig } from '../../config/load.ts';
import { tsuUse } from '../../pki/tsu-usage.ts';
import type { TsuRecord } from '../../queue/tsu-register.ts';
import { type CalendarInput, type CalendarPolicy, dueSteps, mayStamp, type TsuStep } from '../../signer/tsu-calendar.ts';
import { activeRecord, generatedRecord } from '../support/tsu-records.ts';

const day = 86_400_000;
const hour = 3_600_000;
const policy: CalendarPolicy = {
  algorithm: 'ec-p256',
  issuer: 'embedded',
  dualControl: false,
  usageMsMax: undefined,
  leadMs: 7 * day,
  switchMs: day,
};
const at = (text: string, plusMs = 0): Date => new Date(Date.parse(text) + plusMs);
const due = (
  records: readonly TsuRecord[],
  now: Date,
  change: Partial<CalendarPolicy> = {},
  more: Partial<CalendarInput> = {},
): TsuStep[] => dueSteps({ records, policy: { ...policy, ...change }, orderedAt: undefined, now, ...more });
const kinds = (steps: readonly TsuStep[]): string[] => steps.map(({ kind }) => kind);

/** What the executor makes of a step, without tokens and Redis: a whole life in memory. */
const carryOut = (records: TsuRecord[], step: TsuStep, now: Date, graceMs = 7 * day): void => {
  const replace = (record: TsuRecord, change: Partial<TsuRecord>): void => {
    records[records.findIndex(({ id }) => id === record.id)] = { ...record, ...change };
  };
  const use = 'use' in step ? { activateAt: step.use.activateAt.toISOString(), usableUntil: step.use.usableUntil.toISOString() } : {};
  switch (step.kind) {
    case 'generate':
      records.push(generatedRecord({ keyLabel: `tsu-ec-p256-${records.length + 1}`, generatedAt: now.toISOString() }));
      break;
    case 'certify':
      replace(step.record, { state: 'certified', certifiedAt: now.toISOString(), ...use });
      break;
    case 'schedule':
      replace(step.record, use);
      break;
    case 'activate':
      replace(step.record, { state: 'active' });
      break;
    case 'retire':
      replace(step.record, {
        state: 'retired',
        retiredAt: now.toISOString(),
        destroyAfter: new Date(now.getTime() + graceMs).toISOString(),
      });
      break;
    case 'destroy':
      replace(step.record, { state: 'destroyed', destroyedAt: now.toISOString() });
      break;
    case 'remind':
      replace(step.record, { remindedDays: step.threshold });
      break;
  }
};

/** Looks and does until nothing is due. */
const settle = (records: TsuRecord[], now: Date, change: Partial<CalendarPolicy> = {}, more: Partial<CalendarInput> = {}): string[] => {
  const done: string[] = [];
  for (let i = 0; i < 20; i += 1) {
    const steps = due(records, now, change, more);
    if (steps.length === 0) return done;
    for (const step of steps) carryOut(records, step, now);
    done.push(...kinds(steps));
  }
  throw new Error(`never settles: ${done.join(' ')}`);
};

const stamping = (records: readonly TsuRecord[], now: Date): TsuRecord | undefined =>
  records.filter((record) => mayStamp(record, now)).toSorted((a, b) => (b.activateAt ?? '').localeCompare(a.activateAt ?? ''))[0];

describe('the limit of use', () => {
  test('day 89, 90 and 91', () => {
    const start = '2026-07-01T12:00:00Z';
    const use = tsuUse(at(start), undefined);
    const record = activeRecord(start, 0, { usableUntil: use.usableUntil.toISOString() });
    assert.equal(use.usableUntil.toISOString(), '2026-09-29T12:00:00.000Z');
    for (const [days, stamps] of [
      [89, true],
      [90, true],
      [91, false],
    ] as const) {
      const now = at(start, days * day);
      assert.equal(mayStamp(record, now), stamps, `day ${days}`);
      assert.equal(kinds(due([record], now)).includes('retire'), !stamps, `day ${days}`);
    }
    assert.equal(mayStamp(record, at(start, 90 * day + 1)), false);
  });

  test('three months where they are shorter than 90 days: 30 November to 28 February, leap years, 1 February', () => {
    const limits = [
      ['2026-11-30T00:00:00Z', '2027-02-28T00:00:00.000Z'],
      ['2027-11-30T00:00:00Z', '2028-02-28T00:00:00.000Z'], // 90 days; three months end on 29 February
      ['2028-11-30T00:00:00Z', '2029-02-28T00:00:00.000Z'],
      ['2027-02-01T00:00:00Z', '2027-05-01T00:00:00.000Z'], // 89 days
      ['2028-02-01T00:00:00Z', '2028-05-01T00:00:00.000Z'], // 90 days, in a leap year
      ['2028-02-29T00:00:00Z', '2028-05-29T00:00:00.000Z'],
      ['2026-12-01T00:00:00Z', '2027-03-01T00:00:00.000Z'],
    ] as const;
    for (const [start, end] of limits) assert.equal(tsuUse(at(start), undefined).usableUntil.toISOString(), end, start);
  });

  test('a shorter use by configuration, in whole seconds', () => {
    const use = tsuUse(at('2026-11-22T10:00:00.987Z'), 4_500);
    assert.deepEqual(
      [use.activateAt.toISOString(), use.usableUntil.toISOString()],
      ['2026-11-22T10:00:00.000Z', '2026-11-22T10:00:04.000Z'],
    );
  });
});

describe('the calendar', () => {
  test('from nothing to a TSU at once', () => {
    const records: TsuRecord[] = [];
    const now = at('2026-11-22T10:00:00.500Z');
    assert.deepEqual(settle(records, now), ['generate', 'certify', 'activate']);
    assert.equal(stamping(records, now)?.state, 'active');
  });

  test('three years, an hour at a time: always exactly one that stamps, never one beyond its limit, every key destroyed', () => {
    const records: TsuRecord[] = [];
    const start = Date.parse('2026-11-30T00:00:00Z');
    for (let hours = 0; hours <= 3 * 365 * 24; hours += 1) {
      const now = new Date(start + hours * hour);
      settle(records, now);
      const one = stamping(records, now);
      assert.ok(one?.activateAt !== undefined, now.toISOString());
      assert.ok(now.getTime() - Date.parse(one.activateAt) <= 90 * day);
      // What is in the way of the next one has a week to be put right.
      const successor = records.find(({ state }) => state === 'certified');
      if (successor?.activateAt !== undefined)
        assert.ok(Date.parse(successor.activateAt) - Date.parse(successor.certifiedAt!) >= 7 * day - hour);
    }
    assert.ok(records.length >= 12 && records.length <= 14, `${records.length} keys`);
    assert.ok(records.slice(0, -2).every(({ state }) => state === 'destroyed'));
    for (const { retiredAt, destroyedAt } of records.slice(0, -2)) assert.ok(Date.parse(destroyedAt!) - Date.parse(retiredAt!) >= 7 * day);
  });

  test('a rotation every two seconds', () => {
    const drill = { usageMsMax: 4_000, switchMs: 2_000, leadMs: 1_000 };
    const records: TsuRecord[] = [];
    const start = Date.parse('2026-11-22T10:00:00Z');
    for (let ms = 0; ms <= 60_000; ms += 100) {
      const now = new Date(start + ms);
      settle(records, now, drill);
      assert.ok(stamping(records, now), now.toISOString());
    }
    assert.ok(records.length >= 29 && records.length <= 33, `${records.length} keys`);
    const begins = records.flatMap(({ activateAt }) => (activateAt === undefined ? [] : [Date.parse(activateAt)]));
    for (const [i, begin] of begins.entries()) if (i > 0) assert.equal(begin - begins[i - 1]!, 2_000);
  });

  test('the CA is away at the time of rotation: the old one goes on to its limit, the new one begins when it is ready', () => {
    const records = [activeRecord('2026-01-01T00:00:00Z')];
    const now = at('2026-01-01T00:00:00Z', 83 * day);
    assert.deepEqual(kinds(due(records, now)), ['generate']);
    carryOut(records, { kind: 'generate' }, now);
    // A week without a certificate: the steps stay due, and the last days are told.
    for (const [days, expected] of [
      [84, ['certify']],
      [87.5, ['certify', 'remind']],
      [89.5, ['certify', 'remind']],
    ] as const) {
      const steps = due(records, at('2026-01-01T00:00:00Z', days * day));
      assert.deepEqual(kinds(steps), expected, String(days));
      for (const step of steps) if (step.kind === 'remind') carryOut(records, step, now);
    }
    const back = at('2026-01-01T00:00:00Z', 89.9 * day);
    assert.deepEqual(settle(records, back), ['certify', 'activate']);
    const one = stamping(records, back);
    assert.equal(one?.keyLabel, 'tsu-ec-p256-2');
    assert.ok(Date.parse(one.activateAt!) <= back.getTime());
  });

  test('the CA is away beyond the limit: nobody stamps, and then one does at once', () => {
    const records = [activeRecord('2026-01-01T00:00:00Z')];
    carryOut(records, { kind: 'generate' }, at('2026-03-25T00:00:00Z'));
    const now = at('2026-01-01T00:00:00Z', 91 * day);
    assert.equal(stamping(records, now), undefined);
    assert.deepEqual(kinds(due(records, now)), ['retire', 'certify']);
    settle(records, now);
    assert.equal(stamping(records, now)?.keyLabel, 'tsu-ec-p256-2');
  });

  test('off for a week, over the switch: the successor has begun without anybody, and is marked', () => {
    const records = [activeRecord('2026-01-01T00:00:00Z')];
    settle(records, at('2026-01-01T00:00:00Z', 83 * day));
    assert.equal(records[1]?.activateAt, at('2026-01-01T00:00:00Z', 89 * day).toISOString());
    const now = at('2026-01-01T00:00:00Z', 90.5 * day);
    assert.equal(stamping(records, now), records[1]);
    assert.deepEqual(settle(records, now), ['activate', 'retire']);
  });

  test('off for a week before anything was made, and off for a year', () => {
    for (const days of [88, 90, 91, 365]) {
      const records = [activeRecord('2026-01-01T00:00:00Z')];
      const now = at('2026-01-01T00:00:00Z', days * day);
      settle(records, now);
      const one = stamping(records, now);
      assert.ok(one !== undefined && Date.parse(one.usableUntil!) >= now.getTime(), `day ${days}`);
      assert.equal(records.length, 2, `day ${days}`);
    }
  });

  test('a clock stepped forward by hours and back again: no gap, no second key', () => {
    const records = [activeRecord('2026-01-01T00:00:00Z')];
    settle(records, at('2026-01-01T00:00:00Z', 83 * day));
    const before = at('2026-01-01T00:00:00Z', 89 * day - 2 * hour);
    settle(records, new Date(before.getTime() + 5 * hour));
    assert.equal(records[1]?.state, 'active');
    settle(records, before);
    assert.equal(records.length, 2);
    // The new one does not stamp before its time; the old one still stands by.
    assert.equal(stamping(records, before), records[0]);
    settle(records, new Date(before.getTime() - 10 * hour));
    assert.equal(records.length, 2);
    settle(records, new Date(before.getTime() + 3 * hour));
    assert.equal(stamping(records, new Date(before.getTime() + 3 * hour)), records[1]);
  });

  test('a clock stepped forward by days, and back: what was retired stays retired, and another one stamps at once', () => {
    const records = [activeRecord('2026-01-01T00:00:00Z')];
    settle(records, at('2026-01-01T00:00:00Z', 95 * day));
    const now = at('2026-01-01T00:00:00Z', 50 * day);
    settle(records, now);
    assert.equal(records[0]?.state, 'retired');
    assert.ok(stamping(records, now));
  });

  test('a clock that is put back by a second makes no key', () => {
    const records: TsuRecord[] = [];
    settle(records, at('2026-11-22T10:00:05Z'));
    assert.deepEqual(due(records, at('2026-11-22T10:00:04Z')), []);
  });

  test('an order: at once, and once', () => {
    const records = [activeRecord('2026-01-01T00:00:00Z')];
    const now = at('2026-01-20T00:00:00Z');
    const order = { orderedAt: now };
    assert.deepEqual(settle(records, now, {}, order), ['generate', 'certify', 'activate']);
    assert.equal(stamping(records, now), records[1]);
    assert.deepEqual(due(records, at('2026-01-20T10:00:00Z'), {}, order), []);
    assert.deepEqual(kinds(due(records, at('2026-01-21T00:00:00Z'), {}, order)), ['retire']);
  });

  test('an order takes the key that is made already', () => {
    const records = [
      activeRecord('2026-01-01T00:00:00Z'),
      generatedRecord({ keyLabel: 'tsu-ec-p256-2', generatedAt: '2026-01-10T00:00:00Z' }),
    ];
    const now = at('2026-01-20T00:00:00Z');
    assert.deepEqual(settle(records, now, {}, { orderedAt: now }), ['certify', 'activate']);
    assert.equal(records.length, 2);
  });

  test('a compromised TSU stamps no more; the next one begins at once', () => {
    const compromised = { at: '2026-01-20T00:00:00Z', reason: 'lost' };
    const records = [activeRecord('2026-01-01T00:00:00Z', 90, { compromised })];
    const now = at('2026-01-20T00:00:01Z');
    assert.equal(stamping(records, now), undefined);
    assert.deepEqual(settle(records, now), ['retire', 'generate', 'certify', 'activate']);
    assert.equal(stamping(records, now), records[1]);
  });

  test('another algorithm by configuration: one of it at once, and the old one stands by for a while', () => {
    const records = [activeRecord('2026-01-01T00:00:00Z', 90, { algorithm: 'rsa-2048', keyLabel: 'tsu-rsa-2048-1' })];
    const now = at('2026-01-20T00:00:00Z');
    assert.deepEqual(settle(records, now), ['generate', 'certify', 'activate']);
    assert.deepEqual(settle(records, at('2026-01-21T00:00:00Z')), ['retire']);
    assert.equal(records[0]?.state, 'retired');
  });

  test('a key for another algorithm that never got a certificate is given up', () => {
    const records = [activeRecord('2026-01-01T00:00:00Z'), generatedRecord({ algorithm: 'rsa-2048' })];
    assert.deepEqual(
      due(records, at('2026-01-02T00:00:00Z')).map((step) => 'why' in step && step.why),
      ['abandoned'],
    );
  });

  test('an outside CA: nothing is made, the last days are told once each, and what is installed begins in time', () => {
    const outside = { issuer: 'outside' } as const;
    const records = [activeRecord('2026-01-01T00:00:00Z')];
    const told: number[] = [];
    for (let hours = 0; hours < 92 * 24; hours += 1) {
      for (const step of due(records, at('2026-01-01T00:00:00Z', hours * hour), outside)) {
        if (step.kind === 'remind') told.push(step.threshold);
        else assert.equal(step.kind, 'retire');
        carryOut(records, step, at('2026-01-01T00:00:00Z', hours * hour));
      }
    }
    assert.deepEqual(told, [30, 14, 7, 3, 1]);

    const another = [activeRecord('2026-01-01T00:00:00Z'), generatedRecord({ state: 'certified', certifiedAt: '2026-03-01T00:00:00Z' })];
    assert.deepEqual(settle(another, at('2026-03-01T00:00:00Z'), outside), ['schedule']);
    assert.equal(another[1]?.activateAt, at('2026-01-01T00:00:00Z', 89 * day).toISOString());
  });

  test('an outage that begins late tells only what is left', () => {
    const records = [activeRecord('2026-01-01T00:00:00Z')];
    const [step] = due(records, at('2026-01-01T00:00:00Z', 85 * day), { issuer: 'outside' });
    assert.ok(step?.kind === 'remind');
    assert.deepEqual([step.threshold, step.daysLeft], [7, 5]);
  });

  test('a policy that would make keys for ever is refused', () => {
    const check = (tsu: Record<string, unknown>) => parseConfig({ home: '/nonexistent', tsu });
    assert.throws(() => check({ leadDays: 88, switchDays: 2 }), { code: 'CONFIG_INVALID', message: /leadDays/ });
    assert.throws(() => check({ usageMsMax: 4_000 }), { code: 'CONFIG_INVALID' });
    check({ usageMsMax: 4_000, leadDays: 1_000 / day, switchDays: 2_000 / day });
  });
});
