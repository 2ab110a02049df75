/**
 * The calendar of timestamping keys: from what the register says of one token, the policy and the time, what is to be done now.
 *
 * A pure function of its input. It keeps no plan of its own, so whatever was missed (a signer off for weeks, a CA that did not answer,
 * a clock that was stepped) is simply what is due at the next look, and what was done twice is due no more. It never prolongs anything:
 * the end of a key's use is written down when its use is settled, and whoever signs looks at that himself.
 */
import type { Config } from '../config/schema.ts';
import { tsuUse } from '../pki/tsu-usage.ts';
import type { TsuRecord } from '../queue/tsu-register.ts';

const dayMs = 86_400_000;
/** What begins within a minute is as good as there: a clock that is put back a little must not make keys. */
const soonMs = 60_000;
/** Days before the end at which is said that nothing follows, last chance last. */
const remindDays = [30, 14, 7, 3, 1] as const;

export interface CalendarPolicy {
  /** What new keys are; a TSU of another algorithm is followed by one of this. */
  readonly algorithm: TsuRecord['algorithm'];
  /** `outside`: keys are made, and certificates brought, by operators. */
  readonly issuer: 'embedded' | 'outside';
  /** Operators must approve, and are reminded in time. */
  readonly dualControl: boolean;
  readonly usageMsMax: number | undefined;
  readonly leadMs: number;
  readonly switchMs: number;
}

/** The calendar's policy in a configuration. */
export const calendarPolicy = (config: Config): CalendarPolicy => ({
  algorithm: config.timestamp.algorithm,
  issuer: config.timestamp.tsu.source === 'demonstration' ? 'embedded' : 'outside',
  dualControl: config.dualControl !== undefined,
  usageMsMax: config.tsu.usageMsMax,
  leadMs: config.tsu.leadDays * dayMs,
  switchMs: config.tsu.switchDays * dayMs,
});

export interface CalendarInput {
  /** All that the register has of this token. */
  readonly records: readonly TsuRecord[];
  readonly policy: CalendarPolicy;
  /** A new key was ordered then. */
  readonly orderedAt: Date | undefined;
  readonly now: Date;
}

/** When a TSU may sign. */
export interface TsuUse {
  readonly activateAt: Date;
  readonly usableUntil: Date;
}

export type TsuStep =
  | { readonly kind: 'generate' }
  /** `use`: what its certificate is to say. */
  | { readonly kind: 'certify'; readonly record: TsuRecord; readonly use: TsuUse }
  /** It has a certificate; settle its use, as far as the certificate permits. */
  | { readonly kind: 'schedule'; readonly record: TsuRecord; readonly use: TsuUse }
  /** Its use has begun. */
  | { readonly kind: 'activate'; readonly record: TsuRecord }
  | { readonly kind: 'retire'; readonly record: TsuRecord; readonly why: 'limit' | 'superseded' | 'compromised' | 'abandoned' }
  | { readonly kind: 'destroy'; readonly record: TsuRecord }
  | { readonly kind: 'remind'; readonly record: TsuRecord; readonly daysLeft: number; readonly threshold: number };

/** A record whose use is settled. */
type Settled = TsuRecord & { readonly activateAt: string; readonly usableUntil: string };

const isSettled = (record: TsuRecord): record is Settled => record.activateAt !== undefined && record.usableUntil !== undefined;
const begin = (record: Settled): number => Date.parse(record.activateAt);
const end = (record: Settled): number => Date.parse(record.usableUntil);

/** Signs now, or will. */
const liveOf = (records: readonly TsuRecord[], now: Date): Settled[] =>
  records
    .filter(isSettled)
    .filter(({ state, compromised }) => (state === 'certified' || state === 'active') && compromised === undefined)
    .filter((record) => end(record) >= now.getTime());

/**
 * True when a signer may use it at this instant: the rule that every signer applies for itself. Of several the one with the latest
 * `activateAt` is used whose key the signer has.
 */
export const mayStamp = (record: TsuRecord, now: Date): boolean => liveOf([record], now).some((settled) => begin(settled) <= now.getTime());

/** Made, and not yet to be used: its certificate, or the settling of its use, is awaited. */
const isPending = ({ state, activateAt, compromised }: TsuRecord): boolean =>
  (state === 'generated' || state === 'certified') && activateAt === undefined && compromised === undefined;

const lastOf = (records: readonly Settled[]): Settled | undefined => records.toSorted((a, b) => end(b) - end(a))[0];

/** What the steps are decided from. */
interface Look extends CalendarInput {
  /** Of the algorithm that is wanted. */
  readonly line: readonly TsuRecord[];
  readonly live: readonly Settled[];
  readonly orderOpen: boolean;
  readonly nobodyStamps: boolean;
}

const lookAt = (input: CalendarInput): Look => {
  const { records, policy, orderedAt, now } = input;
  const line = records.filter(({ algorithm }) => algorithm === policy.algorithm);
  const live = liveOf(line, now);
  const fulfils = (record: TsuRecord): boolean =>
    isSettled(record) && orderedAt !== undefined && Date.parse(record.certifiedAt ?? record.generatedAt) >= orderedAt.getTime();
  return {
    ...input,
    line,
    live,
    orderOpen: orderedAt !== undefined && !line.some(fulfils),
    nobodyStamps: !live.some((record) => begin(record) <= now.getTime() + soonMs),
  };
};

/** At once when it is needed or wanted at once; otherwise shortly before the use of the last one ends. */
const nextUse = ({ live, policy, now, orderOpen, nobodyStamps }: Look): TsuUse => {
  const last = lastOf(live);
  const planned = orderOpen || nobodyStamps || last === undefined ? now.getTime() : end(last) - policy.switchMs;
  return tsuUse(new Date(Math.max(now.getTime(), planned)), policy.usageMsMax);
};

const retirements = ({ records, policy, now }: Look): TsuStep[] => {
  const successors = liveOf(records, now).filter((record) => record.state === 'active' && begin(record) + policy.switchMs <= now.getTime());
  return records.flatMap((record): TsuStep[] => {
    if (record.state === 'retired' || record.state === 'destroyed') return [];
    if (record.compromised !== undefined) return [{ kind: 'retire', record, why: 'compromised' }];
    if (isPending(record)) return record.algorithm === policy.algorithm ? [] : [{ kind: 'retire', record, why: 'abandoned' }];
    if (!isSettled(record)) return [];
    if (end(record) < now.getTime()) return [{ kind: 'retire', record, why: 'limit' }];
    const followed = record.state === 'active' && successors.some((successor) => begin(successor) > begin(record));
    return followed ? [{ kind: 'retire', record, why: 'superseded' }] : [];
  });
};

const activations = ({ records, now }: Look): TsuStep[] =>
  records
    .filter((record) => record.state === 'certified' && mayStamp(record, now))
    .map((record): TsuStep => ({ kind: 'activate', record }));

const successions = (look: Look): TsuStep[] => {
  const { line, live, policy, now, orderOpen, nobodyStamps } = look;
  const [pending] = line.filter(isPending);
  if (pending?.state === 'certified') return [{ kind: 'schedule', record: pending, use: nextUse(look) }];
  if (policy.issuer === 'outside') return [];
  if (pending !== undefined) return [{ kind: 'certify', record: pending, use: nextUse(look) }];
  const last = lastOf(live);
  const isTime = last === undefined || end(last) - policy.switchMs - policy.leadMs <= now.getTime();
  return orderOpen || nobodyStamps || isTime ? [{ kind: 'generate' }] : [];
};

const destructions = ({ records, now }: Look): TsuStep[] =>
  records
    .filter(({ state, destroyAfter }) => state === 'retired' && destroyAfter !== undefined && Date.parse(destroyAfter) <= now.getTime())
    .map((record): TsuStep => ({ kind: 'destroy', record }));

/** Where people have to do something they are told in time; where it goes by itself, when it has not. */
const reminders = ({ live, policy, now }: Look): TsuStep[] => {
  const last = lastOf(live);
  if (last === undefined) return [];
  const leftMs = end(last) - now.getTime();
  const attended = policy.issuer === 'outside' || policy.dualControl;
  const threshold = remindDays.findLast((days) => leftMs <= days * dayMs && (attended || days * dayMs < policy.leadMs));
  if (threshold === undefined || threshold >= (last.remindedDays ?? Number.POSITIVE_INFINITY)) return [];
  return [{ kind: 'remind', record: last, daysLeft: Math.ceil(leftMs / dayMs), threshold }];
};

/** What is due now, in the order in which it is to be done. */
export const dueSteps = (input: CalendarInput): TsuStep[] => {
  const look = lookAt(input);
  return [...activations(look), ...retirements(look), ...successions(look), ...destructions(look), ...reminders(look)];
};

/** One name for one step of one TSU. */
export const stepKey = (step: TsuStep): string => `${step.kind} ${'record' in step ? step.record.id : ''}`;

/** What a log says of a step. */
export const describeStep = (step: TsuStep): Record<string, string> => ({
  ...('record' in step ? { key: step.record.keyLabel, tsu: step.record.id.slice(0, 12) } : {}),
  ...('why' in step ? { why: step.why } : {}),
});
