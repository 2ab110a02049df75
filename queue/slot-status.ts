/**
 * What is told of slots in Redis: one field for each slot of each host, for each purpose that a process has it for, told anew every
 * second by that process.
 *
 * It is for people and alarms, and for gateways, which send as much at once as the tokens can hold (gateway/entry-sizes.ts); nothing else
 * is decided by it. What a process has told last stays when it ends, so a slot that has failed is seen as failed while nobody serves it,
 * and one that nobody tells of any more is seen by the age of what was told.
 */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { keyPurposes } from '../config/schema.ts';
import type { RedisClient } from './redis.ts';

/** Hash: host, slot, purpose and process to the instant on Redis's clock (Unix milliseconds), a blank, and the status in JSON. */
export const slotStatusKey = 'hsm:{hsm}:slots';

/** How often a process tells. */
export const tellEveryMs = 1_000;
/** A process that has told nothing for so long is gone, or stands still inside its module: five times that it should have. */
const silentAfterMs = 5_000;
/** What was told before it is of a host or a token that is not used any more. */
const forgottenAfterMs = 7 * 86_400_000;

/** What a process of the slot is doing, or how the last one ended. */
export const slotStates = ['starting', 'waiting', 'serving', 'failed', 'pin-refused', 'stopped'] as const;
export type SlotState = (typeof slotStates)[number];

/** The classes of PKCS#11 errors, and `setup`: what is wrong is not in the token but in module, files or certificates. */
export const failureClasses = ['session', 'device', 'credential', 'request', 'bug', 'setup'] as const;
export type FailureClass = (typeof failureClasses)[number];

/** Longest text of an error: what is told fits into a packet. */
export const errorCharactersMax = 500;

const instant = z.iso.datetime();
const count = z.int().min(0);

const statusSchema = z.strictObject({
  version: z.literal(2),
  node: z.string().min(1),
  /** Label of the token. */
  slot: z.string().min(1),
  /** What it signs there: a slot may be told of once for each. */
  purpose: z.enum(keyPurposes),
  /** Who signs: a slot for the journal is held by each signer of its host. */
  process: z.string().min(1),
  /** Path of the PKCS#11 module. */
  module: z.string().min(1),
  state: z.enum(slotStates),
  /** Since when it is in this state. */
  since: instant,
  /** Of the process that tells, or told last. */
  processId: z.int().min(1),
  startedAt: instant,
  /** For signing: in use now, open, and the most that there can be. */
  sessions: z.strictObject({ busy: count, open: count, max: count }),
  /** Threads that sign. With more sessions open than these, each signs several requests of an entry at once. */
  threads: count.optional(),
  /** Milliseconds that a signature takes, with as many at once as there are; absent: not known. */
  signMs: z.number().min(0).optional(),
  /** By this process: all, and for each second of the last ten. */
  signatures: z.strictObject({ total: count, perSecond: z.number().min(0) }),
  /** Keys that may stamp in it, the one that does first. */
  keys: z
    .array(z.strictObject({ label: z.string(), algorithm: z.string(), certificateSha256: z.string(), activeFrom: instant }))
    .max(1_000),
  lastError: z
    .strictObject({ at: instant, class: z.enum(failureClasses), code: z.string(), message: z.string().max(errorCharactersMax) })
    .optional(),
  /** Failures by class, over all processes that served it. */
  failures: z.partialRecord(z.enum(failureClasses), count),
});

/** What is told of a slot. Never a secret. */
export type SlotStatus = z.output<typeof statusSchema>;

/** With how old it is. */
export interface ToldSlot {
  readonly status: SlotStatus;
  readonly ageMs: number;
}

const tellScript = readFileSync(new URL('./commands/tellSlot-1.lua', import.meta.url), 'utf8');

/** Names one of what is told. */
export type SlotHolder = Pick<SlotStatus, 'node' | 'slot' | 'purpose' | 'process'>;

const fieldOf = ({ node, slot, purpose, process }: SlotHolder): string => JSON.stringify([node, slot, purpose, process]);

/** Tells of a slot. @throws what Redis says */
export const tellSlot = async (redis: RedisClient, status: SlotStatus): Promise<void> => {
  await redis.eval(tellScript, 1, slotStatusKey, fieldOf(status), JSON.stringify(statusSchema.parse(status)));
};

const read = (value: string, nowMs: number): ToldSlot | undefined => {
  const blank = value.indexOf(' ');
  let tree: unknown;
  try {
    tree = JSON.parse(value.slice(blank + 1));
  } catch {
    return undefined; // the schema would refuse it as well
  }
  const status = statusSchema.safeParse(tree);
  // Another release may tell it in another form: no reason not to show the others.
  return status.success ? { status: status.data, ageMs: Math.max(0, nowMs - Number(value.slice(0, blank))) } : undefined;
};

const redisNowMs = async (redis: RedisClient): Promise<number> => {
  const [seconds, micros] = (await redis.time()) as unknown as [string | number, string | number];
  return Number(seconds) * 1_000 + Number(micros) / 1_000;
};

/** In the order of a list for people. */
const orderOf = ({ status: { node, slot, purpose, process } }: ToldSlot): string => [node, slot, purpose, process].join('\0');

/** What is told of every slot, by host and label. @throws what Redis says */
export const readSlots = async (redis: RedisClient): Promise<ToldSlot[]> => {
  const [all, nowMs] = [await redis.hgetall(slotStatusKey), await redisNowMs(redis)];
  return Object.values(all)
    .flatMap((value) => read(value, nowMs) ?? [])
    .toSorted((a, b) => orderOf(a).localeCompare(orderOf(b)));
};

/** What was told last of one slot; undefined when nothing was, or not in this form. @throws what Redis says */
export const readSlot = async (redis: RedisClient, of: SlotHolder): Promise<SlotStatus | undefined> => {
  const value = await redis.hget(slotStatusKey, fieldOf(of));
  return value === null ? undefined : read(value, 0)?.status;
};

/** Removes what nobody has told for a week. @throws what Redis says */
export const forgetOldSlots = async (redis: RedisClient): Promise<void> => {
  const [all, nowMs] = [await redis.hgetall(slotStatusKey), await redisNowMs(redis)];
  const old = Object.entries(all).filter(([, value]) => nowMs - Number.parseInt(value, 10) > forgottenAfterMs);
  for (const [field] of old) await redis.hdel(slotStatusKey, field);
};

/** The state as it is to be believed: what a process should go on telling, and does not, is `silent`. */
export const believedState = ({ status, ageMs }: ToldSlot): SlotState | 'silent' =>
  ageMs > silentAfterMs && ['starting', 'waiting', 'serving'].includes(status.state) ? 'silent' : status.state;
