/**
 * Ceremonies: what operators must agree to before it is done with a key, and who has agreed. In Redis, each change and its event in one
 * command.
 *
 * What operators sign is a text that names the step, the key and the instant of the request, so a signature counts for nothing else.
 * There is one ceremony for each step of each key, ever. Nothing here is believed when it counts: whoever can write to Redis can write
 * approvals, and who carries the step out verifies each of them again (signer/dual-control.ts).
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { SigilloError } from '../config/errors.ts';
import type { RedisClient } from './redis.ts';
import { tsuRegisterKeys } from './tsu-register.ts';

const attemptsMax = 5;
const instant = z.iso.datetime();
const line = z.string().regex(/^[^\r\n]{1,128}$/);

export const ceremonyActions = ['generate', 'activate', 'destroy'] as const;

const approvalSchema = z.strictObject({ operator: line, at: instant, signature: z.base64().min(1).max(1_024) });

const recordSchema = z.strictObject({
  version: z.literal(1),
  id: z.string().regex(/^[0-9a-f]{16}$/),
  action: z.enum(ceremonyActions),
  token: line,
  keyLabel: line,
  /** Id of the TSU: the SHA-256 of its SubjectPublicKeyInfo; absent while there is no key. */
  tsu: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .optional(),
  requestedAt: instant,
  approvals: z.array(approvalSchema).max(64),
  executedAt: instant.optional(),
});

/** A ceremony as it is stored. */
export type Ceremony = z.output<typeof recordSchema>;
export type Approval = Ceremony['approvals'][number];

/** What a ceremony is about. */
export type CeremonySubject = Pick<Ceremony, 'action' | 'token' | 'keyLabel' | 'tsu'>;

export type CeremonyChange = { readonly ceremony: Ceremony } & (
  | { readonly kind: 'requested' | 'executed' }
  | { readonly kind: 'approved'; readonly approval: Approval }
);
/** Writes a change down as a block of events for the journal. */
export type TellCeremony = (change: CeremonyChange) => Buffer;

const replaceScript = readFileSync(new URL('./commands/replaceCeremony-2.lua', import.meta.url), 'utf8');

/** The one name of what a ceremony is about. */
export const ceremonyId = ({ action, token, keyLabel, tsu }: CeremonySubject): string =>
  createHash('sha256')
    .update([action, token, keyLabel, tsu ?? ''].join('\n'))
    .digest('hex')
    .slice(0, 16);

/** What each operator signs: these octets, in UTF-8. */
export const ceremonyText = ({
  id,
  action,
  token,
  keyLabel,
  tsu,
  requestedAt,
}: Omit<Ceremony, 'approvals' | 'executedAt' | 'version'>): string =>
  [
    'sigillo ceremony v1',
    `id ${id}`,
    `action ${action}`,
    `token ${token}`,
    `key ${keyLabel}`,
    `fingerprint ${tsu ?? 'none'}`,
    `requested ${requestedAt}`,
    '',
  ].join('\n');

const parse = (id: string, json: string): Ceremony => {
  let tree: unknown;
  try {
    tree = JSON.parse(json);
  } catch {
    tree = undefined; // the schema refuses it with the id
  }
  const record = recordSchema.safeParse(tree);
  // An id that is not that of its subject would let one approval stand for another step.
  if (!record.success || record.data.id !== id || ceremonyId(record.data) !== id)
    throw new SigilloError('INTERNAL', `ceremony ${id}: its record in Redis cannot be read`);
  return record.data;
};

/** Every ceremony, in the order of the requests. @throws INTERNAL when a record cannot be read */
export const readCeremonies = async (redis: RedisClient): Promise<Ceremony[]> =>
  Object.entries(await redis.hgetall(tsuRegisterKeys.ceremonies))
    .map(([id, json]) => parse(id, json))
    .toSorted((a, b) => a.requestedAt.localeCompare(b.requestedAt));

/** The ceremony of a step, if somebody has requested it. @throws INTERNAL when its record cannot be read */
export const findCeremony = async (redis: RedisClient, subject: CeremonySubject): Promise<Ceremony | undefined> => {
  const id = ceremonyId(subject);
  const json = await redis.hget(tsuRegisterKeys.ceremonies, id);
  return json === null ? undefined : parse(id, json);
};

const replace = async (redis: RedisClient, current: string | undefined, change: CeremonyChange, tell: TellCeremony): Promise<boolean> => {
  const { ceremonies, journal } = tsuRegisterKeys;
  const json = JSON.stringify(recordSchema.parse(change.ceremony));
  return (await redis.eval(replaceScript, 2, ceremonies, journal, change.ceremony.id, current ?? '', json, tell(change))) === 1;
};

/** The ceremony of a step, which is requested when nobody has. */
export const ensureCeremony = async (redis: RedisClient, subject: CeremonySubject, now: Date, tell: TellCeremony): Promise<Ceremony> => {
  const known = await findCeremony(redis, subject);
  if (known !== undefined) return known;
  const id = ceremonyId(subject);
  const { action, token, keyLabel, tsu } = subject;
  const ceremony: Ceremony = {
    version: 1,
    id,
    action,
    token,
    keyLabel,
    ...(tsu !== undefined && { tsu }),
    requestedAt: now.toISOString(),
    approvals: [],
  };
  if (await replace(redis, undefined, { kind: 'requested', ceremony }, tell)) return ceremony;
  return parse(id, (await redis.hget(tsuRegisterKeys.ceremonies, id)) ?? '');
};

/**
 * Changes a ceremony, again when somebody else was faster.
 * @param decide the change; undefined: it is as it should be
 * @throws CEREMONY_UNKNOWN, what `decide` throws
 */
export const changeCeremony = async (
  redis: RedisClient,
  id: string,
  decide: (ceremony: Ceremony) => CeremonyChange | undefined,
  tell: TellCeremony,
): Promise<Ceremony> => {
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    const current = await redis.hget(tsuRegisterKeys.ceremonies, id);
    if (current === null) throw new SigilloError('CEREMONY_UNKNOWN', JSON.stringify(id.slice(0, 80)));
    const ceremony = parse(id, current);
    const change = decide(ceremony);
    if (change === undefined) return ceremony;
    if (await replace(redis, current, change, tell)) return change.ceremony;
  }
  throw new SigilloError('INTERNAL', `ceremony ${id}: its record changes all the time`);
};
