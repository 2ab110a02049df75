/**
 * The register of timestamping units in Redis: which keys there are, what state each is in, and from when to when it may sign.
 *
 * Every change, the event that tells of it and the new version of the register are one command: a signer that sees the old version
 * has the old register, and no key changes its state that the journal does not hear of. The switch from one TSU to the next is an
 * instant in their records (`activateAt`), which every signer knows long before: it needs no message, and no process must be awake.
 *
 * This is the operating copy. A Redis that comes back empty is filled again from the files of the home folder (signer/tsu-folder.ts).
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { SigilloError } from '../config/errors.ts';
import { tsuAlgorithms } from '../config/schema.ts';
import type { RedisClient } from './redis.ts';

/** A record is 3 KB with its chain. Ten tokens with a new key every month fill it in eight years; a rotation every 2 s in half an hour. */
export const tsusMax = 1_000;
/** Two processes that change one TSU at once are rare; five in a row do not happen. */
const attemptsMax = 5;

/** One hash tag: the script that changes the register touches all of them. */
export const tsuRegisterKeys = {
  tsus: 'tsu:{tsus}',
  version: 'tsu:{tsus}:version',
  /** Stream of blocks of events, in the form of `journalKeys.events`. */
  journal: 'tsu:{tsus}:journal',
  /** Hash: label and serial number of a token (`tokenName`) to the plan of the key that is being made in it. */
  plans: 'tsu:{tsus}:plans',
  /** Hash: label and serial number of a token to the instant at which its rotation was ordered. */
  orders: 'tsu:{tsus}:orders',
  /** Hash: label and serial number of a token to the instant at which a process has worked on it last. */
  tokens: 'tsu:{tsus}:tokens',
  /** Hash: id of a ceremony to its record (queue/ceremonies.ts). */
  ceremonies: 'tsu:{tsus}:ceremonies',
  /** Hash: name of a file of the repository to its octets: the CRLs. */
  crls: 'tsu:{tsus}:crls',
  /** Lease of the process that works on the keys of a token. */
  lease: (token: string): string => `tsu:{tsus}:lease:${token}`,
} as const;

const tsuStates = ['generated', 'certified', 'active', 'retired', 'destroyed'] as const;

const instant = z.iso.datetime();
const base64 = z.base64().min(1);

const recordSchema = z.strictObject({
  version: z.literal(1),
  /** SHA-256 of the SubjectPublicKeyInfo, lower-case hex: the one name that two tokens cannot both give. */
  id: z.string().regex(/^[0-9a-f]{64}$/),
  /** Label of the token that the key was made in. */
  token: z.string().min(1).max(32),
  /** Serial number of that token: two hosts may well have a token of one label each. Absent when it was not known. */
  tokenSerial: z.string().max(16).optional(),
  keyLabel: z.string().min(1),
  algorithm: z.enum(tsuAlgorithms),
  state: z.enum(tsuStates),
  /** SubjectPublicKeyInfo, DER in base64. */
  spki: base64,
  /** DER in base64: TSU first, then its authorities without the root. From `certified` on. */
  chain: z.array(base64).min(1).optional(),
  generatedAt: instant,
  certifiedAt: instant.optional(),
  /** When its use begins; absent while nobody has decided. Both ends belong to the time of use. */
  activateAt: instant.optional(),
  /** The last instant at which it may sign. There whenever `activateAt` is. */
  usableUntil: instant.optional(),
  retiredAt: instant.optional(),
  /** From when on the private key is destroyed. */
  destroyAfter: instant.optional(),
  /** The private key was there, and its destruction begun: if it is gone now, we were it. */
  destructionBegunAt: instant.optional(),
  destroyedAt: instant.optional(),
  /** Its signatures are not to be trusted from here on, and it signs nothing any more. */
  compromised: z.strictObject({ at: instant, reason: z.string().min(1).max(500) }).optional(),
  /** Days before its end at which was last said that nothing follows it. */
  remindedDays: z.int().min(0).optional(),
  /** CertificationRequest that waits for an outside CA, DER in base64. */
  request: base64.optional(),
});

/** A TSU as it is stored. */
export type TsuRecord = z.output<typeof recordSchema>;

/** What happened to a TSU; the record is the new one. */
export type TsuChange = { readonly record: TsuRecord } & (
  | { readonly kind: 'generated' | 'registered' | 'requested' | 'scheduled' | 'activated' | 'retired' | 'destroyed' }
  /** A note for who comes after an interruption; nothing is told of it. */
  | { readonly kind: 'destructionBegun' }
  /** The certificate was issued by the embedded CA, or taken from an outside one. */
  | { readonly kind: 'certified'; readonly by: 'embedded' | 'outside' }
  | { readonly kind: 'compromised'; readonly reason: string }
  | { readonly kind: 'reminded'; readonly daysLeft: number }
);

/** Writes changes down as a block of events for the journal, whose form is not the register's business; empty: nothing to tell. */
export type TellTsuChanges = (changes: readonly TsuChange[]) => Buffer;

const scriptOf = (name: string): string => readFileSync(join(import.meta.dirname, 'commands', name), 'utf8');
const replaceScript = scriptOf('replaceTsu-4.lua');
const planScript = scriptOf('planKey-2.lua');

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // the schema refuses it with the id of the TSU
  }
};

/** Reads a record. @throws INTERNAL when it is none, or another TSU's */
export const parseTsuRecord = (id: string, json: string): TsuRecord => {
  const record = recordSchema.safeParse(parseJson(json));
  if (!record.success || record.data.id !== id) throw new SigilloError('INTERNAL', `TSU ${id}: its record cannot be read`);
  return record.data;
};

/** What is done about a record that cannot be read, as one of a later release may be: it is left out. */
export type OnUnreadableTsu = (id: string, error: SigilloError) => void;

const orFail: OnUnreadableTsu = (_id, error) => {
  throw error;
};

/** Every TSU, in the order in which the keys were made. */
const listTsus = async (redis: RedisClient, onUnreadable: OnUnreadableTsu): Promise<TsuRecord[]> => {
  const all = await redis.hgetall(tsuRegisterKeys.tsus);
  return Object.entries(all)
    .flatMap(([id, json]) => {
      try {
        return [parseTsuRecord(id, json)];
      } catch (error) {
        onUnreadable(id, error as SigilloError);
        return [];
      }
    })
    .toSorted((a, b) => a.generatedAt.localeCompare(b.generatedAt) || a.keyLabel.localeCompare(b.keyLabel));
};

/** A number that changes with every change of the register. */
export const readTsusVersion = async (redis: RedisClient): Promise<string> => (await redis.get(tsuRegisterKeys.version)) ?? '0';

/**
 * The register together with the version it has.
 * @param onUnreadable for those to whom one record must not hide the others; unset: it is an error
 * @throws INTERNAL when a record cannot be read
 */
export const readTsus = async (
  redis: RedisClient,
  onUnreadable = orFail,
): Promise<{ readonly version: string; readonly tsus: TsuRecord[] }> => {
  // Version first: a change in between is then seen as a new version at the next look, never missed.
  const version = await readTsusVersion(redis);
  return { version, tsus: await listTsus(redis, onUnreadable) };
};

interface Replacement {
  /** JSON of the record; undefined stands for none. */
  readonly current: string | undefined;
  readonly next: TsuRecord;
  readonly block: Buffer | undefined;
  /** Token whose plan is carried out with it. */
  readonly plan?: string;
}

const replace = async (redis: RedisClient, { current, next, block, plan }: Replacement): Promise<'replaced' | 'conflict'> => {
  const { tsus, version, journal, plans } = tsuRegisterKeys;
  // What leaves here is read again by others: a record that they would not take must not get in.
  const json = JSON.stringify(recordSchema.parse(next));
  const parameters = [next.id, current ?? '', json, block ?? '', plan ?? '', String(tsusMax)];
  const result: unknown = await redis.eval(replaceScript, 4, tsus, version, journal, plans, ...parameters);
  if (result === -1) throw new SigilloError('TSU_LIMIT', `It holds ${tsusMax}.`);
  return result === 1 ? 'replaced' : 'conflict';
};

export interface AddTsuOptions {
  /** The plan of this token is carried out with it (`planKey`). */
  readonly plan?: string;
}

/**
 * Adds a TSU.
 * @returns false when one with its key is there already: somebody else was faster with the same
 * @throws TSU_LIMIT, what Redis says
 */
export const addTsu = async (
  redis: RedisClient,
  change: TsuChange,
  tell: TellTsuChanges,
  { plan }: AddTsuOptions = {},
): Promise<boolean> => {
  const replacement = { current: undefined, next: change.record, block: tell([change]), ...(plan !== undefined && { plan }) };
  return (await replace(redis, replacement)) === 'replaced';
};

/**
 * Changes the record that is there, again when somebody else was faster.
 *
 * @param decide what happens to it, in order, each with the record as it is then; none: it is as it should be
 * @returns the record as it is now
 * @throws TSU_UNKNOWN, what `decide` throws, what Redis says
 */
export const changeTsu = async (
  redis: RedisClient,
  id: string,
  decide: (record: TsuRecord) => readonly TsuChange[],
  tell: TellTsuChanges,
): Promise<TsuRecord> => {
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    const current = await redis.hget(tsuRegisterKeys.tsus, id);
    if (current === null) throw new SigilloError('TSU_UNKNOWN', id);
    const record = parseTsuRecord(id, current);
    const changes = decide(record);
    const next = changes.at(-1)?.record;
    if (next === undefined) return record;
    if ((await replace(redis, { current, next, block: tell(changes) })) === 'replaced') return next;
  }
  throw new SigilloError('INTERNAL', `TSU ${id}: its record changes all the time`);
};

/**
 * The TSU that an operator means: by its id, the beginning of it, or its key's label where only one has it.
 * @throws TSU_UNKNOWN when none or more than one is meant
 */
export const findTsu = (tsus: readonly TsuRecord[], name: string): TsuRecord => {
  const meant = tsus.filter(({ id, keyLabel }) => keyLabel === name || (/^[0-9a-f]{6,64}$/.test(name) && id.startsWith(name)));
  const [one, another] = meant;
  if (one === undefined) throw new SigilloError('TSU_UNKNOWN', JSON.stringify(name.slice(0, 80)));
  if (another !== undefined) throw new SigilloError('TSU_UNKNOWN', `"${name}" is more than one: ${meant.map(({ id }) => id).join(', ')}`);
  return one;
};

/** One name for one token. */
export const tokenName = (label: string, serial: string): string => `${label}/${serial}`;

/** Notes that a process works on a token now. */
export const noteToken = async (redis: RedisClient, name: string, now: Date): Promise<void> => {
  await redis.hset(tsuRegisterKeys.tokens, name, now.toISOString());
};

/** The tokens that are worked on, by name, with the instant of the last time. */
export const readTokens = async (redis: RedisClient): Promise<ReadonlyMap<string, Date>> =>
  new Map(Object.entries(await redis.hgetall(tsuRegisterKeys.tokens)).map(([name, at]) => [name, new Date(at)]));

/** A key that is to be made: its name is settled first, so that two who make it make the same. */
const planSchema = z.strictObject({ version: z.literal(1), keyLabel: z.string().min(1), algorithm: z.enum(tsuAlgorithms), at: instant });
export type KeyPlan = z.output<typeof planSchema>;

const readPlan = (token: string, json: string): KeyPlan => {
  const plan = planSchema.safeParse(parseJson(json));
  if (!plan.success) throw new SigilloError('INTERNAL', `the plan of a key in token ${token} cannot be read`);
  return plan.data;
};

/** The keys that are being made, by token. @throws INTERNAL when a plan cannot be read */
export const readKeyPlans = async (redis: RedisClient): Promise<ReadonlyMap<string, KeyPlan>> =>
  new Map(Object.entries(await redis.hgetall(tsuRegisterKeys.plans)).map(([token, json]) => [token, readPlan(token, json)]));

/**
 * Settles which key is made next in a token: there is one at a time.
 *
 * @param version of the register by which it was decided that a key is to be made
 * @returns the plan that holds, which may be another's; undefined when the register has changed meanwhile
 */
export const planKey = async (
  redis: RedisClient,
  token: string,
  wanted: Omit<KeyPlan, 'version'>,
  version: string,
): Promise<KeyPlan | undefined> => {
  const plan: KeyPlan = { version: 1, ...wanted };
  const { plans, version: versionKey } = tsuRegisterKeys;
  const json = (await redis.eval(planScript, 2, plans, versionKey, token, JSON.stringify(plan), version)) as string;
  return json === '' ? undefined : readPlan(token, json);
};

/** When the rotation of each token was ordered last. */
export const readRotationOrders = async (redis: RedisClient): Promise<ReadonlyMap<string, string>> =>
  new Map(Object.entries(await redis.hgetall(tsuRegisterKeys.orders)));

/** Orders a new key for a token, whatever the calendar says. @param block events that tell of it, taken with the order or not at all */
export const orderRotation = async (redis: RedisClient, token: string, at: Date, block: Buffer): Promise<void> => {
  const results = await redis
    .multi()
    .hset(tsuRegisterKeys.orders, token, at.toISOString())
    .incr(tsuRegisterKeys.version)
    .xadd(tsuRegisterKeys.journal, '*', 'b', block)
    .exec();
  for (const [error] of results ?? []) if (error) throw error;
};
