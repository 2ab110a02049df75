/**
 * The register of clients in Redis: who may ask for timestamps when `timestamp.access` is `clients`, and who may read the
 * archive and the journal as an auditor.
 *
 * Every change, the event that tells of it and the new version of the register are one command: a gateway that sees the old
 * version has the old register, and nothing changes that the journal does not hear of. Only a hash of each secret is stored: it has 256 random bits, so that a plain SHA-256 cannot be searched.
 */
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { SigilloError } from '../config/errors.ts';
import { laneKeys } from './keys.ts';
import type { RedisClient } from './redis.ts';

/** Every gateway keeps the register in memory (about 250 bytes a client) and reads it whole after a change (10 ms at the limit). */
export const clientsMax = 10_000;
/** Two administrators that change the same client at once are rare; five in a row do not happen. */
const attemptsMax = 5;

/** One hash tag: the script that changes the register touches all of them. */
export const clientRegisterKeys = {
  clients: 'clients:{register}',
  version: 'clients:{register}:version',
  /** Stream of blocks of events, in the form of `journalKeys.events`. */
  journal: 'clients:{register}:journal',
  /** Set of the names that were removed: none is given again, because what it names stays in the journal. */
  removed: 'clients:{register}:removed',
} as const;

/** A client stamps and reads its own stamps; an auditor reads all and stamps nothing: who checks the work does none of it. */
export const clientRoles = ['client', 'auditor'] as const;
export type ClientRole = (typeof clientRoles)[number];

/** The name that stamps without a client are counted under. */
export const anonymousClient = 'anonymous';

const nameForm = /^(?!\.)[A-Za-z0-9._-]{1,64}$/;

const recordSchema = z.strictObject({
  version: z.literal(1),
  name: z.string().regex(nameForm),
  /** SHA-256 of the secret, base64url. */
  secretHash: z.string().regex(/^[A-Za-z0-9_-]{43}$/),
  state: z.enum(['enabled', 'disabled']),
  /** Records of before there were roles have none. */
  role: z.enum(clientRoles).default('client'),
  createdAt: z.iso.datetime(),
});

/** A client as it is stored. */
export type ClientRecord = z.output<typeof recordSchema>;

/** What happened to a client. */
export type ClientChange = { readonly name: string } & (
  | { readonly kind: 'added'; readonly role: ClientRole }
  | { readonly kind: 'enabled' | 'disabled' | 'removed' | 'secretRenewed' }
  | { readonly kind: 'role'; readonly from: ClientRole; readonly to: ClientRole }
);

/** Writes a change down as a block of events for the journal, whose form is not the register's business. */
export type TellChange = (change: ClientChange) => Buffer;

const replaceScript = readFileSync(join(import.meta.dirname, 'commands', 'replaceClient-4.lua'), 'utf8');

/** SHA-256 of a secret, as it is stored and compared. */
export const hashSecret = (secret: string): Buffer => createHash('sha256').update(secret, 'utf8').digest();

const newSecret = (): string => randomBytes(32).toString('base64url');

/** True for names that a client may have; `anonymous` is what stamps without a client are counted under. */
export const isClientName = (name: string): boolean => nameForm.test(name) && name !== anonymousClient;

const parseRecord = (name: string, json: string): ClientRecord => {
  const record = recordSchema.safeParse(parseJson(json));
  if (!record.success || record.data.name !== name)
    throw new SigilloError('INTERNAL', `client ${name}: its record in Redis cannot be read`);
  return record.data;
};

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // the schema refuses it with the name of the client
  }
};

interface Replacement {
  readonly name: string;
  /** JSON of the record; undefined stands for none. */
  readonly current: string | undefined;
  readonly next: string | undefined;
  /** Events that tell of it. */
  readonly block: Buffer;
}

/** Puts `next` in the place of `current`. */
const replace = async (redis: RedisClient, { name, current, next, block }: Replacement): Promise<'replaced' | 'conflict'> => {
  const { clients, version, journal, removed } = clientRegisterKeys;
  const records = [current ?? '', next ?? '', String(clientsMax)];
  const result: unknown = await redis.eval(replaceScript, 4, clients, version, journal, removed, name, ...records, block);
  if (result === -2) throw new SigilloError('CLIENT_NAME_RETIRED', name);
  if (result === -1) throw new SigilloError('CLIENT_LIMIT', `It holds ${clientsMax}.`);
  return result === 1 ? 'replaced' : 'conflict';
};

/**
 * A name that has stamps and no client is one that was removed before names were kept. Nothing stamps under a name without a client, so
 * there is no race; its count has another hash tag than the register, so it is no part of the script.
 */
const refuseEarlierOwner = async (redis: RedisClient, name: string): Promise<void> => {
  const [stamped, known] = await Promise.all([
    redis.hexists(laneKeys('timestamp').stamps, name),
    redis.hexists(clientRegisterKeys.clients, name),
  ]);
  if (stamped === 1 && known === 0) throw new SigilloError('CLIENT_NAME_RETIRED', name);
};

export interface NewClient {
  readonly name: string;
  readonly role: ClientRole;
  readonly now: Date;
}

/**
 * Adds an enabled client and makes its secret, which is returned once and stored nowhere.
 * @throws CLIENT_NAME_INVALID, CLIENT_EXISTS, CLIENT_LIMIT, CLIENT_NAME_RETIRED
 */
export const addClient = async (
  redis: RedisClient,
  { name, role, now }: NewClient,
  tell: TellChange,
): Promise<{ readonly secret: string }> => {
  if (!isClientName(name)) throw new SigilloError('CLIENT_NAME_INVALID', JSON.stringify(name.slice(0, 80)));
  await refuseEarlierOwner(redis, name);
  const secret = newSecret();
  const record: ClientRecord = {
    version: 1,
    name,
    secretHash: hashSecret(secret).toString('base64url'),
    state: 'enabled',
    role,
    createdAt: now.toISOString(),
  };
  const block = tell({ kind: 'added', name, role });
  const result = await replace(redis, { name, current: undefined, next: JSON.stringify(record), block });
  if (result === 'conflict') throw new SigilloError('CLIENT_EXISTS', name);
  return { secret };
};

/** Every client, by name. @throws INTERNAL when a record cannot be read */
export const listClients = async (redis: RedisClient): Promise<ClientRecord[]> => {
  const all = await redis.hgetall(clientRegisterKeys.clients);
  return Object.entries(all)
    .map(([name, json]) => parseRecord(name, json))
    .toSorted((a, b) => (a.name < b.name ? -1 : 1));
};

interface Step {
  readonly change: ClientChange;
  /** undefined removes the record. */
  readonly next: ClientRecord | undefined;
}

/** Changes the record that is there, again when somebody else was faster; without a step it is as it should be. */
const change = async (
  redis: RedisClient,
  name: string,
  tell: TellChange,
  decide: (record: ClientRecord) => Step | undefined,
): Promise<void> => {
  for (let attempt = 0; attempt < attemptsMax; attempt += 1) {
    const current = await redis.hget(clientRegisterKeys.clients, name);
    if (current === null) throw new SigilloError('CLIENT_UNKNOWN', name);
    const step = decide(parseRecord(name, current));
    if (step === undefined) return;
    const next = step.next === undefined ? undefined : JSON.stringify(step.next);
    if ((await replace(redis, { name, current, next, block: tell(step.change) })) === 'replaced') return;
  }
  throw new SigilloError('INTERNAL', `client ${name}: its record changes all the time`);
};

/** Enables or disables a client; every gateway knows within its polling interval. @throws CLIENT_UNKNOWN */
export const setClientState = (redis: RedisClient, name: string, state: ClientRecord['state'], tell: TellChange): Promise<void> =>
  change(redis, name, tell, (record) =>
    record.state === state ? undefined : { change: { kind: state, name }, next: { ...record, state } },
  );

/** Gives a client another role; every gateway knows within its polling interval. @throws CLIENT_UNKNOWN */
export const setClientRole = (redis: RedisClient, name: string, role: ClientRole, tell: TellChange): Promise<void> =>
  change(redis, name, tell, (record) =>
    record.role === role ? undefined : { change: { kind: 'role', name, from: record.role, to: role }, next: { ...record, role } },
  );

/**
 * Gives a client a new secret, which is returned once and stored nowhere; every gateway refuses the old one within its polling interval.
 * @throws CLIENT_UNKNOWN
 */
export const renewClientSecret = async (
  redis: RedisClient,
  name: string,
  tell: TellChange,
): Promise<{ readonly secret: string; readonly role: ClientRole }> => {
  const secret = newSecret();
  const secretHash = hashSecret(secret).toString('base64url');
  let role: ClientRole = 'client';
  await change(redis, name, tell, (record) => {
    ({ role } = record);
    return { change: { kind: 'secretRenewed', name }, next: { ...record, secretHash } };
  });
  return { secret, role };
};

/** Removes a client. Its count of stamps stays, and its name is given to nobody else. @throws CLIENT_UNKNOWN */
export const removeClient = (redis: RedisClient, name: string, tell: TellChange): Promise<void> =>
  change(redis, name, tell, () => ({ change: { kind: 'removed', name }, next: undefined }));

/** A number that changes with every change of the register. */
export const readClientsVersion = async (redis: RedisClient): Promise<string> => (await redis.get(clientRegisterKeys.version)) ?? '0';

/** The register together with the version it has. @throws INTERNAL when a record cannot be read */
export const readClients = async (redis: RedisClient): Promise<{ readonly version: string; readonly clients: ClientRecord[] }> => {
  // Version first: a change in between is then seen as a new version at the next look, never missed.
  const version = await readClientsVersion(redis);
  return { version, clients: await listClients(redis) };
};

/** Stamps granted, by client; `anonymous` for those without one. */
export const readStampCounts = async (redis: RedisClient): Promise<ReadonlyMap<string, number>> =>
  new Map(Object.entries(await redis.hgetall(laneKeys('timestamp').stamps)).map(([name, count]) => [name, Number(count)]));
